"""What the training view of ImageNet costs: pictures a second on two cores, by us, by PIL and by plain tf.data.

Everybody reads the same JPEG files, takes the same random shorter sides, crops and mirror images (section 3.4) and
hands over batches of 32. Ours and plain tf.data make two calls at a time and hand over float32; PIL works in two
processes, which are left running, and hands over uint8, a quarter of the bytes. In turn, in one run. Ratios of time,
round by round. Run it with nothing else running:

    python scripts/bench_input.py
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from PIL import Image  # noqa: E402

from keras_resnet.data import views  # noqa: E402

CORES, BATCH, SIZE, SHORTER = 2, 32, 224, (256, 480)
BYTES = 110_000
"""of a picture of ImageNet, on average"""
# Ours, theirs, and how many times as fast ours should be.
TARGETS = (
    ("ours, 2 taps", "PIL, 2 taps, then crop", 2.5),
    ("ours, 2 taps", "PIL, 2 taps, of the crop", None),
    ("ours, antialiased", "PIL, antialiased, then crop", 1.5),
    ("ours, antialiased", "PIL, antialiased, of the crop", None),
    ("ours, 2 taps", "tf.data, 2 taps, then crop", 3.0),
    ("ours, antialiased", "tf.data, antialiased, then crop", 3.0),
)

Job = list[tuple[str, np.ndarray]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11, help="rounds that count")
    parser.add_argument("--batches", type=int, default=32, help="of 32 pictures, a round")
    args = parser.parse_args()

    if hasattr(os, "sched_setaffinity"):
        # Also holds for the processes and threads to come.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    with tempfile.TemporaryDirectory() as folder:
        paths = write_photographs(Path(folder))
        draws = np.random.default_rng(0).random((args.batches * BATCH, views.DRAWS), np.float32)
        every = [paths[i % len(paths)] for i in range(len(draws))]
        # Not forked: TensorFlow's threads would not be there.
        with multiprocessing.get_context("spawn").Pool(CORES) as pool:
            measure(contenders(pool, every, draws), args.rounds, len(draws), paths)


def contenders(pool: "multiprocessing.pool.Pool", paths: list[str], draws: np.ndarray) -> dict[str, Callable]:
    """Functions that give all the batches."""

    def tensorflow(view: Callable, antialias: bool) -> Callable:
        options = tf.data.Options()
        options.autotune.enabled = False
        examples = tf.data.Dataset.from_tensor_slices((tf.constant(paths), tf.constant(draws))).map(
            lambda path, draw: view(tf.io.read_file(path), draw, antialias=antialias), num_parallel_calls=CORES
        )
        batches = examples.batch(BATCH, drop_remainder=True).prefetch(2).with_options(options)
        return lambda: iter(batches)

    examples = list(zip(paths, draws, strict=True))
    jobs = [examples[i : i + BATCH] for i in range(0, len(examples), BATCH)]
    return {
        "ours, 2 taps": tensorflow(views.scale_crop_flip, False),
        "PIL, 2 taps, then crop": lambda: pool.imap(pil_two_taps_then_crop, jobs),
        "PIL, 2 taps, of the crop": lambda: pool.imap(pil_two_taps, jobs),
        "tf.data, 2 taps, then crop": tensorflow(resize_then_crop, False),
        "ours, antialiased": tensorflow(views.scale_crop_flip, True),
        "PIL, antialiased, then crop": lambda: pool.imap(pil_resize_then_crop, jobs),
        "PIL, antialiased, of the crop": lambda: pool.imap(pil_resize_of_crop, jobs),
        "tf.data, antialiased, then crop": tensorflow(resize_then_crop, True),
    }


def resize_then_crop(image: tf.Tensor, draw: tf.Tensor, antialias: bool) -> tf.Tensor:
    """As tf.data is usually written: decode the whole, resize the whole, crop, flip."""
    whole = tf.io.decode_jpeg(image, channels=3)
    crop = views.random_crop(tf.shape(whole)[:2], draw, size=SIZE, shorter=SHORTER)
    resized = tf.image.resize(whole, crop.resized, antialias=antialias)
    picture = tf.image.crop_to_bounding_box(resized, *tf.unstack(crop.offset), SIZE, SIZE)
    return tf.cond(crop.mirror, lambda: tf.image.flip_left_right(picture), lambda: picture)


def pil_resize_then_crop(job: Job) -> np.ndarray:
    """As torchvision does it. PIL's `resize` widens its filter as the picture shrinks."""
    return np.stack([flip(resize(image, resized).crop(at), mirror) for image, resized, at, mirror in opened(job)])


