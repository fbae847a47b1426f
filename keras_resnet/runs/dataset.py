"""Load a recipe's data, record it in the run, compare it with the record, and feed training."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from .. import data
from ..data.dataset import Arrays, Dataset, Files, Shard, Split, class_counts
from ..data.pipeline import Augmentation, View, evaluation_batches, steps_per_epoch, train_batches
from ..data.preprocessing import Preprocessing
from ..data.records import PreparedSplit
from ..files import read_json, write_text
from .recipe import Recipe
from .run import Run


@dataclass(frozen=True)
class TrainingData:
    """The training data of a recipe: its data set and their preprocessing."""

    recipe: Recipe
    dataset: Dataset
    preprocessing: Preprocessing

    @cached_property
    def steps_per_epoch(self) -> int:
        """Number of full batches in the training split."""
        return steps_per_epoch(self.dataset.train, self.recipe.batch_size)

    @property
    def augmentation(self) -> Augmentation:
        """The recipe's augmentation. The view "auto" becomes one of the paper's.

        It is the view of section 4.2 if all images have one size and are in memory, otherwise the
        view of section 3.4.
        """
        recipe = self.recipe
        view: View = (
            "pad-crop-flip" if isinstance(self.dataset.train, Arrays) else "scale-crop-flip"
        )
        if recipe.augmentation != "auto":
            view = recipe.augmentation
        return Augmentation(
            view,
            crop_area=recipe.crop_area,
            trivial_augment=recipe.trivial_augment,
            rand_augment=recipe.rand_augment,
            lighting=recipe.lighting,
            erasing=recipe.erasing,
            mixup=recipe.mixup,
            cutmix=recipe.cutmix,
            repeats=recipe.repeated_augmentation,
        )

    @property
    def held_out(self) -> Split:
        """The split that training is validated on."""
        dataset = self.dataset
        return dataset.test if dataset.validation is None else dataset.validation

    @cached_property
    def class_counts(self) -> np.ndarray:
        """Training images per class, int `[classes]`. Counting reads all records."""
        return class_counts(self.dataset.train, len(self.dataset.class_names))

    def batches(self, first_step: int = 0, index: int = 0, count: int = 1) -> tf.data.Dataset:
        """Return an endless stream of training batches.

        Args:
            first_step: step of the run that the first batch is for.
            index: the part of each batch to return, below `count`.
            count: number of equal parts of each batch, one per host.

        Returns:
            `(images float32 [B / count, size, size, 3], labels int32 [B / count])`. If the recipe
            mixes images, the labels are float32 `[B / count, classes]`.

        Raises:
            ValueError: as `train_batches`.
        """
        return train_batches(
            self.dataset.train,
            self.preprocessing,
            batch_size=self.recipe.batch_size,
            augmentation=self.augmentation,
            classes=len(self.dataset.class_names),
            seed=self.recipe.seed,
            first_step=first_step,
            shard=Shard(index, count),
        )

    def validation_batches(self, index: int = 0, count: int = 1) -> tf.data.Dataset:
        """Return every validation image once, in order.

        Args:
            index: the part of the images to return, below `count`.
            count: number of equal parts, one per host.

        Returns:
            `(images float32 [<= B / count, size, size, 3], labels int32)`.
        """
        size = self.recipe.batch_size // count
        return evaluation_batches(self.held_out, self.preprocessing, size, Shard(index, count))


def load_dataset(
    recipe: Recipe, run: Run | None = None, load: Callable[..., Dataset] = data.load
) -> Dataset:
    """Load the recipe's data set.

    Args:
        recipe: the recipe.
        run: a run of the recipe. If given, its data is found from any working directory, even
            after the run has moved.
        load: loads it; `data.load`, or a function that takes its arguments.

    Raises:
        ValueError: as `data.load`.
    """
    name, data_dir = recipe.dataset, recipe.data_dir
    if run is not None:
        named = data_dir and str(run.locate(data_dir) or data_dir)
        name = _folder_of(run, name, named)
        data_dir = data_dir or run.provenance().get("environment", {}).get("TFDS_DATA_DIR")
        data_dir = data_dir and str(run.locate(data_dir) or data_dir)
    return load(
        name,
        data_dir=data_dir,
        image_size=recipe.image_size,
        holdout=recipe.holdout,
        seed=recipe.seed,
        skip_broken=recipe.skip_broken,
    )


def _folder_of(run: Run, name: str, data_dir: str | None) -> str:
    """Return the path of the data set's folder, or its name if it has no folder."""
    if not name or name in ("digits", "synthetic"):
        return name
    folder = run.locate(name)
    if folder is None or not folder.is_dir():
        return name
    # As in `data.load`, a name of tensorflow-datasets takes precedence over a folder.
    named = Path(name).name == name and data.tfds.knows(name, data_dir)
    return name if named else os.path.abspath(folder)


