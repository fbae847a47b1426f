"""Data sets, the preprocessing that goes with them, and the pipelines that feed the networks."""

from pathlib import Path

import numpy as np

from . import cifar, digits, folder, records, synthetic
from .dataset import Arrays, Dataset, Split, hold_out
from .pipeline import steps_per_epoch, test_batches, train_batches, view_batches
from .preprocessing import (
    PREPROCESSING,
    Preprocessing,
    decode,
    denormalize,
    normalize,
    per_channel_mean,
    per_pixel_mean,
    test_view,
)
from .test_views import VIEWS

__all__ = [
    "PREPROCESSING",
    "VIEWS",
    "Arrays",
    "Dataset",
    "Preprocessing",
    "Split",
    "decode",
    "denormalize",
    "load",
    "normalize",
    "per_channel_mean",
    "per_pixel_mean",
    "preprocessing_for",
    "steps_per_epoch",
    "test_batches",
    "test_view",
    "train_batches",
    "view_batches",
]

NAMES = ("digits", "synthetic", "cifar10", "cifar100", "imagenet2012")


def load(
    name: str, *, data_dir: str | None = None, image_size: int | None = None, holdout: int = 0, seed: int = 0
) -> Dataset:
    """The data set called `name`, or in the folder of that path, with `holdout` training pictures to validate on.

    Raises `ValueError` where there is none of that name, its data is missing, or it cannot spare so many.
    """
    if name == "digits":
        dataset = digits.load()
    elif name == "synthetic":
        dataset = synthetic.load(image_size or 32)
    elif name in ("cifar10", "cifar100"):
        dataset = cifar.load(name, data_dir)
    elif name == "imagenet2012":
        return records.load(name, data_dir, holdout)
    elif Path(name).is_dir():
        dataset = folder.load(Path(name))
    else:
        raise ValueError(
            f"no data set is called {name!r}; choose one of {', '.join(NAMES)}, or give a folder of pictures"
        )
    return hold_out(dataset, holdout, seed) if holdout else dataset


def preprocessing_for(dataset: Dataset, image_size: int | None) -> Preprocessing:
    """The paper's: the mean picture is subtracted where pictures are in memory (section 4.2), else the mean colour.

    `image_size`: side of the network's input in pixels; None: the data set's own, or 224 where its pictures differ.
    """
    if isinstance(dataset.train, Arrays):
        return per_pixel_mean(dataset.train.images, image_size or int(np.min(dataset.train.images.shape[1:3])))
    return per_channel_mean(image_size or 224)
