"""Compare this package, PIL and plain tf.data on ImageNet's training view, in images per second.

All read the same JPEG files, take the same random shorter sides, crops and mirror images
(section 3.4) and return batches of 32, on two cores. This package and tf.data make two calls in
parallel and return float32. PIL runs in two processes, which stay alive, and returns uint8, a
quarter of the bytes. The contenders alternate, and ratios of time are taken per round. Run it on an
idle machine:

    python scripts/benchmarks/bench_input.py

With `--pipelines` it measures complete training pipelines instead, with and without all image
augmentations, on `--cores` cores: CIFAR-10 from tensorflow-datasets, and the images of a folder at
224 px.

    python scripts/benchmarks/bench_input.py --pipelines --data-dir DIR --folder FOLDER
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Child processes import nothing from the working directory.
os.environ.setdefault("PYTHONSAFEPATH", "1")

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from PIL import Image  # noqa: E402

from keras_resnet import data  # noqa: E402
from keras_resnet.data import augmentation as views  # noqa: E402
from keras_resnet.data.pipeline import Augmentation, train_batches  # noqa: E402
from keras_resnet.data.preprocessing import preprocessing_for  # noqa: E402
from keras_resnet.serving.needs import processor  # noqa: E402

CORES, BATCH, SIZE, SHORTER, SEED = 2, 32, 224, (256, 480), 0
WARM_UP = 16
"""the number of untimed batches, more than a pipeline prefetches"""
BYTES = 110_000
"""the average size of an ImageNet image"""
# Two contenders and the target ratio of their speeds.
TARGETS = (
    ("ours, 2 taps", "PIL, 2 taps, then crop", 2.5),
    ("ours, 2 taps", "PIL, 2 taps, of the crop", None),
    ("ours, antialiased", "PIL, antialiased, then crop", 1.5),
    ("ours, antialiased", "PIL, antialiased, of the crop", None),
    ("ours, 2 taps", "tf.data, 2 taps, then crop", 3.0),
    ("ours, antialiased", "tf.data, antialiased, then crop", 3.0),
)

MIXED = {"erasing": 0.25, "mixup": 0.2, "cutmix": 1.0}
# Name, dataset, batch size and augmentation.
PIPELINES = (
    ("CIFAR-10, pad-crop-flip", "cifar10", 128, Augmentation("pad-crop-flip")),
    (
        "CIFAR-10, TrivialAugment and all others",
        "cifar10",
        128,
        Augmentation("pad-crop-flip", trivial_augment=True, lighting=0.1, **MIXED),
    ),
    (
        "CIFAR-10, RandAugment and all others",
        "cifar10",
        128,
        Augmentation("pad-crop-flip", rand_augment=7.0, lighting=0.1, **MIXED),
    ),
    ("folder, scale-crop-flip", "folder", 32, Augmentation("scale-crop-flip")),
    ("folder, resized-crop-flip", "folder", 32, Augmentation("resized-crop-flip")),
    (
        "folder, TrivialAugment and all others",
        "folder",
        32,
        Augmentation("resized-crop-flip", trivial_augment=True, lighting=0.1, **MIXED),
    ),
    (
        "folder, RandAugment and all others",
        "folder",
        32,
        Augmentation("resized-crop-flip", rand_augment=7.0, lighting=0.1, **MIXED),
    ),
)
"""all others: erasing, MixUp or CutMix, and the color shift"""

Job = list[tuple[str, np.ndarray]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=11, help="rounds after the warm-up")
    parser.add_argument("--batches", type=int, default=32, help="batches per round")
    parser.add_argument("--pipelines", action="store_true", help="measure training pipelines")
    parser.add_argument("--data-dir", help="where tensorflow-datasets keeps CIFAR-10")
    parser.add_argument("--folder", help="images in one folder per class")
    parser.add_argument("--cores", type=int, default=CORES, help="cores for the pipelines")
    args = parser.parse_args()

    if hasattr(os, "sched_setaffinity"):
        # Child processes and threads inherit it.
        cores = args.cores if args.pipelines else CORES
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    if args.pipelines:
        return measure_pipelines(args.rounds, args.batches, args.data_dir, args.folder)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_photographs(Path(folder))
        # All contenders use the numbers that `scale_crop_flip` draws.
        draws = np.concatenate(
            [views.uniform(BATCH, views.DRAWS, SEED, step, 0) for step in range(args.batches)]
        )
        every = [paths[i % len(paths)] for i in range(len(draws))]
        # A forked process would lack TensorFlow's threads.
        with multiprocessing.get_context("spawn").Pool(CORES) as pool:
            measure(contenders(pool, every, draws), args.rounds, len(draws), paths)


def contenders(
    pool: "multiprocessing.pool.Pool", paths: list[str], draws: np.ndarray
) -> dict[str, Callable]:
    """Return functions that return an iterator over all batches, by name."""

    def tensorflow(view: Callable, antialias: bool) -> Callable:
        options = tf.data.Options()
        options.autotune.enabled = False
        examples = tf.data.Dataset.from_tensor_slices((tf.constant(paths), tf.constant(draws)))
        examples = examples.enumerate().map(
            lambda place, example: view(place, tf.io.read_file(example[0]), example[1], antialias),
            num_parallel_calls=CORES,
        )
        batches = examples.batch(BATCH, drop_remainder=True).prefetch(2).with_options(options)
        return lambda: iter(batches)

    examples = list(zip(paths, draws, strict=True))
    jobs = [examples[i : i + BATCH] for i in range(0, len(examples), BATCH)]
    return {
        "ours, 2 taps": tensorflow(ours, False),
        "PIL, 2 taps, then crop": lambda: pool.imap(pil_two_taps_then_crop, jobs),
        "PIL, 2 taps, of the crop": lambda: pool.imap(pil_two_taps, jobs),
        "tf.data, 2 taps, then crop": tensorflow(resize_then_crop, False),
        "ours, antialiased": tensorflow(ours, True),
        "PIL, antialiased, then crop": lambda: pool.imap(pil_resize_then_crop, jobs),
        "PIL, antialiased, of the crop": lambda: pool.imap(pil_resize_of_crop, jobs),
        "tf.data, antialiased, then crop": tensorflow(resize_then_crop, True),
    }


def ours(place: tf.Tensor, image: tf.Tensor, draw: tf.Tensor, antialias: bool) -> tf.Tensor:
    """Call the package's function. It draws the same numbers, which is part of its cost."""
    step, position = place // BATCH, place % BATCH
    return views.scale_crop_flip(
        image, seed=SEED, step=step, position=position, size=SIZE, antialias=antialias
    )


