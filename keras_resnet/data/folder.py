"""Load image files in folders: `SPLIT/CLASS/*` with the splits `train` and one or two of `TEST`, or
`CLASS/*` alone.

Every file is decoded once first (`scan`), so that all unreadable files are named, and no training
stops at one of them.
"""

import os
import re
import unicodedata
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from .dataset import Dataset, Files
from .scan import ALONE, Hosts, ImageFacts, images_among, scan
from .splitting import hold_out_test
from .walking import entries_in, folders_in, walk

TRAIN = "train"
TEST = (
    *("test", "testing", "eval", "evaluation"),
    *("validation", "valid", "val", "dev", "development"),
)
"""the first of these folders that exists is the test split, the next the validation split"""
SPLIT_WORD = re.compile(
    r"(train(ing)?|test(ing)?|eval(uation)?|val(id(ation)?)?|dev(elopment)?)"
    r"([ _-]?(set|data|images|split))?([ _-]?(19|20)\d\d)?",
    re.IGNORECASE,
)
"""the names of splits, such as `val`, `Test set` or `train2017`"""

NAMED = 10
"""the number of copied images that a warning names"""


def load(path: Path, *, seed: int = 0, skip_broken: bool = False, hosts: Hosts = ALONE) -> Dataset:
    """Load the images in a folder of classes, or of splits of classes.

    The class names are the names of the folders in `train`, or in `path` if there is no `train`,
    composed (Unicode NFC) and sorted by code points. Without a test split, a part of the
    training split becomes it, with a warning. Files and folders are ignored if their names begin
    with a dot or are in `walking.NOT_DATA`. Links are followed. Warnings name images outside of the
    class folders, which are not used, and equal files in several splits or classes, which are used.

    Args:
        path: the folder.
        seed: the seed of the choice of test images.
        skip_broken: whether to leave out files that are not images, with a warning that names them.
        hosts: the hosts that load the folder together. Each decodes a part of the files.

    Raises:
        ValueError: the folder has another layout, files in it are not images (all are named), or
            the hosts have different files.
        OSError: a folder cannot be read.
    """
    train, *others = _splits(path)
    classes = {split: _classes(split) for split in (train, *others)}
    labels = tuple(classes[train])
    _require_classes(path, train, labels)
    loose = images_among(
        entry.path for folder in {path, *classes} for entry in entries_in(folder) if entry.is_file()
    )
    for split in others:
        _require_labeled(split, tuple(classes[split]), train, labels, loose)

    found = {split: _files(folders, labels) for split, folders in classes.items()}
    readable, broken = scan(path, [file for files in found.values() for file, _ in files], hosts)
    notes = []
    if broken:
        message = (
            f"{len(broken)} of {len(broken) + len(readable)} files in {path} cannot be read as"
            " images"
        )
        listed = _listed(f"{file}: {reason}" for file, reason in broken.items())
        if not skip_broken:
            raise ValueError(
                f"{message}; remove them, or leave them out with `skip_broken`:{listed}"
            )
        notes.append(f"{message} and are left out:{listed}")
    if loose:
        notes.append(
            f"{len(loose)} images in {path} lie beside the folders of the classes and are not"
            f" used:{_listed(loose)}"
        )
    splits = {
        split: [(file, number) for file, number in files if file in readable]
        for split, files in found.items()
    }
    notes += _copies(path, splits, readable)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    empty = [
        train / label
        for i, label in enumerate(labels)
        if i not in {number for _, number in splits[train]}
    ]
    empty += [split for split in others if not splits[split]]
    if empty:
        raise ValueError(f"{empty[0]} holds no images; JPEG, PNG, GIF and BMP are read")

    dataset = Dataset(
        name=path.resolve().name,
        class_names=labels,
        train=_split(splits[train], readable),
        test=_split(splits[others[0]] if others else [], readable),
        validation=_split(splits[others[1]], readable) if others[1:] else None,
        shorter_side=int(np.median([readable[file].shorter_side for file, _ in splits[train]])),
        notes=tuple(notes),
    )
    return dataset if others else hold_out_test(dataset, seed)


def _splits(path: Path) -> list[Path]:
    """Return the folders of train, test and validation, or `path` alone if it holds the classes."""
    names = folders_in(path)
    # A "train" without folders in it is a class, perhaps of vehicles.
    layered = TRAIN in names and bool(folders_in(path / TRAIN))
    known = [name for name in (TRAIN, *TEST) if layered and name in names]
    words = [name for name in names if SPLIT_WORD.fullmatch(name) and name not in known]
    mixed = [name for name in words if not set(names).isdisjoint(folders_in(path / name))]
    if mixed or (words and (layered or len(words) > 1)):
        raise ValueError(
            f"{path} has {' and '.join(map(repr, words))} for a folder; splits are called train,"
            f" and {', '.join(TEST)}, and each holds a folder for every class"
        )
    if len(known) > 3:
        raise ValueError(
            f"{path} has the splits {', '.join(known)}; give at most two beside train, one to test"
            " and one to validate on"
        )
    for name in names if layered else ():
        if name not in known and (images := images_among(walk(path / name), first=True)):
            raise ValueError(
                f"{path} has the folder {name!r} beside train, with images such as {images[0]};"
                f" name it for a split ({', '.join(TEST)}), or move it elsewhere"
            )
    return [path / name for name in known] or [path]


