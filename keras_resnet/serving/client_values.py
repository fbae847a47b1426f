"""Values that clients of TF Serving exchange with it, the same over REST and gRPC."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_RETRIES = 4
"""the most that gRPC allows"""
SIGNATURE = "serving_default"
CLASSIFY_SIGNATURE = "classify"


@dataclass(frozen=True, kw_only=True)
class Target:
    """Name a model of a server, and optionally one of its versions by number or by label.

    Raises:
        ValueError: both a version and a label are given, or one of the values is not usable.
    """

    model: str
    version: int | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        if not self.model or set(self.model) & set("/:"):
            raise ValueError(f"model is {self.model!r}; give a name without / and :")
        if self.version is not None and self.label is not None:
            raise ValueError(
                f"version is {self.version} and label is {self.label!r}; give at most one of them"
            )
        if self.version is not None and not 0 <= self.version < 2**63:
            raise ValueError(f"version is {self.version}; give the number of a version")
        if self.label is not None and (not self.label or set(self.label) & set("/:")):
            raise ValueError(f"label is {self.label!r}; give a name without / and :")


@dataclass(frozen=True, kw_only=True)
class Connection:
    """Say how to reach a server.

    Raises:
        ValueError: `timeout` or `retries` is out of range.
    """

    timeout: float = 30.0
    """seconds to wait for an answer, including all attempts"""
    retries: int = 2
    """how often to ask a server again that is overloaded or cannot be reached"""
    certificates: bytes | None = None
    """PEM certificates of the authorities to trust with TLS; None: those of the system"""

    def __post_init__(self) -> None:
        if not 0 < self.timeout < math.inf:
            raise ValueError(f"timeout is {self.timeout:g}; give a positive number of seconds")
        if not 0 <= self.retries <= MAX_RETRIES:
            raise ValueError(f"retries is {self.retries}; give 0 to {MAX_RETRIES}")


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The answer for one image. An image that the server cannot read has no classes."""

    classes: tuple[str, ...]
    """the names of the most probable classes, best first"""
    scores: tuple[float, ...]
    """the probability of each of them"""
    probabilities: tuple[float, ...] = ()
    """the probability of every class in the model's order; empty from the Classify API"""

    def best(self, top: int) -> "Prediction":
        """Return the prediction with at most `top` classes."""
        return Prediction(
            classes=self.classes[:top], scores=self.scores[:top], probabilities=self.probabilities
        )


@dataclass(frozen=True, kw_only=True)
class VersionStatus:
    """The state of one version: START, LOADING, AVAILABLE, UNLOADING or END."""

    version: int
    state: str
    error: str = ""
    """why it could not be loaded"""


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """The signatures of the version that answers."""

    version: int
    signatures: dict[str, dict[str, dict[str, str]]]
    """dtype and shape of each tensor, by signature, by `inputs` or `outputs`, and by name"""


def prediction(
    classes: Sequence[str], scores: Sequence[float], probabilities: Sequence[float] = ()
) -> Prediction:
    """Make the prediction of one row of an answer.

    An export answers an image that it cannot read with empty names and scores of zero.

    Args:
        classes: names of the best classes `[k]`.
        scores: their probabilities `[k]`.
        probabilities: those of all classes `[classes]`, if they were asked for.

    Raises:
        ValueError: a score is not finite, or the numbers of classes and scores differ.
    """
    if len(classes) != len(scores):
        raise ValueError(f"it has {len(classes)} classes and {len(scores)} scores")
    if not all(map(math.isfinite, (*scores, *probabilities))):
        raise ValueError("it has scores that are not finite")
    if not any(scores):
        return Prediction(classes=(), scores=())
    return Prediction(
        classes=tuple(classes), scores=tuple(scores), probabilities=tuple(probabilities)
    )


def signatures(graph: Mapping[str, Any]) -> dict[str, dict[str, dict[str, str]]]:
    """Return the signatures of the JSON form of a `SignatureDefMap`, as `Metadata` has them."""
    return {
        name: {
            direction: {
                key: _kind(info) for key, info in sorted(signature.get(direction, {}).items())
            }
            for direction in ("inputs", "outputs")
        }
        for name, signature in sorted(graph.items())
        if name != "__saved_model_init_op"
    }


def _kind(info: Mapping[str, Any]) -> str:
    """Return a text such as `float [?, 10]`."""
    dtype = info["dtype"].removeprefix("DT_").lower()
    shape = info["tensor_shape"]
    if shape.get("unknown_rank"):
        return f"{dtype} of any shape"
    sizes = [int(dim["size"]) for dim in shape.get("dim", ())]
    return f"{dtype} [{', '.join('?' if size < 0 else str(size) for size in sizes)}]"
