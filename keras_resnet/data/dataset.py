"""What a data set is here: two splits of labelled pictures and the names of the classes."""

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Split:
    """Labelled pictures of one size."""

    images: np.ndarray
    """uint8 `[N, H, W, 3]`, RGB"""
    labels: np.ndarray
    """int32 `[N]`"""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> "Split":
        return Split(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class Dataset:
    name: str
    labels: tuple[str, ...]
    """class names, in the order of the labels"""
    train: Split
    test: Split
    validation: Split | None = None
    """pictures held out of the training split, where some were"""

    @property
    def size(self) -> int:
        """The shorter side of the pictures in pixels."""
        return min(self.train.images.shape[1:3])


def hold_out(dataset: Dataset, count: int, seed: int) -> Dataset:
    """`count` pictures of the training split become the validation split: stratified, decided by the seed.

    Raises `ValueError` where so many cannot be spared.
    """
    from sklearn.model_selection import train_test_split

    classes, available = len(dataset.labels), len(dataset.train)
    if not classes <= count <= available - classes:
        raise ValueError(f"holdout is {count}; {dataset.name} can spare {classes} to {available - classes} pictures")
    train, held = train_test_split(
        np.arange(available), test_size=count, stratify=dataset.train.labels, random_state=seed
    )
    return replace(dataset, train=dataset.train.take(np.sort(train)), validation=dataset.train.take(np.sort(held)))
