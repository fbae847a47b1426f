"""Measure the time to load a folder of 20,000 small images and to get the first batch.

    python scripts/benchmarks/bench_folder.py [--rounds 7]

Writes the images as JPEG files of 96 x 72 pixels in 20 classes, loads the folder, which decodes
every file, loads it again, which decodes none, and takes one training batch of 64. For comparison,
`tf.data` alone reads and decodes the same files once. Writes scripts/results/bench_folder.txt.
"""

import argparse
import io
import os
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from PIL import Image  # noqa: E402

from keras_resnet import data  # noqa: E402
from keras_resnet.data.dataset import Dataset  # noqa: E402
from keras_resnet.data.decoding import decode  # noqa: E402
from keras_resnet.data.pipeline import Augmentation, train_batches  # noqa: E402
from keras_resnet.data.preprocessing import preprocessing_for  # noqa: E402
from keras_resnet.serving.needs import processor  # noqa: E402

RESULTS = Path(__file__).parents[1] / "results" / "bench_folder.txt"
CLASSES, IMAGES = 20, 1000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # the folder has no test split
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["XDG_CACHE_HOME"] = str(Path(scratch) / "caches")
        folder = str(Path(scratch) / "images")
        write(Path(folder))
        time.sleep(data.scan.SETTLED)
        seconds: dict[str, list[float]] = {}
        for _ in range(args.rounds):
            shutil.rmtree(data.scan.remembered_scans(), ignore_errors=True)
            timed(seconds, "load", data.load, folder)
            dataset = timed(seconds, "load again", data.load, folder)
            timed(seconds, "first batch", first_batch, dataset)
            timed(seconds, "tf.data alone", decode_all, Path(folder))
    count = CLASSES * IMAGES
    lines = [
        f"{processor()}, {os.cpu_count()} cores",
        f"{count:,} JPEG files of 96 x 72 pixels, {args.rounds} rounds; seconds",
    ]
    for name, values in seconds.items():
        lines.append(
            f"{name:14} median {statistics.median(values):.2f}, {min(values):.2f} to"
            f" {max(values):.2f}"
        )
    text = "\n".join(lines) + "\n"
    print(text, end="")
    RESULTS.write_text(text, encoding="utf-8")


def write(folder: Path) -> None:
    rng = np.random.default_rng(0)
    encoded = []
    for _ in range(50):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((96, 72)).save(
            file, "jpeg"
        )
        encoded.append(file.getvalue())
    for number in range(CLASSES):
        class_folder = folder / f"class {number}"
        class_folder.mkdir(parents=True)
        for i in range(IMAGES):
            (class_folder / f"{i}.jpg").write_bytes(encoded[i % len(encoded)])


def timed(seconds: dict[str, list[float]], name: str, function: Callable, argument: object):
    begin = time.perf_counter()
    result = function(argument)
    seconds.setdefault(name, []).append(time.perf_counter() - begin)
    return result


def first_batch(dataset: Dataset) -> None:
    batches = train_batches(
        dataset.train,
        preprocessing_for(dataset, None),
        batch_size=64,
        augmentation=Augmentation("scale-crop-flip"),
    )
    next(iter(batches))


def decode_all(folder: Path) -> None:
    options = tf.data.Options()
    options.autotune.enabled = False
    files = tf.data.Dataset.from_tensor_slices(
        [str(file) for file in folder.glob("*/*")]
    ).with_options(options)
    decoded = files.map(
        lambda file: tf.shape(decode(tf.io.read_file(file))), num_parallel_calls=os.cpu_count()
    )
    for _ in decoded:
        pass


if __name__ == "__main__":
    main()
