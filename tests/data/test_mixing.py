"""Test the pairs, shares, rectangles and targets of MixUp and CutMix."""

from functools import partial

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from keras_resnet.data import mixing

CLASSES = 10


def numbered(count, height=1, width=1):
    """Return images whose pixels equal their number, and labels that are the number modulo ten."""
    images = np.broadcast_to(
        np.arange(count, dtype=np.float32)[:, np.newaxis, np.newaxis, np.newaxis],
        (count, height, width, 1),
    )
    return images, np.arange(count, dtype=np.int32) % CLASSES


def own_shares(targets):
    return np.take_along_axis(targets, np.arange(len(targets))[:, np.newaxis] % CLASSES, 1)[:, 0]


MIXES = {
    "mixup": partial(mixing.mixup, alpha=0.4),
    "cutmix": mixing.cutmix,
    "both": partial(mixing.mix, mixup_alpha=0.2, cutmix_alpha=1.0),
}


@pytest.mark.parametrize("name", MIXES)
@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_pairs_are_mixed_as_their_targets_say(name, count):
    """Images 2p and 2p + 1 are mixed in the same shares; a last image without a partner is not."""
    images, labels = numbered(count, 8, 6)
    mixed, targets = (
        x.numpy() for x in MIXES[name](images, labels, classes=CLASSES, seed=1, step=2)
    )
    assert mixed.dtype == targets.dtype == np.float32
    assert mixed.shape == images.shape and targets.shape == (count, CLASSES)
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)
    even = count // 2 * 2
    partners = np.arange(count) ^ 1
    shares = own_shares(targets)
    np.testing.assert_array_equal(shares[0:even:2], shares[1:even:2])
    wanted = shares * np.arange(count) + (1 - shares) * partners
    np.testing.assert_allclose(mixed.mean(axis=(1, 2, 3))[:even], wanted[:even], atol=1e-4)
    np.testing.assert_allclose(
        targets[np.arange(even), partners[:even] % CLASSES], 1 - shares[:even], atol=1e-6
    )
    if count % 2:
        np.testing.assert_array_equal(mixed[-1], images[-1])
        np.testing.assert_array_equal(targets[-1], np.eye(CLASSES)[labels[-1]])


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixup_shares_are_beta_distributed(alpha):
    images, labels = numbered(20_000)
    mixed, targets = mixing.mixup(images, labels, classes=CLASSES, seed=1, step=2, alpha=alpha)
    shares = own_shares(targets.numpy())[::2].astype(np.float64)
    assert abs(shares.mean() - 0.5) < 4 * np.sqrt(1 / 4 / (2 * alpha + 1) / len(shares))
    assert abs(shares.var() * 4 * (2 * alpha + 1) - 1) < 0.05
    distances = stats.kstest(shares, stats.beta(alpha, alpha).cdf)
    # Some shares are rounded to 1 in float32.
    assert distances.pvalue > 1e-3 or distances.statistic < 0.02
    # All pixels of an image have the same share.
    assert (
        np.ptp(mixing.mixup(*numbered(50, 4, 4), classes=10, seed=1, step=2)[0], axis=(1, 2)).max()
        == 0
    )


