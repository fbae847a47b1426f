"""The complete state of a training, in one file that is whole or not there.

A checkpoint is a NumPy `.npz` archive: every variable of the model and its optimizer, and one JSON text for whatever
else has state. Nothing in it is pickled, and the archive's own checksums tell a damaged file. The two newest are kept,
so that there is one to fall back to.
"""

import json
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from .run import whole_file

KEPT = 2
_NOTES = "notes"


def save(folder: Path, step: int, model: keras.Model, notes: dict[str, Any]) -> Path:
    """Writes `step-NNNNNNNN.npz`, then removes all but the newest two.

    `notes` is what else there is, as JSON. Raises `OSError` where the disk is full or may not be written; the
    checkpoints that were there stay.
    """
    arrays = {name: variable.numpy() for name, variable in _variables(model)}
    path = folder / f"step-{step:08d}.npz"
    with whole_file(path) as sibling:
        # The names too, so that an entry that damage has hidden is missed.
        text = json.dumps({"names": list(arrays), "notes": notes})
        np.savez(sibling, allow_pickle=False, **{_NOTES: np.array(text)} | arrays)
    for old in _newest_first(folder)[KEPT:]:
        old.unlink(missing_ok=True)
    return path


def restore(folder: Path, model: keras.Model) -> tuple[int, dict[str, Any]] | None:
    """Puts the newest whole checkpoint into the model, which must be compiled and built.

    Returns its step and notes, or None where there is none. A damaged one is named in a warning and passed over.
    Raises `ValueError` where a whole checkpoint belongs to another model.
    """
    for path in _newest_first(folder):
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            text = json.loads(arrays.pop(_NOTES).item())
            if text["names"] != list(arrays):
                raise ValueError("its arrays are not those it was written with")
        # What zipfile, zlib and numpy raise for bytes that are cut off or changed.
        except (zipfile.BadZipFile, zlib.error, struct.error, ValueError, KeyError, EOFError, RuntimeError) as error:
            warnings.warn(f"{path} is damaged ({error}); going on from the one before", stacklevel=2)
            continue
        _assign(path, model, arrays)
        return int(path.stem.removeprefix("step-")), text["notes"]
    return None


def _assign(path: Path, model: keras.Model, arrays: dict[str, np.ndarray]) -> None:
    variables = dict(_variables(model))
    for name in sorted(variables.keys() | arrays.keys()):
        ours = tuple(variables[name].shape) if name in variables else "missing"
        theirs = arrays[name].shape if name in arrays else "missing"
        if ours != theirs:
            raise ValueError(f"{path} is of another model: {name} is {theirs} there and {ours} here")
    for name, variable in variables.items():
        variable.assign(arrays[name])


def _variables(model: keras.Model) -> Iterator[tuple[str, keras.Variable]]:
    for group, variables in {"model": model.variables, "optimizer": model.optimizer.variables}.items():
        # Numbered, because only layers have names that are the same in every process.
        for number, variable in enumerate(variables):
            yield f"{group}/{number:05d}/{variable.path if group == 'model' else variable.name}", variable


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.npz"), reverse=True)
