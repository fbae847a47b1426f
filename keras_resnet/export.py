"""A trained run as a SavedModel that TF Serving mounts."""

import contextlib
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

from . import data
from .model import load
from .run import Run

TOP_K = 5
TOLERANCE = 1e-5


def export(run_dir: str | os.PathLike[str], *, to: str | os.PathLike[str] = "saved_models") -> Path:
    """Writes `TO/NAME/VERSION`, the next free version, and returns it.

    The SavedModel is written beside its place, loaded in a fresh process, compared with the network it was
    made from, and only then renamed. Its signatures:

    `serving_default`: `image_bytes`, encoded pictures, string `[batch]`, to `probabilities [batch, classes]`,
    and the best five, `classes [batch, 5]` (label strings) and `scores [batch, 5]`.

    `tensor`: `inputs`, float32 `[batch, size, size, 3]`, already preprocessed, to `logits [batch, classes]`.

    Raises:
        ValueError: the run is not there or not trained to its end, or the SavedModel disagrees with the network.
        OSError: the folder cannot be written.
    """
    run = Run(Path(run_dir))
    run.require_trained()
    preprocessing = data.Preprocessing.read(run.preprocessing_file)
    model = load(run.model_file)
    base = Path(to) / run.name
    base.mkdir(parents=True, exist_ok=True)
    # A name that is no number: TF Serving, which looks for numbers, passes it over.
    folder = Path(tempfile.mkdtemp(prefix="writing-", dir=base))
    try:
        _write(model, preprocessing, run.labels(), folder)
        _verify(model, preprocessing, folder)
        folder.chmod(0o755)
        return _rename_to_next_version(folder, base)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def versions(base: Path) -> list[Path]:
    """The versions in `base`, oldest first."""
    found = [path for path in base.iterdir() if re.fullmatch(r"\d+", path.name) and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name))


def _write(model: keras.Model, preprocessing: data.Preprocessing, labels: tuple[str, ...], folder: Path) -> None:
    size = preprocessing.crop
    k = min(TOP_K, len(labels))

    @tf.function(input_signature=[tf.TensorSpec([None, size, size, 3], tf.float32, name="inputs")])
    def tensor(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"logits": model(inputs, training=False)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def serving_default(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        def view(one: tf.Tensor) -> tf.Tensor:
            # Picture by picture, since those of one request may differ in size.
            return data.test_view(preprocessing, data.decode(one)[tf.newaxis])[0]

        with tf.device("CPU"):
            images = tf.map_fn(view, image_bytes, fn_output_signature=tf.TensorSpec([size, size, 3], tf.float32))
        probabilities = tf.nn.softmax(model(data.normalize(preprocessing, images), training=False))
        scores, indices = tf.math.top_k(probabilities, k)
        return {"probabilities": probabilities, "classes": tf.gather(tf.constant(labels), indices), "scores": scores}

    archive = keras.export.ExportArchive()
    # The model is not tracked: the functions bring its variables along, and tracking would store them twice.
    archive.add_endpoint("serving_default", serving_default)
    archive.add_endpoint("tensor", tensor)
    with _silence():
        archive.write_out(str(folder))
    (folder / "assets").mkdir(exist_ok=True)
    (folder / "assets" / "labels.txt").write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")


_RUN_TENSOR_SIGNATURE = """
import sys
import numpy as np
import tensorflow as tf
folder, inputs, outputs = sys.argv[1:]
signature = tf.saved_model.load(folder).signatures["tensor"]
np.save(outputs, signature(inputs=tf.constant(np.load(inputs)))["logits"].numpy())
"""


def _verify(model: keras.Model, preprocessing: data.Preprocessing, folder: Path) -> None:
    size = preprocessing.crop
    inputs = np.random.default_rng(0).normal(size=(8, size, size, 3)).astype(np.float32)
    wanted = model.predict(inputs, verbose=0)
    with tempfile.TemporaryDirectory() as scratch:
        files = Path(scratch) / "inputs.npy", Path(scratch) / "outputs.npy"
        np.save(files[0], inputs)
        done = subprocess.run(
            [sys.executable, "-I", "-c", _RUN_TENSOR_SIGNATURE, str(folder), *map(str, files)],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise ValueError(f"the SavedModel does not run in a fresh process: {done.stderr.strip().splitlines()[-1]}")
        got = np.load(files[1])
    difference = float(np.abs(got - wanted).max() / np.abs(wanted).max())
    if not difference <= TOLERANCE:
        raise ValueError(f"the SavedModel's logits differ from the network's by {difference:.1e} of the largest")


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
def _silence() -> Iterator[None]:
    """ExportArchive prints its signatures."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