def broken_image(dataset: Dataset) -> tuple[str, str] | None:
    """Find an image file that can no longer be read, trying recently changed files first.

    Args:
        dataset: the data set whose files are read until one fails.

    Returns:
        The path of the file and the reason; None if all can be read, or if images are not files.
    """
    splits = (dataset.train, dataset.validation, dataset.test)
    paths = {str(path) for split in splits if isinstance(split, Files) for path in split.paths}
    return data.scan.first_fault(sorted(paths, key=_changed, reverse=True))


def _changed(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:  # the file or its folder is gone
        return float("inf")


def record(run: Run, dataset: Dataset) -> None:
    """Record the run's data set, or compare it with an existing record.

    Args:
        run: the run.
        dataset: its data set, as loaded now.

    Raises:
        ValueError: as `require_recorded`.
    """
    if run.data_file.exists():
        return require_recorded(run, dataset)
    write_text(run.data_file, json.dumps(_describe(dataset), indent=2) + "\n")


def require_recorded(run: Run, dataset: Dataset) -> None:
    """Raise `ValueError` if a data set differs from the run's record; name the first such split.

    Args:
        run: the run.
        dataset: its data set, as loaded now.
    """
    recorded = read_json(run.data_file)
    try:
        earlier = recorded["splits"]
        current = _describe(dataset)["splits"]
        pairs = [(name, earlier.get(name), current.get(name)) for name in {**earlier, **current}]
        counts = [[split and split["images"] for split in splits] for _, *splits in pairs]
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{run.data_file} is damaged ({error!r})") from None
    for (name, old, new), (old_count, new_count) in zip(pairs, counts, strict=True):
        if old != new:
            others = ", some of them different" if old_count == new_count else ""
            raise ValueError(
                f"{dataset.name} has changed since {run.path} began: its {name} split had"
                f" {old_count} images, now {new_count}{others}; restore them, or train a new run"
            )


def held_out_images(run: Run) -> int:
    """Return the number of images that a run is validated on.

    Args:
        run: a run that has recorded its data set.

    Raises:
        ValueError: the record is damaged.
    """
    recorded = read_json(run.data_file)
    try:
        splits = recorded["splits"]
        return int(splits["validation" if "validation" in splits else "test"]["images"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{run.data_file} is damaged ({error!r})") from None


def _describe(dataset: Dataset) -> dict[str, Any]:
    splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    return {
        "dataset": dataset.name,
        "splits": {
            name: _describe_split(dataset, split)
            for name, split in splits.items()
            if split is not None
        },
        "test_held_out": dataset.test_held_out,
        "notes": list(dataset.notes),
    }


def _describe_split(dataset: Dataset, split: Split) -> dict[str, Any]:
    """Describe a split by its number of images, in total and per class.

    Records are only counted in total, because their labels are not in memory. Files add a hash of
    their paths relative to their common folder, which does not change if the folder is moved.
    """
    described: dict[str, Any] = {"images": len(split)}
    if not isinstance(split, PreparedSplit):
        counts = class_counts(split, len(dataset.class_names))
        described["classes"] = dict(zip(dataset.class_names, counts.tolist(), strict=True))
    if isinstance(split, Files):
        paths = [str(path) for path in split.paths]
        parent = os.path.commonpath(paths) if len(paths) > 1 else os.path.dirname(paths[0])
        names = "\0".join(
            f"{os.path.relpath(path, parent)}\0{label}"
            for path, label in zip(paths, split.labels, strict=True)
        )
        described["files"] = f"sha256:{hashlib.sha256(names.encode()).hexdigest()}"
    return described
