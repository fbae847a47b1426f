"""Calibrate a network for int8 on training images, and choose on others."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from ..data.preprocessing import Preprocessing
from ..evaluation.compare import compared_answers
from ..evaluation.errors import softmax, top_k_wrong
from ..networks.steps import Convolution, Dense, Steps
from .int8 import Int8Network, int8_network
from .labeled_images import Images
from .quantization import CLIPPED, bounds, magnitudes

IMAGES = 1536
"""the largest number of images that are read; every third calibrates, the others choose"""
_BATCH = 96
_CHANCE = 0.05
"""Errors differ if the exact McNemar test gives a smaller p. One image more or less of a thousand
tells nothing about the next ten thousand."""

Network = Callable[[tf.Tensor], dict[str, tf.Tensor]]
Batch = tuple[np.ndarray, np.ndarray]
"""images, float32 `[n, H, W, 3]`, and labels, int32 `[n]`"""


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """A network in int8, and how it was chosen."""

    network: Int8Network
    method: str
    """a key of `CLIPPED`"""
    in_float32: tuple[str, ...]
    """the parts that stay in float32: "stem", "classifier\""""
    errors: dict[str, float]
    """the error in percent of each candidate, by its name"""
    distances: dict[str, float]
    """the mean distance of the logits from those in float32, of each method"""
    calibrated: int
    """the number of images that calibrated"""
    judged: int
    """the number of images that chose"""


@dataclass(frozen=True)
class _Score:
    """How a candidate answers the images that choose."""

    right: np.ndarray
    """which images it has right, bool `[N]`"""
    distance: float
    """the mean distance of the logits from those in float32"""

    @property
    def error(self) -> float:
        """The error in percent."""
        return 100 * float(np.mean(~self.right))

    def beats(self, other: "_Score") -> bool:
        """Return whether it has fewer errors, and not by chance."""
        found = compared_answers(self.right, other.right)
        return found.difference > 0 and found.p_value < _CHANCE


def calibrate(network: Steps, images: Images, preprocessing: Preprocessing) -> Calibrated:
    """Choose the bounds of activations, and the precision of the stem and of the classifier.

    The bounds are those that give the fewest errors. Of errors that do not differ the logits decide
    that are nearest to those in float32. The stem or the classifier stays in float32 if that gives
    fewer errors.

    Args:
        network: the network.
        images: training images, of which `IMAGES` are used, evenly spread.
        preprocessing: the preprocessing of the network.

    Raises:
        ValueError: there are fewer than 3 images.
    """
    if len(images) < 3:
        raise ValueError(f"{images.name} has {len(images)} images; int8 is calibrated on 3 or more")
    batches = list(images.at_most(IMAGES).batches(preprocessing, _BATCH))
    # Images are interleaved, because folders are sorted by class.
    judging = [(_others(x), _others(y)) for x, y in batches]
    counts = magnitudes(network, [x[::3] for x, _ in batches])
    parts = _parts(network)
    candidates = {
        method: int8_network(network, bounds(counts, clipped))
        for method, clipped in CLIPPED.items()
    }
    scores = _scores(network, candidates, judging)
    least = min(scores.values(), key=lambda score: score.error)
    equal = {name: score for name, score in scores.items() if not least.beats(score)}
    method = min(equal, key=lambda name: equal[name].distance)
    best = bounds(counts, CLIPPED[method])
    of_parts = _scores(
        network,
        {part: int8_network(network, best, frozenset(names)) for part, names in parts.items()},
        judging,
    )
    chosen = tuple(part for part, score in of_parts.items() if score.beats(scores[method]))
    names = frozenset(name for part in chosen for name in parts[part])
    return Calibrated(
        network=int8_network(network, best, names) if chosen else candidates[method],
        method=method,
        in_float32=chosen,
        errors={name: score.error for name, score in scores.items()}
        | {f"{method}, {part} in float32": score.error for part, score in of_parts.items()},
        distances={name: score.distance for name, score in scores.items()},
        calibrated=sum(len(y[::3]) for _, y in batches),
        judged=sum(len(y) for _, y in judging),
    )


def _others(batch: np.ndarray) -> np.ndarray:
    """Return what `[::3]` leaves out."""
    return np.delete(batch, np.s_[::3], axis=0)


def _scores(
    network: Steps, candidates: Mapping[str, Network], batches: list[Batch]
) -> dict[str, _Score]:
    """Return the score of each candidate."""
    functions = {name: tf.function(run, autograph=False) for name, run in candidates.items()}
    right: dict[str, list[np.ndarray]] = {name: [] for name in candidates}
    distance = dict.fromkeys(candidates, 0.0)
    reference = tf.function(
        lambda images: network.values(images)[network.outputs["logits"]], autograph=False
    )
    for x, y in batches:
        wanted = reference(x).numpy()
        for name, function in functions.items():
            logits = function(x)["logits"].numpy()
            right[name].append(~top_k_wrong(softmax(logits), y, 1))
            distance[name] += float(np.abs(logits - wanted).mean(axis=1).sum())
    images = sum(len(y) for _, y in batches)
    return {
        name: _Score(np.concatenate(rows), distance[name] / images) for name, rows in right.items()
    }


def _parts(network: Steps) -> dict[str, set[str]]:
    """Return the names of the steps with weights of the stem and of the classifier.

    The stem reads the images, and the classifier gives the logits.
    """
    linear = {step.name for step in network.steps if isinstance(step, Convolution | Dense)}
    before = network.before()
    stem = {name for name in linear if not before[name] & linear}
    logits = network.outputs["logits"]
    scoring = linear & (before[logits] | {logits})
    classifier = scoring - set().union(*(before[name] for name in scoring))
    return {"stem": stem, "classifier": classifier}
