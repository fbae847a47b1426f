"""How long a folder of 20,000 small pictures takes from its name to the first batch.

    python scripts/bench_folder.py [--rounds 7]

Draws them as JPEG files of 96 x 72 pixels in 20 classes, then loads the folder, every file decoded, and asks for one
training batch of 64. Beside it, the same files by `tf.data` alone: read and decoded once, nothing else.
Writes scripts/results/bench_folder.txt.
"""

import argparse
import io
import os
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

RESULTS = Path(__file__).parent / "results" / "bench_folder.txt"
CLASSES, PICTURES = 20, 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # that there is no test split
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        seconds: dict[str, list[float]] = {}
        for _ in range(args.rounds):
            dataset = timed(seconds, "load", data.load, folder)
            timed(seconds, "first batch", first_batch, dataset)
            timed(seconds, "tf.data alone", decode_all, Path(folder))
    count = CLASSES * PICTURES
    lines = [f"{count:,} JPEG files of 96 x 72 pixels, {os.cpu_count()} cores, {args.rounds} rounds; seconds"]
    for name, values in seconds.items():
        lines.append(f"{name:14} median {statistics.median(values):.2f}, {min(values):.2f} to {max(values):.2f}")
    text = "\n".join(lines) + "\n"
    print(text, end="")
    RESULTS.write_text(text, encoding="utf-8")


def write(folder: Path) -> None:
    rng = np.random.default_rng(0)
    encoded = []
    for _ in range(50):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((96, 72)).save(file, "jpeg")
        encoded.append(file.getvalue())
    for number in range(CLASSES):
        place = folder / f"class {number}"
        place.mkdir()
        for i in range(PICTURES):
            (place / f"{i}.jpg").write_bytes(encoded[i % len(encoded)])


def timed(seconds: dict[str, list[float]], name: str, function: Callable, argument: object):
    begin = time.perf_counter()
    result = function(argument)
    seconds.setdefault(name, []).append(time.perf_counter() - begin)
    return result


def first_batch(dataset: data.Dataset) -> None:
    preprocessing = data.preprocessing_for(dataset, None)
    next(iter(data.train_batches(dataset.train, preprocessing, batch_size=64, augmentation="scale-crop-flip")))


def decode_all(folder: Path) -> None:
    options = tf.data.Options()
    options.autotune.enabled = False
    files = tf.data.Dataset.from_tensor_slices([str(file) for file in folder.glob("*/*")]).with_options(options)
    decoded = files.map(lambda file: tf.shape(data.decode(tf.io.read_file(file))), num_parallel_calls=os.cpu_count())
    for _ in decoded:
        pass


if __name__ == "__main__":
    main()
