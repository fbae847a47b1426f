"""Run the examples of keras_resnet/data/README.md in order, in one namespace."""

import re
from pathlib import Path

import numpy as np
import pytest

from keras_resnet import data

README = Path(data.__file__).with_name("README.md")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def names():
    """Run every Python block, and return the variables."""
    found = {}
    for block in re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, str(README), "exec"), found)
    return found


def test_every_example_runs(names):
    assert (len(names["digits"].train), names["hashes"].shape) == (1437, (50, 32))
    assert names["bigger"].resize == 252 and names["again"] == names["preprocessing"]
    assert names["inputs"].shape == (50, 32, 32, 3)
    assert len(names["views"]) == 10 and names["views"][0].shape == (10, 32, 32, 3)
    assert names["keras_default"].aspect == "stretch"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar_batches", "imagenet_batches"])
def test_batches_of_the_examples_are_the_views_of_their_steps(names, name):
    found = list(names[name].take(5).as_numpy_iterator())
    again = list(names[name].take(5).as_numpy_iterator())
    assert [images.shape[0] for images, _ in found] == [16] * 5
    assert all(images.dtype == np.float32 for images, _ in found)
    if name == "imagenet_batches":
        assert all((a == b).all() for (a, _), (b, _) in zip(found, again, strict=True))
        jpegs = [names["jpegs"][i % 50] for i in range(16, 32)]
        place = {"seed": 0, "step": 1}
        wanted = data.augmentation.scale_crop_flip(jpegs, size=32, **place)
        wanted = data.augmentation.lighting(wanted, deviation=0.1, **place)
        np.testing.assert_array_equal(found[1][0], wanted)


def test_the_batches_of_the_example_are_endless(names):
    images, labels = next(iter(names["batches"]))
    assert images.shape == (64, 8, 8, 3) and labels.shape == (64, 10)
    images, targets = next(iter(names["mixed_batches"]))
    assert images.shape == (16, 40, 60, 3) and targets.shape == (16, 5)


def test_figures_equal_the_results():
    """The rows of the table of speeds, and the seconds and ratio of a folder."""
    text = README.read_text(encoding="utf-8")
    results = (ROOT / "scripts/results/bench_input.txt").read_text(encoding="utf-8")
    medians = dict(re.findall(r"^(\S.*?)  +(\d+) \(", results, re.MULTILINE))
    for row, two_taps, antialiased in [
        ("this package", "ours, 2 taps", "ours, antialiased"),
        ("resize, then crop", "PIL, 2 taps, then crop", "PIL, antialiased, then crop"),
        ("of the crop alone", "PIL, 2 taps, of the crop", "PIL, antialiased, of the crop"),
        ("decode, resize", "tf.data, 2 taps, then crop", "tf.data, antialiased, then crop"),
    ]:
        assert re.search(rf"{row}.* \| {medians[two_taps]} \| {medians[antialiased]} \|", text)
    folder = (ROOT / "scripts/results/bench_folder.txt").read_text(encoding="utf-8")
    load, alone = (
        float(re.search(rf"^{name} +median ([\d.]+)", folder, re.MULTILINE)[1])
        for name in ("load", "tf.data alone")
    )
    assert f"takes {load + 1e-9:.1f} seconds" in text and f"{load / alone:.1f} times" in text
