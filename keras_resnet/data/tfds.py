"""Data sets of tensorflow-datasets: in memory where their pictures are of one size and few, else in their records."""

import math
import os
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from .dataset import TEST_SHARE, WHOLE, Arrays, Dataset, Shard, hold_out, hold_out_test

IN_MEMORY = 2**30
"""bytes of pictures up to which a data set of one size is read into memory"""
TEST = ("test", "validation")
"""the first of them that has labels is the test split"""

SHUFFLE_BUFFER = 16_384
"""pictures among which the next one is chosen; tensorflow-datasets has shuffled them already when it wrote them"""
OPEN_FILES = 16


@dataclass(frozen=True)
class Records:
    """A split of a prepared data set, in files of TFRecords."""

    builder: Any
    split: str
    """as tensorflow-datasets spells it: "train", "train[50000:]" """
    image: str = "image"
    label: str = "label"
    """names of the two features"""

    def __len__(self) -> int:
        return self.builder.info.splits[self.split].num_examples

    def in_order(self, shard: Shard = WHOLE) -> tf.data.Dataset:
        """`(encoded picture, label)`, each once; of a shard every `count`-th."""
        return self._read(tf.data.Dataset.range(len(self._files())), 1).shard(shard.count, shard.index)

    def shuffled(self, batch_size: int, seed: int, first_step: int, shard: Shard = WHOLE) -> tf.data.Dataset:
        """Endless `(step, encoded pictures [share], labels [share])` from `first_step` on; each epoch in a new order.

        The files in a new order, and a buffer of pictures out of several of them at a time. Both follow from the
        seed and the epoch, so that a training that goes on reads, without decoding, up to where it was. In the same
        way each shard reads the whole of every batch, and hands on its rows alone.
        """
        rows = shard.rows(batch_size)
        steps = len(self) // batch_size
        files = len(self._files())

        def epoch(number: tf.Tensor) -> tf.data.Dataset:
            key = tf.stack([tf.constant(seed, tf.int64), number])
            order = tf.random.experimental.stateless_shuffle(tf.range(files, dtype=tf.int64), key)
            bits = tf.random.stateless_uniform([], key, minval=1, maxval=2**31 - 1, dtype=tf.int64)
            # A global seed of 0 makes shuffle compare this tensor with 0 in Python, which a graph does not allow.
            tf.compat.v1.get_default_graph().seed = None
            examples = self._read(tf.data.Dataset.from_tensor_slices(order), OPEN_FILES)
            examples = examples.shuffle(SHUFFLE_BUFFER, seed=bits, reshuffle_each_iteration=False)
            batches = examples.batch(batch_size, drop_remainder=True)
            return batches.enumerate(number * steps).map(
                lambda step, batch: (step, *(column[rows] for column in batch))
            )

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
                record, decoders={self.image: tfds.decode.SkipDecoding()}
            )
            return found[self.image], tf.cast(found[self.label], tf.int32)

        return order.interleave(records, cycle_length=open_files, block_length=1).map(example)


def knows(name: str) -> bool:
    """Whether that is the name of a data set of tensorflow-datasets."""
    import tensorflow_datasets as tfds

    return name in tfds.list_builders(with_community_datasets=False)