def resize_then_crop(
    place: tf.Tensor, image: tf.Tensor, draw: tf.Tensor, antialias: bool
) -> tf.Tensor:
    """Decode the whole image, resize it, crop and flip, as tf.data pipelines usually do."""
    whole = tf.io.decode_jpeg(image, channels=3)
    crop = views.random_crop(tf.shape(whole)[:2], draw, size=SIZE, shorter=SHORTER)
    resized = tf.image.resize(whole, crop.resized, antialias=antialias)
    photo = tf.image.crop_to_bounding_box(resized, *tf.unstack(crop.offset), SIZE, SIZE)
    return tf.cond(crop.mirror, lambda: tf.image.flip_left_right(photo), lambda: photo)


def pil_resize_then_crop(job: Job) -> np.ndarray:
    """Resize and crop as torchvision does; PIL's `resize` antialiases."""
    return np.stack(
        [
            flip(resize(image, resized).crop(at), mirror)
            for image, resized, at, mirror in opened(job)
        ]
    )


def pil_resize_of_crop(job: Job) -> np.ndarray:
    """Compute the same pixels from the crop alone, with the argument `box`."""
    return np.stack(
        [
            flip(
                image.resize(
                    (SIZE, SIZE), Image.Resampling.BILINEAR, box=before(image, resized, at)
                ),
                mirror,
            )
            for image, resized, at, mirror in opened(job)
        ]
    )


def pil_two_taps_then_crop(job: Job) -> np.ndarray:
    """Resize with `transform`, which interpolates between two neighbors only, then crop."""
    extent, taps = Image.Transform.EXTENT, Image.Resampling.BILINEAR
    return np.stack(
        [
            flip(image.transform(resized, extent, (0, 0, *image.size), taps).crop(at), mirror)
            for image, resized, at, mirror in opened(job)
        ]
    )


def pil_two_taps(job: Job) -> np.ndarray:
    """Compute the same pixels with one `transform` of the crop alone."""
    extent, taps = Image.Transform.EXTENT, Image.Resampling.BILINEAR
    return np.stack(
        [
            flip(image.transform((SIZE, SIZE), extent, before(image, resized, at), taps), mirror)
            for image, resized, at, mirror in opened(job)
        ]
    )


