"""Figures from arrays."""

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

import numpy as np

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000")
"""of Okabe and Ito's palette, which color-blind people can tell apart, and dark enough on white"""
_VIRIDIS = (
    (68, 1, 84), (71, 45, 123), (59, 82, 139), (44, 114, 142), (33, 145, 140), (39, 173, 129),
    (92, 200, 99), (170, 220, 50), (253, 231, 37),
)  # fmt: skip
"""the colors at eighths of the map by Smith and van der Walt, the default of Matplotlib"""
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 400, 64, 80, 40, 52
"""the size of a chart and its margins in pixels"""


def image_grid(images: np.ndarray, columns: int = 8) -> np.ndarray:
    """Arrange images in a grid, row by row, and fill the rest with white.

    Args:
        images: uint8 `[N, H, W, 3]`.
        columns: images per row.

    Returns:
        uint8 `[rows * H, columns * W, 3]`.
    """
    blanks = ((0, -len(images) % columns), (0, 0), (0, 0), (0, 0))
    images = np.pad(images, blanks, constant_values=255)
    rows, height, width = len(images) // columns, *images.shape[1:3]
    grid = images.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    return grid.reshape(rows * height, columns * width, 3)


def viridis(values: np.ndarray) -> np.ndarray:
    """Return colors from dark blue to yellow, which color-blind people can order.

    Args:
        values: numbers in 0 to 1, `[...]`.

    Returns:
        uint8 RGB `[..., 3]`.
    """
    places = np.linspace(0, 1, len(_VIRIDIS))
    channels = [np.interp(values, places, channel) for channel in zip(*_VIRIDIS, strict=True)]
    return np.round(np.stack(channels, axis=-1)).astype(np.uint8)


def line_chart(
    title: str, x_label: str, y_label: str, series: Mapping[str, Sequence[tuple[float, float]]]
) -> str:
    """Draw lines through points, on axes that begin at zero.

    Args:
        title: above the chart.
        x_label: below the horizontal axis.
        y_label: above the vertical axis.
        series: up to five lines by name, each of points (x, y) that are not negative.

    Returns:
        An SVG document.
    """
    points = [point for line in series.values() for point in line]
    x_ticks, y_ticks = (_ticks(max(point[axis] for point in points)) for axis in (0, 1))

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = x / x_ticks[-1], y / y_ticks[-1]
        return (
            _LEFT + across * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM),
        )

    def text(x: float, y: float, content: str, anchor: str, more: str = "") -> str:
        return (
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(content)}</text>'
        )

    parts = []
    for tick in y_ticks:
        (left, y), (right, _) = place(0, tick), place(x_ticks[-1], tick)
        parts.append(f'<path d="M{left:.1f} {y:.1f}H{right:.1f}" stroke="#ddd"/>')
        parts.append(text(left - 6, y + 4, f"{tick:g}", "end"))
    for tick in x_ticks:
        x, y = place(tick, 0)
        parts.append(text(x, y + 18, f"{tick:g}", "middle"))
    for (name, line), color in zip(series.items(), COLORS, strict=False):
        places = [place(x, y) for x, y in line]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(f'<path d="M{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in places]
        x, y = places[-1]
        parts.append(text(x + 8, y + 4, name, "start", f' fill="{color}"'))
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(text(middle, _HEIGHT - 12, x_label, "middle"))
    parts.append(text(8, _TOP - 8, y_label, "start"))
    parts.append(text(middle, 18, title, "middle", ' font-weight="bold"'))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">\n'
        '<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _ticks(largest: float) -> list[float]:
    """Return two to six round numbers from zero to one that is not below the largest."""
    rough = (largest or 1.0) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    count = max(1, math.ceil(largest / step - 1e-9))
    return [step * number for number in range(count + 1)]
