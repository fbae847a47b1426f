"""Picture files in folders: `SPLIT/CLASS/*` with the splits `train` and any of `test`, `validation`, `valid` and `val`,
or `CLASS/*` alone.

Every file is decoded once before anything else happens, so that what cannot be read is known by name, and no training
stops at it halfway.
"""

import io
import os
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import ExifTags, Image

from .dataset import Dataset, Files, hold_out_test
from .preprocessing import decode

TRAIN = "train"
TEST = ("test", "validation", "valid", "val")
"""the first that is there is the test split, the next is validated on"""
SPLIT_WORDS = (TRAIN, *TEST, "training", "testing")

LONGEST = 100
"""times the shorter side that the longer one may be: resized for the network, such a picture would fill the memory"""


def load(path: Path, *, seed: int = 0, skip_broken: bool = False) -> Dataset:
    """The classes are the folders in `train`, or in `path` where that is not there, in the order of their names.

    Without a test split a part of the training split becomes it, with a warning that says so. Folders and files whose
    names begin with a dot are passed over, links are followed. An EXIF orientation is not applied, here as in a served
    model; a warning names pictures that have one.

    Raises `ValueError` where the folder is built otherwise, or, naming them all, where files in it cannot be read as
    pictures; with `skip_broken` a warning names them and they are left out. `OSError` where a folder cannot be read.
    """
    train, *others = _splits(path)
    labels = _folders(train)
    _require_classes(path, train, labels)
    for split in others:
        strangers = [name for name in _folders(split) if name not in labels]
        if strangers:
            raise ValueError(f"{split} has the class {strangers[0]!r}, which {train} has not")

    found = {split: _files(split, labels) for split in (train, *others)}
    readable, broken = _look([file for files in found.values() for file, _ in files])
    notes = []
    if broken:
        what = f"{len(broken)} of {len(broken) + len(readable)} files in {path} cannot be read as pictures"
        listed = _listed(f"{file}: {reason}" for file, reason in broken.items())
        if not skip_broken:
            raise ValueError(f"{what}; remove them, or leave them out with --skip-broken:{listed}")
        notes.append(f"{what} and are left out:{listed}")
    if turned := [file for file, picture in readable.items() if picture.turned]:
        notes.append(
            f"{len(turned)} of {len(readable)} pictures in {path} are to be shown turned or mirrored, by their EXIF "
            "orientation; it is not applied, here as in a served model: `mogrify -auto-orient` turns the files "
            f"themselves:{_listed(turned)}"
        )
    for note in notes:
        warnings.warn(note, stacklevel=2)
    splits = {split: [(file, number) for file, number in files if file in readable] for split, files in found.items()}
    without = [train / label for i, label in enumerate(labels) if i not in {number for _, number in splits[train]}]
    without += [split for split in others if not splits[split]]
    if without:
        raise ValueError(f"{without[0]} holds no pictures; JPEG, PNG, GIF and BMP are read")

    dataset = Dataset(
        name=path.resolve().name,
        labels=labels,
        train=_split(splits[train]),
        test=_split(splits[others[0]] if others else []),
        validation=_split(splits[others[1]]) if others[1:] else None,
        shorter_side=int(np.median([readable[file].shorter_side for file, _ in splits[train]])),
        notes=tuple(notes),
    )
    return dataset if others else hold_out_test(dataset, seed)


def _splits(path: Path) -> list[Path]:
    """The folder of each split: train, test, validation; `path` itself alone where it holds the classes."""
    names = _folders(path)
    # Without folders in it, "train" is a class: of vehicles, maybe.
    layered = TRAIN in names and bool(_folders(path / TRAIN))
    known = [name for name in (TRAIN, *TEST) if layered and name in names]
    words = [name for name in names if name.casefold() in SPLIT_WORDS and name not in known]
    if words and (layered or len(words) > 1):
        raise ValueError(
            f"{path} has {' and '.join(map(repr, words))} for a folder; splits are called train, and test, validation, "
            "valid or val, and each holds a folder for every class"
        )
    return [path / name for name in known[:3]] or [path]


def _folders(split: Path) -> tuple[str, ...]:
    return tuple(sorted(entry.name for entry in split.iterdir() if entry.is_dir() and not entry.name.startswith(".")))


def _require_classes(path: Path, train: Path, labels: tuple[str, ...]) -> None:
    if len(labels) < 2:
        has = f"it has {', '.join(map(repr, labels))} alone" if labels else "it has none"
        raise ValueError(f"{train} needs a folder for each of two classes or more; {has}")
    for label in labels:
        # A run keeps them one a line, in UTF-8.
        if label.splitlines() != [label]:
            raise ValueError(f"{path} has the class {label!r}; give its folder a name of one line")
        try:
            label.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{path} has the class {label!r}, a name that is not UTF-8; rename its folder") from None


def _listed(lines: Iterable[str]) -> str:
    return "".join(f"\n  {line}" for line in lines)


def _files(split: Path, labels: tuple[str, ...]) -> list[tuple[str, int]]:
    """Every file of each class with the number of the class, in the order of their names."""
    return [
        (file, number)
        for number, label in enumerate(labels)
        if (split / label).is_dir()
        for file in sorted(_walk(split / label))
    ]


def _walk(folder: Path) -> Iterator[str]:
    def fail(error: OSError) -> None:
        raise error

    seen = set()
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=fail):
        # A link to a folder above would go round for ever.
        seen.add(os.path.realpath(parent))
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(os.path.join(parent, name)) not in seen
        ]
        yield from (os.path.join(parent, name) for name in files if not name.startswith("."))


class Picture(NamedTuple):
    shorter_side: int
    """pixels"""
    turned: bool
    """whether it is to be shown turned or mirrored"""


def _look(files: list[str]) -> tuple[dict[str, Picture], dict[str, str]]:
    """What each picture is, and what is wrong with each file that is none."""
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large, and not too large
        answers = list(pool.map(_look_at, files))
    pairs = list(zip(files, answers, strict=True))
    return (
        {file: answer for file, answer in pairs if isinstance(answer, Picture)},
        {file: answer for file, answer in pairs if isinstance(answer, str)},
    )


def _look_at(file: str) -> Picture | str:
    try:
        file.encode()
        with open(file, "rb") as opened:
            encoded = opened.read()
        if not encoded:
            return "empty"
        turned = _turned(encoded)  # first, because it refuses what would fill the memory
        with tf.device("CPU"):
            shorter, longer = sorted(decode(tf.constant(encoded)).shape[:2])
        if longer > LONGEST * shorter:
            return f"{longer} pixels long and {shorter} wide"
        return Picture(shorter, turned)
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    except OSError as error:
        return error.strerror or str(error)
    except Image.DecompressionBombError:
        return f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels"
    except tf.errors.OpError:
        return "no JPEG, PNG, GIF or BMP, or a damaged one"


def _turned(encoded: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(encoded), formats=("JPEG", "PNG", "GIF", "BMP")) as picture:
            # Pillow decodes a whole PNG to look for it; "MPO" are JPEGs of several pictures.
            return picture.format in ("JPEG", "MPO") and picture.getexif().get(ExifTags.Base.Orientation, 1) > 1
    except Image.DecompressionBombError:
        raise
    except Exception:  # whatever is wrong with it, decoding it tells
        return False


def _split(files: list[tuple[str, int]]) -> Files:
    return Files(np.array([file for file, _ in files], dtype=str), np.array([number for _, number in files], np.int32))
