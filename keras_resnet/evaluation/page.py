"""Write a page: one HTML file with its images in it, which opens without a network."""

import base64
import importlib.util
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..files import whole_file, write_text
from ..runs.run import Run
from ..terminal import printable

MAX_BYTES = 2_000_000
"""the largest page"""
PACKAGES = ("jinja2", "matplotlib")
SMALL = 64
"""the longest side in pixels of an image that becomes PNG; larger ones become JPEG"""
_TYPES = {"svg": "image/svg+xml", "png": "image/png", "jpg": "image/jpeg"}


class Album:
    """Image files by their names."""

    def __init__(self) -> None:
        self._images: dict[str, bytes] = {}

    def add(self, name: str, content: bytes) -> str:
        """Add an image file.

        Args:
            name: of its file, which ends in `.svg`, `.png` or `.jpg`.
            content: of the file.

        Returns:
            The data URI that shows the image.
        """
        self._images[name] = content
        kind = _TYPES[name.rpartition(".")[2]]
        return f"data:{kind};base64,{base64.b64encode(content).decode()}"

    def add_image(self, stem: str, image: np.ndarray, side: int) -> str:
        """Add an image, as PNG if it is small, otherwise as JPEG.

        Args:
            stem: the name of its file without the suffix.
            image: uint8 `[H, W, 3]`.
            side: pixels that the longer side of a larger image is reduced to.

        Returns:
            The data URI that shows the image.
        """
        pixels = Image.fromarray(image)
        pixels.thumbnail((side, side), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        if max(pixels.size) <= SMALL:
            pixels.save(file, "PNG", optimize=True)
            return self.add(f"{stem}.png", file.getvalue())
        pixels.save(file, "JPEG", quality=82)
        return self.add(f"{stem}.jpg", file.getvalue())

    def write(self, folder: Path) -> None:
        """Write every image file into a folder.

        Args:
            folder: it is created.
        """
        for name, content in self._images.items():
            with whole_file(folder / name) as sibling:
                sibling.write_bytes(content)


def require_packages(what: str) -> None:
    """Raise `ValueError` if a package of the extra `report` is not installed.

    Args:
        what: what needs them.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"{what} needs {' and '.join(missing)}; pip install 'keras-residual[report]'"
        )


def file_of(runs: Sequence[Run], to: Any, name: str) -> Path:
    """Return the file to write.

    Args:
        runs: the runs that the page is about.
        to: a path, or None for a file in the folder of a single run.
        name: the name of that file.

    Raises:
        ValueError: no run is given, `to` is missing for several, or is a folder.
    """
    if not runs:
        raise ValueError("no run is given; give one or more")
    if to is None and len(runs) > 1:
        raise ValueError(
            f"to is None; give the file for the page on {len(runs)} runs, such as {name}"
        )
    file = runs[0].path / name if to is None else Path(to)
    if file.is_dir():
        raise ValueError(f"to is {str(file)!r}, a folder; give a file in it, such as {name}")
    return file


def write_page(file: Path, template: str, values: Mapping[str, Any]) -> None:
    """Render a template of this folder, and write the page.

    Args:
        file: the file to write.
        template: the name of the template's file.
        values: the values of its variables. All are escaped.

    Raises:
        ValueError: the page would be larger than `MAX_BYTES`.
        OSError: the file cannot be written.
    """
    page = _rendered(template, values)
    size = len(page.encode())
    if size > MAX_BYTES:
        raise ValueError(
            f"the page has {size / 1e6:.1f} MB, and {MAX_BYTES / 1e6:.0f} MB are allowed; give"
            " fewer runs"
        )
    write_text(file, page)


def _rendered(template: str, values: Mapping[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Names of other people's have no invisible characters that turn or hide text.
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    return environment.get_template(template).render(values)