def opened(job: Job):
    """Yield each image, its resized (width, height), its crop, and whether to mirror it."""
    low, high = SHORTER
    for path, (scale, *places, mirror) in job:
        with Image.open(path) as image:
            shorter = low + int(scale * (high - low + 1))
            resized = tuple(side * shorter // min(image.size) for side in image.size)
            top, left = (
                int(u * (side - SIZE + 1)) for u, side in zip(places, resized[::-1], strict=True)
            )
            yield image, resized, (left, top, left + SIZE, top + SIZE), mirror < 0.5


def before(image: Image.Image, resized: tuple[int, ...], box: tuple[int, ...]) -> tuple[float, ...]:
    """Return a box of the resized image in pixels of the original image."""
    return tuple(
        edge * old / new for edge, old, new in zip(box, image.size * 2, resized * 2, strict=True)
    )


def resize(image: Image.Image, size: tuple[int, ...]) -> Image.Image:
    return image.resize(size, Image.Resampling.BILINEAR)


def flip(image: Image.Image, mirror: bool) -> np.ndarray:
    return np.asarray(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirror else image)


def write_photographs(folder: Path, count: int = 48) -> list[str]:
    """Write crops and mirror images of scikit-learn's two photographs.

    They have the size of an average ImageNet image in pixels and in bytes.
    """
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    random, paths = np.random.default_rng(0), []
    for number in range(count):
        whole = photographs[number % len(photographs)]
        height = whole.height * random.uniform(0.85, 1)
        width = height * 4 / 3
        left, top = random.uniform(0, whole.width - width), random.uniform(0, whole.height - height)
        image = whole.resize(
            (500, 375), Image.Resampling.BICUBIC, box=(left, top, left + width, top + height)
        )
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
    print(
        f"{len(paths)} JPEG files of 500 x 375 pixels and {kilobytes:.0f} kB; {CORES} cores,"
        f" batches of {BATCH}"
    )
    first = {name: np.asarray(next(batches()), np.float32) for name, batches in contenders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        # The order changes, so that a drift of the machine's speed favors none.
        names = list(contenders)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            begin = time.perf_counter()
            count = sum(len(batch) for batch in contenders[name]())
            assert count == images
            # The first round is a warm-up.
            if number:
                seconds[name].append(time.perf_counter() - begin)

    print(
        f"\n{'median of ' + str(rounds) + ' rounds (min..max)':<34}{'images/s':<22}difference"
        " from ours, of 255, mean"
    )
    for name, times in seconds.items():
        ours = first["ours, 2 taps" if "2 taps" in name else "ours, antialiased"]
        print(
            f"{name:<34}{spread([images / t for t in times], 0):<22}"
            f"{np.abs(first[name] - ours).mean():.2f}"
        )
    print("\nspeed of ours divided by theirs: median of the rounds' ratios (min..max)")
    for ours, theirs, target in TARGETS:
        ratios = [t / o for o, t in zip(seconds[ours], seconds[theirs], strict=True)]
        wanted = f", wanted {target}" if target else ""
        print(f"{ours + ' : ' + theirs:<54}{spread(ratios, 2)}{wanted}")


def measure_pipelines(rounds: int, batches: int, data_dir: str | None, folder: str | None) -> None:
    """Print the speed of complete training pipelines."""
    datasets = {"cifar10": data.load("cifar10", data_dir=data_dir)}
    if folder:
        datasets["folder"] = data.load(folder, skip_broken=True)
    rows = [row for row in PIPELINES if row[1] in datasets]
    speeds: dict[str, list[float]] = {name: [] for name, *_ in rows}
    for number in range(rounds):
        for name, dataset, size, augmentation in (
            rows[number % len(rows) :] + rows[: number % len(rows)]
        ):
            found = datasets[dataset]
            preprocessing = preprocessing_for(found, SIZE if dataset == "folder" else None)
            steps = iter(
                train_batches(
                    found.train,
                    preprocessing,
                    batch_size=size,
                    augmentation=augmentation,
                    classes=len(found.class_names),
                    first_step=number * 1000,
                )
            )
            # The first batches wait for tracing, and the next ones are prefetched meanwhile.
            for _ in range(WARM_UP):
                next(steps)
            begin = time.perf_counter()
            for _ in range(batches):
                next(steps)
            speeds[name].append(batches * size / (time.perf_counter() - begin))
            del steps
    used = len(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else os.cpu_count()
    print(
        f"{processor()}, {used} cores, {batches} batches of 128 (CIFAR-10) or 32 (folder, {SIZE}"
        " px) per round"
    )
    print(f"\n{'median of ' + str(rounds) + ' rounds (min..max)':<42}images/s")
    for name, found in speeds.items():
        print(f"{name:<42}{spread(found, 0)}")


def spread(values: list[float], digits: int) -> str:
    return f"{np.median(values):.{digits}f} ({min(values):.{digits}f}..{max(values):.{digits}f})"


if __name__ == "__main__":
    main()
