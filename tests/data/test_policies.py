"""Test the operations and strengths that the policies choose, and their application."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from keras_resnet.data import operations, policies

# torchvision.transforms.TrivialAugmentWide with 31 strengths: the largest magnitude, and whether a
# sign is drawn.
MAGNITUDES = {
    "shear_x": [0.99 * i / 30 for i in range(31)],
    "shear_y": [0.99 * i / 30 for i in range(31)],
    "translate_x": [32 * i // 30 for i in range(31)],
    "translate_y": [32 * i // 30 for i in range(31)],
    "rotate": [135 * i / 30 for i in range(31)],
    "brightness": [0.99 * i / 30 for i in range(31)],
    "color": [0.99 * i / 30 for i in range(31)],
    "contrast": [0.99 * i / 30 for i in range(31)],
    "sharpness": [0.99 * i / 30 for i in range(31)],
}
FACTORS = ("brightness", "color", "contrast", "sharpness")
UNSIGNED = {
    "posterize": [8 - round(i / 5) for i in range(31)],
    "solarize": [255 * (30 - i) / 30 for i in range(31)],
}
WITHOUT = ("identity", "autocontrast", "equalize")


@pytest.fixture
def applied(monkeypatch):
    """Record `(name, amounts)` of each layer, in the order of the images."""
    layers = []

    def apply(names, images, choice, amounts, fill):
        layers.append((np.array(names)[choice.numpy()], amounts.numpy()))
        return images

    monkeypatch.setattr(policies, "_apply", apply)
    return layers


def equally_likely(values, choices):
    found = [(values == choice).sum() for choice in choices]
    assert sum(found) == len(values)
    return stats.chisquare(found).pvalue > 1e-3


def test_trivial_augment_chooses_like_torchvision(applied):
    count = 40_000
    policies.trivial_augment(tf.zeros([count, 1, 1, 3]), seed=1, step=2)
    ((names, amounts),) = applied
    assert equally_likely(names, [*MAGNITUDES, *UNSIGNED, *WITHOUT])
    for name, magnitudes in MAGNITUDES.items():
        drawn = amounts[names == name].astype(np.float64) - (name in FACTORS)
        signs = np.sign(drawn[drawn != 0])
        assert stats.binomtest(int((signs > 0).sum()), len(signs)).pvalue > 1e-3
        nearest = np.abs(np.abs(drawn)[:, np.newaxis] - magnitudes)
        assert nearest.min(axis=1).max() < 1e-5
        if not name.startswith("translate"):  # two of its strengths are equal in pixels
            assert equally_likely(nearest.argmin(axis=1), range(31))
        assert {round(abs(x), 4) for x in drawn} == {round(x, 4) for x in magnitudes}
    for name, wanted in UNSIGNED.items():
        drawn = amounts[names == name]
        values, shares = np.unique(wanted, return_counts=True)
        places = np.abs(drawn[:, np.newaxis] - values).argmin(axis=1)
        np.testing.assert_allclose(drawn, values[places], atol=1e-4)
        found = np.bincount(places, minlength=len(values))
        assert stats.chisquare(found, shares / 31 * len(drawn)).pvalue > 1e-3


# timm's increasing arguments by strength, with `_LEVEL_DENOM` 10. The sign is drawn if two are
# given.
BY_TIMM = {
    "autocontrast": lambda level: None,
    "equalize": lambda level: None,
    "invert": lambda level: None,
    "rotate": lambda level: (level / 10 * 30, -level / 10 * 30),
    "posterize": lambda level: (4 - int(level / 10 * 4),),
    "solarize": lambda level: (256 - min(256, int(level / 10 * 256)),),
    "solarize_add": lambda level: (min(128, int(level / 10 * 110)),),
    **{
        name: lambda level: (1 + level / 10 * 0.9, max(0.1, 1 - level / 10 * 0.9))
        for name in FACTORS
    },
    "shear_x": lambda level: (level / 10 * 0.3, -level / 10 * 0.3),
    "shear_y": lambda level: (level / 10 * 0.3, -level / 10 * 0.3),
    "translate_x": lambda level: (level / 10 * 0.45 * 20, -level / 10 * 0.45 * 20),
    "translate_y": lambda level: (level / 10 * 0.45 * 10, -level / 10 * 0.45 * 10),
}


@pytest.mark.parametrize("strength", [0.5, 5, 7, 9.9, 10])
def test_rand_augment_chooses_like_timm(applied, strength):
    """On images of 10 x 20 pixels."""
    images = tf.zeros([20_000, 10, 20, 3], tf.uint8)
    policies.rand_augment(images, seed=1, step=2, strength=strength, deviation=0)
    for names, amounts in applied:
        left = names == "identity"
        assert stats.binomtest(int(left.sum()), len(left)).pvalue > 1e-3
        assert equally_likely(names[~left], list(BY_TIMM))
        for name, by_timm in BY_TIMM.items():
            drawn, wanted = amounts[names == name], by_timm(strength)
            if wanted is None:
                continue
            near = np.abs(drawn[:, np.newaxis] - wanted)
            assert near.min(axis=1).max() < 1e-4
            if len(wanted) == 2:
                assert equally_likely(near.argmin(axis=1), range(2))
    (first, _), (second, _) = applied
    # The two layers are drawn independently: equal names are as frequent as by chance.
    chance = 1 / 4 + 1 / 4 / 15
    assert stats.binomtest(int((first == second).sum()), len(first), chance).pvalue > 1e-3


@pytest.mark.parametrize(("strength", "deviation"), [(7, 0.5), (9.8, 0.5), (0.1, 1.0)])
def test_strengths_are_normal_and_clipped(applied, strength, deviation):
    """Strengths are computed from rotations, 3 degrees per level."""
    options = {"strength": strength, "deviation": deviation, "probability": 1.0}
    policies.rand_augment(tf.zeros([40_000, 1, 1, 3], tf.uint8), seed=1, step=2, **options)
    for names, amounts in applied:
        assert not (names == "identity").any()
        levels = np.abs(amounts[names == "rotate"]) / 3
        normal = stats.norm(strength, deviation)
        for end, share in ((0, normal.cdf(0)), (10, normal.sf(10))):
            clipped = np.isclose(levels, end, atol=1e-6)
            assert stats.binomtest(int(clipped.sum()), len(levels), share).pvalue > 1e-3
            levels = levels[~clipped] if end == 0 else levels
        inner = levels[levels < 10 - 1e-6]
        low, high = normal.cdf([0, 10])
        assert stats.kstest((normal.cdf(inner) - low) / (high - low), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("policy", [policies.trivial_augment, policies.rand_augment])
def test_chosen_operations_are_applied_to_their_images(policy, monkeypatch):
    """The reference applies them to single images, eagerly."""
    images = np.random.default_rng(0).integers(0, 256, (60, 12, 16, 3), np.uint8)
    layers, together = [], policies._apply

    def apply(names, images, choice, amounts, fill):
        layers.append((np.array(names)[choice.numpy()], amounts))
        return together(names, images, choice, amounts, fill)

    monkeypatch.setattr(policies, "_apply", apply)
    fill = (5, 60, 200)
    found = policy(images, seed=3, step=4, fill=fill).numpy()
    assert found.dtype == np.uint8
    for place, image in enumerate(images):
        alone = image[np.newaxis]
        for names, amounts in layers:
            amount = amounts[place : place + 1]
            alone = operations.apply(names[place], tf.constant(alone), amount, fill=fill).numpy()
        np.testing.assert_array_equal(found[place], alone[0])
    assert len({name for names, _ in layers for name in names}) > 10


@pytest.mark.parametrize("policy", [policies.trivial_augment, policies.rand_augment])
def test_pixels_are_rounded_to_integers(policy, applied):
    images = np.array([-3.0, 0.4, 0.6, 254.7, 260.0], np.float32).repeat(3).reshape(1, 1, 5, 3)
    found = policy(images, seed=0, step=0).numpy()
    assert found.dtype == np.uint8 and found[0, 0, :, 0].tolist() == [0, 0, 1, 255, 255]
