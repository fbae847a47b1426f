"""Build batches of a split for training and evaluation.

The image at each position of a batch and its augmentation depend only on the seed, the step and the
position in the global batch. A run that resumes at step 5,000 starts its pipeline at step 5,000,
and gets the same batches as an uninterrupted run.
"""

import os
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, get_args

import numpy as np
import tensorflow as tf

from ..choices import require
from . import augmentation as random_views
from . import mixing, policies
from .crops import VIEWS
from .dataset import WHOLE, Shard, Split
from .decoded import unpack
from .decoding import decode
from .preprocessing import Preprocessing, normalize, resize_and_crop

PARALLEL_CALLS = min(8, os.cpu_count() or 1)
PREFETCH = 4
# Autograph would rewrite the source of every function that a pipeline calls, which takes seconds.
# Their conditions on tensors are TensorFlow's.
_as_written = tf.autograph.experimental.do_not_convert

View = Literal["none", "pad-crop", "pad-crop-flip", "scale-crop-flip", "resized-crop-flip"]


@dataclass(frozen=True)
class Augmentation:
    """The random changes of training images.

    Raises:
        ValueError: a field has an invalid value.
    """

    view: View = "none"
    """"pad-crop" or "pad-crop-flip" of section 4.2, with an eighth of the side for padding;
    "scale-crop-flip" of section 3.4; "resized-crop-flip" of Szegedy et al. 2015"""
    _: KW_ONLY
    crop_area: float = 0.08
    """the smallest share of the image in the crop of "resized-crop-flip\""""
    trivial_augment: bool = False
    """whether to apply `policies.trivial_augment`"""
    rand_augment: float = 0.0
    """the strength of `policies.rand_augment`; 0 for none"""
    lighting: float = 0.0
    """the deviation of AlexNet's color shift (`augmentation.lighting`); 0 for none"""
    erasing: float = 0.0
    """the share of images with an erased rectangle (`augmentation.random_erasing`)"""
    mixup: float = 0.0
    """the alpha of `mixing.mixup`; 0 for none. With `cutmix` too, each pair gets one of the two"""
    cutmix: float = 0.0
    """the alpha of `mixing.cutmix`; 0 for none"""
    repeats: int = 1
    """the number of views of each image in a batch (repeated augmentation: Hoffer et al. 2020)"""

    def __post_init__(self) -> None:
        require("view", self.view, get_args(View))
        if self.repeats < 1:
            raise ValueError(f"repeats is {self.repeats}; give a positive number")

    @property
    def mixes(self) -> bool:
        """Whether pairs of images are mixed, and labels are shares of the classes."""
        return self.mixup > 0 or self.cutmix > 0


UNCHANGED = Augmentation()


