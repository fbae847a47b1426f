"""Draw random numbers for training images, by pure functions of seed, step and position.

An image's numbers are the same if it is processed alone, in a batch, or in another host's share of
the batch. Each use has its own stream, whose numbers are independent of the others.
"""

import tensorflow as tf

VIEW, LIGHTING, POLICY, STRENGTH, ERASING, MIXING, SHARE = range(7)
"""the streams. A new use gets a new stream, so that the numbers of earlier uses do not change.
Numbers of different distributions from one stream are not independent"""


def uniform(
    count: int | tf.Tensor,
    numbers: int,
    seed: int | tf.Tensor,
    step: int | tf.Tensor,
    position: int | tf.Tensor,
    stream: int = VIEW,
) -> tf.Tensor:
    """Draw uniform numbers in [0, 1) for consecutive images of a batch.

    Args:
        count: the number of images.
        numbers: the number of random numbers per image.
        seed: the seed of the training.
        step: the step of the training.
        position: the position of the first image in the global batch.
        stream: one of the streams above.

    Returns:
        float32 `[count, numbers]`.
    """
    # A draw of more rows begins with the same rows, so the preceding rows are drawn too. It takes a
    # few nanoseconds per number.
    first = tf.cast(position, tf.int32)
    return tf.random.stateless_uniform([first + count, numbers], _key(seed, step, stream))[first:]


def normal(
    count: int | tf.Tensor,
    numbers: int,
    seed: int | tf.Tensor,
    step: int | tf.Tensor,
    position: int | tf.Tensor,
    stream: int = LIGHTING,
) -> tf.Tensor:
    """Draw standard normal numbers for consecutive images of a batch.

    Args:
        count: the number of images.
        numbers: the number of random numbers per image.
        seed: the seed of the training.
        step: the step of the training.
        position: the position of the first image in the global batch.
        stream: one of the streams above.

    Returns:
        float32 `[count, numbers]`.
    """
    first = tf.cast(position, tf.int32)
    return tf.random.stateless_normal([first + count, numbers], _key(seed, step, stream))[first:]


def beta(
    count: int | tf.Tensor,
    alpha: float,
    seed: int | tf.Tensor,
    step: int | tf.Tensor,
    position: int | tf.Tensor,
    stream: int = SHARE,
) -> tf.Tensor:
    """Draw numbers from the distribution Beta(alpha, alpha), one per image or pair of images.

    Args:
        count: the number of images or pairs.
        alpha: both parameters of the distribution.
        seed: the seed of the training.
        step: the step of the training.
        position: the position of the first image or pair in the global batch.
        stream: one of the streams above.

    Returns:
        float32 `[count]`.
    """
    first = tf.cast(position, tf.int32)
    # The ratio of two gamma variables, in float64 because both can be below 1e-40 for a small
    # alpha.
    gammas = tf.random.stateless_gamma(
        [first + count, 2],
        _key(seed, step, stream),
        tf.constant(alpha, tf.float64),
        dtype=tf.float64,
    )[first:]
    return tf.cast(gammas[:, 0] / (gammas[:, 0] + gammas[:, 1]), tf.float32)


def _key(seed: int | tf.Tensor, step: int | tf.Tensor, stream: int) -> tf.Tensor:
    key = tf.stack([tf.cast(seed, tf.int64), tf.cast(step, tf.int64)])
    return key if stream == VIEW else tf.random.experimental.stateless_fold_in(key, stream)
