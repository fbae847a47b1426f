"""The axes that a search can vary."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import keras_tuner

from ..runs.recipe import Recipe

# The paper's networks, and a few others.
_BLOCKS = {
    ("cifar", "basic"): tuple((n, n, n) for n in (1, 3, 5, 7, 9)),
    ("cifar", "bottleneck"): tuple((n, n, n) for n in (1, 2, 3, 4, 6)),
    ("imagenet", "basic"): ((1, 1, 1, 1), (2, 2, 2, 2), (3, 4, 6, 3)),
    ("imagenet", "bottleneck"): ((2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3)),
}


def _depth(hp: keras_tuner.HyperParameters, recipe: Recipe) -> Recipe:
    choices = _BLOCKS[recipe.spec.stem, recipe.spec.block]
    specs = {spec.depth: spec for spec in (replace(recipe.spec, blocks=b) for b in choices)}
    return replace(recipe, spec=specs[hp.Choice("depth", list(specs))])


def _float(name: str, low: float, high: float, sampling: str) -> Callable:
    def vary(hp: keras_tuner.HyperParameters, recipe: Recipe) -> Recipe:
        # Four digits suffice, and keras-tuner's messages, in single precision, preserve them.
        return recipe.override(
            **{name: float(f"{hp.Float(name, low, high, sampling=sampling):.4g}")}
        )

    return vary


AXES: dict[str, Callable[[keras_tuner.HyperParameters, Recipe], Recipe]] = {
    "learning_rate": _float("learning_rate", 0.001, 1.0, "log"),
    "weight_decay": _float("weight_decay", 1e-5, 1e-2, "log"),
    "label_smoothing": _float("label_smoothing", 0.0, 0.2, "linear"),
    "warmup": _float("warmup", 0.0, 0.2, "linear"),
    "momentum": lambda hp, recipe: replace(
        recipe, momentum=hp.Choice("momentum", [0.8, 0.9, 0.95, 0.98])
    ),
    "batch_size": lambda hp, recipe: replace(
        recipe, batch_size=hp.Choice("batch_size", [32, 64, 128, 256])
    ),
    "depth": _depth,
    "width": lambda hp, recipe: replace(
        recipe, spec=replace(recipe.spec, width=hp.Choice("width", [8, 16, 32, 64]))
    ),
    "shortcut": lambda hp, recipe: replace(
        recipe, spec=replace(recipe.spec, shortcut=hp.Choice("shortcut", ["A", "B", "C"]))
    ),
}
"""by the name of an axis: the function that sets keras-tuner's choice of its value in a recipe"""


def vary(hp: keras_tuner.HyperParameters, recipe: Recipe, over: Sequence[str]) -> Recipe:
    """Return the recipe with keras-tuner's choice on each axis.

    Args:
        hp: keras-tuner's choices.
        recipe: the recipe to vary.
        over: names of the axes that vary.
    """
    for name in AXES:
        if name in over:
            recipe = AXES[name](hp, recipe)
    epochs = hp.values.get("tuner/epochs")  # set by Hyperband
    return recipe if epochs is None else recipe.override(epochs=epochs)


def values(recipe: Recipe, over: Sequence[str]) -> dict[str, Any]:
    """Return the recipe's value on each axis.

    Args:
        recipe: the recipe to read.
        over: names of axes.
    """
    return {
        name: getattr(recipe if hasattr(recipe, name) else recipe.spec, name)
        for name in AXES
        if name in over
    }
