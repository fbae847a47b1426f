"""Find the trained networks that come with the package.

`pretrained/` has a folder per data set, with a weight file per network in half precision and the
preprocessing of their images, which is `PREPROCESSING[data_set]`; and `manifest.json`, which says
how each was trained and how well it does. `scripts/ship_weights.py` writes all of it.
"""

import hashlib
from pathlib import Path
from typing import Any

from ..files import read_json
from .paper import NETWORKS
from .spec import ResNetSpec

FOLDER = Path(__file__).with_name("pretrained")
DATA_SETS = ("cifar10",)
"""the data sets that networks are trained on"""


def manifest() -> dict[str, dict[str, dict[str, Any]]]:
    """Return how each network was trained and tested, by data set and network."""
    return read_json(FOLDER / "manifest.json")


def weights_of(data_set: str, spec: ResNetSpec) -> Path:
    """Return the path of a network's trained weights.

    Args:
        data_set: one of `DATA_SETS`.
        spec: the network.

    Raises:
        ValueError: there are none for this network, or the file is damaged.
    """
    trained = manifest()[data_set]
    name = next((name for name in trained if NETWORKS[name] == spec), None)
    if name is None:
        choices = ", ".join(f"{one} (shortcut {NETWORKS[one].shortcut!r})" for one in trained)
        raise ValueError(
            f"weights is {data_set!r}, for which there are trained weights of {choices}, not of"
            f" {spec.name} with shortcut {spec.shortcut!r}, stride_on {spec.stride_on!r} and order"
            f" {spec.order!r}"
        )
    file = weights_file(data_set, name)
    if not file.is_file() or sha256(file) != trained[name]["sha256"]:
        raise ValueError(f"{file} is missing or damaged; install the package again")
    return file


def weights_file(data_set: str, network: str) -> Path:
    """Return where the weights of a network are.

    Args:
        data_set: one of `DATA_SETS`.
        network: the name of the network in `NETWORKS`.
    """
    assert network in NETWORKS
    return _folder(data_set) / f"{network}.weights.h5"


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _folder(data_set: str) -> Path:
    assert data_set in DATA_SETS
    return FOLDER / data_set
