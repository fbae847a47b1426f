"""Encoded pictures in the records of tensorflow-datasets, for data sets that memory does not hold."""

import os
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from .dataset import Dataset

SHUFFLE_BUFFER = 16_384
"""pictures among which the next one is chosen; tensorflow-datasets has shuffled them already when it wrote them"""
OPEN_FILES = 16


@dataclass(frozen=True)
class Records:
    """A split of a prepared data set, in files of TFRecords."""

    builder: Any
    split: str
    """as tensorflow-datasets spells it: "train", "train[50000:]" """

    def __len__(self) -> int:
        return self.builder.info.splits[self.split].num_examples

    def in_order(self) -> tf.data.Dataset:
        """`(encoded picture, label)`, each once."""
        return self._read(tf.data.Dataset.range(len(self._files())), 1)

    def shuffled(self, batch_size: int, seed: int, first_step: int) -> tf.data.Dataset:
        """Endless `(step, encoded pictures [batch], labels [batch])` from `first_step` on; each epoch in a new order.

        The files in a new order, and a buffer of pictures out of several of them at a time. Both follow from the
        seed and the epoch, so that a training that goes on reads, without decoding, up to where it was.
        """
        steps = len(self) // batch_size
        files = len(self._files())

        def epoch(number: tf.Tensor) -> tf.data.Dataset:
            key = tf.stack([tf.constant(seed, tf.int64), number])
            order = tf.random.experimental.index_shuffle(tf.range(files, dtype=tf.int64), key, files - 1)
            bits = tf.random.stateless_uniform([], key, minval=1, maxval=2**31 - 1, dtype=tf.int64)
            # A global seed of 0 makes shuffle compare this tensor with 0 in Python, which a graph does not allow.
            tf.compat.v1.get_default_graph().seed = None
            examples = self._read(tf.data.Dataset.from_tensor_slices(order), OPEN_FILES)
            examples = examples.shuffle(SHUFFLE_BUFFER, seed=bits, reshuffle_each_iteration=False)
            batches = examples.batch(batch_size, drop_remainder=True)
            return batches.enumerate(number * steps).map(lambda step, batch: (step, *batch))

        epochs = tf.data.Dataset.counter(first_step // steps)
        return epochs.flat_map(epoch).skip(first_step % steps)

    def _files(self) -> list[Any]:
        return self.builder.info.splits[self.split].file_instructions

    def _read(self, order: tf.data.Dataset, open_files: int) -> tf.data.Dataset:
        import tensorflow_datasets as tfds

        paths = tf.constant([file.filename for file in self._files()])
        skips = tf.constant([file.skip for file in self._files()], tf.int64)
        takes = tf.constant([file.take for file in self._files()], tf.int64)

        def records(i: tf.Tensor) -> tf.data.Dataset:
            return tf.data.TFRecordDataset(paths[i]).skip(skips[i]).take(takes[i])

        def example(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            found = self.builder.info.features.deserialize_example(
                record, decoders={"image": tfds.decode.SkipDecoding()}
            )
            return found["image"], tf.cast(found["label"], tf.int32)

        return order.interleave(records, cycle_length=open_files, block_length=1).map(example)


def load(name: str, data_dir: str | None, holdout: int) -> Dataset:
    """ImageNet's 1,281,167 pictures to train and 50,000 to validate on, which serve as the test split.

    The first `holdout` records of the training split are held out. Raises `ValueError` where the data has not been
    prepared, saying how to, or so many cannot be spared.
    """
    os.environ.setdefault("NO_GCE_CHECK", "true")  # else a machine without network waits for an answer
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=data_dir)
    if not builder.is_prepared():
        raise ValueError(
            f"{name} is not in {builder.data_path.parent.parent}; put ILSVRC2012_img_train.tar and "
            "ILSVRC2012_img_val.tar into its downloads/manual and prepare it once, by "
            f"`python -c \"import tensorflow_datasets as tfds; tfds.builder('{name}').download_and_prepare()\"`, "
            "or name the folder that holds it with --data-dir or TFDS_DATA_DIR"
        )
    if builder.info.file_format.value != "tfrecord":
        raise ValueError(
            f"{name} in {builder.data_path} is in {builder.info.file_format.value} files; prepare it as tfrecord"
        )
    available = builder.info.splits["train"].num_examples
    if not holdout < available:
        raise ValueError(f"holdout is {holdout}; {name} has {available} pictures to train on")
    return Dataset(
        name=name,
        labels=tuple(builder.info.features["label"].names),
        train=Records(builder, f"train[{holdout}:]" if holdout else "train"),
        validation=Records(builder, f"train[:{holdout}]") if holdout else None,
        test=Records(builder, "validation"),
    )
