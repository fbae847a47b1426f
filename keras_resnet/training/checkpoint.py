"""Save the complete state of a training in one file, written atomically.

A checkpoint is a NumPy `.npz` archive without pickles. It holds every variable of the model and
its optimizer, the best weights so far if the training keeps them, and JSON for all other state.
The archive's checksums reveal a damaged file. The two newest checkpoints are kept, in case the
last one is damaged.
"""

import json
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ..archives import read_arrays
from ..files import whole_file
from .optimizer import without_loss_scale

KEPT = 2
_NOTES = "notes"
_BEST = "best"


def save(
    folder: Path,
    step: int,
    model: keras.Model,
    notes: dict[str, Any],
    best: Sequence[np.ndarray] | None = None,
) -> Path:
    """Write `step-NNNNNNNN.npz`, then remove all but the two newest checkpoints.

    Args:
        folder: the folder of the checkpoints.
        step: the number of training steps done.
        model: a compiled and built model.
        notes: other state that JSON can hold.
        best: the best weights so far, if the training keeps them.

    Raises:
        OSError: the disk is full or not writable. Earlier checkpoints are left untouched.
    """
    arrays = {name: variable.numpy() for name, variable in _variables(model)}
    arrays |= {f"{_BEST}/{number:05d}": weight for number, weight in enumerate(best or ())}
    path = folder / f"step-{step:08d}.npz"
    with whole_file(path) as sibling:
        # The list of names reveals an entry that damage has hidden.
        text = json.dumps({"names": list(arrays), "notes": notes})
        np.savez(sibling, allow_pickle=False, **{_NOTES: np.array(text)} | arrays)
    for old in _newest_first(folder)[KEPT:]:
        old.unlink(missing_ok=True)
    return path


def restore(
    folder: Path, model: keras.Model
) -> tuple[int, dict[str, Any], list[np.ndarray] | None] | None:
    """Restore the newest intact checkpoint, and skip damaged ones with a warning.

    Args:
        folder: the folder of the checkpoints.
        model: a compiled and built model.

    Returns:
        The step, the notes and the best weights, or None without a checkpoint.

    Raises:
        ValueError: an intact checkpoint belongs to another model.
    """
    for path in _newest_first(folder):
        try:
            arrays = read_arrays(path)
            text = json.loads(arrays.pop(_NOTES).item())
            if text["names"] != list(arrays):
                raise ValueError("its list of arrays does not match its arrays")
        except Exception as error:  # the notes of a damaged file can hold anything
            warnings.warn(
                f"{path} is damaged ({error}); trying the previous checkpoint", stacklevel=2
            )
            continue
        best = [arrays.pop(name) for name in text["names"] if name.startswith(f"{_BEST}/")]
        _assign(path, model, arrays)
        return _step(path), text["notes"], best or None
    return None


def _assign(path: Path, model: keras.Model, arrays: dict[str, np.ndarray]) -> None:
    variables = dict(_variables(model))
    for name in sorted(variables.keys() | arrays.keys()):
        expected = tuple(variables[name].shape) if name in variables else "missing"
        stored = arrays[name].shape if name in arrays else "missing"
        if stored != expected:
            raise ValueError(
                f"{path} belongs to another model: {name} is {stored} in it and {expected} in this"
                " one"
            )
    for name, variable in variables.items():
        variable.assign(arrays[name])


def _variables(model: keras.Model) -> Iterator[tuple[str, keras.Variable]]:
    for group, variables in {
        "model": model.variables,
        "optimizer": model.optimizer.variables,
        "average": getattr(without_loss_scale(model.optimizer), "statistics_averages", ()),
    }.items():
        # Numbered, because only the names of layers are the same in every process.
        for number, variable in enumerate(variables):
            yield (
                f"{group}/{number:05d}/{variable.path if group == 'model' else variable.name}",
                variable,
            )


def _newest_first(folder: Path) -> list[Path]:
    numbered = [path for path in folder.glob("step-*.npz") if re.fullmatch(r"step-\d+", path.stem)]
    return sorted(numbered, key=_step, reverse=True)


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))
