"""Predict the classes of image files with a run or an export."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from ..data.decoding import decode, refusal
from ..data.encoded import FORMATS
from ..data.preprocessing import normalize, resize_and_crop
from ..data.walking import walk
from ..runs.classifier import open_run
from ..runs.run import Run, is_run
from . import sidecars

CHUNK = 32
"""images that are in memory at a time"""

Classify = Callable[[list[bytes]], np.ndarray]
"""maps encoded images to probabilities `[N, classes]`, of which those refused are 0"""


def predict(
    target: Run | str | os.PathLike[str],
    images: Sequence[str | os.PathLike[str]],
    *,
    top: int = 5,
) -> list[dict[str, Any]]:
    """Predict the classes of image files.

    Args:
        target: a trained run, the path of its folder, one version of an export, or the folder of
            its versions (the newest answers).
        images: the files, of the formats that `decoding.decode` reads, or folders of files.
        top: how many classes to return per image.

    Returns:
        For each image `{"image", "classes", "scores"}`, the most probable class first.

    Raises:
        ValueError: `target` is none of these or does not answer with numbers, or a file is not an
            image that it takes. `predict_each` answers the other files.
    """
    answers = []
    for answer in predict_each(target, files_in(images), top=top):
        if "error" in answer:
            raise ValueError(answer["error"])
        answers.append(answer)
    return answers


def predict_each(
    target: Run | str | os.PathLike[str],
    files: Sequence[str | os.PathLike[str]],
    *,
    top: int = 5,
) -> Iterator[dict[str, Any]]:
    """Yield the prediction for each image file, or why there is none, `CHUNK` files at a time.

    The memory that this takes does not depend on the number of files.

    Args:
        target: as in `predict`.
        files: the files, no folders.
        top: how many classes to yield per image.

    Yields:
        `{"image", "classes", "scores"}`, the most probable class first, or `{"image", "error"}`.

    Raises:
        ValueError: `target` is none of these, or does not answer with numbers.
    """
    if top < 1:
        raise ValueError(f"top is {top}; give a positive number")
    classify, class_names = _open(target)
    for start in range(0, len(files), CHUNK):
        chunk = [Path(file) for file in files[start : start + CHUNK]]
        contents = [_read(file) for file in chunk]
        encoded = [content for content in contents if isinstance(content, bytes)]
        rows: Iterator[np.ndarray] = iter(classify(encoded) if encoded else ())
        for file, content in zip(chunk, contents, strict=True):
            if isinstance(content, str):
                yield {"image": str(file), "error": content}
                continue
            row = next(rows)
            if not np.isfinite(row).all():
                raise ValueError(f"{target} answers {file} with scores that are not finite")
            if row.any():
                best = row.argsort()[::-1][:top]
                yield {
                    "image": str(file),
                    "classes": [class_names[i] for i in best],
                    "scores": [float(row[i]) for i in best],
                }
            else:
                yield {"image": str(file), "error": f"{file} {fault(content, target)}"}


def files_in(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Return files, with the files of a folder in its place, in the order of their names.

    Args:
        paths: of files, and of folders, which are walked through as those of a data set.

    Raises:
        ValueError: a folder holds no file.
        OSError: a folder cannot be read.
    """
    found = []
    for path in map(Path, paths):
        inside = [Path(file) for file in sorted(walk(path))] if path.is_dir() else [path]
        if not inside:
            raise ValueError(f"{path} holds no file; give images, or folders of images")
        found += inside
    return found


def _open(target: Run | str | os.PathLike[str]) -> tuple[Classify, list[str]]:
    """Return what answers, and its class names."""
    if isinstance(target, Run):
        return _open_run(target)
    if (version := version_of(Path(target))) is not None:
        return _open_export(version)
    if is_run(target):
        return _open_run(Run(Path(target)))
    raise ValueError(
        f"{target} is neither a run (recipe.json) nor an export (saved_model.pb, or numbered"
        " versions)"
    )


def _read(file: Path) -> bytes | str:
    """Return the content of an image file, or why it is none."""
    try:
        with file.open("rb") as opened:
            content = opened.read(1 << 20)
            # A file that is not an image may have any size.
            if not content.startswith(tuple(FORMATS.values())):
                return f"{file} is not an image that can be read: {refusal(content)}"
            return content + opened.read()
    except OSError as error:
        return f"{file} cannot be read: {error.strerror}"


def fault(content: bytes, target: Run | str | os.PathLike[str]) -> str:
    """Say why an image has no answer, as the end of a sentence that begins with its name.

    Args:
        content: the encoded image.
        target: what has not answered.
    """
    try:
        decode(tf.constant(content))
    except tf.errors.OpError:
        return f"is not an image that can be read: {refusal(content)}"
    return f"is refused by {target}, which may be of another version"


def version_of(target: Path) -> Path | None:
    """Return the SavedModel that a path names, or None if it names none.

    Args:
        target: a version, or the folder of versions, of which the newest is returned.
    """
    if (target / "saved_model.pb").is_file():
        return target
    numbered = [
        path.parent for path in target.glob("*/saved_model.pb") if path.parent.name.isdecimal()
    ]
    return max(numbered, key=lambda path: int(path.name), default=None)


def _open_export(version: Path) -> tuple[Classify, list[str]]:
    def no_answer(error: Exception) -> ValueError:
        text = " ".join(str(error).split())[:500] or type(error).__name__
        return ValueError(f"{version} does not answer: {text}")

    try:
        labels = [label.decode() for label in sidecars.read_labels(version)]
        # Its variables live as long as the model.
        model = tf.saved_model.load(str(version))
        served = model.signatures["serving_default"]
    except Exception as error:  # its class depends on the damage
        raise no_answer(error) from None

    def classify(encoded: list[bytes]) -> np.ndarray:
        try:
            probabilities = served(image_bytes=tf.constant(encoded))["probabilities"].numpy()
        except Exception as error:
            raise no_answer(error) from None
        if probabilities.shape != (len(encoded), len(labels)):
            raise ValueError(
                f"{version} is damaged: it has {len(labels)} labels and answers with scores of"
                f" shape {probabilities.shape}"
            )
        return probabilities

    return classify, labels


def _open_run(run: Run) -> tuple[Classify, list[str]]:
    classifier = open_run(run)
    preprocessing = classifier.preprocessing

    def classify(encoded: list[bytes]) -> np.ndarray:
        views, places = [], []
        for place, one in enumerate(encoded):
            try:
                image = decode(one, exif_orientation=preprocessing.exif_orientation)
            except tf.errors.OpError:
                continue
            views.append(resize_and_crop(preprocessing, image[tf.newaxis]))
            places.append(place)
        probabilities = np.zeros((len(encoded), len(classifier.class_names)))
        if views:
            inputs = normalize(preprocessing, tf.concat(views, axis=0)).numpy()
            probabilities[places] = classifier.own_probabilities(inputs)
        return probabilities

    return classify, list(classifier.class_names)