@_as_written
def train_batches(
    split: Split,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    augmentation: Augmentation = UNCHANGED,
    classes: int | None = None,
    seed: int = 0,
    first_step: int = 0,
    shard: Shard = WHOLE,
) -> tf.data.Dataset:
    """Return an endless data set of training batches, or a shard of each batch.

    Each epoch has a new order of the whole split. Images that do not fill the last batch of an
    epoch are left out. With repeated augmentation, the views of two images alternate (a b a b ...),
    so that mixed pairs consist of different images.

    Args:
        split: the training images.
        preprocessing: the preprocessing of the network.
        batch_size: the global batch size, of all shards together.
        augmentation: the random changes of images.
        classes: the number of classes, required if images are mixed.
        seed: the seed of order and augmentation.
        first_step: the step of the first batch.
        shard: the part of each batch to return.

    Returns:
        `(images, labels)`: float32 `[batch / shards, size, size, 3]`, int32 `[batch / shards]`.
        If images are mixed, the labels are shares of the classes, float32
        `[batch / shards, classes]`.

    Raises:
        ValueError: the split does not fill one batch, a shard separates a pair of mixed images or
            the views of one image, or `classes` is missing.
    """
    steps_per_epoch(split, batch_size)
    _require_whole_groups(augmentation, batch_size, shard)
    if augmentation.mixes and classes is None:
        raise ValueError("classes is None, and images are mixed; give the number of classes")
    size = preprocessing.crop
    rows = shard.rows(batch_size)
    pixels = _pixels_by(preprocessing)

    # The policies and the color shift are defined on pixels in 0 to 255. Padding and erasing come
    # after normalization, where zero is the mean. Mixing comes last, because it adds whole views.
    def augment(
        step: tf.Tensor, images: tf.Tensor, labels: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        # The position in the global batch gives an image the same view on every host.
        place: dict[str, Any] = {"seed": seed, "step": step, "position": rows.start}
        if augmentation.trivial_augment:
            images = policies.trivial_augment(images, **place)
        if augmentation.rand_augment:
            # Filled with the mean as in timm; TrivialAugment fills with black.
            fill = _mean_color(preprocessing)
            images = policies.rand_augment(
                images, strength=augmentation.rand_augment, fill=fill, **place
            )
        if augmentation.lighting:
            images = random_views.lighting(images, deviation=augmentation.lighting, **place)
        images = normalize(preprocessing, images)
        if augmentation.view in ("pad-crop", "pad-crop-flip"):
            flip = augmentation.view == "pad-crop-flip"
            images = random_views.pad_crop(images, padding=size // 8, flip=flip, **place)
        if augmentation.erasing:
            images = random_views.random_erasing(images, probability=augmentation.erasing, **place)
        if augmentation.mixes:
            assert classes is not None
            return mixing.mix(
                images,
                labels,
                classes=classes,
                mixup_alpha=augmentation.mixup,
                cutmix_alpha=augmentation.cutmix,
                **place,
            )
        return images, labels

    batches = split.shuffled(batch_size // augmentation.repeats, seed, first_step, shard)
    if augmentation.repeats > 1:
        batches = batches.map(_repeat(augmentation.repeats, rows.stop - rows.start))
    per_image = augmentation.view in ("scale-crop-flip", "resized-crop-flip")
    by_batch = batches.element_spec[1].shape[1:].is_fully_defined()
    if by_batch and batches.element_spec[1].dtype != tf.string and not per_image:
        # Images of one size are resized and cropped as a batch.
        batches = _parallel(
            batches,
            lambda step, images, labels: augment(
                step, resize_and_crop(preprocessing, images), labels
            ),
        )
        return batches.prefetch(PREFETCH).with_options(_options())

    def with_positions(
        step: tf.Tensor, images: tf.Tensor, labels: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        return (
            tf.repeat(step, rows.stop - rows.start),
            tf.range(rows.start, rows.stop),
            images,
            labels,
        )

    def view(
        step: tf.Tensor, position: tf.Tensor, image: tf.Tensor, label: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        options: dict[str, Any] = {
            "seed": seed,
            "step": step,
            "position": position,
            "size": size,
            "aspect": preprocessing.aspect,
            "antialias": preprocessing.antialias,
            "exif_orientation": preprocessing.exif_orientation,
        }
        if image.dtype != tf.string:
            image = pixels(image)
        if augmentation.view == "scale-crop-flip":
            return step, random_views.scale_crop_flip(image, **options), label
        if augmentation.view == "resized-crop-flip":
            area = augmentation.crop_area
            return step, random_views.resized_crop_flip(image, area=area, **options), label
        return (
            step,
            resize_and_crop(preprocessing, pixels(image)[tf.newaxis])[0],
            label,
        )

    examples = _parallel(batches.map(with_positions).unbatch(), view)
    batches = _parallel(
        examples.batch(batch_size // shard.count, drop_remainder=True),
        lambda steps, images, labels: augment(steps[0], images, labels),
    )
    return batches.prefetch(PREFETCH).with_options(_options())


@_as_written
def evaluation_batches(
    split: Split, preprocessing: Preprocessing, batch_size: int, shard: Shard = WHOLE
) -> tf.data.Dataset:
    """Return batches with the single test view of every image of a split, in order.

    Args:
        split: the images.
        preprocessing: the preprocessing of the network.
        batch_size: the number of images per batch, also for a shard. The last batch may be smaller.
        shard: the part of the images: every `count`-th.

    Returns:
        `(images, labels)`: float32 `[<= batch, size, size, 3]`, int32 `[<= batch]`.
    """
    examples = split.in_order(shard)
    pixels = _pixels_by(preprocessing)
    image = examples.element_spec[0]
    # Images of one size are resized and cropped as a batch.
    by_batch = image.dtype != tf.string and image.shape.is_fully_defined()
    if not by_batch:
        examples = _parallel(
            examples,
            lambda image, label: (
                resize_and_crop(preprocessing, pixels(image)[tf.newaxis])[0],
                label,
            ),
        )

    def finish(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        if by_batch:
            images = resize_and_crop(preprocessing, images)
        return normalize(preprocessing, images), labels

    return _parallel(examples.batch(batch_size), finish).prefetch(PREFETCH).with_options(_options())


@_as_written
def view_batches(
    split: Split, preprocessing: Preprocessing, views: str, batch_size: int
) -> tf.data.Dataset:
    """Return batches with several test views of every image of a split, in order.

    If the sizes of views differ between images, a batch has one image.

    Args:
        split: the images.
        preprocessing: the preprocessing of the network.
        views: a key of `crops.VIEWS`.
        batch_size: the number of views per batch, so that ten crops need no more memory than one.

    Returns:
        `((view, ...), labels)`: each view float32 `[n, h, w, 3]`, labels int32 `[n]`.
    """
    if views == "single":
        return evaluation_batches(split, preprocessing, batch_size).map(
            lambda images, labels: ((images,), labels)
        )

    pixels = _pixels_by(preprocessing)

    def view(image: tf.Tensor, label: tf.Tensor) -> tuple[tuple[tf.Tensor, ...], tf.Tensor]:
        return VIEWS[views](preprocessing, pixels(image)[tf.newaxis]), label[tf.newaxis]

    examples = _parallel(split.in_order(), view)
    shapes = [spec.shape for spec in examples.element_spec[0]]
    if all(shape.is_fully_defined() for shape in shapes):
        examples = examples.unbatch().batch(max(1, batch_size // len(shapes)))
    return examples.prefetch(PREFETCH).with_options(_options())


def steps_per_epoch(split: Split, batch_size: int) -> int:
    """Return the number of full batches in a split.

    Args:
        split: the training images.
        batch_size: the global batch size.

    Raises:
        ValueError: the split is smaller than a batch.
    """
    if len(split) < batch_size:
        raise ValueError(f"batch_size is {batch_size}, but only {len(split)} images are available")
    return len(split) // batch_size


def _require_whole_groups(augmentation: Augmentation, batch_size: int, shard: Shard) -> None:
    """Raise `ValueError` if a shard would separate mixed pairs or views of one image."""
    repeats = augmentation.repeats
    group = 2 * repeats if repeats > 1 else 2 if augmentation.mixes else 1
    if batch_size % (group * shard.count):
        unit = f"{repeats} views of each image" if repeats > 1 else "pairs of mixed images"
        raise ValueError(
            f"batch_size is {batch_size}, over {shard.count} hosts; with {unit} give a number"
            f" divisible by {group * shard.count}"
        )


def _repeat(repeats: int, count: int) -> Callable[..., tuple[tf.Tensor, ...]]:
    """Return a function that repeats the images of a batch to `count`, in groups of a b a b ..."""
    positions = np.arange(count)
    sources = positions // (2 * repeats) * 2 + positions % 2

    def repeat(
        step: tf.Tensor, images: tf.Tensor, labels: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        return step, tf.gather(images, sources), tf.gather(labels, sources)

    return repeat


def _mean_color(preprocessing: Preprocessing) -> tuple[int, ...]:
    """Return the mean color of the training images, RGB in integers from 0 to 255."""
    color = np.reshape(preprocessing.mean, [-1, 3]).mean(axis=0)
    color = color[::-1] if preprocessing.channels == "BGR" else color
    return tuple(np.clip(np.round(color), 0, 255).astype(int).tolist())


def _pixels_by(preprocessing: Preprocessing) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return a function that decodes or unpacks an image, if necessary, to `[H, W, 3]`."""

    def pixels(image: tf.Tensor) -> tf.Tensor:
        if image.dtype == tf.string:
            return decode(image, exif_orientation=preprocessing.exif_orientation)
        if image.shape.rank == 1:
            return unpack(image, exif_orientation=preprocessing.exif_orientation)
        return image

    return pixels


def _parallel(examples: tf.data.Dataset, function: Callable[..., Any]) -> tf.data.Dataset:
    return examples.map(function, num_parallel_calls=PARALLEL_CALLS, deterministic=True)


def _options() -> tf.data.Options:
    options = tf.data.Options()
    # Destroying a pipeline waits for its autotune thread, up to a minute after long use.
    # Parallelism is explicit above.
    options.autotune.enabled = False
    return options
