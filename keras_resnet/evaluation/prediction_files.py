"""Predictions in a file: the logits, the label and the content hash of every image."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..archives import read_arrays
from ..files import whole_file
from .errors import softmax, top_k_wrong

_EXPANSION = 1032
"""the most bytes that one byte of zlib's deflate format stands for"""


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What a classifier answered on each image of a split, in order."""

    logits: np.ndarray
    """float32 `[N, classes]`, whose softmax are the probabilities"""
    labels: np.ndarray
    """int32 `[N]`"""
    hashes: np.ndarray
    """uint8 `[N, 32]`, as `content_hashes` returns them"""
    class_names: tuple[str, ...]

    def right(self) -> np.ndarray:
        """Return which images are right by `top_k_error` with k = 1, bool `[N]`."""
        return ~top_k_wrong(softmax(self.logits), self.labels, 1)


def suffix(data: str | None, split: str) -> str:
    """Return what the names of files say about the data that was tested.

    Args:
        data: the name of a data set; None for a run's own.
        split: the part of it.

    Returns:
        "" for the test split of a run's own data.
    """
    return "-".join([*([data] if data else []), *([split] if split != "test" else [])])


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write predictions as a compressed `.npz` file, whole or not at all.

    Args:
        path: of the file.
        predictions: its content.
    """
    with whole_file(path) as sibling:
        np.savez_compressed(
            sibling,
            logits=predictions.logits,
            labels=predictions.labels,
            hashes=predictions.hashes,
            class_names=np.array(predictions.class_names, dtype=str),
        )


def read_predictions(path: Path) -> Predictions:
    """Read predictions.

    Args:
        path: of the file that `write_predictions` wrote.

    Raises:
        ValueError: the file is damaged, or holds something else; it is named.
        OSError: the file cannot be opened.
    """
    try:
        arrays = read_arrays(path, _EXPANSION)
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); evaluate again") from None
    if missing := {"logits", "labels", "hashes", "class_names"} - arrays.keys():
        raise ValueError(
            f"{path} has no {min(missing)}; an earlier version wrote it: evaluate again"
        )
    logits, labels, hashes, names = (
        arrays[name] for name in ("logits", "labels", "hashes", "class_names")
    )
    images, classes = labels.size, names.size
    kinds = {
        "logits": (logits, "f", (images, classes)),
        "labels": (labels, "i", (images,)),
        "hashes": (hashes, "u", (images, 32)),
        "class_names": (names, "U", (classes,)),
    }
    for name, (array, kind, shape) in kinds.items():
        if array.dtype.kind != kind or array.shape != shape:
            raise ValueError(
                f"{path} is damaged: {name} is {array.dtype} of shape {array.shape}, not {shape}"
            )
    if not images or not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"{path} is damaged: its labels are not those of {classes} classes")
    return Predictions(
        logits=logits, labels=labels, hashes=hashes, class_names=tuple(names.tolist())
    )
