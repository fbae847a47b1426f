"""Load data sets of tensorflow-datasets: small ones into memory, others from their records."""

import math
import os
import warnings
from typing import Any

import numpy as np
import tensorflow as tf

from .dataset import Arrays, Dataset
from .records import IndexedRecords, Records
from .splitting import TEST_SHARE, hold_out, hold_out_test

IN_MEMORY = 2**30
"""the largest size in bytes of a data set with images of one size that is read into memory"""
TEST = ("test", "validation")
"""the first of these splits that has labels is the test split"""


def knows(name: str, data_dir: str | None = None) -> bool:
    """Return whether tensorflow-datasets or `data_dir` has a data set of this name.

    Args:
        name: a name without configuration and version.
        data_dir: a folder of prepared data sets that the user names; None if none is named.
    """
    if data_dir and os.path.isdir(os.path.join(data_dir, name)):
        return True
    import tensorflow_datasets as tfds

    return name in tfds.list_builders(with_community_datasets=False)


def load(name: str, data_dir: str | None, *, holdout: int, seed: int) -> Dataset:
    """Load a data set of images with one label each.

    If the test split is missing or unlabeled, the validation split is the test split, as for
    ImageNet. If both are, it is a fifth of the training split, with a warning. If both exist, the
    validation split is used for validation unless images are held out. In memory, held-out images
    are stratified and chosen by the seed. In records, the first images are held out for validation,
    and the last fifth for the test.

    Args:
        name: a name such as "cifar10", "imagenet2012" or "eurosat/rgb".
        data_dir: the folder where tensorflow-datasets keeps its data; None for its default.
        holdout: the number of training images to hold out for validation.
        seed: the seed of the choice of held-out images in memory.

    Raises:
        ValueError: no data set has this name, it does not have images with one label each, it has
            not been prepared (the message says how to), or it is too small for `holdout`.
    """
    builder = _builder(name, data_dir)
    image, label = _keys(name, builder.info)
    kinds: dict[str, type[Records] | type[IndexedRecords]] = {
        "tfrecord": Records,
        "array_record": IndexedRecords,
    }
    if (kind := kinds.get(builder.info.file_format.value)) is None:
        raise ValueError(
            f"{name} in {builder.data_path} is in {builder.info.file_format.value} files; prepare"
            " it as array_record or tfrecord"
        )

    def records(split: str) -> Records | IndexedRecords:
        return kind(builder, split, image, label)

    splits = builder.info.splits
    class_names = tuple(builder.info.features[label].names)
    labeled = [split for split in TEST if split in splits and _is_labeled(records(split))]
    test, validation = (*labeled, None, None)[:2]
    shape = builder.info.features[image].shape
    total = sum(splits[split].num_examples for split in ("train", *labeled))
    if None not in shape and total * math.prod(shape) <= IN_MEMORY:

        @tf.autograph.experimental.do_not_convert  # converting functions takes seconds
        def arrays(split: str) -> Arrays:
            # Prepared images are whole and small, so tensorflow-datasets may decode them.
            decode = builder.info.features[image].decode_example
            examples = (
                records(split)
                .in_order()
                .map(lambda file, label: (decode(file), label), num_parallel_calls=os.cpu_count())
                .batch(splits[split].num_examples)
            )
            ((images, labels),) = examples.as_numpy_iterator()
            images = np.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images[..., :3]
            return Arrays(images, labels)

        train = arrays("train")
        dataset = Dataset(
            name=name,
            class_names=class_names,
            train=train,
            test=arrays(test) if test else train.take(np.arange(0)),
            validation=arrays(validation) if validation else None,
        )
        dataset = dataset if test else hold_out_test(dataset, seed)
        return hold_out(dataset, holdout, seed) if holdout else dataset

    available = splits["train"].num_examples
    last = available if test else available - round(TEST_SHARE * available)
    if not holdout < last:
        raise ValueError(f"holdout is {holdout}; {name} has {last} images to train on")
    notes = (
        ()
        if test
        else (
            (
                f"{name} has no test split: the last {available - last} of its {available} images"
                " are kept out of training to test on"
            ),
        )
    )
    for note in notes:
        warnings.warn(note, stacklevel=2)
    held_out = f"train[:{holdout}]" if holdout else validation

    return Dataset(
        name=name,
        class_names=class_names,
        train=records("train" if test and not holdout else f"train[{holdout}:{last}]"),
        validation=records(held_out) if held_out else None,
        test=records(test or f"train[{last}:]"),
        test_held_out=not test,
        notes=notes,
    )


def _is_labeled(split: Records | IndexedRecords) -> bool:
    """Return whether the first image has a label; test splits of competitions have only -1."""
    first = next(split.in_order().as_numpy_iterator(), None)
    return first is not None and first[1] >= 0


def _builder(name: str, data_dir: str | None) -> Any:
    # Otherwise a machine without network waits for a timeout.
    os.environ.setdefault("NO_GCE_CHECK", "true")
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError, AssertionError, ImportError) as error:
        raise ValueError(
            f"no data set and no folder is called {name!r}; choose digits, synthetic or a name of"
            " tensorflow-datasets such as cifar10, cifar100, imagenet2012, or give a folder of"
            f" images ({str(error).splitlines()[0]})"
        ) from None
    # Preparing it here could wait minutes for a missing network.
    if not builder.is_prepared():
        # DATA_DIR/NAME/VERSION, or DATA_DIR/NAME/CONFIGURATION/VERSION.
        folder = builder.data_path.parents[builder.info.full_name.count("/")]
        sources = (
            "put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into its downloads/manual and"
            " prepare it once"
            if name == "imagenet2012"
            else "prepare it once, with a network"
        )
        raise ValueError(
            f'{name} is not in {folder}; {sources}, by `python -c "import tensorflow_datasets as'
            f" tfds; tfds.builder('{name}').download_and_prepare()\"`, or name the folder that"
            " holds it by `data_dir` or TFDS_DATA_DIR"
        )
    return builder


def _keys(name: str, info: Any) -> tuple[str, str]:
    """Return the names of the image and label features, or raise `ValueError`."""
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
            f"{name} is not a data set of images with one label each: it has the features"
            f" {', '.join(features)} and the splits {', '.join(info.splits)}; it needs an image of"
            " 8 bits, a label and the split train"
        )
    return keys
