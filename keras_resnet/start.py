"""What a recipe begins with: its data set, and weights that are random, published or those of an earlier run."""

from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np

from . import data, weights
from .recipe import Recipe
from .run import Run


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
