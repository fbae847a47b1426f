"""Measure what depth does in the network of a run."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ..data.dataset import Shard
from ..data.pipeline import evaluation_batches
from ..files import read_table
from ..networks.build import build
from ..networks.spec import ResNetSpec
from ..runs.classifier import Classifier, open_run
from ..runs.dataset import load_dataset
from ..runs.run import Run
from .class_maps import ClassMaps, class_maps
from .gradients import UnitGradient, unit_gradients
from .landscape import loss_landscape
from .lesions import lesions
from .responses import layer_responses
from .shattering import gradient_correlations

IMAGES = 1000
"""the default number of test images"""
GRADIENT_IMAGES = 256
"""the largest number of images whose gradients are computed, in one batch"""
BATCH = 128
DEPTHS = (20, 56, 110)
"""the default numbers of layers of the untrained networks"""
DEPTH_IMAGES = 32
"""the largest number of images whose gradients are computed in networks of other depths"""
SEGMENTS = 4
"""the largest number of pairs of images between which the gradient is followed"""


@dataclass(frozen=True, kw_only=True)
class Explained:
    """A run's network, and what was measured of it."""

    name: str
    spec: ResNetSpec
    images: int
    initial: list[UnitGradient]
    """with batch norm, at random initial weights"""
    initial_without_batch_norm: list[UnitGradient]
    trained: list[UnitGradient]
    during: dict[int, list[float]]
    """the norms of the gradients that the run has recorded, by the epochs before; `{}` if none"""
    depths: dict[int, tuple[list[UnitGradient], list[UnitGradient]]]
    """with and without batch norm at random initial weights, by the number of layers"""
    correlations: dict[int, list[tuple[float, float]]]
    """of gradients at neighboring images, with batch norm at random initial weights, by the number
    of layers"""
    responses: list[tuple[str, float]]
    error: float
    """of the whole network in percent"""
    lesions: list[tuple[str, float]]
    maps: list[ClassMaps]
    landscape: np.ndarray | None
    """the loss around the weights; None if it was not asked for"""
    seconds: dict[str, float]
    """the time that each measurement took"""

    @property
    def plain(self) -> bool:
        """Whether the network has no shortcuts."""
        return self.spec.shortcut is None


