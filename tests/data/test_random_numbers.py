"""Test the distributions and dependencies of the random numbers."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from keras_resnet.data.random_numbers import (
    ERASING,
    LIGHTING,
    MIXING,
    POLICY,
    SHARE,
    STRENGTH,
    VIEW,
    beta,
    normal,
    uniform,
)

DRAWS = {
    "uniform": tf.random.stateless_uniform,
    "normal": tf.random.stateless_normal,
    "gamma": lambda shape, seed: tf.random.stateless_gamma(
        shape, seed, tf.constant(0.2, tf.float64), dtype=tf.float64
    ),
}


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("numbers", [2, 3, 4, 6, 23])
def test_a_draw_begins_with_a_shorter_draw(name, numbers):
    """Positions rely on it, and TensorFlow does not guarantee it."""
    longest = DRAWS[name]([1025, numbers], [1, 2]).numpy()
    for count in (1, 2, 3, 5, 64, 511, 1024):
        assert (DRAWS[name]([count, numbers], [1, 2]).numpy() == longest[:count]).all()


@pytest.mark.parametrize("draw", [uniform, normal, beta])
def test_draws_of_a_batch_do_not_depend_on_its_size(draw):
    whole = draw(8, 3, 1, 2, 0).numpy()
    assert (draw(2, 3, 1, 2, 5).numpy() == whole[5:7]).all()
    assert draw(0, 3, 1, 2, 5).shape[0] == 0


@pytest.mark.parametrize("alpha", [0.1, 0.2, 1.0, 8.0])
def test_beta_has_its_distribution(alpha):
    """The mean is 1/2 and the variance 1 / (4 (2 alpha + 1)), for tiny gamma variables too."""
    count = 20_000
    shares = beta(count, alpha, 3, 4, 0).numpy().astype(np.float64)
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(shares.mean() - 0.5) < 4 * np.sqrt(variance / count)
    assert abs(shares.var() - variance) < 0.02 * variance
    inner = shares[(shares > 1e-6) & (shares < 1 - 1e-6)]  # float32 rounds to 0 and 1
    distribution = stats.beta(alpha, alpha)
    low, high = distribution.cdf([1e-6, 1 - 1e-6])
    assert stats.kstest((distribution.cdf(inner) - low) / (high - low), "uniform").pvalue > 1e-3


def test_streams_steps_and_seeds_are_independent_of_each_other():
    count = 10_000
    place = (count, 1, 5, 6, 0)
    draws = [uniform(*place, stream)[:, 0] for stream in (VIEW, POLICY, ERASING, MIXING)]
    draws += [normal(*place, stream)[:, 0] for stream in (LIGHTING, STRENGTH)]
    draws += [beta(count, 1.0, 5, 6, 0), beta(count, 1.0, 5, 7, 0)]
    draws += [uniform(count, 1, 5, 7, 0)[:, 0], uniform(count, 1, 6, 6, 0)[:, 0]]
    ranks = stats.spearmanr(np.stack(draws, axis=1)).statistic
    assert np.abs(ranks - np.eye(len(draws))).max() < 4.5 / np.sqrt(count)


def test_streams_never_change():
    """Recorded when each stream was first used: a resumed training needs the same views."""
    recorded = {
        (uniform, VIEW): (0.10694444, 0.06516242),
        (uniform, POLICY): (0.79798198, 0.85285676),
        (uniform, ERASING): (0.95123971, 0.64066970),
        (uniform, MIXING): (0.27019024, 0.94564033),
        (normal, LIGHTING): (1.52598035, 0.61018443),
        (normal, STRENGTH): (0.70260251, 0.72161537),
    }
    for (draw, stream), wanted in recorded.items():
        np.testing.assert_allclose(draw(1, 2, 1, 2, 3, stream)[0], wanted, rtol=1e-6)
    np.testing.assert_allclose(beta(2, 0.2, 1, 2, 3, SHARE), (0.27489272, 0.00078670), rtol=1e-5)
