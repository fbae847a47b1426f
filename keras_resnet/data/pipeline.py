"""From a split to batches.

Which picture stands where in which batch, and how it is augmented, is a function of the seed, the step
and the index in the global batch alone. So a run that goes on at step 5,000 builds its pipeline from
step 5,000, and sees what it would have seen.
"""

import os

import tensorflow as tf

from . import views
from .dataset import Split
from .preprocessing import Preprocessing, normalize, test_view

PARALLEL_CALLS = min(8, os.cpu_count() or 1)
PREFETCH = 4


def train_batches(
    split: Split,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    augmentation: str = "none",
    seed: int = 0,
    first_step: int = 0,
) -> tf.data.Dataset:
    """The endless batches `(images, labels)` of the training steps from `first_step` on.

    Each epoch is a new order of the whole split; what does not fill its last batch is left out.
    Images float32 `[batch, size, size, 3]`, labels int32 `[batch]`.
    Raises `ValueError` where the split does not fill one batch.
    """
    total, steps = len(split), steps_per_epoch(split, batch_size)
    # As tensors that the pipeline refers to; as numpy arrays they would be copied into its graph.
    with tf.device("CPU"):
        images, labels = tf.constant(split.images), tf.constant(split.labels)

    def batch(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        epoch, step_in_epoch = step // steps, step % steps
        place = step_in_epoch * batch_size + tf.range(batch_size, dtype=tf.int64)
        # A permutation that is computed place by place, so no order of the whole split has to be kept.
        indices = tf.random.experimental.index_shuffle(place, tf.stack([seed, epoch]), total - 1)
        pictures = normalize(preprocessing, test_view(preprocessing, tf.gather(images, indices)))
        if augmentation in ("pad-crop", "pad-crop-flip"):
            padding, flip = preprocessing.crop // 8, augmentation == "pad-crop-flip"
            pictures = views.pad_crop(pictures, padding, flip, tf.stack([seed, step]))
        return pictures, tf.gather(labels, indices)

    batches = tf.data.Dataset.counter(first_step).map(batch, num_parallel_calls=PARALLEL_CALLS, deterministic=True)
    return batches.prefetch(PREFETCH).with_options(_options())


def test_batches(split: Split, preprocessing: Preprocessing, batch_size: int) -> tf.data.Dataset:
    """Every picture of the split once, in order, in the single test view; the last batch is what is left.

    Images float32 `[<= batch, size, size, 3]`, labels int32 `[<= batch]`.
    """

    def view(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return normalize(preprocessing, test_view(preprocessing, images)), labels

    with tf.device("CPU"):
        tensors = (tf.constant(split.images), tf.constant(split.labels))
    batches = tf.data.Dataset.from_tensor_slices(tensors).batch(batch_size)
    batches = batches.map(view, num_parallel_calls=PARALLEL_CALLS, deterministic=True)
    return batches.prefetch(PREFETCH).with_options(_options())


def steps_per_epoch(split: Split, batch_size: int) -> int:
    """Full batches in the split. Raises `ValueError` where there is none."""
    if len(split) < batch_size:
        raise ValueError(f"batch_size is {batch_size}, but only {len(split)} pictures are there to train on")
    return len(split) // batch_size


def _options() -> tf.data.Options:
    options = tf.data.Options()
    # Destroying a pipeline waits for its autotune thread, by then up to a minute. Parallelism is explicit above.
    options.autotune.enabled = False
    return options
