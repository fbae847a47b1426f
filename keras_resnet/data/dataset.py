"""Represent a data set: splits of labeled images, and the class names.

A split is in memory (`Arrays`), in image files (`Files`), in records (`records`), or a user's
`tf.data.Dataset` (`Stream`).
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import tensorflow as tf


@dataclass(frozen=True)
class Shard:
    """A host's part of each batch: part `index` of `count` equal parts, in the order of ranks."""

    index: int
    count: int

    def rows(self, batch_size: int) -> slice:
        """Return the shard's rows of every batch. `count` must divide the batch size."""
        assert batch_size % self.count == 0
        share = batch_size // self.count
        return slice(self.index * share, (self.index + 1) * share)


WHOLE = Shard(0, 1)

READ_AHEAD = 4
"""the number of batches that are read from storage at once"""


@runtime_checkable
class Split(Protocol):
    """Labeled images: uint8 `[H, W, 3]` or encoded, each with its class number."""

    def __len__(self) -> int: ...

    def in_order(self, shard: Shard = WHOLE) -> tf.data.Dataset:
        """Return every `(image, label)` once, or every `count`-th for a shard."""

    def shuffled(
        self, batch_size: int, seed: int, first_step: int, shard: Shard = WHOLE
    ) -> tf.data.Dataset:
        """Return endless `(step, images [share], labels [share])`, beginning at `first_step`.

        Each epoch has a new order. A batch depends only on seed and step, and a shard gets its rows
        of each batch. Images that do not fill the last batch of an epoch are left out.
        """


@dataclass(frozen=True)
class Arrays:
    """A split in memory, with images of one size."""

    images: np.ndarray
    """uint8 `[N, H, W, 3]`, RGB"""
    labels: np.ndarray
    """int32 `[N]`"""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> "Arrays":
        """Return a split of the images at these indices."""
        return Arrays(self.images[indices], self.labels[indices])

    def in_order(self, shard: Shard = WHOLE) -> tf.data.Dataset:
        """Return the images as `Split.in_order` does."""
        images = tf.data.Dataset.from_tensor_slices(_tensors(self.images, self.labels))
        return images.shard(shard.count, shard.index)

    def shuffled(
        self, batch_size: int, seed: int, first_step: int, shard: Shard = WHOLE
    ) -> tf.data.Dataset:
        """Return batches as `Split.shuffled` does."""
        return _shuffled(self.images, self.labels, batch_size, seed, first_step, shard)


@dataclass(frozen=True)
class Files:
    """A split of image files of any size, which are read on demand."""

    paths: np.ndarray
    """str `[N]`"""
    labels: np.ndarray
    """int32 `[N]`"""
    fingerprints: np.ndarray | None = None
    """int64 `[N]`, equal for files with equal bytes; None if unknown"""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> "Files":
        """Return a split of the files at these indices."""
        known = self.fingerprints
        return Files(
            self.paths[indices], self.labels[indices], None if known is None else known[indices]
        )

    def in_order(self, shard: Shard = WHOLE) -> tf.data.Dataset:
        """Return the encoded images as `Split.in_order` does."""
        paths = tf.data.Dataset.from_tensor_slices(_tensors(self.paths, self.labels))
        paths = paths.shard(shard.count, shard.index)  # before a file is read
        return paths.map(lambda path, label: (tf.io.read_file(path), label))

    def shuffled(
        self, batch_size: int, seed: int, first_step: int, shard: Shard = WHOLE
    ) -> tf.data.Dataset:
        """Return batches of encoded images as `Split.shuffled` does."""

        def read(
            step: tf.Tensor, paths: tf.Tensor, labels: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            return step, tf.map_fn(tf.io.read_file, paths), labels

        batches = _shuffled(self.paths, self.labels, batch_size, seed, first_step, shard)
        return batches.map(read, num_parallel_calls=READ_AHEAD, deterministic=True)


def _tensors(sources: np.ndarray, labels: np.ndarray) -> tuple[tf.Tensor, tf.Tensor]:
    """Return tensors, because a pipeline would copy NumPy arrays into its graph."""
    with tf.device("CPU"):
        return tf.constant(sources), tf.constant(labels)


def _shuffled(
    sources: np.ndarray,
    labels: np.ndarray,
    batch_size: int,
    seed: int,
    first_step: int,
    shard: Shard,
) -> tf.data.Dataset:
    all_sources, all_labels = _tensors(sources, labels)

    def batch(step: tf.Tensor, indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        return step, tf.gather(all_sources, indices), tf.gather(all_labels, indices)

    return shuffled_indices(len(labels), batch_size, seed, first_step, shard).map(batch)


def shuffled_indices(
    total: int, batch_size: int, seed: int, first_step: int, shard: Shard = WHOLE
) -> tf.data.Dataset:
    """Return endless `(step, indices [share])`, as `Split.shuffled` does with images.

    Args:
        total: the number of images.
        batch_size: the global batch size.
        seed: the seed of the orders.
        first_step: the step of the first batch.
        shard: the part of each batch to return.
    """
    steps = total // batch_size

    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        # index_shuffle would need no memory, but leaves some epochs of a few hundred images nearly
        # in order.
        order = tf.random.experimental.stateless_shuffle(
            tf.range(total, dtype=tf.int64), tf.stack([seed, number])
        )
        first = tf.maximum(first_step - number * steps, 0)
        batches = tf.reshape(order[: steps * batch_size], [steps, batch_size])[
            first:, shard.rows(batch_size)
        ]
        return tf.data.Dataset.from_tensor_slices(batches).enumerate(number * steps + first)

    return tf.data.Dataset.counter(first_step // steps).flat_map(epoch)


@dataclass(frozen=True)
class Dataset:
    """Splits of labeled images, and the class names."""

    name: str
    class_names: tuple[str, ...]
    """in the order of the labels"""
    train: Split
    test: Split
    validation: Split | None = None
    """images held out of the training split, or the data set's own validation split if it has a
    test split too"""
    shorter_side: int | None = None
    """the median shorter side of the training images in pixels, if they differ in size and it is
    known"""
    test_held_out: bool = False
    """whether the test split was taken out of the training split, because the data set has none"""
    notes: tuple[str, ...] = ()
    """remarks that belong to its errors: files that were left out, the source of its test split"""


def class_counts(split: Split, classes: int) -> np.ndarray:
    """Count the images per class, reading the whole split if its labels are not in memory.

    Args:
        split: the labeled images.
        classes: the number of classes.

    Returns:
        int `[classes]`.
    """
    if isinstance(split, Arrays | Files):
        labels = split.labels
    else:
        labels = np.fromiter(
            (label for _, label in split.in_order().as_numpy_iterator()), np.int64, len(split)
        )
    return np.bincount(labels, minlength=classes)