def load(name: str, data_dir: str | None, *, holdout: int, seed: int) -> Dataset:
    """Any data set of pictures with one label each, such as "cifar10", "imagenet2012" or "eurosat/rgb".

    Where it has no test split, or one without labels, the validation split serves as one, as for ImageNet, or else a
    part of the training split, with a warning that says so. A validation split beside a test split is validated on,
    unless pictures are held out. Of records, the first `holdout` are held out and the last fifth is that part; in
    memory both are stratified and decided by the seed.

    Raises `ValueError` where there is none of that name, it is no such data set, it has not been prepared (saying how
    to), or so many pictures cannot be spared.
    """
    builder = _builder(name, data_dir)
    image, label = _keys(name, builder.info)
    splits = builder.info.splits
    labels = tuple(builder.info.features[label].names)
    labelled = [split for split in TEST if split in splits and _labelled(builder, split, image, label)]
    test, validation = (*labelled, None, None)[:2]
    shape = builder.info.features[image].shape
    pictures = sum(splits[split].num_examples for split in ("train", *labelled))
    if None not in shape and pictures * math.prod(shape) <= IN_MEMORY:

        def arrays(split: str) -> Arrays:
            examples = builder.as_dataset(split=split, batch_size=-1)
            images = examples[image].numpy()
            images = np.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images[..., :3]
            return Arrays(images, examples[label].numpy().astype(np.int32))

        train = arrays("train")
        dataset = Dataset(
            name=name,
            labels=labels,
            train=train,
            test=arrays(test) if test else train.take(np.arange(0)),
            validation=arrays(validation) if validation else None,
        )
        dataset = dataset if test else hold_out_test(dataset, seed)
        return hold_out(dataset, holdout, seed) if holdout else dataset

    if builder.info.file_format.value != "tfrecord":
        raise ValueError(
            f"{name} in {builder.data_path} is in {builder.info.file_format.value} files; prepare it as tfrecord"
        )
    available = splits["train"].num_examples
    last = available if test else available - round(TEST_SHARE * available)
    if not holdout < last:
        raise ValueError(f"holdout is {holdout}; {name} has {last} pictures to train on")
    notes = () if test else (
        f"{name} has no test split: the last {available - last} of its {available} pictures are kept out of training "
        "to test on",
    )
    for note in notes:
        warnings.warn(note, stacklevel=2)
    held_out = f"train[:{holdout}]" if holdout else validation

    def records(split: str) -> Records:
        return Records(builder, split, image, label)

    return Dataset(
        name=name,
        labels=labels,
        train=records("train" if test and not holdout else f"train[{holdout}:{last}]"),
        validation=records(held_out) if held_out else None,
        test=records(test or f"train[{last}:]"),
        test_held_out=not test,
        notes=notes,
    )


def _labelled(builder: Any, split: str, image: str, label: str) -> bool:
    """Whether the first picture of a split has a label: the test split of a competition has -1 for all of them."""
    first = next(Records(builder, split, image, label).in_order().as_numpy_iterator(), None)
    return first is not None and first[1] >= 0


def _builder(name: str, data_dir: str | None) -> Any:
    os.environ.setdefault("NO_GCE_CHECK", "true")  # else a machine without network waits for an answer
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError, AssertionError, ImportError) as error:
        raise ValueError(
            f"no data set and no folder is called {name!r}; choose digits, synthetic or a name of tensorflow-datasets "
            f"such as cifar10, cifar100, imagenet2012, or give a folder of pictures ({str(error).splitlines()[0]})"
        ) from None
    # Preparing it here would mean minutes of waiting for a network that may not be there.
    if not builder.is_prepared():
        # DATA_DIR/NAME/VERSION, or DATA_DIR/NAME/CONFIGURATION/VERSION.
        place = builder.data_path.parents[builder.info.full_name.count("/")]
        sources = (
            "put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into its downloads/manual and prepare it once"
            if name == "imagenet2012"
            else "prepare it once, with a network"
        )
        raise ValueError(
            f"{name} is not in {place}; {sources}, by "
            f"`python -c \"import tensorflow_datasets as tfds; tfds.builder('{name}').download_and_prepare()\"`, "
            "or name the folder that holds it with --data-dir or TFDS_DATA_DIR"
        )
    return builder


def _keys(name: str, info: Any) -> tuple[str, str]:
    """The features that are the picture and its label. Raises `ValueError` where there are no such two."""
    import tensorflow_datasets as tfds

    keys = info.supervised_keys or ("image", "label")
    wanted = (tfds.features.Image, tfds.features.ClassLabel)
    features = info.features
    fits = len(keys) == 2 and all(
        isinstance(key, str) and key in features and isinstance(features[key], kind)
        for key, kind in zip(keys, wanted, strict=True)
    )
    if not fits or features[keys[0]].np_dtype != np.uint8 or "train" not in info.splits:
        raise ValueError(
            f"{name} is no data set of pictures with one label each: it has the features {', '.join(features)} and the "
            f"splits {', '.join(info.splits)}; a picture of 8 bits, a label and the split train are wanted"
        )
    return keys
