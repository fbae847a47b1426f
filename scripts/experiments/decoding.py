"""Compare decoded pixels with Pillow's in training, testing and serving, and measure the cost.

Photographs are decoded in three ways: whole in tf.data, as in testing; in random windows in
tf.data, as in training; and whole by a SavedModel in TensorFlow's C++ loader, as in a server. A few
are also stored in the eight EXIF orientations, as JPEG and as PNG, and must be upright in all three
ways. Finally the time of decoding and of a request to a server is measured with and without bounds
and orientation.

    python scripts/experiments/decoding.py FOLDER >scripts/results/decoding.txt

FOLDER holds JPEG files at any depth. scikit-learn's photographs are added to them. Exits with
status 1 if a pixel differs.
"""

import argparse
import functools
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Child processes import nothing from the working directory.
os.environ.setdefault("PYTHONSAFEPATH", "1")

import numpy as np  # noqa: E402
import PIL  # noqa: E402
import tensorflow as tf  # noqa: E402
from PIL import Image, ImageOps  # noqa: E402
from sklearn.datasets import load_sample_images  # noqa: E402

from keras_resnet.data.decoding import decode, decode_window, sides_of  # noqa: E402
from keras_resnet.data.exif import orientation_of, upright_sides  # noqa: E402
from keras_resnet.data.preprocessing import PREPROCESSING, resize_and_crop  # noqa: E402
from keras_resnet.serving import signatures  # noqa: E402
from keras_resnet.serving.check import endpoints  # noqa: E402
from keras_resnet.serving.cpp_loader import Call, run_calls, strings  # noqa: E402
from keras_resnet.training.hardware import instruction_sets  # noqa: E402

TURNED = 8
"""the number of photographs that are stored in all orientations"""
WINDOWS = 3
"""the number of windows per photograph"""
BATCH = 50
"""the number of images per call of the SavedModel"""
REPEATS = 200
"""the number of images or requests per turn of a contender"""
SETS = ("sse2", "avx2", "avx512f", "avx512bw")
"""the instruction sets that decoders of JPEG and compilers use"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=9, help="rounds of the timing; 0 for none")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    random = np.random.default_rng(args.seed)
    files = sorted(args.folder.rglob("*.jp*g"))
    ours = [
        encoded(Image.fromarray(image), "JPEG", quality=92) for image in load_sample_images().images
    ]
    chosen = random.permutation(len(files))[: args.images - len(ours)]
    photographs = [*ours, *(files[i].read_bytes() for i in chosen)]
    sets = [name for name in SETS if name in instruction_sets()]
    print(f"TensorFlow {tf.__version__}, Pillow {PIL.__version__}; {' '.join(sets)}\n")
    print(f"pixels that differ from Pillow's; in training, of {WINDOWS} windows per image\n")
    print(f"{'':44}{'images':>8}{'testing':>10}{'training':>10}{'serving':>10}")
    bad = compare("photographs, JPEG", photographs, random)
    few = [Image.open(io.BytesIO(image)).convert("RGB") for image in photographs[:TURNED]]
    for kind in ("JPEG", "PNG"):
        for orientation in range(1, 9):
            exif = Image.Exif()
            exif[0x0112] = orientation
            stored = [encoded(image, kind, exif=exif) for image in few]
            bad += compare(f"EXIF orientation {orientation}, {kind}", stored, random)
    if args.rounds:
        print_cost(photographs[0], args.rounds)
    sys.exit(bool(bad))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def by_pillow(image_bytes: bytes) -> np.ndarray:
    """Return the upright pixels of an image decoded by Pillow."""
    with Image.open(io.BytesIO(image_bytes)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def compare(name: str, images: list[bytes], random: np.random.Generator) -> int:
    """Print a row with the numbers of different pixels, and return their sum."""
    wanted = [by_pillow(image) for image in images]
    corners = []
    for pixels in wanted:
        begin = random.integers(0, pixels.shape[:2], (WINDOWS, 2))
        corners.append((begin, random.integers(begin + 1, np.array(pixels.shape[:2]) + 1)))
    source = tf.data.Dataset.from_tensor_slices(images)
    testing = source.map(lambda image: decode(image, exif_orientation=True))
    tested = sum(
        differ(found, pixels)
        for found, pixels in zip(testing.as_numpy_iterator(), wanted, strict=True)
    )

    def window(image: tf.Tensor, begin: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
        return decode_window(image, begin, end, orientation=orientation_of(image))

    begins, ends = (np.concatenate(ends).astype(np.int32) for ends in zip(*corners, strict=True))
    training = tf.data.Dataset.from_tensor_slices((np.repeat(images, WINDOWS), begins, ends))
    parts = (
        pixels[top:bottom, left:right]
        for pixels, (tops, bottoms) in zip(wanted, corners, strict=True)
        for (top, left), (bottom, right) in zip(tops, bottoms, strict=True)
    )
    trained = sum(
        differ(found, part)
        for found, part in zip(training.map(window).as_numpy_iterator(), parts, strict=True)
    )
    served = sum(differ(found, pixels) for found, pixels in zip(serve(images), wanted, strict=True))
    print(f"{name:44}{len(images):8,}{tested:10,}{trained:10,}{served:10,}", flush=True)
    return tested + trained + served


def differ(found: np.ndarray, wanted: np.ndarray) -> int:
    if found.shape != wanted.shape:
        return wanted.size // 3
    return int((found != wanted).any(axis=-1).sum())


class Decoder(tf.Module):
    """The decoding part of an export."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def decoded(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        def one(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            pixels = decode(image, exif_orientation=True)
            sides = upright_sides(sides_of(image), orientation_of(image))
            raw = tf.io.encode_png(pixels, compression=0)
            return raw, sides

        raw, sides = tf.map_fn(one, image_bytes, fn_output_signature=(tf.string, tf.int32))
        return {"png": raw, "sides": sides}


