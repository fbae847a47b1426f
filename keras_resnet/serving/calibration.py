"""Calibrate a network for int8 on training images, and choose by the error on others."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from ..data.preprocessing import Preprocessing
from ..evaluation.errors import softmax, top_k_wrong
from ..networks.steps import Convolution, Dense, Steps
from .int8 import Int8Network, int8_network
from .labeled_images import Images
from .quantization import CLIPPED, bounds, magnitudes

IMAGES = 1536
"""the largest number of images that are read; every third calibrates, the others choose"""
_BATCH = 96
_LEAST_GAIN = 0.1
"""the percentage points of error that the stem or the classifier in float32 must save"""

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
    calibrated: int
    """the number of images that calibrated"""
    judged: int
    """the number of images that chose"""


def calibrate(network: Steps, images: Images, preprocessing: Preprocessing) -> Calibrated:
    """Choose the bounds of activations, and the precision of the stem and of the classifier.

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
    method = min(scores, key=scores.__getitem__)
    best = bounds(counts, CLIPPED[method])
    of_parts = _scores(
        network,
        {part: int8_network(network, best, frozenset(names)) for part, names in parts.items()},
        judging,
    )
    chosen = tuple(
        part for part, score in of_parts.items() if score[0] <= scores[method][0] - _LEAST_GAIN
    )
    names = frozenset(name for part in chosen for name in parts[part])
    return Calibrated(
        network=int8_network(network, best, names) if chosen else candidates[method],
        method=method,
        in_float32=chosen,
        errors={name: score[0] for name, score in scores.items()}
        | {f"{method}, {part} in float32": score[0] for part, score in of_parts.items()},
        calibrated=sum(len(y[::3]) for _, y in batches),
        judged=sum(len(y) for _, y in judging),
    )


def _others(batch: np.ndarray) -> np.ndarray:
    """Return what `[::3]` leaves out."""
    return np.delete(batch, np.s_[::3], axis=0)


def _scores(
    network: Steps, candidates: Mapping[str, Network], batches: list[Batch]
) -> dict[str, tuple[float, float]]:
    """Return the error in percent of each candidate, and its mean difference from float32.

    The difference decides between equal errors, which are common on training images.
    """
    functions = {name: tf.function(run, autograph=False) for name, run in candidates.items()}
    wrong = dict.fromkeys(candidates, 0)
    distance = dict.fromkeys(candidates, 0.0)
    reference = tf.function(
        lambda images: network.values(images)[network.outputs["logits"]], autograph=False
    )
    for x, y in batches:
        wanted = reference(x).numpy()
        for name, function in functions.items():
            logits = function(x)["logits"].numpy()
            wrong[name] += int(top_k_wrong(softmax(logits), y, 1).sum())
            distance[name] += float(np.abs(logits - wanted).sum())
    images = sum(len(y) for _, y in batches)
    return {name: (100 * wrong[name] / images, distance[name] / images) for name in candidates}


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
