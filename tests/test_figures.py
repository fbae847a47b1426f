"""Charts: where points and ticks are placed."""

from xml.etree import ElementTree

import pytest

from keras_resnet.figures import line_chart


def placed(chart, kind, *attributes):
    found = ElementTree.fromstring(chart).findall(f"{{*}}{kind}")
    return [tuple(float(one.get(name)) for name in attributes) for one in found]


def test_points_are_placed_in_proportion():
    """Axes from zero to ten, so that a half is in the middle."""
    chart = line_chart("a < b", "x", "y", {"p50": [(0, 0), (5, 5), (10, 10)]})
    first, middle, last = placed(chart, "circle", "cx", "cy")
    assert first[0] < last[0] and first[1] > last[1]
    assert middle == pytest.approx([(a + b) / 2 for a, b in zip(first, last, strict=True)])
    texts = [one.text for one in ElementTree.fromstring(chart).findall("{*}text")]
    assert texts.count("10") == 2 and {"a < b", "x", "y", "p50"} <= set(texts)


@pytest.mark.parametrize(
    ("largest", "ticks"),
    [(1.0, ["0", "0.2", "0.4", "0.6", "0.8", "1"]), (37, ["0", "10", "20", "30", "40"]),
     (0, ["0", "0.2"])],
)  # fmt: skip
def test_ticks_are_round(largest, ticks):
    chart = line_chart("", "", "", {"": [(0, 0), (largest, largest)]})
    texts = [one.text for one in ElementTree.fromstring(chart).findall("{*}text")]
    assert texts[: len(ticks)] == ticks
    assert texts[len(ticks) : 2 * len(ticks)] == ticks
