"""Read prepared data sets of tensorflow-datasets from their record files.

TFRecord files are read from beginning to end: the order of an epoch comes from a shuffled buffer,
each host reads all records, and a resumed training reads up to its step. array_record files have an
index: an epoch is a shuffle of all records, and each host reads its own and no others.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow as tf

from .dataset import READ_AHEAD, WHOLE, Shard, shuffled_indices

SHUFFLE_BUFFER = 16_384
"""the number of images to shuffle among; tensorflow-datasets has written them in random order"""
OPEN_FILES = 16
CHUNK = 256
"""the number of indexed records that are read at once in their order"""


@dataclass(frozen=True)
class PreparedSplit:
    """A split of a prepared data set, whose images and labels stay in its files."""

    builder: Any
    split: str
    """in the notation of tensorflow-datasets: "train", "train[50000:]" """
    image: str = "image"
    label: str = "label"
    """the names of the two features"""

    def __len__(self) -> int:
        return self.builder.info.splits[self.split].num_examples

    def _files(self) -> list[Any]:
        return self.builder.info.splits[self.split].file_instructions

    def _example(self, record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the encoded image and the label of a record."""
        import tensorflow_datasets as tfds

        found = self.builder.info.features.deserialize_example(
            record, decoders={self.image: tfds.decode.SkipDecoding()}
        )
        return found[self.image], tf.cast(found[self.label], tf.int32)


@dataclass(frozen=True)
class Records(PreparedSplit):
    """A split in TFRecord files."""

    def in_order(self, shard: Shard = WHOLE) -> tf.data.Dataset:
        """Return every `(encoded image, label)` once, or every `count`-th for a shard."""
        return self._read(tf.data.Dataset.range(len(self._files())), 1).shard(
            shard.count, shard.index
        )

    def shuffled(
        self, batch_size: int, seed: int, first_step: int, shard: Shard = WHOLE
    ) -> tf.data.Dataset:
        """Return endless `(step, encoded images [share], labels [share])`, from `first_step` on.

        Each epoch has a new order: the files are shuffled, and several are read in parallel into a
        buffer that is shuffled too. Both orders follow from the seed and the epoch, so a resumed
        training reads up to its step without decoding. Each shard reads every batch, and returns
        only its rows.
        """
        rows = shard.rows(batch_size)
        steps = len(self) // batch_size
        files = len(self._files())

        def epoch(number: tf.Tensor) -> tf.data.Dataset:
            key = tf.stack([tf.constant(seed, tf.int64), number])
            order = tf.random.experimental.stateless_shuffle(tf.range(files, dtype=tf.int64), key)
            bits = tf.random.stateless_uniform([], key, minval=1, maxval=2**31 - 1, dtype=tf.int64)
            # With a global seed of 0, shuffle compares this tensor with 0 in Python, which fails in
            # a graph.
            tf.compat.v1.get_default_graph().seed = None
            examples = self._read(tf.data.Dataset.from_tensor_slices(order), OPEN_FILES)
            examples = examples.shuffle(SHUFFLE_BUFFER, seed=bits, reshuffle_each_iteration=False)
            batches = examples.batch(batch_size, drop_remainder=True)
            return batches.enumerate(number * steps).map(
                lambda step, batch: (step, *(column[rows] for column in batch))
            )

        epochs = tf.data.Dataset.counter(first_step // steps)
        return epochs.flat_map(epoch).skip(first_step % steps)

    def _read(self, order: tf.data.Dataset, open_files: int) -> tf.data.Dataset:
        paths = tf.constant([file.filename for file in self._files()])
        skips = tf.constant([file.skip for file in self._files()], tf.int64)
        takes = tf.constant([file.take for file in self._files()], tf.int64)

        def records(i: tf.Tensor) -> tf.data.Dataset:
            return tf.data.TFRecordDataset(paths[i]).skip(skips[i]).take(takes[i])

        examples = order.interleave(records, cycle_length=open_files, block_length=1)
        return examples.map(self._example)


@dataclass(frozen=True)
class IndexedRecords(PreparedSplit):
    """A split in array_record files, whose records are read in any order."""

    def in_order(self, shard: Shard = WHOLE) -> tf.data.Dataset:
        """Return the images as `Split.in_order` does."""
        indices = tf.data.Dataset.range(shard.index, len(self), shard.count).batch(CHUNK)
        return indices.map(self._read).unbatch()

    def shuffled(
        self, batch_size: int, seed: int, first_step: int, shard: Shard = WHOLE
    ) -> tf.data.Dataset:
        """Return batches of encoded images as `Split.shuffled` does."""
        batches = shuffled_indices(len(self), batch_size, seed, first_step, shard)
        return batches.map(
            lambda step, indices: (step, *self._read(indices)),
            num_parallel_calls=READ_AHEAD,
            deterministic=True,
        )

    @cached_property
    def _source(self) -> Any:
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        return ArrayRecordDataSource(self._files())

    def _read(self, indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Read records `[N]` by the threads of array_record, without holding Python's lock."""

        def records(numbers: np.ndarray) -> np.ndarray:
            return np.array(self._source.__getitems__(numbers.tolist()), object)

        found = tf.numpy_function(records, [indices], tf.string, stateful=False)
        found.set_shape(indices.shape)
        signature = tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int32)
        return tf.map_fn(self._example, found, fn_output_signature=signature)
