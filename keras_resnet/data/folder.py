"""Picture files in folders: `SPLIT/CLASS/*` with the splits `train` and any of `test`, `validation`, `valid` and `val`,
or `CLASS/*` alone.

Every file is decoded once before anything else happens, so that what cannot be read is known by name, and no training
stops at it halfway.
"""

import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import ExifTags, Image

from .dataset import Dataset, Files, hold_out_test
from .preprocessing import MAX_ASPECT, MAX_PIXELS, decode

TRAIN = "train"
TEST = ("test", "validation", "valid", "val")
"""the first that is there is the test split, the next is validated on"""
SPLIT_WORDS = (TRAIN, *TEST, "training", "testing")


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
    readable, broken = {}, {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # it has been decoded already
        for file, sides in zip(files, _sides(files), strict=True):
            if fault := _fault(file, sides):
                broken[file] = fault
            else:
                readable[file] = Picture(min(sides), _turned(file))
    return readable, broken


def _sides(files: list[str]) -> Iterator[tuple[int, ...]]:
    """Height and width in pixels of every file in order, none for what cannot be decoded."""
    with tf.device("CPU"):
        paths = tf.data.Dataset.from_tensor_slices(tf.constant([os.fsencode(file) for file in files], tf.string))
    options = tf.data.Options()
    options.autotune.enabled = False  # as in the pipelines
    # Threads of Python's, which take turns, are slower than one alone where pictures are small.
    sides = iter(
        paths.map(
            lambda path: tf.shape(decode(tf.io.read_file(path)))[:2],
            num_parallel_calls=os.cpu_count(),
            deterministic=True,
        ).with_options(options)
    )
    for _ in files:
        try:
            yield tuple(next(sides).numpy().tolist())
        except tf.errors.OpError:  # of this file; the next one comes all the same
            yield ()


def _fault(file: str, sides: tuple[int, ...]) -> str | None:
    try:
        file.encode()
        if not sides:
            with open(file, "rb") as opened:
                return "no JPEG, PNG, GIF or BMP, or a damaged one" if opened.read(1) else "empty"
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    except OSError as error:
        return error.strerror or str(error)
    shorter, longer = sorted(sides)
    if longer > MAX_ASPECT * shorter:
        return f"{longer} pixels long and {shorter} wide"
    if shorter * longer > MAX_PIXELS:
        return f"{shorter * longer:,} pixels; {MAX_PIXELS:,} at most"
    return None


def _turned(file: str) -> bool:
    try:
        with open(file, "rb") as opened:
            # EXIF comes first in a file, and Pillow is slow to find that there is none.
            if b"Exif\0\0" not in opened.read(1 << 16):
                return False
        with Image.open(file, formats=("JPEG",)) as picture:
            return picture.getexif().get(ExifTags.Base.Orientation, 1) > 1
    except Exception:  # no JPEG, or EXIF that cannot be read: nothing says so
        return False


def _split(files: list[tuple[str, int]]) -> Files:
    return Files(np.array([file for file, _ in files], dtype=str), np.array([number for _, number in files], np.int32))
