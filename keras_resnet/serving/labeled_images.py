"""Find the images that calibrate an export, and those that measure it."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .. import data as datasets
from ..data.dataset import WHOLE, Shard, Split
from ..data.own_data import as_split
from ..data.pipeline import evaluation_batches
from ..data.preprocessing import Preprocessing
from ..evaluation.evaluate import split_of
from ..runs.classifier import Classifier
from ..runs.dataset import load_dataset, require_recorded


@dataclass(frozen=True, kw_only=True)
class Images:
    """Labeled images: a split, or a part of one."""

    split: Split
    part: Shard
    name: str
    """such as "test of digits\""""
    classes: int
    """the number of classes"""

    def __len__(self) -> int:
        return len(range(self.part.index, len(self.split), self.part.count))

    def at_most(self, count: int) -> "Images":
        """Return at most `count` images at equal distances, from the first to the end.

        Folders are sorted by class, so the first images would be of one class.
        """
        step = max(1, -(-len(self) // count))
        return replace(self, part=Shard(self.part.index, self.part.count * step))

    def batches(
        self, preprocessing: Preprocessing, batch_size: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield images, float32 `[n, crop, crop, 3]`, and labels, int32 `[n]`, in order.

        Raises:
            ValueError: a label is not the number of a class.
        """
        batches = evaluation_batches(self.split, preprocessing, batch_size, self.part)
        for images, labels in batches.as_numpy_iterator():
            if not 0 <= labels.min() <= labels.max() < self.classes:
                raise ValueError(
                    f"labels go from {labels.min()} to {labels.max()}; there are {self.classes}"
                    " classes, numbered from 0"
                )
            yield images, labels


@dataclass(frozen=True, kw_only=True)
class ExportImages:
    """The images that an export can need."""

    training: Images
    """calibrate int8"""
    fitting: Images
    """fit the temperature of the probabilities"""
    trained_on: bool | None
    """whether the network was trained on the fitting images; None if unknown"""
    test: Images
    """measure the export"""


def images_of(classifier: Classifier, data: Any) -> ExportImages:
    """Return the images that calibrate an export and those that measure it.

    A temperature is fitted on the validation split, or on training images if there is none, and
    never on the test split.

    Args:
        classifier: the classifier. A run has its own data.
        data: of a model: the name of a data set or the path of a folder, whose splits are used; or
            a split, arrays or a `tf.data.Dataset` as `evaluate` takes, of which every second image
            is measured and the others calibrate.

    Raises:
        ValueError: the data is missing, has other classes, or has changed since the training.
    """
    run, classes = classifier.run, len(classifier.class_names)
    if run is None and data is None:
        raise ValueError(
            "data is None; give labeled images, on which an export is calibrated and low precision"
            " compared with float32"
        )
    if run is None and not isinstance(data, str | os.PathLike):
        split = as_split(data)
        if len(split) < 2:
            raise ValueError(f"data has {len(split)} images; give at least 2, better thousands")
        halves = ("half of the given images", "the other half of the given images")
        half, other = (
            Images(split=split, part=Shard(index, 2), name=name, classes=classes)
            for index, name in enumerate(halves)
        )
        return ExportImages(training=half, fitting=half, trained_on=None, test=other)
    if run is None:
        dataset = datasets.load(os.fspath(data))
    else:
        dataset = load_dataset(run.recipe(), run)
        if run.data_file.exists():
            require_recorded(run, dataset)

    def whole(name: str) -> Images:
        split = split_of(dataset, name, classifier)
        return Images(split=split, part=WHOLE, name=f"{name} of {dataset.name}", classes=classes)

    validated = dataset.validation is not None
    return ExportImages(
        training=whole("train"),
        fitting=whole("validation" if validated else "train"),
        trained_on=None if run is None else not validated,
        test=whole("test"),
    )