def rectangles_of_the_paper(count, height, width, alpha):
    """Return the top, left, height and width of `rand_bbox` in the code of Yun et al."""
    random = np.random.default_rng(0)
    cut = np.sqrt(1 - random.beta(alpha, alpha, count))
    h, w = (height * cut).astype(int), (width * cut).astype(int)
    y, x = random.integers(0, height, count), random.integers(0, width, count)
    top, bottom = np.clip(y - h // 2, 0, height), np.clip(y + h // 2, 0, height)
    left, right = np.clip(x - w // 2, 0, width), np.clip(x + w // 2, 0, width)
    return np.stack([top, left, bottom - top, right - left], axis=1)


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_cutmix_rectangles_have_the_papers_distribution(alpha):
    count, height, width = 6000, 40, 56
    images, labels = numbered(count, height, width)
    mixed, targets = mixing.cutmix(images, labels, classes=CLASSES, seed=1, step=2, alpha=alpha)
    mixed, targets = mixed.numpy()[..., 0], targets.numpy()
    swapped = mixed != images[..., 0]
    assert (swapped[::2] == swapped[1::2]).all(), "the same rectangle in both images"
    partners = np.arange(count)[:, np.newaxis, np.newaxis] ^ 1
    assert (mixed == np.where(swapped, partners, images[..., 0])).all(), "whole pixels"
    np.testing.assert_allclose(own_shares(targets), 1 - swapped.mean(axis=(1, 2)), atol=1e-6)

    swapped = swapped[::2]
    rows, columns = swapped.any(axis=2), swapped.any(axis=1)
    assert (swapped == rows[:, :, np.newaxis] & columns[:, np.newaxis]).all()
    found = np.stack(
        [rows.argmax(axis=1), columns.argmax(axis=1), rows.sum(axis=1), columns.sum(axis=1)], axis=1
    )
    theirs = rectangles_of_the_paper(count // 2, height, width, alpha)
    areas = [rectangles[:, 2] * rectangles[:, 3] for rectangles in (found, theirs)]
    assert stats.ks_2samp(*areas).pvalue > 1e-3
    found, theirs = found[areas[0] > 0], theirs[areas[1] > 0]
    for a, b in zip(found.T, theirs.T, strict=True):
        assert stats.ks_2samp(a, b).pvalue > 1e-3
    for side in (0, 1):
        ends = [rectangles[:, side] + rectangles[:, side + 2] for rectangles in (found, theirs)]
        assert stats.ks_2samp(*ends).pvalue > 1e-3


def test_half_of_the_pairs_get_mixup_and_the_others_cutmix():
    """Each equals the single mixture, and the choice does not depend on the share."""
    images, labels = numbered(4000, 6, 6)
    place = {"classes": CLASSES, "seed": 1, "step": 2}
    both, targets = mixing.mix(images, labels, mixup_alpha=0.5, cutmix_alpha=1.0, **place)
    added, added_targets = mixing.mixup(images, labels, alpha=0.5, **place)
    cut, cut_targets = mixing.cutmix(images, labels, alpha=1.0, **place)
    is_added = (both.numpy() == added.numpy()).all(axis=(1, 2, 3))
    is_cut = (both.numpy() == cut.numpy()).all(axis=(1, 2, 3))
    assert (is_added | is_cut).all() and (is_added & is_cut).mean() < 0.1
    assert (is_added[::2] == is_added[1::2]).all()
    assert stats.binomtest(int(is_added[::2].sum()), 2000).pvalue > 1e-3
    wanted = np.where(is_cut[:, np.newaxis], cut_targets, added_targets)
    np.testing.assert_array_equal(targets, wanted)
    for shares in (own_shares(added_targets.numpy()), own_shares(cut_targets.numpy())):
        assert stats.ks_2samp(shares[::2][is_added[::2]], shares[::2][~is_added[::2]]).pvalue > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", MIXES)
def test_a_mixture_is_a_function_of_seed_step_and_position(name):
    """It is the same in a batch, in a shard, eagerly and in tf.data."""
    random = np.random.default_rng(0)
    images = random.normal(size=(12, 9, 11, 3)).astype(np.float32)
    labels = random.integers(0, CLASSES, 12).astype(np.int32)
    mix = partial(MIXES[name], classes=CLASSES, seed=3)
    whole = [x.numpy() for x in mix(images, labels, step=7)]
    for begin, end in ((0, 2), (6, 12), (10, 12)):
        part = mix(images[begin:end], labels[begin:end], step=7, position=begin)
        for ours, theirs in zip(part, whole, strict=True):
            np.testing.assert_array_equal(ours, theirs[begin:end])
    dataset = tf.data.Dataset.from_tensors((images, labels, np.int64(7)))
    for ours, theirs in zip(
        next(iter(dataset.map(lambda *x: mix(x[0], x[1], step=x[2])))), whole, strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert (mix(images, labels, step=8)[0].numpy() != whole[0]).any()
    assert (
        MIXES[name](images, labels, classes=CLASSES, seed=4, step=7)[0].numpy() != whole[0]
    ).any()


def test_soft_labels_are_mixed_like_class_numbers():
    images, labels = numbered(8, 5, 5)
    place = {"classes": CLASSES, "seed": 1, "step": 2}
    hard = mixing.mixup(images, labels, **place)[1]
    soft = mixing.mixup(images, np.eye(CLASSES)[labels], **place)[1]
    np.testing.assert_array_equal(hard, soft)
    smooth = np.eye(CLASSES)[labels] * 0.9 + 0.01
    np.testing.assert_allclose(
        mixing.mixup(images, smooth, **place)[1], hard * 0.9 + 0.01, atol=1e-6
    )


def test_odd_positions_and_invalid_alphas_are_refused():
    images, labels = numbered(4)
    place = {"classes": CLASSES, "seed": 1, "step": 2}
    with pytest.raises(ValueError, match="position is 3; give an even number"):
        mixing.cutmix(images, labels, position=3, **place)
    with pytest.raises(ValueError, match="mixup's alpha is -1 and cutmix's 0"):
        mixing.mixup(images, labels, alpha=-1, **place)
    with pytest.raises(ValueError, match="give a positive number"):
        mixing.mix(images, labels, **place)