def measure(
    run: Run,
    images: int = IMAGES,
    depths: Sequence[int] = DEPTHS,
    maps_of: dict[str, bytes] | None = None,
    landscape: bool = False,
) -> Explained:
    """Measure the network of a run on a part of its test images.

    Args:
        run: a trained run.
        images: the largest number of images.
        depths: the numbers of layers of untrained networks, which are otherwise like the run's.
        maps_of: encoded images by name, whose maps are computed; None for a few test images.
        landscape: whether to compute the loss around the weights.

    Raises:
        ValueError: the run is not trained, or its data is missing.
    """
    classifier, recipe = open_run(run), run.recipe()
    spec = recipe.spec
    seconds: dict[str, float] = {}
    batches = _batches(classifier, run, images)
    first, labels = _first(batches, min(images, GRADIENT_IMAGES))
    initial_network = _initial(classifier, spec, recipe.seed)

    def timed(name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        begin = time.perf_counter()
        result = function(*args, **kwargs)
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - begin
        return result

    network = classifier.model
    gradients = [
        timed("gradients", unit_gradients, model, spec, first, labels, batch_norm=batch_norm)
        for model, batch_norm in (
            (initial_network, True),
            (initial_network, False),
            (network, True),
        )
    ]
    few = DEPTH_IMAGES
    by_depth = timed("depths", _of_depths, classifier, run, depths, first[:few], labels[:few])
    correlations = timed("correlations", _correlations, classifier, run, depths, first)
    responses = timed("responses", layer_responses, network, spec, (x for x, _ in batches()))
    error, without = timed("lesions", lesions, network, spec, batches)
    return Explained(
        name=run.name,
        spec=spec,
        images=sum(len(labels) for _, labels in batches()),
        initial=gradients[0],
        initial_without_batch_norm=gradients[1],
        trained=gradients[2],
        during=_recorded(run),
        depths=by_depth,
        correlations=correlations,
        responses=responses,
        error=error,
        lesions=without,
        maps=timed("maps", class_maps, classifier, spec, run, maps_of or {}),
        landscape=timed("landscape", loss_landscape, network, first, labels) if landscape else None,
        seconds=seconds,
    )


def _initial(classifier: Classifier, spec: ResNetSpec, seed: int) -> keras.Model:
    """Build the run's network with random weights."""
    keras.utils.set_random_seed(seed)
    crop = classifier.preprocessing.crop
    return build(
        spec,
        input_shape=(crop, crop, 3),
        classes=len(classifier.class_names),
        classifier_activation=None,
    )


def _recorded(run: Run) -> dict[int, list[float]]:
    """Return what `GradientHistory` has recorded in a run, from the first unit to the last."""
    found: dict[int, list[float]] = {}
    if run.gradients_file.exists():
        rows = read_table(run.gradients_file)
        try:
            for row in rows:
                found.setdefault(int(row["epoch"]), []).append(float(row["total"]))
        except (KeyError, ValueError) as error:
            raise ValueError(f"{run.gradients_file} is damaged: {error!r}") from None
    return found


def _of_depths(
    classifier: Classifier,
    run: Run,
    depths: Sequence[int],
    images: np.ndarray,
    labels: np.ndarray,
) -> dict[int, tuple[list[UnitGradient], list[UnitGradient]]]:
    """Compute the gradients in untrained networks of other depths, with and without batch norm.

    ImageNet networks have none: their images would need the memory of a training.
    """
    recipe = run.recipe()
    found = {}
    for depth in depths if recipe.spec.stem == "cifar" else ():
        spec = with_depth(recipe.spec, depth)
        network = _initial(classifier, spec, recipe.seed)
        found[spec.depth] = (
            unit_gradients(network, spec, images, labels),
            unit_gradients(network, spec, images, labels, batch_norm=False),
        )
    return found


def _correlations(
    classifier: Classifier, run: Run, depths: Sequence[int], images: np.ndarray
) -> dict[int, list[tuple[float, float]]]:
    """Compare the gradients at neighboring images in untrained networks of other depths.

    ImageNet networks have none, as in `_of_depths`.
    """
    recipe = run.recipe()
    pairs = list(zip(images[::2], images[1::2], strict=False))[:SEGMENTS]
    specs = [with_depth(recipe.spec, depth) for depth in depths if recipe.spec.stem == "cifar"]
    return {
        spec.depth: gradient_correlations(_initial(classifier, spec, recipe.seed), pairs)
        for spec in specs
    }


def with_depth(spec: ResNetSpec, depth: int) -> ResNetSpec:
    """Return a spec with as many units in every stage, and about `depth` layers.

    Args:
        spec: the spec whose other fields are kept.
        depth: the number of layers. Three stages of basic blocks have 6n + 2 (section 4.2).
    """
    layers = sum(len(stage[0].convolutions) for stage in spec.stages())
    return replace(spec, blocks=(max(1, round((depth - 2) / layers)),) * len(spec.blocks))


def _batches(
    classifier: Classifier, run: Run, images: int
) -> Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]:
    """Return a function that returns every n-th test image with its label."""
    split = load_dataset(run.recipe(), run).test
    every = -(-len(split) // images)
    found: tf.data.Dataset = evaluation_batches(
        split, classifier.preprocessing, BATCH, Shard(0, every)
    ).cache()
    return found.as_numpy_iterator


def _first(
    batches: Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return at most `count` of the images and labels, spread over all of them."""
    images, labels = map(np.concatenate, zip(*batches(), strict=True))
    every = -(-len(labels) // count)
    return images[::every], labels[::every]
