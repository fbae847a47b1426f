"""Say where a run comes from: command, directory, environment and versions."""

import importlib.metadata
import os
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

PACKAGES = ("keras-residual", "tensorflow", "keras", "tensorflow-datasets", "numpy")

ENVIRONMENT = ("TFDS_DATA_DIR",)
"""environment variables that set the location of data"""


def origin(folder: Path) -> dict[str, Any]:
    """Return the origin of a run that this process begins.

    Args:
        folder: the folder of the run.
    """
    return {
        # The program's own folder does not matter.
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        # The base of relative paths in the recipe.
        "directory": os.getcwd(),
        "directory_from_run": os.path.relpath(os.getcwd(), folder),
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
