"""Data sets, the preprocessing that goes with them, and the pipelines that feed the networks."""

from . import cifar, digits, synthetic
from .dataset import Dataset, Split, hold_out
from .pipeline import steps_per_epoch, test_batches, train_batches
from .preprocessing import PREPROCESSING, Preprocessing, decode, normalize, per_pixel_mean, test_view

__all__ = [
    "Dataset",
    "PREPROCESSING",
    "Preprocessing",
    "Split",
    "decode",
    "load",
    "normalize",
    "per_pixel_mean",
    "steps_per_epoch",
    "test_batches",
    "test_view",
    "train_batches",
]

NAMES = ("digits", "synthetic", "cifar10", "cifar100")


def load(
    name: str, *, data_dir: str | None = None, image_size: int | None = None, holdout: int = 0, seed: int = 0
) -> Dataset:
    """The data set called `name`, with `holdout` training pictures set aside to validate on.

    Raises `ValueError` where there is none of that name, or its data is missing.
    """
    if name == "digits":
        dataset = digits.load()
    elif name == "synthetic":
        dataset = synthetic.load(image_size or 32)
    elif name in ("cifar10", "cifar100"):
        dataset = cifar.load(name, data_dir)
    else:
        raise ValueError(f"no data set is called {name!r}; choose one of {', '.join(NAMES)}")
    return hold_out(dataset, holdout, seed) if holdout else dataset
