"""Draw charts with matplotlib as SVG, in one style."""

import io
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from ..terminal import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "os^DvPX"
"""a mark per run, so that curves differ by more than color"""
LETTERS = 18
"""the longest name on an axis"""
_LINE_HEIGHT = 0.042
"""of a name beside a line, as a share of the height of the axes"""
_STYLE: dict[Any, Any] = {
    # Text stays text, so that a browser shows the letters that matplotlib's own font lacks.
    "svg.fonttype": "none",
    "svg.hashsalt": "keras_resnet",  # the same figure has the same bytes
    "text.parse_math": False,  # a name can contain dollar signs
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def style() -> AbstractContextManager[None]:
    """Return a context in which matplotlib draws in the style of the pages."""
    from matplotlib import rc_context

    return rc_context(_STYLE)


def figure_of(width: float, height: float) -> tuple["Figure", "Axes"]:
    """Return an empty figure of a size in inches, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def columns(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Return the x and the y of points."""
    return [x for x, _ in points], [y for _, y in points]


def short(name: str, letters: int = LETTERS) -> str:
    """Return a name as it can stand in a figure: printable, and not too long."""
    shown = printable(name)
    return shown if len(shown) <= letters else f"{shown[: letters - 1]}…"


def svg(figure: "Figure") -> bytes:
    """Return a figure as an SVG document."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        # Only the width of a text is measured with matplotlib's font, which lacks many letters.
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        figure.savefig(file, format="svg", dpi=130, metadata={"Date": None, "Creator": None})
    return file.getvalue()


def label_ends(axes: "Axes", ends: Sequence[tuple[float, float, str, str]], *, right: bool) -> None:
    """Write the names of lines beside their ends, one above the other where they would overlap.

    Args:
        axes: with its limits and lines.
        ends: the x and y of each end, its name and its color.
        right: whether the names stand to the right of the ends.
    """
    axes.get_ylim()  # brings the limits up to date
    to_axes = axes.transData + axes.transAxes.inverted()
    placed = sorted((*to_axes.transform((x, y)), name, color) for x, y, name, color in ends)
    last = -1.0
    for x, y, name, color in sorted(placed, key=lambda end: end[1]):
        last = max(min(y, 1.0), last + _LINE_HEIGHT)
        axes.annotate(
            name,
            (x, last),
            xycoords="axes fraction",
            xytext=(7 if right else -7, 0),
            textcoords="offset points",
            ha="left" if right else "right",
            va="center",
            fontsize=8,
            color=color,
        )


def legend(figure: "Figure", handles: Sequence[Any]) -> None:
    """Explain lines below a figure, in three columns if their names are short."""
    labels = [str(handle.get_label()) for handle in handles]
    count = 3 if max(map(len, labels)) <= LETTERS else 1
    figure.legend(handles, labels, loc="outside lower center", ncols=count, frameon=False)
