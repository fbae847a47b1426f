"""Draw the charts of a report as SVG: training curves, reliability diagrams, confusion matrices."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..figures import COLORS
from .drawing import LETTERS, MARKERS, columns, figure_of, label_ends, legend, short, style, svg
from .temperature import Reliability

NAMED = 30
"""the largest number of classes whose names fit beside a confusion matrix"""
COUNTED = 15
"""the largest number of classes whose counts fit into a confusion matrix"""
PIXELS = 250
"""the largest number of rows of a confusion matrix that are drawn"""
_AXIS = 2.5
"""the end of the axis of errors, as a multiple of the largest last error: 20 % for ResNet-20 in
Figure 6"""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Errors of a run in percent during training, as `[(x, error), ...]`."""

    name: str
    plain: bool
    """whether the network has no shortcuts"""
    training: list[tuple[float, float]]
    test: list[tuple[float, float]]


def training_curves(curves: Sequence[Curve], x_label: str) -> bytes:
    """Draw errors during training as Figure 6 of the paper does.

    Plain networks are thin and residual ones bold; training errors are dashed and test errors
    solid.

    Args:
        curves: one per run.
        x_label: the unit of the horizontal axis.

    Returns:
        An SVG document.
    """
    from matplotlib.lines import Line2D

    with style():
        figure, axes = figure_of(7.2, 4.2)
        handles = []
        for number, curve in enumerate(curves):
            look: dict[str, Any] = {
                "color": COLORS[number % len(COLORS)],
                "linewidth": 1.0 if curve.plain else 2.4,
                "marker": MARKERS[number % len(MARKERS)],
                "markersize": 4.5,
            }
            for points, dashes in ((curve.training, (0, (4, 2))), (curve.test, "solid")):
                every = max(1, len(points) // 8)
                axes.plot(*columns(points), linestyle=dashes, markevery=every, **look)
            handles.append(Line2D([], [], **look, label=short(curve.name, 3 * LETTERS)))
        gray: dict[str, Any] = {"color": "#555555", "linewidth": 1.6}
        handles += [
            Line2D([], [], linestyle="solid", label="test or validation", **gray),
            Line2D([], [], linestyle=(0, (4, 2)), label="training", **gray),
        ]
        last = [points[-1][1] for c in curves for points in (c.training, c.test) if points]
        axes.set_ylim(0, min(100.0, 5 * np.ceil(_AXIS * max(last, default=100.0) / 5) or 5))
        axes.set_xlim(left=0)
        axes.set_xlabel(x_label)
        axes.set_ylabel("error (%)")
        axes.grid(color="#dddddd")
        ends = [
            (*points[-1], short(curve.name), COLORS[number % len(COLORS)])
            for number, curve in enumerate(curves)
            if (points := curve.test or curve.training)
        ]
        label_ends(axes, ends, right=True)
        legend(figure, handles)
        return svg(figure)


def reliability_diagram(found: Reliability) -> bytes:
    """Draw the share of right images by confidence, with the number of images per bin below.

    Args:
        found: the bins.

    Returns:
        An SVG document.
    """
    from matplotlib.figure import Figure

    bins = len(found.images)
    with np.errstate(invalid="ignore"):  # empty bins are not drawn
        right, confidence = (100 * each / found.images for each in (found.right, found.confidence))
    left = np.linspace(0, 100, bins + 1)[:-1]
    with style():
        figure = Figure(figsize=(5.4, 5.0), layout="constrained")
        upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 1))
        upper.plot([0, 100], [0, 100], color="#555555", linestyle="dashed", zorder=3,
                   label="calibrated")  # fmt: skip
        upper.bar(left, right, 100 / bins, align="edge", color=COLORS[0], edgecolor="white",
                  label="right images")  # fmt: skip
        upper.plot(confidence, right, "o", color="black", markersize=4, label="mean confidence")
        upper.set_ylabel("right images (%)")
        upper.set_ylim(0, 100)
        upper.set_xlim(0, 100)
        upper.legend(loc="upper left", frameon=False)
        lower.bar(left, found.images, 100 / bins, align="edge", color="#777777", edgecolor="white")
        lower.set_ylabel("images")
        lower.set_xlabel("confidence (%)")
        return svg(figure)


def confusion_image(confusion: np.ndarray, names: Sequence[str]) -> bytes:
    """Draw a confusion matrix, colored by the share of the images of each true class.

    Args:
        confusion: int `[classes, classes]`, with one row per true class.
        names: the class names; they are numbered on the axes if they are many.

    Returns:
        An SVG document. Of many classes, each pixel of the matrix is the largest share of a block
        of neighbors, so that the document stays small and no confusion fades.
    """
    from matplotlib.colors import PowerNorm

    images = confusion.sum(axis=1, keepdims=True)
    shares = 100 * confusion / np.maximum(images, 1)
    classes = len(names)
    block = math.ceil(classes / PIXELS)
    pooled = np.pad(shares, (0, -classes % block)).reshape(-(-classes // block), block, -1, block)
    edge = block * pooled.shape[0] - 0.5
    with style():
        figure, axes = figure_of(5.4, 5.0)
        # The square root shows single mistakes beside a diagonal of thousands.
        shown = axes.imshow(
            pooled.max(axis=(1, 3)),
            cmap="Blues",
            norm=PowerNorm(0.5, 0, 100),
            extent=(-0.5, edge, edge, -0.5),
        )
        figure.colorbar(shown, label="images of the true class (%)", shrink=0.8)
        if classes <= NAMED:
            labels = [short(name) for name in names]
            axes.set_xticks(range(classes), labels, rotation=90, fontsize=8)
            axes.set_yticks(range(classes), labels, fontsize=8)
        if classes <= COUNTED:
            for row, column in zip(*np.nonzero(confusion), strict=True):
                color = "white" if shares[row, column] > 30 else "black"
                count = str(confusion[row, column])
                axes.text(column, row, count, color=color, ha="center", va="center", fontsize=7)
        unit = "" if classes <= NAMED else " (number)"
        axes.set_xlabel(f"predicted class{unit}")
        axes.set_ylabel(f"true class{unit}")
        return svg(figure)
