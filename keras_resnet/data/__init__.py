"""Data sets, the preprocessing that goes with them, and the pipelines that feed the networks."""

import warnings
from pathlib import Path

import numpy as np

from . import digits, folder, synthetic, tfds
from .dataset import WHOLE, Arrays, Dataset, Files, Shard, Split, class_counts, hold_out
from .pipeline import steps_per_epoch, test_batches, train_batches, view_batches
from .preprocessing import (
    MAX_ASPECT,
    MAX_PIXELS,
    PREPROCESSING,
    Preprocessing,
    decode,
    decode_untrusted,
    denormalize,
    normalize,
    per_channel_mean,
    per_pixel_mean,
    require_bounds,
    test_view,
)
from .test_views import VIEWS
from .tfds import Records

__all__ = [
    "MAX_ASPECT",
    "MAX_PIXELS",
    "PREPROCESSING",
    "VIEWS",
    "WHOLE",
    "Arrays",
    "Dataset",
    "Files",
    "Preprocessing",
    "Records",
    "Shard",
    "Split",
    "augmentation_for",
    "class_counts",
    "decode",
    "decode_untrusted",
    "denormalize",
    "load",
    "normalize",
    "per_channel_mean",
    "per_pixel_mean",
    "preprocessing_for",
    "require_bounds",
    "steps_per_epoch",
    "test_batches",
    "test_view",
    "train_batches",
    "view_batches",
]


def load(
    name: str,
    *,
    data_dir: str | None = None,
    image_size: int | None = None,
    holdout: int = 0,
    seed: int = 0,
    skip_broken: bool = False,
) -> Dataset:
    """The data set called `name`, or in the folder of that path, with `holdout` training pictures to validate on.

    "digits", "synthetic", or any data set of pictures that tensorflow-datasets knows; its data is in `data_dir`. Such a
    name comes before a folder that is called the same, with a warning: a recipe means the same wherever it is read.
    `skip_broken`: leave out what cannot be read in a folder.

    Raises `ValueError` where there is none of that name, its data is missing or cannot be read, or it cannot spare so
    many.
    """
    if not name:
        raise ValueError("no data set is given; give a folder of pictures or the name of a data set with --dataset")
    path = Path(name)
    if path.is_file():
        raise ValueError(f"{name} is a file; give the folder of the pictures, unpacked where they are in an archive")
    named = name in ("digits", "synthetic") or (path.is_dir() and path.name == name and tfds.knows(name))
    if named and path.is_dir():
        warnings.warn(f"{name} is the data set of that name; give ./{name} for the folder", stacklevel=2)
    if name == "digits":
        dataset = digits.load()
    elif name == "synthetic":
        dataset = synthetic.load(image_size or 32)
    elif path.is_dir() and not named:
        dataset = folder.load(path, seed=seed, skip_broken=skip_broken)
    else:
        return tfds.load(name, data_dir, holdout=holdout, seed=seed)
    return hold_out(dataset, holdout, seed) if holdout else dataset


def augmentation_for(dataset: Dataset) -> str:
    """The paper's for such pictures: section 4.2's where they are of one size and in memory, else section 3.4's."""
    return "pad-crop-flip" if isinstance(dataset.train, Arrays) else "scale-crop-flip"


def preprocessing_for(dataset: Dataset, image_size: int | None) -> Preprocessing:
    """The paper's: the mean picture is subtracted where pictures are in memory (section 4.2), else the mean colour.

    `image_size`: side of the network's input in pixels; None: the data set's own, or where its pictures differ their
    median shorter side, 224 at most.
    """
    if isinstance(dataset.train, Arrays):
        return per_pixel_mean(dataset.train.images, image_size or int(np.min(dataset.train.images.shape[1:3])))
    return per_channel_mean(image_size or min(224, dataset.shorter_side or 224))
