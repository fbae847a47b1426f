"""What a recipe begins with: its data set, and weights that are random, published or those of an earlier run."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from . import data, weights
from .recipe import Recipe
from .run import Run, write_text


@dataclass(frozen=True)
class Start:
    """What a training begins with."""

    weights: Path | None = None
    """their file; None: random ones"""
    preprocessing: data.Preprocessing | None = None
    """what the pictures went through that they were trained on; None: nothing says so"""
    labels: tuple[str, ...] | None = None
    """the classes of their classifier; None: nothing says so"""


def dataset(recipe: Recipe) -> data.Dataset:
    """The recipe's data set. Errors are those of `data.load`."""
    return data.load(
        recipe.dataset,
        data_dir=recipe.data_dir,
        image_size=recipe.image_size,
        holdout=recipe.holdout,
        seed=recipe.seed,
        skip_broken=recipe.skip_broken,
    )


def keep(run: Run, dataset: data.Dataset) -> None:
    """Writes what the run's data set is, or raises `ValueError` where the run began with other pictures."""
    if run.data_file.exists():
        return require_same(run, dataset)
    write_text(run.data_file, json.dumps(_describe(dataset), indent=2) + "\n")


def require_same(run: Run, dataset: data.Dataset) -> None:
    """Raises `ValueError` where the run began with other pictures, naming the first split that differs."""
    try:
        earlier, now = json.loads(run.data_file.read_text(encoding="utf-8"))["splits"], _describe(dataset)["splits"]
        pairs = [(name, earlier.get(name), now.get(name)) for name in {**earlier, **now}]
        counts = [[split and split["pictures"] for split in splits] for _, *splits in pairs]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{run.data_file} is damaged ({error!r})") from None
    for (name, was, is_now), (before, after) in zip(pairs, counts, strict=True):
        if was != is_now:
            raise ValueError(
                f"{dataset.name} has changed since {run.path} began: its {name} split had {before} pictures, now "
                f"{after}{', some of them others' if before == after else ''}; put back what was there, or train anew"
            )


def _describe(dataset: data.Dataset) -> dict[str, Any]:
    splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    return {
        "dataset": dataset.name,
        "splits": {name: _describe_split(dataset, split) for name, split in splits.items() if split is not None},
        "test_held_out": dataset.test_held_out,
        "notes": list(dataset.notes),
    }


def _describe_split(dataset: data.Dataset, split: data.Split) -> dict[str, Any]:
    """Of records, whose labels are not at hand, their number alone; of files their names too, as a hash."""
    described: dict[str, Any] = {"pictures": len(split)}
    if not isinstance(split, data.Records):
        counts = data.class_counts(split, len(dataset.labels))
        described["classes"] = dict(zip(dataset.labels, counts.tolist(), strict=True))
    if isinstance(split, data.Files):
        names = "\0".join(f"{path}\0{label}" for path, label in zip(split.paths, split.labels, strict=True))
        described["files"] = f"sha256:{hashlib.sha256(names.encode()).hexdigest()}"
    return described


def find(recipe: Recipe) -> Start:
    """Where the recipe's weights are. Raises `ValueError` where they are not there, or for other pictures."""
    if recipe.weights is None:
        return Start()
    if (Path(recipe.weights) / "recipe.json").exists():
        earlier = Run(Path(recipe.weights))
        earlier.require_trained()
        path, labels = earlier.model_file, earlier.labels()
        preprocessing: data.Preprocessing | None = data.Preprocessing.read(earlier.preprocessing_file)
    else:
        path = weights.fetch(recipe.spec) if recipe.weights == "imagenet" else Path(recipe.weights)
        preprocessing, labels = weights.read(path).preprocessing, None
    if preprocessing is not None and recipe.image_size not in (None, preprocessing.crop):
        if len(np.shape(preprocessing.mean)) > 1:
            raise ValueError(
                f"image_size is {recipe.image_size}; {path} was trained on a mean picture of {preprocessing.crop} px"
            )
        assert recipe.image_size is not None
        resize = round(recipe.image_size * preprocessing.resize / preprocessing.crop)
        preprocessing = replace(preprocessing, crop=recipe.image_size, resize=resize)
    return Start(path, preprocessing, labels)


def take(start: Start, model: keras.Model, recipe: Recipe, labels: tuple[str, ...]) -> None:
    """Puts the weights into the model; the classifier stays new where it is for other classes."""
    assert start.weights is not None
    classifier = model.get_layer("predictions")
    new = classifier.get_weights()
    weights.load(model, recipe.spec, start.weights)
    if start.labels is not None and start.labels != labels:
        classifier.set_weights(new)
