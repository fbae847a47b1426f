"""Picture files in folders: `SPLIT/CLASS/*` with the splits `train` and one of `test`, `validation` and `val`, or
`CLASS/*` alone.

Every file is decoded once before anything else happens, so that what cannot be read is known by name, and no training
stops at it halfway.
"""

import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow as tf

from .dataset import Dataset, Files, hold_out_test
from .preprocessing import decode

TEST = ("test", "validation", "val")


def load(path: Path, *, seed: int = 0, skip_broken: bool = False) -> Dataset:
    """The classes are the folders in `train`, or in `path` where that is not there, in the order of their names.

    Without a test split a part of the training split becomes it, with a warning that says so. Folders and files whose
    names begin with a dot are passed over, links are followed.

    Raises `ValueError` where the folder is built otherwise, or, naming them all, where files in it cannot be read as
    pictures; with `skip_broken` a warning names them and they are left out.
    """
    train = path / "train" if (path / "train").is_dir() else path
    test = next((path / name for name in TEST if train != path and (path / name).is_dir()), None)
    labels = _folders(train)
    strangers = [name for name in _folders(test) if name not in labels] if test else []
    if len(labels) < 2:
        raise ValueError(f"{train} needs a folder for each of two classes or more")
    if strangers:
        raise ValueError(f"{test} has the class {strangers[0]!r}, which {train} has not")

    found = {split: _files(split, labels) for split in (train, test) if split}
    readable, broken = _measure([file for files in found.values() for file, _ in files])
    if broken:
        listed = "".join(f"\n  {file}: {reason}" for file, reason in broken.items())
        what = f"{len(broken)} of {len(broken) + len(readable)} files in {path} cannot be read as pictures"
        if not skip_broken:
            raise ValueError(f"{what}; remove them, or leave them out with --skip-broken:{listed}")
        warnings.warn(f"{what} and are left out:{listed}", stacklevel=2)
    splits = {split: [(file, number) for file, number in files if file in readable] for split, files in found.items()}
    without = [label for i, label in enumerate(labels) if i not in {number for _, number in splits[train]}]
    if without:
        raise ValueError(f"{train / without[0]} holds no pictures; JPEG, PNG, GIF and BMP are read")
    if test and not splits[test]:
        raise ValueError(f"{test} holds no pictures; JPEG, PNG, GIF and BMP are read")

    dataset = Dataset(
        name=path.resolve().name,
        labels=labels,
        train=_split(splits[train]),
        test=_split(splits[test] if test else []),
        shorter_side=int(np.median([min(readable[file]) for file, _ in splits[train]])),
    )
    return dataset if test else hold_out_test(dataset, seed)


def _folders(split: Path) -> tuple[str, ...]:
    return tuple(sorted(entry.name for entry in split.iterdir() if entry.is_dir() and not entry.name.startswith(".")))


def _files(split: Path, labels: tuple[str, ...]) -> list[tuple[str, int]]:
    """Every file of each class with the number of the class, in the order of their names."""
    return [
        (file, number)
        for number, label in enumerate(labels)
        if (split / label).is_dir()
        for file in sorted(_walk(split / label))
    ]


def _walk(folder: Path) -> Iterator[str]:
    seen = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        # A link to a folder above would go round for ever.
        seen.add(os.path.realpath(parent))
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(os.path.join(parent, name)) not in seen
        ]
        yield from (os.path.join(parent, name) for name in files if not name.startswith("."))


def _measure(files: list[str]) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    """Height and width in pixels of each picture, and what is wrong with each file that is none."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        answers = list(pool.map(_sides, files))
    pairs = list(zip(files, answers, strict=True))
    return (
        {file: answer for file, answer in pairs if isinstance(answer, tuple)},
        {file: answer for file, answer in pairs if isinstance(answer, str)},
    )


def _sides(file: str) -> tuple[int, int] | str:
    try:
        file.encode()
        with open(file, "rb") as opened:
            encoded = opened.read()
        if not encoded:
            return "empty"
        with tf.device("CPU"):
            height, width, _ = decode(tf.constant(encoded)).shape
        return height, width
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    except OSError as error:
        return error.strerror or str(error)
    except tf.errors.OpError:
        return "no JPEG, PNG, GIF or BMP, or a damaged one"


def _split(files: list[tuple[str, int]]) -> Files:
    return Files(np.array([file for file, _ in files], dtype=str), np.array([number for _, number in files], np.int32))
