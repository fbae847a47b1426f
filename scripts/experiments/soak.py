"""Train for long and answer many requests, and report growth of memory and file descriptors.

    python scripts/experiments/soak.py [--epochs 400] [--requests 300]

Trains `digits-tiny` with a checkpoint every second, exports it, and sends mixed requests to the
export: JPEG and PNG in batches of 1 to 8, pixels of several sizes, features, and files that are not
images. Growth is the slope of a line through the resident memory after the first 50 epochs or
requests, in which TensorFlow fills its pools. Exits with status 1 if it is 1 MB per 100 or more, or
if there are more file descriptors than before. For a JPEG that ends within its header libjpeg
prints "Improper call to JPEG library in state 201"; its row has scores of zero. Needs Linux; writes
scripts/results/soak.txt.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
# Child processes import nothing from the working directory.
os.environ.setdefault("PYTHONSAFEPATH", "1")

import numpy as np  # noqa: E402

RESULTS = Path(__file__).parents[1] / "results" / "soak.txt"
WARM_UP = 50
MOST_GROWTH = 1.0
"""MB per 100 epochs or requests"""

Usage = list[tuple[float, int]]
"""resident memory in MB and the number of file descriptors, after each epoch or request"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=400)
    parser.add_argument("--requests", type=int, default=300)
    args = parser.parse_args()
    if min(args.epochs, args.requests) < 2 * WARM_UP:
        parser.error(f"epochs and requests are {2 * WARM_UP} or more each")
    with (
        tempfile.TemporaryDirectory() as name,
        # Each has a process of its own, whose memory starts empty.
        multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool,
    ):
        trained = pool.apply(train, (Path(name), args.epochs))
        answered = pool.apply(answer, (Path(name), args.requests))
    tables = [report("epochs", trained), report("requests", answered)]
    text = "\n".join(line for line, _ in tables) + "\n"
    print(text, end="")
    RESULTS.write_text(text, encoding="utf-8")
    sys.exit(not all(steady for _, steady in tables))


def usage() -> tuple[float, int]:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, len(os.listdir("/proc/self/fd"))


def report(what: str, measured: Usage) -> tuple[str, bool]:
    """Return a line for the table, and whether neither memory nor descriptors have grown."""
    memory, descriptors = np.array(measured[WARM_UP:]).T
    growth = 100 * np.polyfit(np.arange(len(memory)), memory, 1)[0]
    more = int(descriptors[-1] - descriptors[0])
    line = (
        f"{len(measured)} {what}: {memory[0]:.1f} MB after {WARM_UP}, {memory[-1]:.1f} MB at the"
        f" end, at most {memory.max():.1f}; {growth:+.2f} MB per 100; file descriptors {more:+d}"
    )
    return line, growth < MOST_GROWTH and more <= 0


def train(folder: Path, epochs: int) -> Usage:
    """Train and export a small network; return the usage after each epoch."""
    import keras

    import keras_resnet
    from keras_resnet.serving.export import export

    measured: Usage = []
    note = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: measured.append(usage()))
    run = keras_resnet.train(
        "digits-tiny", folder / "run", epochs=epochs, checkpoint_seconds=1, callbacks=[note]
    )
    export(run, folder / "export")
    return measured


def answer(folder: Path, requests: int) -> Usage:
    """Send requests to the export; return the usage after each."""
    import tensorflow as tf

    (version,) = (folder / "export").iterdir()
    signatures = tf.saved_model.load(str(version)).signatures
    rng = np.random.default_rng(0)
    measured: Usage = []
    for number in range(requests):
        count = int(rng.integers(1, 9))
        height, width = (int(side) for side in rng.integers(8, 200, 2))
        pixels = rng.integers(0, 256, (count, height, width, 3), np.uint8)
        encode = tf.io.encode_png if number % 2 else tf.io.encode_jpeg
        match number % 5:
            case 0 | 1:
                encoded = [encode(image).numpy() for image in pixels]
                signatures["serving_default"](image_bytes=tf.constant(encoded))
            case 2:
                signatures["image_tensor"](images=tf.constant(pixels))
            case 3:
                signatures["features"](images=tf.constant(pixels))
            case 4:
                damaged = [encode(pixels[0]).numpy()[:100], b"no image"]
                answers = signatures["serving_default"](image_bytes=tf.constant(damaged))
                assert not answers["probabilities"].numpy().any()
        measured.append(usage())
    return measured


if __name__ == "__main__":
    main()
