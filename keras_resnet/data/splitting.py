"""Hold images out of the training split for validation or test.

Byte-for-byte copies of an image stay in one split, because a network would recognize a held-out
copy.
"""

import hashlib
import warnings
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np

from .dataset import Arrays, Dataset, Files

TEST_SHARE = 0.2
"""the share of the training split that becomes the test split of a data set without one"""


def hold_out(dataset: Dataset, count: int, seed: int) -> Dataset:
    """Move images from the training split to the validation split.

    Args:
        dataset: a data set with a training split in memory or in files.
        count: the number of images to hold out, in proportion to the classes. If there are copies,
            it can be a few less, so that they stay together.
        seed: the seed of the choice.

    Raises:
        ValueError: the training split is too small.
    """
    train = dataset.train
    assert isinstance(train, Arrays | Files)
    classes, available = len(dataset.class_names), len(train)
    if not classes <= count <= available - classes:
        raise ValueError(
            f"holdout is {count}; {dataset.name} can spare {classes} to {available - classes}"
            " images"
        )
    rest, held = _stratified(train, count, seed)
    if not len(held):
        raise ValueError(
            f"holdout is {count}; the {available} images of {dataset.name} are copies of too few to"
            " hold any out"
        )
    return replace(dataset, train=train.take(rest), validation=train.take(held))


def hold_out_test(dataset: Dataset, seed: int) -> Dataset:
    """Move a fifth of the training split to the test split, in proportion to the classes.

    A warning says so.

    Args:
        dataset: a data set with a training split in memory or in files.
        seed: the seed of the choice.

    Raises:
        ValueError: the training split is too small.
    """
    train = dataset.train
    assert isinstance(train, Arrays | Files)
    shared = int(np.count_nonzero(np.bincount(train.labels) > 1))
    count = max(shared, round(TEST_SHARE * len(train)))
    if not shared or count > len(train) - len(dataset.class_names):
        raise ValueError(
            f"{dataset.name} has no test split, and {len(train)} images are too few to take"
            " one from"
        )
    rest, held = _stratified(train, count, seed)
    if not len(held):
        raise ValueError(
            f"{dataset.name} has no test split, and its {len(train)} images are copies of too few"
            " to take one from"
        )
    note = (
        f"{dataset.name} has no test split: {len(held)} of its {len(train)} images are kept out of"
        f" training to test on, of each class in proportion, chosen by the seed {seed}"
    )
    warnings.warn(note, stacklevel=2)
    return replace(
        dataset,
        train=train.take(rest),
        test=train.take(held),
        test_held_out=True,
        notes=(*dataset.notes, note),
    )


def _stratified(train: Arrays | Files, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the remaining and of `count` held-out images, in proportion to classes.

    The only image of a class is not held out. Copies are held out only if all of them fit.
    """
    from sklearn.model_selection import train_test_split

    labels = train.labels
    alone = np.bincount(labels)[labels] < 2
    shared = np.flatnonzero(~alone)
    rest, held = train_test_split(
        shared, test_size=count, stratify=labels[shared], random_state=seed
    )
    first, group = np.unique(_fingerprints(train), return_index=True, return_inverse=True)[1:]
    if len(first) < len(train):
        held = _whole_groups(labels, np.concatenate([held, rest]), held, first[group])
    return np.setdiff1d(np.arange(len(train)), held), np.sort(held)


def _whole_groups(
    labels: np.ndarray, order: np.ndarray, wanted: np.ndarray, group: np.ndarray
) -> np.ndarray:
    """Return the indices of whole groups of copies, at most as many per class as `wanted` has.

    Args:
        labels: the class numbers, int `[N]`.
        order: the indices in the order in which groups are chosen, beginning with `wanted`. Only
            the first image of a group counts, so that large groups are not chosen more often.
        wanted: the indices of a stratified choice of single images.
        group: the index of each image's first copy, `[N]`.
    """
    members = defaultdict(list)
    for index, first in enumerate(group.tolist()):
        members[first].append(index)
    room = Counter(labels[wanted].tolist())
    held: list[int] = []
    for index in order.tolist():
        needed = Counter(labels[members.get(index, [])].tolist())
        if all(room[label] >= count for label, count in needed.items()):
            room -= needed
            held += members.get(index, [])
        if not room:
            break
    return np.array(held, np.int64)


def _fingerprints(split: Arrays | Files) -> np.ndarray:
    """Return a number per image, `[N]`, equal for equal bytes."""
    if isinstance(split, Arrays):
        digests = (hashlib.blake2b(image.tobytes(), digest_size=8) for image in split.images)
        return np.array([int.from_bytes(digest.digest(), "big") for digest in digests], np.uint64)
    return np.arange(len(split)) if split.fingerprints is None else split.fingerprints
