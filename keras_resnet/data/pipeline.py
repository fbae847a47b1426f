"""From a split to batches.

Which picture stands where in which batch, and how it is augmented, is a function of the seed, the step
and the index in the global batch alone. So a run that goes on at step 5,000 builds its pipeline from
step 5,000, and sees what it would have seen.
"""

import os
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from . import views
from .dataset import WHOLE, Arrays, Shard, Split
from .preprocessing import Preprocessing, decode, normalize, test_view
from .test_views import VIEWS

PARALLEL_CALLS = min(8, os.cpu_count() or 1)
PREFETCH = 4


def train_batches(
    split: Split,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    augmentation: str = "none",
    lighting: float = 0.0,
    seed: int = 0,
    first_step: int = 0,
    shard: Shard = WHOLE,
) -> tf.data.Dataset:
    """The endless batches `(images, labels)` of the training steps from `first_step` on, or a shard of each.

    Each epoch is a new order of the whole split; what does not fill its last batch is left out.
    Images float32 `[batch / shards, size, size, 3]`, labels int32 `[batch / shards]`.
    Raises `ValueError` where the split does not fill one batch.
    """
    steps_per_epoch(split, batch_size)
    size = preprocessing.crop
    rows = shard.rows(batch_size)

    # Random numbers are drawn for the whole batch, so that a picture's are the same whichever host it is on.
    def augment(step: tf.Tensor, pictures: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        key = tf.stack([seed, step])
        if lighting:
            fold = tf.random.experimental.stateless_fold_in(key, 1)
            pictures = views.lighting(pictures, lighting, tf.random.stateless_normal([batch_size, 3], fold)[rows])
        pictures = normalize(preprocessing, pictures)
        if augmentation in ("pad-crop", "pad-crop-flip"):
            draws = tf.random.stateless_uniform([batch_size, 3], key)[rows]
            pictures = views.pad_crop(pictures, size // 8, augmentation == "pad-crop-flip", draws)
        return pictures, labels

    batches = split.shuffled(batch_size, seed, first_step, shard)
    if isinstance(split, Arrays) and augmentation != "scale-crop-flip":
        # Pictures of one size are resized and cropped a whole batch at a time.
        batches = _parallel(
            batches, lambda step, images, labels: augment(step, test_view(preprocessing, images), labels)
        )
        return batches.prefetch(PREFETCH).with_options(_options())

    def draw(step: tf.Tensor, pictures: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, ...]:
        draws = tf.random.stateless_uniform([batch_size, views.DRAWS], tf.stack([seed, step]))[rows]
        return tf.repeat(step, batch_size // shard.count), pictures, draws, labels

    def view(step: tf.Tensor, picture: tf.Tensor, draw: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, ...]:
        if augmentation == "scale-crop-flip":
            return step, views.scale_crop_flip(picture, draw, size=size), label
        return step, test_view(preprocessing, decode(picture)[tf.newaxis])[0], label

    examples = _parallel(batches.map(draw).unbatch(), view)
    batches = _parallel(
        examples.batch(batch_size // shard.count, drop_remainder=True),
        lambda steps, pictures, labels: augment(steps[0], pictures, labels),
    )
    return batches.prefetch(PREFETCH).with_options(_options())


def test_batches(
    split: Split, preprocessing: Preprocessing, batch_size: int, shard: Shard = WHOLE
) -> tf.data.Dataset:
    """Every picture of the split once, in order, in the single test view; the last batch is what is left.

    Of a shard every `count`-th picture, in batches of `batch_size` too.

    Images float32 `[<= batch, size, size, 3]`, labels int32 `[<= batch]`.
    """

    def finish(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        if isinstance(split, Arrays):
            images = test_view(preprocessing, images)
        return normalize(preprocessing, images), labels

    examples = split.in_order(shard)
    if not isinstance(split, Arrays):
        examples = _parallel(
            examples, lambda picture, label: (test_view(preprocessing, decode(picture)[tf.newaxis])[0], label)
        )
    return _parallel(examples.batch(batch_size), finish).prefetch(PREFETCH).with_options(_options())


def view_batches(split: Split, preprocessing: Preprocessing, views: str, batch_size: int) -> tf.data.Dataset:
    """Every picture of the split once, in order: `((view, ...), labels)`.

    `views` is a key of `VIEWS`; each view is float32 `[n, h, w, 3]`, labels are int32 `[n]`. `batch_size` counts views,
    so that ten crops take no more memory than one. Where views differ in size, pictures come one at a time.
    """
    if views == "single":
        return test_batches(split, preprocessing, batch_size).map(lambda images, labels: ((images,), labels))

    def view(picture: tf.Tensor, label: tf.Tensor) -> tuple[tuple[tf.Tensor, ...], tf.Tensor]:
        image = picture if isinstance(split, Arrays) else decode(picture)
        return VIEWS[views](preprocessing, image[tf.newaxis]), label[tf.newaxis]

    examples = _parallel(split.in_order(), view)
    shapes = [spec.shape for spec in examples.element_spec[0]]
    if all(shape.is_fully_defined() for shape in shapes):
        examples = examples.unbatch().batch(max(1, batch_size // len(shapes)))
    return examples.prefetch(PREFETCH).with_options(_options())


def steps_per_epoch(split: Split, batch_size: int) -> int:
    """Full batches in the split. Raises `ValueError` where there is none."""
    if len(split) < batch_size:
        raise ValueError(f"batch_size is {batch_size}, but only {len(split)} pictures are there to train on")
    return len(split) // batch_size


def _parallel(examples: tf.data.Dataset, function: Callable[..., Any]) -> tf.data.Dataset:
    return examples.map(function, num_parallel_calls=PARALLEL_CALLS, deterministic=True)


def _options() -> tf.data.Options:
    options = tf.data.Options()
    # Destroying a pipeline waits for its autotune thread, by then up to a minute. Parallelism is explicit above.
    options.autotune.enabled = False
    return options
