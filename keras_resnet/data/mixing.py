"""Mix pairs of training images and their labels, by pure functions for any `tf.data` pipeline.

Positions 2p and 2p + 1 of the global batch are a pair. Both images are mixed with each other by the
same random numbers, which are a function of seed, step and position as in `augmentation`. The
result is the same if the pair is in another host's share of the batch. A last image without a
partner is unchanged.
"""

import tensorflow as tf

from .random_numbers import MIXING, beta, uniform
from .rectangles import inside


def mixup(
    images: tf.Tensor,
    labels: tf.Tensor,
    *,
    classes: int,
    seed: int | tf.Tensor,
    step: int | tf.Tensor,
    position: int = 0,
    alpha: float = 0.2,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Add the images of each pair in random shares, and their labels in the same shares.

    Zhang et al. 2018. An image's own share has the distribution Beta(alpha, alpha).

    Args:
        images: `[N, H, W, C]` of any numeric dtype.
        labels: class numbers, int `[N]`, or shares of the classes, float `[N, classes]`.
        classes: the number of classes.
        seed: the seed of the training.
        step: the step of the training. Each step gives new shares.
        position: the position of the first image in the global batch, an even number.
        alpha: both parameters of the beta distribution; the paper has 0.2 to 0.4 for ImageNet, and
            1 for CIFAR.

    Returns:
        float32 `[N, H, W, C]`, and targets float32 `[N, classes]` that sum to one.

    Raises:
        ValueError: the position is odd, or alpha is not positive.
    """
    place = {"seed": seed, "step": step, "position": position}
    return mix(images, labels, classes=classes, mixup_alpha=alpha, **place)


def cutmix(
    images: tf.Tensor,
    labels: tf.Tensor,
    *,
    classes: int,
    seed: int | tf.Tensor,
    step: int | tf.Tensor,
    position: int = 0,
    alpha: float = 1.0,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Swap a random rectangle between the images of each pair, and mix their labels by its area.

    Yun et al. 2019. The share of the image outside of the rectangle has the distribution
    Beta(alpha, alpha). The rectangle's center is uniform over the image, and parts of the rectangle
    outside of the image do not count.

    Args:
        images: `[N, H, W, C]` of any numeric dtype.
        labels: class numbers, int `[N]`, or shares of the classes, float `[N, classes]`.
        classes: the number of classes.
        seed: the seed of the training.
        step: the step of the training. Each step gives new rectangles.
        position: the position of the first image in the global batch, an even number.
        alpha: both parameters of the beta distribution; 1 in the paper.

    Returns:
        float32 `[N, H, W, C]`, and targets float32 `[N, classes]` that sum to one.

    Raises:
        ValueError: the position is odd, or alpha is not positive.
    """
    place = {"seed": seed, "step": step, "position": position}
    return mix(images, labels, classes=classes, cutmix_alpha=alpha, **place)


def mix(
    images: tf.Tensor,
    labels: tf.Tensor,
    *,
    classes: int,
    seed: int | tf.Tensor,
    step: int | tf.Tensor,
    position: int = 0,
    mixup_alpha: float = 0.0,
    cutmix_alpha: float = 0.0,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mix each pair by `mixup`, by `cutmix`, or by one of the two with equal probability.

    Args:
        images: `[N, H, W, C]` of any numeric dtype.
        labels: class numbers, int `[N]`, or shares of the classes, float `[N, classes]`.
        classes: the number of classes.
        seed: the seed of the training.
        step: the step of the training. Each step gives new mixtures.
        position: the position of the first image in the global batch, an even number.
        mixup_alpha: the `alpha` of `mixup`; 0 for `cutmix` alone.
        cutmix_alpha: the `alpha` of `cutmix`; 0 for `mixup` alone.

    Returns:
        float32 `[N, H, W, C]`, and targets float32 `[N, classes]` that sum to one.

    Raises:
        ValueError: the position is odd, or an alpha is negative, or no alpha is positive.
    """
    if position % 2:
        raise ValueError(f"position is {position}; give an even number: pairs begin there")
    if not (mixup_alpha >= 0 and cutmix_alpha >= 0 and mixup_alpha + cutmix_alpha > 0):
        raise ValueError(
            f"mixup's alpha is {mixup_alpha} and cutmix's {cutmix_alpha}; give a positive number"
        )
    images, labels = tf.cast(images, tf.float32), tf.convert_to_tensor(labels)
    targets = (
        tf.one_hot(labels, classes) if labels.dtype.is_integer else tf.cast(labels, tf.float32)
    )
    count, shape = tf.shape(images)[0], tf.shape(images)[1:]
    pairs, place = (count + 1) // 2, (seed, step, position // 2)
    draws = uniform(pairs, 3, *place, MIXING)
    # CutMix swaps the rectangle from `begin` to `end`. MixUp swaps the whole images, except for
    # the shares `added`.
    whole = tf.zeros([pairs, 2], tf.int32), tf.repeat(shape[tf.newaxis, :2], pairs, axis=0)
    begin, end, added = *whole, tf.zeros([pairs])
    if cutmix_alpha:
        begin, end = _rectangles(beta(pairs, cutmix_alpha, *place), draws[:, :2], shape[:2])
    if mixup_alpha:
        add = draws[:, 2] < (0.5 if cutmix_alpha else 1.0)
        added = tf.where(add, beta(pairs, mixup_alpha, *place), 0.0)
        begin, end = (
            tf.where(add[:, tf.newaxis], *ends) for ends in zip(whole, (begin, end), strict=True)
        )

    positions = tf.range(count)
    partners = tf.bitwise.bitwise_xor(positions, 1)
    alone = partners == count
    partners = tf.where(alone, positions, partners)
    begin, end, added = (tf.gather(values, positions // 2) for values in (begin, end, added))
    # An image without a partner is its own: these shares return it without rounding.
    begin, added = tf.where(alone[:, tf.newaxis], end, begin), tf.where(alone, 0.0, added)
    swapped = tf.reduce_prod(end - begin, axis=1) / tf.reduce_prod(shape[:2])
    shares = (added + tf.cast(1 - swapped, tf.float32))[:, tf.newaxis]
    # Arithmetic on the values is several times faster than `tf.where`.
    kept = tf.cast(~inside(begin, end, shape), tf.float32)
    kept += added[:, tf.newaxis, tf.newaxis, tf.newaxis]
    return (
        kept * images + (1 - kept) * tf.gather(images, partners),
        shares * targets + (1 - shares) * tf.gather(targets, partners),
    )


def _rectangles(
    shares: tf.Tensor, draws: tf.Tensor, sides: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return begin and end of rectangles, int32 `[N, 2]`; `shares` of the image are outside."""
    center = tf.cast(draws * tf.cast(sides, tf.float32), tf.int32)
    # In float32 rounding would depend on the processor's vectors and thus on the batch size.
    side = tf.sqrt(1 - tf.cast(shares, tf.float64))[:, tf.newaxis] * tf.cast(sides, tf.float64)
    half = tf.cast(side, tf.int32) // 2
    return tf.maximum(center - half, 0), tf.minimum(center + half, sides)
