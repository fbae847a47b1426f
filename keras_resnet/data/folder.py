"""Picture files in folders: `SPLIT/CLASS/*`, with the splits `train` and one of `test`, `validation` and `val`."""

from pathlib import Path

import numpy as np

from .dataset import Dataset, Files

ENDINGS = {".jpg", ".jpeg", ".png", ".gif", ".bmp"}
TEST = ("test", "validation", "val")


def load(path: Path) -> Dataset:
    """The classes are the folders in `train`, in the order of their names.

    Raises `ValueError` where the folder is built otherwise.
    """
    train = path / "train"
    test = next((path / name for name in TEST if (path / name).is_dir()), None)
    if not train.is_dir() or test is None:
        raise ValueError(
            f"{path} needs a folder train, and one of {', '.join(TEST)}, with a folder for each class in them"
        )
    labels = tuple(sorted(folder.name for folder in train.iterdir() if folder.is_dir()))
    strangers = sorted(folder.name for folder in test.iterdir() if folder.is_dir() and folder.name not in labels)
    if len(labels) < 2 or strangers:
        raise ValueError(
            f"{test} has the class {strangers[0]!r}, which {train} has not"
            if strangers
            else f"{train} needs a folder for each of two classes or more"
        )
    return Dataset(name=path.name, labels=labels, train=_files(train, labels), test=_files(test, labels))


def _files(split: Path, labels: tuple[str, ...]) -> Files:
    found = [
        (str(file), number)
        for number, label in enumerate(labels)
        if (split / label).is_dir()
        for file in sorted((split / label).rglob("*"))
        if file.suffix.lower() in ENDINGS and file.is_file()
    ]
    if not found:
        raise ValueError(f"{split} holds no pictures; {', '.join(sorted(ENDINGS))} are read")
    return Files(np.array([file for file, _ in found]), np.array([number for _, number in found], np.int32))
