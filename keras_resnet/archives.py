"""NumPy archives (`.npz`), judged before memory is allocated for their arrays."""

import math
import zipfile
from pathlib import Path

import numpy as np


def read_arrays(path: Path, expansion: int = 1) -> dict[str, np.ndarray]:
    """Read all arrays of an archive, without pickle.

    Args:
        path: of the `.npz` file.
        expansion: bytes of arrays that one byte of the file may stand for; 1 if they are not
            compressed.

    Returns:
        The arrays by name, in the order in which they were written.

    Raises:
        ValueError: the file is damaged, or declares larger arrays than it holds.
        OSError: the file cannot be opened.
    """
    with open(path, "rb") as file:
        try:
            _require_plausible_sizes(path, expansion)
            with np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        # zipfile and numpy raise almost any exception for truncated or changed bytes, and the
        # operating system raises others for bytes it cannot read.
        except Exception as error:
            raise ValueError(str(error) or type(error).__name__) from None


def _require_plausible_sizes(path: Path, expansion: int) -> None:
    """Raise `ValueError` if arrays declare more bytes than the file has; read none of them."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > expansion * path.stat().st_size:
            raise ValueError("it declares more than it holds")
        for member in members:
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                if version not in ((1, 0), (2, 0)):
                    raise ValueError(f"an array is of version {version}")
                header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
                shape, _, dtype = header(file)
                if math.prod(shape) * dtype.itemsize > member.file_size:
                    raise ValueError(f"{member.filename} declares more than it holds")
