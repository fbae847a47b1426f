"""Draw the figures of an explanation, and give the values of its template."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import __version__
from ..figures import COLORS
from .depth import Explained
from .drawing import LETTERS, MARKERS, columns, figure_of, label_ends, legend, short, style, svg
from .gradients import UnitGradient
from .page import Album
from .report_images import overlay

SIDE = 160
"""pixels of the longer side of an image"""

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """A line of a run."""

    run: int
    """its number, which chooses color and mark"""
    name: str
    plain: bool
    points: Points
    dashed: bool = False
    label: str = ""
    """stands at its left end, that of the first unit"""


def values(explained: Sequence[Explained], album: Album) -> dict[str, Any]:
    """Return the values of the template.

    Args:
        explained: the measurements of each run.
        album: receives the figures.
    """

    def chart(name: str, lines: list[Line], x_label: str, y_label: str, **options: Any) -> str:
        return album.add(f"{name}.svg", line_figure(lines, x_label, y_label, **options))

    def lines(points: Any, **options: Any) -> list[Line]:
        found = [
            Line(number, run.name, run.plain, points(run), **options)
            for number, run in enumerate(explained)
        ]
        return [line for line in found if line.points]

    unit, gradient = "unit, from the image to the classifier", "norm of the gradient"

    def by_depth(name: str, index: int) -> str:
        found = [
            Line(number, run.name, run.plain, _totals(both[index]), label=f"{depth}")
            for number, run in enumerate(explained)
            for depth, both in run.depths.items()
        ]
        return chart(name, found, unit, gradient, log=True) if found else ""

    shattered = [
        # Few pairs of images are farther apart, and say little.
        Line(number, run.name, run.plain, points[1 : len(points) // 2 + 1], label=f"{depth}")
        for number, run in enumerate(explained)
        for depth, points in run.correlations.items()
    ]
    during = [
        Line(number, run.name, run.plain, list(enumerate(run.during[epoch], 1)), label=f"{epoch}")
        for number, run in enumerate(explained)
        for epoch in _few(sorted(run.during))
    ]
    branches = lines(lambda run: _parts(run.trained))
    return {
        "version": __version__,
        "names": [run.name for run in explained],
        "runs": explained,
        "initial": chart(
            "gradients-initial",
            [
                *lines(lambda run: _totals(run.initial)),
                *lines(lambda run: _totals(run.initial_without_batch_norm), dashed=True),
            ],
            unit,
            gradient,
            log=True,
            dashed="without batch norm",
        ),
        "depths": by_depth("gradients-depths", 0),
        "depths_without": by_depth("gradients-depths-without-batch-norm", 1),
        "shattered": shattered
        and chart(
            "gradients-shattered",
            shattered,
            "distance of two images, as a share of the line between them",
            "cosine of their gradients",
        ),
        "landscapes": _landscapes(explained, album),
        "during": during and chart("gradients-during", during, unit, gradient, log=True),
        "trained": chart(
            "gradients-trained", lines(lambda run: _totals(run.trained)), unit, gradient, log=True
        ),
        "parts": branches
        and chart(
            "gradient-parts",
            [*lines(lambda run: _parts(run.initial), dashed=True), *branches],
            unit,
            "branch : shortcut",
            dashed="initial weights",
        ),
        "responses": chart(
            "responses",
            lines(lambda run: list(enumerate((value for _, value in run.responses), 1))),
            "layer, from the image to the classifier",
            "standard deviation of the response",
            log=True,
        ),
        "sorted_responses": chart(
            "responses-sorted",
            lines(
                lambda run: list(
                    enumerate(sorted((value for _, value in run.responses), reverse=True), 1)
                )
            ),
            "layer, by the size of its response",
            "standard deviation of the response",
            log=True,
        ),
        "maps": [
            {"name": run.name, "images": _maps(run, number, album)}
            for number, run in enumerate(explained)
        ],
        "lesions": chart(
            "lesions",
            [
                *lines(lambda run: list(enumerate((error for _, error in run.lesions), 1))),
                *lines(lambda run: [(0, run.error), (len(run.lesions), run.error)], dashed=True),
            ],
            "unit that is left out",
            "error (%)",
            dashed="whole network",
        ),
    }


def _landscapes(explained: Sequence[Explained], album: Album) -> list[dict[str, str]]:
    """Return the landscape of each run that has one, with equal colors for equal losses."""
    found = {
        number: run.landscape for number, run in enumerate(explained) if run.landscape is not None
    }
    if not found:
        return []
    losses = np.concatenate([loss[np.isfinite(loss)] for loss in found.values()])
    levels = np.geomspace(losses.min(), losses.max(), 16)
    return [
        {
            "name": explained[number].name,
            "uri": album.add(
                f"landscape-{number}.svg",
                landscape_figure(explained[number].name, loss, levels),
            ),
        }
        for number, loss in found.items()
    ]


def landscape_figure(name: str, loss: np.ndarray, levels: np.ndarray) -> bytes:
    """Draw the loss around the weights of a network, with equal colors between two levels.

    Args:
        name: the name of the run.
        loss: the loss at each point, `[n, n]`, the network's own in the middle.
        levels: the losses that are drawn, ascending.

    Returns:
        An SVG document.
    """
    from matplotlib.colors import LogNorm

    steps = np.linspace(-1, 1, len(loss))
    with style():
        figure, axes = figure_of(4.6, 3.8)
        filled = axes.contourf(
            steps,
            steps,
            np.ma.masked_invalid(loss),
            levels=levels,
            norm=LogNorm(levels[0], levels[-1]),
            cmap="viridis",
            extend="both",
        )
        axes.plot(0, 0, marker="+", color="white", markersize=9)
        axes.set_title(short(name, 2 * LETTERS), fontsize=10)
        axes.set_aspect("equal")
        axes.set_xlabel("first direction")
        axes.set_ylabel("second direction")
        bar = figure.colorbar(filled, label="loss", format=lambda value, _: f"{value:.3g}")
        bar.minorticks_off()
        return svg(figure)


def _few(epochs: list[int]) -> list[int]:
    """Return at most four epochs, evenly spread."""
    if len(epochs) <= 4:
        return epochs
    return [epochs[round(number * (len(epochs) - 1) / 3)] for number in range(4)]


def line_figure(
    lines: Sequence[Line], x_label: str, y_label: str, *, log: bool = False, dashed: str = ""
) -> bytes:
    """Draw lines, thin for plain networks and bold for residual ones.

    Args:
        lines: the lines.
        x_label: the name of the horizontal axis.
        y_label: the name of the vertical axis.
        log: whether the vertical axis is logarithmic.
        dashed: what dashed lines show.

    Returns:
        An SVG document.
    """
    from matplotlib.lines import Line2D
    from matplotlib.ticker import NullFormatter

    with style():
        figure, axes = figure_of(7.2, 4.2)
        handles = {}
        for line in lines:
            look: dict[str, Any] = {
                "color": COLORS[line.run % len(COLORS)],
                "linewidth": 1.0 if line.plain else 2.4,
                "marker": MARKERS[line.run % len(MARKERS)],
                "markersize": 4.5,
            }
            axes.plot(
                *columns(line.points),
                linestyle=(0, (4, 2)) if line.dashed else "solid",
                markevery=max(1, len(line.points) // 12),
                **look,
            )
            handles[line.run] = Line2D([], [], **look, label=short(line.name, 3 * LETTERS))
        shown = list(handles.values())
        if dashed:
            gray: dict[str, Any] = {"color": "#555555", "linewidth": 1.6}
            shown.append(Line2D([], [], linestyle=(0, (4, 2)), label=dashed, **gray))
        if log:
            axes.set_yscale("log")
            # Powers would need math text, which is off.
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            axes.set_ylim(bottom=min(0, *(y for line in lines for _, y in line.points)))
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(color="#dddddd")
        axes.margins(x=0.08)  # the names stand there
        labeled = [line for line in lines if line.label]
        ends = [(*line.points[0], line.label, COLORS[line.run % len(COLORS)]) for line in labeled]
        label_ends(axes, ends, right=False)
        legend(figure, shown)
        return svg(figure)


def _maps(run: Explained, number: int, album: Album) -> list[dict[str, Any]]:
    """Return what the template shows of a run's maps."""
    return [
        {
            "name": each.image,
            "predicted": each.predicted,
            "probability": each.probability,
            "images": {
                kind: album.add_image(f"run{number}-{row}-{stem}", image, SIDE)
                for kind, stem, image in (
                    ("image", "image", each.seen),
                    ("class activation map", "cam", overlay(each.seen, each.class_activation_map)),
                    ("Grad-CAM", "grad-cam", overlay(each.seen, each.grad_cam)),
                )
            },
        }
        for row, each in enumerate(run.maps)
    ]


def _totals(rows: Sequence[UnitGradient]) -> Points:
    return [(number, row.total) for number, row in enumerate(rows, 1)]


def _parts(rows: Sequence[UnitGradient]) -> Points:
    """Return how large the branch's part is, as a multiple of the shortcut's."""
    return [
        (number, row.branch / row.shortcut)
        for number, row in enumerate(rows, 1)
        if row.branch is not None and row.shortcut
    ]