def pil_resize_of_crop(job: Job) -> np.ndarray:
    """The same pixels, for one who knows `box` and works out what it should be."""
    return np.stack(
        [
            flip(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=before(image, resized, at)), mirror)
            for image, resized, at, mirror in opened(job)
        ]
    )


def pil_two_taps_then_crop(job: Job) -> np.ndarray:
    """`transform` is how PIL interpolates between two neighbours only."""
    extent, taps = Image.Transform.EXTENT, Image.Resampling.BILINEAR
    return np.stack(
        [
            flip(image.transform(resized, extent, (0, 0, *image.size), taps).crop(at), mirror)
            for image, resized, at, mirror in opened(job)
        ]
    )


def pil_two_taps(job: Job) -> np.ndarray:
    """The same pixels by one `transform`, of the crop alone."""
    extent, taps = Image.Transform.EXTENT, Image.Resampling.BILINEAR
    return np.stack(
        [
            flip(image.transform((SIZE, SIZE), extent, before(image, resized, at), taps), mirror)
            for image, resized, at, mirror in opened(job)
        ]
    )


def opened(job: Job):
    """Each picture with its width and height after the resize, its crop there and whether it is mirrored."""
    low, high = SHORTER
    for path, (scale, *places, mirror) in job:
        with Image.open(path) as image:
            shorter = low + int(scale * (high - low + 1))
            resized = tuple(side * shorter // min(image.size) for side in image.size)
            top, left = (int(u * (side - SIZE + 1)) for u, side in zip(places, resized[::-1], strict=True))
            yield image, resized, (left, top, left + SIZE, top + SIZE), mirror < 0.5


def before(image: Image.Image, resized: tuple[int, ...], box: tuple[int, ...]) -> tuple[float, ...]:
    """The box in pixels of the picture before the resize."""
    return tuple(edge * old / new for edge, old, new in zip(box, image.size * 2, resized * 2, strict=True))


def resize(image: Image.Image, size: tuple[int, ...]) -> Image.Image:
    return image.resize(size, Image.Resampling.BILINEAR)


def flip(image: Image.Image, mirror: bool) -> np.ndarray:
    return np.asarray(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirror else image)


def write_photographs(folder: Path, count: int = 48) -> list[str]:
    """Crops and mirror images of the two photographs of scikit-learn, of the size of ImageNet's in pixels and bytes."""
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    random, paths = np.random.default_rng(0), []
    for number in range(count):
        whole = photographs[number % len(photographs)]
        height = whole.height * random.uniform(0.85, 1)
        width = height * 4 / 3
        left, top = random.uniform(0, whole.width - width), random.uniform(0, whole.height - height)
        image = whole.resize((500, 375), Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
        if number // 2 % 2:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        path = folder / f"{number}.jpg"
        for quality in range(90, 100):
            image.save(path, quality=quality)
            if path.stat().st_size >= BYTES:
                break
        paths.append(str(path))
    return paths


def measure(contenders: dict[str, Callable], rounds: int, images: int, paths: list[str]) -> None:
    kilobytes = np.mean([os.path.getsize(path) for path in paths]) / 1000
    print(f"{len(paths)} JPEG files of 500 x 375 pixels and {kilobytes:.0f} kB; {CORES} cores, batches of {BATCH}")
    first = {name: np.asarray(next(batches()), np.float32) for name, batches in contenders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        # Who goes first changes, so that a drift of the machine's speed favours nobody.
        names = list(contenders)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            begin = time.perf_counter()
            count = sum(len(batch) for batch in contenders[name]())
            assert count == images
            # The first round warms everybody up.
            if number:
                seconds[name].append(time.perf_counter() - begin)

    print(
        f"\n{'median of ' + str(rounds) + ' rounds (min..max)':<34}{'pictures/s':<22}difference from ours, of 255, mean"
    )
    for name, times in seconds.items():
        ours = first["ours, 2 taps" if "2 taps" in name else "ours, antialiased"]
        print(f"{name:<34}{spread([images / t for t in times], 0):<22}{np.abs(first[name] - ours).mean():.2f}")
    print("\nours is so many times as fast: median of the rounds' ratios (min..max)")
    for ours, theirs, target in TARGETS:
        ratios = [t / o for o, t in zip(seconds[ours], seconds[theirs], strict=True)]
        wanted = f", wanted {target}" if target else ""
        print(f"{ours + ' : ' + theirs:<54}{spread(ratios, 2)}{wanted}")


def spread(values: list[float], digits: int) -> str:
    return f"{np.median(values):.{digits}f} ({min(values):.{digits}f}..{max(values):.{digits}f})"


if __name__ == "__main__":
    main()
