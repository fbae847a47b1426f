"""What a run or an export says of picture files."""

import os
from pathlib import Path
from typing import Any

import tensorflow as tf

from . import data
from .model import load
from .run import Run


def predict(target: str | os.PathLike[str], images: list[str] | list[Path], *, top: int = 5) -> list[dict[str, Any]]:
    """For each picture file `{"image", "classes", "scores"}`, the `top` classes, most probable first.

    `target` is a run, one version of an export, or the folder of its versions (then the newest answers).
    Raises `ValueError` where `target` is none of them, or a file is no picture that it takes.
    """
    if top < 1:
        raise ValueError(f"top is {top}; give a positive number")
    encoded = [_read(Path(image)) for image in images]
    target = Path(target)
    if (export := _export(target)) is not None:
        probabilities, labels = _ask_export(export, encoded)
    elif Run(target).recipe_file.is_file():
        probabilities, labels = _ask_run(Run(target), encoded)
    else:
        raise ValueError(
            f"{target} is neither a run (recipe.json) nor an export (saved_model.pb, or numbered versions)"
        )
    answers = []
    for image, row in zip(images, probabilities, strict=True):
        if not row.any():
            limit = f"up to {data.MAX_PIXELS:,} pixels, the longer side at most {data.MAX_ASPECT} times the shorter"
            raise ValueError(f"{image} is refused by {target}; an export takes JPEG and PNG of {limit}")
        best = row.argsort()[::-1][:top]
        answers.append(
            {"image": str(image), "classes": [labels[i] for i in best], "scores": [float(row[i]) for i in best]}
        )
    return answers


def _read(image: Path) -> bytes:
    try:
        encoded = image.read_bytes()
    except OSError as error:
        raise ValueError(f"{image} cannot be read: {error.strerror}") from None
    try:
        data.decode(tf.constant(encoded))
    except tf.errors.InvalidArgumentError:
        raise ValueError(f"{image} is no picture that can be read; give JPEG, PNG, GIF or BMP") from None
    return encoded


def _export(target: Path) -> Path | None:
    """The SavedModel that `target` is, or the newest version in it."""
    if (target / "saved_model.pb").is_file():
        return target
    numbered = [path.parent for path in target.glob("*/saved_model.pb") if path.parent.name.isdecimal()]
    return max(numbered, key=lambda path: int(path.name), default=None)


def _ask_export(export: Path, encoded: list[bytes]) -> tuple[Any, list[str]]:
    answer = tf.saved_model.load(str(export)).signatures["serving_default"](image_bytes=tf.constant(encoded))
    labels = (export / "assets" / "labels.txt").read_text(encoding="utf-8").splitlines()
    return answer["probabilities"].numpy(), labels


def _ask_run(run: Run, encoded: list[bytes]) -> tuple[Any, list[str]]:
    run.require_trained()
    preprocessing = data.Preprocessing.read(run.preprocessing_file)
    views = [data.test_view(preprocessing, data.decode(one)[tf.newaxis]) for one in encoded]
    model = load(run.model_file)
    logits = model.predict(data.normalize(preprocessing, tf.concat(views, axis=0)), verbose=0)
    return tf.nn.softmax(logits).numpy(), list(run.labels())