def serve(images: list[bytes]) -> list[np.ndarray]:
    """Return the pixels that a SavedModel decodes in the C++ loader, without Python."""
    decoder = Decoder()
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(decoder, folder, signatures={"serving_default": decoder.decoded})
        saved_model, found = Path(folder), []
        for first in range(0, len(images), BATCH):
            call = Call(
                signature="serving_default",
                inputs={"image_bytes": strings(images[first : first + BATCH])},
            )
            (answer,) = run_calls(saved_model, endpoints(saved_model), [call]).calls
            if answer.error:
                raise SystemExit(f"the C++ loader says: {answer.error}")
            for png, sides in zip(answer.outputs["png"], answer.outputs["sides"], strict=True):
                pixels = np.asarray(Image.open(io.BytesIO(png)))
                assert pixels.shape[:2] == tuple(sides)
                found.append(pixels)
    return found


def print_cost(photograph: bytes, rounds: int) -> None:
    """Print microseconds per image and per request of alternating contenders."""
    image = Image.open(io.BytesIO(photograph))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(image, "JPEG", quality=92, exif=exif)
    upright = functools.partial(decode, exif_orientation=True)
    fast = functools.partial(tf.io.decode_jpeg, channels=3)
    exact = functools.partial(fast, dct_method="INTEGER_ACCURATE")
    ignored = PREPROCESSING["torch"]
    applied = replace(ignored, exif_orientation=True)
    turns = {
        "decode: TensorFlow's default DCT": pipeline(photograph, fast),
        "decode: Pillow's DCT": pipeline(photograph, exact),
        "decode: the same, within bounds": pipeline(photograph, decode),
        "decode: with orientation, of no EXIF": pipeline(photograph, upright),
        "decode: with orientation 6": pipeline(turned, upright),
        "request: decode_jpeg, resize and crop": requests(photograph, plain),
        "request: orientation ignored": requests(
            photograph, lambda batch: signatures.decoded(ignored, batch)
        ),
        "request: orientation applied, of no EXIF": requests(
            photograph, lambda batch: signatures.decoded(applied, batch)
        ),
        "request: orientation applied, 6": requests(
            turned, lambda batch: signatures.decoded(applied, batch)
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, turn in turns.items():
            seconds[name].append(turn() / REPEATS)
    print(f"\nmicroseconds for a JPEG of {image.width} x {image.height} pixels, {rounds} rounds; a")
    print("request is one image to a view of 224 x 224, without a network\n")
    print(f"{'':44}{'median':>10}{'quartiles':>20}")
    for name, values in seconds.items():
        first, median, third = (1e6 * value for value in statistics.quantiles(values, n=4))
        print(f"{name:44}{median:10,.0f}{first:10,.0f}{third:10,.0f}")


def pipeline(image: bytes, function: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[], float]:
    """Return a function that decodes an image `REPEATS` times in sequence, and returns seconds."""
    options = tf.data.Options()
    options.autotune.enabled = False
    images = tf.data.Dataset.from_tensors(image).repeat(REPEATS + 1)
    images = images.map(function).with_options(options)

    def turn() -> float:
        iterator = iter(images)
        next(iterator)
        begin = time.perf_counter()
        for _ in iterator:
            pass
        return time.perf_counter() - begin

    return turn


def requests(image: bytes, function: Callable[[tf.Tensor], object]) -> Callable[[], float]:
    """Return a function that sends a request `REPEATS` times, and returns seconds."""
    spec = tf.TensorSpec([None], tf.string)
    served = tf.function(function, input_signature=[spec]).get_concrete_function()
    request = tf.constant([image])

    def turn() -> float:
        served(request)
        begin = time.perf_counter()
        for _ in range(REPEATS):
            served(request)
        return time.perf_counter() - begin

    return turn


def plain(image_bytes: tf.Tensor) -> tf.Tensor:
    """Return the view of one image without checks, as the simplest server would."""
    pixels = tf.io.decode_jpeg(image_bytes[0], channels=3)
    return resize_and_crop(PREPROCESSING["torch"], pixels[tf.newaxis])


if __name__ == "__main__":
    main()