def _classes(split: Path) -> dict[str, Path]:
    """Return the folder of each class by its name, sorted by name.

    Names are composed (NFC), because a Mac may decompose names (NFD) that other systems compose.
    """
    classes: dict[str, Path] = {}
    for name in folders_in(split):
        label = unicodedata.normalize("NFC", name)
        if label in classes:
            raise ValueError(
                f"{split} has the class {label!r} twice, as {ascii(classes[label].name)} and as"
                f" {ascii(name)}; merge the two folders"
            )
        classes[label] = split / name
        words = [word for word in folders_in(split / name) if SPLIT_WORD.fullmatch(word)]
        if len(words) > 1:
            raise ValueError(
                f"{split / name} has {' and '.join(map(repr, words))} for a folder; splits come"
                " before classes: train/CLASS and test/CLASS"
            )
    return dict(sorted(classes.items()))


def _require_labeled(
    split: Path, found: tuple[str, ...], train: Path, labels: tuple[str, ...], loose: list[str]
) -> None:
    """Raise `ValueError` if a split has no class folders, or classes that `train` lacks."""
    unsorted = [file for file in loose if Path(file).parent == split]
    advice = (
        f"Sort its images into folders of the classes of {train}; if their classes are unknown,"
        f" move {split.name} elsewhere, and classify them by `predict`"
    )
    if unsorted and not found:
        raise ValueError(
            f"{split} is unlabeled: {len(unsorted)} images lie in it without folders of classes."
            f" {advice}"
        )
    unknown = [name for name in found if name not in labels]
    if unknown:
        message = f"{split} has the class {unknown[0]!r}, which {train} lacks"
        if len(unknown) == len(found):
            message += f", and none of its classes: it seems to be unlabeled. {advice}"
        raise ValueError(message)


def _require_classes(path: Path, train: Path, labels: tuple[str, ...]) -> None:
    if len(labels) < 2:
        has = f"it has only {', '.join(map(repr, labels))}" if labels else "it has none"
        raise ValueError(f"{train} needs a folder for each of two classes or more; {has}")
    for label in labels:
        # A run stores class names one per line, in UTF-8.
        if label.splitlines() != [label]:
            raise ValueError(f"{path} has the class {label!r}; give its folder a name of one line")
        try:
            label.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"{path} has the class {label!r}, a name that is not UTF-8; rename its folder"
            ) from None


def _listed(lines: Iterable[str]) -> str:
    return "".join(f"\n  {line}" for line in lines)


def _files(classes: dict[str, Path], labels: tuple[str, ...]) -> list[tuple[str, int]]:
    """Return every file of each class with the class number, sorted by name within a class."""
    return [
        (file, number)
        for number, label in enumerate(labels)
        if label in classes
        for file in sorted(walk(classes[label]))
    ]


def _copies(
    path: Path, splits: dict[Path, list[tuple[str, int]]], images: dict[str, ImageFacts]
) -> Iterator[str]:
    """Yield a remark on equal files in several splits, and one on those in several classes."""
    copies = defaultdict(list)
    for split, files in splits.items():
        for file, number in files:
            copies[images[file].fingerprint].append((split, number, file))
    for key, (kind, consequence) in enumerate(
        (
            ("splits", "errors are measured on images that are trained or selected on"),
            ("classes", "of their labels at most one is right"),
        )
    ):
        # A dict keeps one copy per split or class.
        groups = [{copy[key]: copy[-1] for copy in group} for group in copies.values()]
        groups = [group for group in groups if len(group) > 1]
        if groups:
            lines = [
                " = ".join(os.path.relpath(file, path) for file in group.values())
                for group in groups[:NAMED]
            ]
            if len(groups) > NAMED:
                lines.append(f"and {len(groups) - NAMED} more")
            yield (
                f"{len(groups)} of {len(copies)} different images in {path} lie in several"
                f" {kind}, byte for byte: {consequence}:{_listed(lines)}"
            )


def _split(files: list[tuple[str, int]], images: dict[str, ImageFacts]) -> Files:
    return Files(
        np.array([file for file, _ in files], dtype=str),
        np.array([number for _, number in files], np.int32),
        np.array([images[file].fingerprint for file, _ in files], np.int64),
    )
