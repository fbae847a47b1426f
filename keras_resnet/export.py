"""A trained run as a SavedModel that TF Serving mounts."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from filelock import FileLock, Timeout

from . import data, serving_files
from .card import write_card
from .cpp_loader import Call, Calls, strings, write_calls
from .fold import fold
from .model import load
from .run import Run
from .serving import TOP_K, write_saved_model

TOLERANCE = 1e-5
"""of the largest logit, or feature"""
_UNFINISHED = "writing-"
"""no number, so that TF Serving passes it over"""


def export(run_dir: str | os.PathLike[str], *, to: str | os.PathLike[str] = "saved_models") -> Path:
    """Writes `TO/NAME/VERSION`, the next free version, and returns it. `serving.write_saved_model` says what is in it.

    The SavedModel is written beside its place, passes `check` in a process of its own, where its answers are compared
    with those of the network it was made from, and only then is renamed: a version is whole, or not there.

    Raises:
        ValueError: the run is not there or not trained to its end, or the SavedModel does not pass.
        OSError: the folder cannot be written.
    """
    run = Run(Path(run_dir))
    run.require_trained()
    preprocessing = data.Preprocessing.read(run.preprocessing_file)
    model = load(run.model_file)
    base = Path(to) / run.name
    with _workplace(base) as workplace, _os_errors(base):
        folder, expected = workplace / "version", workplace / "expected.npz"
        write_saved_model(fold(model), preprocessing, run.labels(), folder)
        serving_files.write_labels(folder, run.labels())
        serving_files.write_warm_up(folder, preprocessing.crop)
        serving_files.write_batching(folder)
        write_card(folder, run, preprocessing)
        write_calls(expected, Calls(endpoints={}, calls=_expected(model, preprocessing, run.labels())))
        _require_passed(folder, expected)
        _to_disk(folder)
        return _rename_to_next_version(folder, base)


def versions(base: Path) -> list[Path]:
    """The versions in `base`, oldest first."""
    found = [path for path in base.iterdir() if re.fullmatch(r"\d+", path.name) and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name))


@contextlib.contextmanager
def _workplace(base: Path) -> Iterator[Path]:
    """A folder of this export alone in `base`, gone at the end. What killed exports left is cleared away as well."""
    base.mkdir(parents=True, exist_ok=True)
    for left in base.glob(f"{_UNFINISHED}*/lock"):
        with contextlib.suppress(Timeout), FileLock(left, timeout=0):  # a lock goes with its process
            shutil.rmtree(left.parent, ignore_errors=True)
    new = Path(tempfile.mkdtemp(prefix=".new-", dir=base))
    lock = FileLock(new / "lock")
    lock.acquire()
    # Under this name it can be found, and by now it is locked.
    workplace = new.rename(base / new.name.replace(".new-", _UNFINISHED))
    try:
        yield workplace
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
        lock.release()


def _expected(model: keras.Model, preprocessing: data.Preprocessing, labels: tuple[str, ...]) -> list[Call]:
    """What the network itself says of some pictures, by the functions that `evaluate` calls."""
    random = np.random.default_rng(0)
    size = preprocessing.crop
    both = keras.Model(model.inputs, [model.layers[-1].input, model.output])

    def smooth(height: int, width: int) -> np.ndarray:
        """A picture `[H, W, 3]`, rather than noise that a resize would turn grey."""
        coarse = random.uniform(0, 255, (4, 4, 3))
        return tf.cast(tf.clip_by_value(tf.image.resize(coarse, (height, width), "bicubic"), 0, 255), tf.uint8).numpy()

    def view(picture: np.ndarray) -> tf.Tensor:
        return data.normalize(preprocessing, data.test_view(preprocessing, picture[np.newaxis]))

    pictures = [smooth(size + 7 * i, size + 11 * i * i) for i in range(3)]
    encoded = [tf.io.encode_jpeg(pictures[0]), tf.io.encode_png(pictures[1]), tf.io.encode_png(pictures[2])]
    features, logits = both.predict(tf.concat([view(data.decode(one)) for one in encoded], 0), verbose=0)
    probabilities = tf.nn.softmax(logits).numpy()
    images = np.stack([smooth(size + 5, size + 9) for _ in range(2)])
    of_images = both.predict(tf.concat([view(image) for image in images], 0), verbose=0)
    inputs = random.normal(size=(4, size, size, 3)).astype(np.float32)
    of_inputs = model.predict(inputs, verbose=0)

    requests = strings([encoded[0].numpy(), b"no picture", encoded[1].numpy(), encoded[2].numpy()])
    examples = strings(map(serving_files.example, requests))
    probabilities = np.insert(probabilities, 1, 0, axis=0)
    scores = -np.sort(-probabilities, axis=1)[:, :TOP_K]
    nothing = {"probabilities": probabilities[1:2], "scores": scores[1:2]}
    nothing["classes"] = strings([b""] * scores.shape[1])[np.newaxis]
    tolerance = TOLERANCE * float(np.abs(logits).max())
    return [
        Call(
            signature="serving_default",
            inputs={"image_bytes": requests},
            outputs={"probabilities": probabilities, "scores": scores},
            tolerance=tolerance,
        ),
        Call(signature="serving_default", inputs={"image_bytes": requests[1:2]}, outputs=nothing),
        Call(signature="classify", inputs={"inputs": examples}, outputs={"scores": scores}, tolerance=tolerance),
        Call(
            signature="image_tensor",
            inputs={"images": images},
            outputs={"probabilities": tf.nn.softmax(of_images[1]).numpy()},
            tolerance=TOLERANCE * float(np.abs(of_images[1]).max()),
        ),
        Call(
            signature="features",
            inputs={"images": images},
            outputs={"features": of_images[0]},
            tolerance=TOLERANCE * float(np.abs(of_images[0]).max()),
        ),
        Call(
            signature="tensor",
            inputs={"inputs": inputs},
            outputs={"logits": of_inputs},
            tolerance=TOLERANCE * float(np.abs(of_inputs).max()),
        ),
    ]


def _require_passed(folder: Path, expected: Path) -> None:
    """The gate, as a user can run it; an export may not even be warned of."""
    done = subprocess.run(
        [sys.executable, "-m", __package__, "check", str(folder), "--expected", str(expected), "--json"],
        capture_output=True,
        text=True,
        errors="replace",
    )
    try:
        findings = [finding["text"] for finding in json.loads(done.stdout)["findings"]]
    except ValueError:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise ValueError(f"the SavedModel could not be checked: {lines[-1]}") from None
    if findings:
        raise ValueError(f"the SavedModel does not pass, nothing is exported: {'; '.join(findings)}")


def _to_disk(folder: Path) -> None:
    """So that a version that is there is whole after a power cut, too."""
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _rename_to_next_version(folder: Path, base: Path) -> Path:
    while True:
        target = base / str(1 + max((int(path.name) for path in versions(base)), default=0))
        try:
            folder.rename(target)  # fails where another export took the number in between
            return target
        except OSError:
            if not target.exists():
                raise


@contextlib.contextmanager
def _os_errors(base: Path) -> Iterator[None]:
    """TensorFlow writes files too, and has its own error where the disk is full."""
    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(f"{base} cannot be written: {error.message}") from error
