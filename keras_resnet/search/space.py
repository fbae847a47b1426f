"""What a search can vary."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import keras_tuner

from ..recipe import Recipe

# The paper's, and what lies between.
_BLOCKS = {
    ("cifar", "basic"): tuple((n, n, n) for n in (1, 3, 5, 7, 9)),
    ("cifar", "bottleneck"): tuple((n, n, n) for n in (1, 2, 3, 4, 6)),
    ("imagenet", "basic"): ((1, 1, 1, 1), (2, 2, 2, 2), (3, 4, 6, 3)),
    ("imagenet", "bottleneck"): ((2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3)),
}


def _depth(hp: keras_tuner.HyperParameters, recipe: Recipe) -> Recipe:
    of_depth = {
        (spec := replace(recipe.spec, blocks=b)).depth: spec for b in _BLOCKS[recipe.spec.stem, recipe.spec.block]
    }
    return replace(recipe, spec=of_depth[hp.Choice("depth", list(of_depth))])


def _float(name: str, low: float, high: float, sampling: str) -> Callable:
    def vary(hp: keras_tuner.HyperParameters, recipe: Recipe) -> Recipe:
        # Four digits are enough, and pass through keras-tuner's messages in single precision.
        return recipe.override(**{name: float(f"{hp.Float(name, low, high, sampling=sampling):.4g}")})

    return vary


AXES: dict[str, Callable[[keras_tuner.HyperParameters, Recipe], Recipe]] = {
    "learning_rate": _float("learning_rate", 0.001, 1.0, "log"),
    "weight_decay": _float("weight_decay", 1e-5, 1e-2, "log"),
    "label_smoothing": _float("label_smoothing", 0.0, 0.2, "linear"),
    "warmup": _float("warmup", 0.0, 0.2, "linear"),
    "momentum": lambda hp, recipe: replace(recipe, momentum=hp.Choice("momentum", [0.8, 0.9, 0.95, 0.98])),
    "batch_size": lambda hp, recipe: replace(recipe, batch_size=hp.Choice("batch_size", [32, 64, 128, 256])),
    "depth": _depth,
    "width": lambda hp, recipe: replace(recipe, spec=replace(recipe.spec, width=hp.Choice("width", [8, 16, 32, 64]))),
    "shortcut": lambda hp, recipe: replace(
        recipe, spec=replace(recipe.spec, shortcut=hp.Choice("shortcut", ["A", "B", "C"]))
    ),
}
"""What a search can vary: from keras-tuner's choice of a value, and the recipe, to the recipe with that value."""


def vary(hp: keras_tuner.HyperParameters, recipe: Recipe, over: Sequence[str]) -> Recipe:
    """The recipe with keras-tuner's choice of what `over` names."""
    for name in AXES:
        if name in over:
            recipe = AXES[name](hp, recipe)
    epochs = hp.values.get("tuner/epochs")  # Hyperband's
    return recipe if epochs is None else recipe.override(epochs=epochs)


def values(recipe: Recipe, over: Sequence[str]) -> dict[str, Any]:
    """What the recipe has for each of `over`."""
    return {name: getattr(recipe if hasattr(recipe, name) else recipe.spec, name) for name in AXES if name in over}
