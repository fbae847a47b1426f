"""Turn a user's arrays or `tf.data.Dataset` into a split, and hash the images of any split."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow as tf

from .dataset import WHOLE, Arrays, Shard, Split


@dataclass(frozen=True)
class Stream:
    """A split of a finite `tf.data.Dataset` of labeled images, in its own order."""

    examples: tf.data.Dataset
    """`(image, label)`, one at a time: uint8 or float `[H, W, 3]` or encoded, and int32 `[]`"""

    @cached_property
    def _count(self) -> int:
        count = int(self.examples.cardinality())
        # The cardinality is unknown after a filter, or if the last batch may be smaller.
        return count if count >= 0 else int(self.examples.reduce(0, lambda count, _: count + 1))

    def __len__(self) -> int:
        return self._count

    def in_order(self, shard: Shard = WHOLE) -> tf.data.Dataset:
        """Return the images as `Split.in_order` does."""
        return self.examples.shard(shard.count, shard.index)

    def shuffled(
        self, batch_size: int, seed: int, first_step: int, shard: Shard = WHOLE
    ) -> tf.data.Dataset:
        """Raise `ValueError`: the order of a `tf.data.Dataset` is fixed."""
        raise ValueError(
            "a tf.data.Dataset has an order of its own; give arrays or a folder to train on"
        )


def as_split(data: Any) -> Split:
    """Return any labeled images as a split.

    Pixels are 0 to 255, as uint8 or as floats like those of
    `keras.utils.image_dataset_from_directory`. The first element of a `tf.data.Dataset` of floats
    is read to verify the range.

    Args:
        data: a split; arrays `(images [N, H, W, 3], labels [N])`; or a finite `tf.data.Dataset` of
            `(image, label)`, single or in batches, whose images are `[H, W, 3]` of any size, or
            encoded (JPEG, PNG, GIF or BMP). Labels are class numbers.

    Raises:
        ValueError: the data has another form. The message says what to give.
    """
    if isinstance(data, Split):
        return data
    if isinstance(data, tf.data.Dataset):
        return _stream(data)
    if isinstance(data, tuple) and len(data) == 2:
        return _arrays(*data)
    raise ValueError(
        f"data is of type {type(data).__name__}; give arrays (images, labels), a tf.data.Dataset of"
        " (image, label), or a split of a data set"
    )


def _arrays(images: Any, labels: Any) -> Arrays:
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim != 4 or images.shape[-1] != 3 or not len(images):
        raise ValueError(f"images has shape {images.shape}; give [N, H, W, 3]")
    _require_pixels(tf.as_dtype(images.dtype))
    if images.dtype != np.uint8:
        _require_range(images)
    _require_labels(tf.as_dtype(labels.dtype), labels.shape, 1)
    if len(labels) != len(images):
        raise ValueError(
            f"labels has length {len(labels)}; give one for each of {len(images)} images"
        )
    if labels.min() < 0:
        raise ValueError(f"labels has {labels.min()}; classes are numbered from 0")
    return Arrays(images, labels.astype(np.int32))


def _stream(data: tf.data.Dataset) -> Stream:
    spec = data.element_spec
    if not (
        isinstance(spec, tuple)
        and len(spec) == 2
        and all(isinstance(part, tf.TensorSpec) for part in spec)
    ):
        raise ValueError(f"data has elements {spec}; give (image, label), two tensors")
    if int(data.cardinality()) == tf.data.INFINITE_CARDINALITY:
        raise ValueError("data is endless; give each image once, without repeat()")
    image, label = spec
    rank = image.shape.rank
    ranks = (0, 1) if image.dtype == tf.string else (3, 4)
    if rank not in ranks:
        raise ValueError(
            f"images has shape {image.shape}; give images [H, W, 3], batches [N, H, W, 3], or"
            " encoded images (strings), and set a rank that is unknown with tf.ensure_shape"
        )
    if image.dtype != tf.string:
        _require_pixels(image.dtype)
        if image.shape[-1] not in (3, None):
            raise ValueError(f"images has shape {image.shape}; give 3 channels, RGB")
        if image.dtype != tf.uint8:
            _require_range(next(data.take(1).as_numpy_iterator(), (np.zeros(1), None))[0])
    batched = rank == ranks[1]
    _require_labels(label.dtype, label.shape, int(batched))
    examples = data.unbatch() if batched else data
    if label.dtype != tf.int32:
        examples = examples.map(lambda image, label: (image, tf.cast(label, tf.int32)))
    return Stream(examples)


def _require_pixels(dtype: tf.DType) -> None:
    if dtype != tf.uint8 and not dtype.is_floating:
        raise ValueError(f"images is {dtype.name}; give uint8, or floats from 0 to 255")


def _require_range(images: np.ndarray) -> None:
    """Raise `ValueError` if floats are NaN or look like normalized pixels."""
    low, high = (float(bound) for bound in (images.min(), images.max()))
    # A resize may round beyond 0 and 255. An image may be black.
    if not -1 < low <= high < 256 or (high <= 1 and high != 0):
        raise ValueError(
            f"images has values from {low:g} to {high:g}; give pixels from 0 to 255:"
            " `preprocessing` normalizes them"
        )


def _require_labels(dtype: tf.DType, shape: tf.TensorShape | tuple[int, ...], rank: int) -> None:
    shape = tf.TensorShape(shape)
    if shape.rank == rank and dtype.is_integer:
        return
    wanted = "[N]" if rank else "[]"
    one_hot = "; of one-hot labels take the argmax" if shape.rank == rank + 1 else ""
    raise ValueError(
        f"labels is {dtype.name} of shape {shape}; give class numbers, integers {wanted}{one_hot}"
    )


def examples(split: Split) -> Iterator[tuple[Any, Any]]:
    """Yield every image of a split with its label, in order.

    Args:
        split: an encoded image is bytes, any other is an array `[H, W, 3]`.
    """
    if isinstance(split, Arrays):  # the pipeline would take 25 times as long
        return zip(split.images, split.labels, strict=True)
    return split.in_order().as_numpy_iterator()


def content_hash(image: Any) -> bytes:
    """Return the SHA-256 of an image's encoded bytes, or of its pixels.

    Args:
        image: as `examples` yields it.
    """
    return hashlib.sha256(image if isinstance(image, bytes) else image.tobytes()).digest()


def content_hashes(split: Split, labels: np.ndarray | None = None) -> np.ndarray:
    """Return the `content_hash` of each image, in order.

    Args:
        split: the split, which is read completely.
        labels: the labels of an earlier reading, `[N]`, or None to skip the comparison.

    Returns:
        uint8 `[N, 32]`.

    Raises:
        ValueError: the order of the labels has changed.
    """
    digests, numbers = [], []
    for image, label in examples(split):
        digests.append(content_hash(image))
        numbers.append(label)
    if labels is not None and not np.array_equal(labels, numbers):
        raise ValueError(
            "data gives its images in another order each time; shuffle with"
            " reshuffle_each_iteration=False, or not at all"
        )
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
