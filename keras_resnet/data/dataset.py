"""What a data set is here: two splits of labelled pictures and the names of the classes.

A split is in memory (`Arrays`), in picture files (`Files`) or in records (`tfds.Records`).
"""

import warnings
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import tensorflow as tf


@dataclass(frozen=True)
class Shard:
    """One of several equal parts: what one host works on. The first has what comes first."""

    index: int
    count: int

    def rows(self, batch_size: int) -> slice:
        """Its part of every batch. The batch size must be a multiple of `count`."""
        assert batch_size % self.count == 0
        share = batch_size // self.count
        return slice(self.index * share, (self.index + 1) * share)


WHOLE = Shard(0, 1)


class Split(Protocol):
    """Labelled pictures: uint8 `[H, W, 3]` where they are in memory, else encoded, and their numbers of class."""

    def __len__(self) -> int: ...

    def in_order(self, shard: Shard = WHOLE) -> tf.data.Dataset:
        """`(picture, label)`, each once; of a shard every `count`-th."""

    def shuffled(self, batch_size: int, seed: int, first_step: int, shard: Shard = WHOLE) -> tf.data.Dataset:
        """Endless `(step, pictures [share], labels [share])` from `first_step` on; each epoch in a new order.

        The shard's rows of each batch. Batches are a function of seed and step alone, whatever the number of shards.
        What does not fill the last batch of an epoch is left out.
        """


@dataclass(frozen=True)
class Arrays:
    """Pictures of one size, in memory."""

    images: np.ndarray
    """uint8 `[N, H, W, 3]`, RGB"""
    labels: np.ndarray
    """int32 `[N]`"""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> "Arrays":
        return Arrays(self.images[indices], self.labels[indices])

    def in_order(self, shard: Shard = WHOLE) -> tf.data.Dataset:
        pictures = tf.data.Dataset.from_tensor_slices(_tensors(self.images, self.labels))
        return pictures.shard(shard.count, shard.index)

    def shuffled(self, batch_size: int, seed: int, first_step: int, shard: Shard = WHOLE) -> tf.data.Dataset:
        return _shuffled(self.images, self.labels, batch_size, seed, first_step, shard)


@dataclass(frozen=True)
class Files:
    """Picture files of any size, read when they are needed."""

    paths: np.ndarray
    """text `[N]`"""
    labels: np.ndarray
    """int32 `[N]`"""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> "Files":
        return Files(self.paths[indices], self.labels[indices])

    def in_order(self, shard: Shard = WHOLE) -> tf.data.Dataset:
        paths = tf.data.Dataset.from_tensor_slices(_tensors(self.paths, self.labels))
        paths = paths.shard(shard.count, shard.index)  # before a file is read
        return paths.map(lambda path, label: (tf.io.read_file(path), label))

    def shuffled(self, batch_size: int, seed: int, first_step: int, shard: Shard = WHOLE) -> tf.data.Dataset:
        def read(step: tf.Tensor, paths: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            return step, tf.map_fn(tf.io.read_file, paths), labels

        return _shuffled(self.paths, self.labels, batch_size, seed, first_step, shard).map(read)


def _tensors(sources: np.ndarray, labels: np.ndarray) -> tuple[tf.Tensor, tf.Tensor]:
    """As tensors that a pipeline refers to; as numpy arrays they would be copied into its graph."""
    with tf.device("CPU"):
        return tf.constant(sources), tf.constant(labels)


def _shuffled(
    sources: np.ndarray, labels: np.ndarray, batch_size: int, seed: int, first_step: int, shard: Shard
) -> tf.data.Dataset:
    total, steps = len(labels), len(labels) // batch_size
    all_sources, all_labels = _tensors(sources, labels)

    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        # Not index_shuffle, which needs no memory: of a few hundred places it leaves some epochs nearly in order.
        order = tf.random.experimental.stateless_shuffle(tf.range(total, dtype=tf.int64), tf.stack([seed, number]))
        first = tf.maximum(first_step - number * steps, 0)
        batches = tf.reshape(order[: steps * batch_size], [steps, batch_size])[first:, shard.rows(batch_size)]
        return tf.data.Dataset.from_tensor_slices(batches).enumerate(number * steps + first)

    def batch(step: tf.Tensor, indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        return step, tf.gather(all_sources, indices), tf.gather(all_labels, indices)

    return tf.data.Dataset.counter(first_step // steps).flat_map(epoch).map(batch)


@dataclass(frozen=True)
class Dataset:
    name: str
    labels: tuple[str, ...]
    """class names, in the order of the labels"""
    train: Split
    test: Split
    validation: Split | None = None
    """pictures held out of the training split, where some were, or the data set's own beside a test split"""
    shorter_side: int | None = None
    """pixels, the median of the training pictures, where they differ in size and it is known"""
    test_held_out: bool = False
    """whether the test split was taken out of the training split, because there was none"""
    notes: tuple[str, ...] = ()
    """what whoever reads its errors should know: files that were left out, where its test split comes from"""


def class_counts(split: Split, classes: int) -> np.ndarray:
    """Pictures of each class in a split, int `[classes]`. Reads all of it where its labels are not in memory."""
    if isinstance(split, Arrays | Files):
        labels = split.labels
    else:
        labels = np.fromiter((label for _, label in split.in_order().as_numpy_iterator()), np.int64, len(split))
    return np.bincount(labels, minlength=classes)


TEST_SHARE = 0.2
"""of the training split where a data set has no test split"""


def hold_out(dataset: Dataset, count: int, seed: int) -> Dataset:
    """`count` pictures of the training split become the validation split: stratified, decided by the seed.

    Raises `ValueError` where so many cannot be spared.
    """
    train = dataset.train
    assert isinstance(train, Arrays | Files)
    classes, available = len(dataset.labels), len(train)
    if not classes <= count <= available - classes:
        raise ValueError(f"holdout is {count}; {dataset.name} can spare {classes} to {available - classes} pictures")
    rest, held = _stratified(train.labels, count, seed)
    return replace(dataset, train=train.take(rest), validation=train.take(held))


def hold_out_test(dataset: Dataset, seed: int) -> Dataset:
    """A fifth of the training split becomes the test split, stratified and decided by the seed, and a warning says so.

    Raises `ValueError` where it cannot be spared.
    """
    train = dataset.train
    assert isinstance(train, Arrays | Files)
    shared = int(np.count_nonzero(np.bincount(train.labels) > 1))
    count = max(shared, round(TEST_SHARE * len(train)))
    if not shared or count > len(train) - len(dataset.labels):
        raise ValueError(f"{dataset.name} has no test split, and {len(train)} pictures are too few to take one from")
    rest, held = _stratified(train.labels, count, seed)
    note = (
        f"{dataset.name} has no test split: {count} of its {len(train)} pictures are kept out of training to test on, "
        f"from each class alike, chosen by the seed {seed}"
    )
    warnings.warn(note, stacklevel=2)
    return replace(
        dataset,
        train=train.take(rest),
        test=train.take(held),
        test_held_out=True,
        notes=(*dataset.notes, note),
    )


def _stratified(labels: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the rest and of `count` that are held out, of each class alike; an only picture stays in the rest."""
    from sklearn.model_selection import train_test_split

    alone = np.bincount(labels)[labels] < 2
    shared = np.flatnonzero(~alone)
    rest, held = train_test_split(shared, test_size=count, stratify=labels[shared], random_state=seed)
    return np.sort(np.concatenate([rest, np.flatnonzero(alone)])), np.sort(held)
