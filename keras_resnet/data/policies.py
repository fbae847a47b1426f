"""Apply random operations to training images by TrivialAugment and RandAugment, in pure functions.

Each function takes one image `[H, W, 3]` or a batch `[N, H, W, 3]`. As in `augmentation`, an
image's operations are a function of the seed, the step and its position in the global batch.
"""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from . import operations
from .random_numbers import POLICY, STRENGTH, normal, uniform


def _signed(amounts: np.ndarray) -> np.ndarray:
    return np.stack([amounts, -amounts])


def _unsigned(amounts: np.ndarray) -> np.ndarray:
    return np.stack([amounts, amounts])


STRENGTHS = 31
_RISING = np.linspace(0, 1, STRENGTHS)

WIDE: dict[str, np.ndarray] = {
    "identity": _unsigned(0 * _RISING),
    "shear_x": _signed(0.99 * _RISING),
    "shear_y": _signed(0.99 * _RISING),
    "translate_x": _signed(np.floor(32 * _RISING)),
    "translate_y": _signed(np.floor(32 * _RISING)),
    "rotate": _signed(135 * _RISING),
    "brightness": 1 + _signed(0.99 * _RISING),
    "color": 1 + _signed(0.99 * _RISING),
    "contrast": 1 + _signed(0.99 * _RISING),
    "sharpness": 1 + _signed(0.99 * _RISING),
    "posterize": _unsigned(8 - np.round(np.arange(STRENGTHS) / 5)),
    "solarize": _unsigned(255 - 255 * _RISING),
    "autocontrast": _unsigned(0 * _RISING),
    "equalize": _unsigned(0 * _RISING),
}
"""the amounts of TrivialAugment's operations by sign and strength, `[2, STRENGTHS]`: "wide" in
Mueller and Hutter 2021, Table 6, as in torchvision's TrivialAugmentWide"""


def _enhance(levels: tf.Tensor, signs: tf.Tensor, sides: tf.Tensor) -> tf.Tensor:
    return tf.maximum(1 + levels * signs * np.float32(0.09), 0.1)


INCREASING: dict[str, Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "autocontrast": lambda levels, signs, sides: tf.zeros_like(levels),
    "equalize": lambda levels, signs, sides: tf.zeros_like(levels),
    "invert": lambda levels, signs, sides: tf.zeros_like(levels),
    "rotate": lambda levels, signs, sides: levels * signs * 3,
    "posterize": lambda levels, signs, sides: 4 - tf.floor(levels * np.float32(0.4)),
    "solarize": lambda levels, signs, sides: 256 - tf.floor(levels * np.float32(25.6)),
    "solarize_add": lambda levels, signs, sides: tf.floor(levels * 11),
    "color": _enhance,
    "contrast": _enhance,
    "brightness": _enhance,
    "sharpness": _enhance,
    "shear_x": lambda levels, signs, sides: levels * signs * np.float32(0.03),
    "shear_y": lambda levels, signs, sides: levels * signs * np.float32(0.03),
    "translate_x": lambda levels, signs, sides: (
        levels * signs * (tf.cast(sides[1], tf.float32) * np.float32(0.045))
    ),
    "translate_y": lambda levels, signs, sides: (
        levels * signs * (tf.cast(sides[0], tf.float32) * np.float32(0.045))
    ),
}
"""functions from strength (0 to 10), sign and image sides to the amount of each of RandAugment's
operations: timm's "increasing" ones, which Wightman et al. 2021 trained with"""


def trivial_augment(
    images: tf.Tensor,
    *,
    seed: int | tf.Tensor,
    step: int | tf.Tensor,
    position: int | tf.Tensor = 0,
    fill: Sequence[int] = (0, 0, 0),
) -> tf.Tensor:
    """Apply one random operation of random strength to each image.

    TrivialAugment (Mueller and Hutter 2021), wide: 14 operations, 31 strengths and, for most
    operations, two signs, all equally likely. Moved pixels are not interpolated.

    Args:
        images: RGB in 0 to 255, `[H, W, 3]` or `[N, H, W, 3]` of any numeric dtype. Values are
            rounded to integers.
        seed: the seed of the training.
        step: the step of the training. Each step gives new operations.
        position: the position of the (first) image in the global batch.
        fill: the color of pixels from outside of the image; black in the paper.

    Returns:
        uint8 of the same shape.
    """
    images = _to_uint8(tf.convert_to_tensor(images))
    if images.shape.rank == 3:
        alone = images[tf.newaxis]
        return trivial_augment(alone, seed=seed, step=step, position=position, fill=fill)[0]
    draws = uniform(tf.shape(images)[0], 3, seed, step, position, POLICY)
    choice, sign, strength = (
        tf.cast(draws[:, i] * choices, tf.int32)
        for i, choices in enumerate((len(WIDE), 2, STRENGTHS))
    )
    table = tf.constant(np.stack(list(WIDE.values())), tf.float32)
    amounts = tf.gather_nd(table, tf.stack([choice, sign, strength], axis=1))
    return _apply(tuple(WIDE), images, choice, amounts, fill)


def rand_augment(
    images: tf.Tensor,
    *,
    seed: int | tf.Tensor,
    step: int | tf.Tensor,
    position: int | tf.Tensor = 0,
    strength: float = 7.0,
    deviation: float = 0.5,
    probability: float = 0.5,
    fill: Sequence[int] = (0, 0, 0),
) -> tf.Tensor:
    """Apply two random operations to each image, each with a probability.

    RandAugment (Cubuk et al. 2020) as in timm's "rand-m7-mstd0.5-inc1": 15 operations, all equally
    likely, of normally distributed strength. Unlike in timm, moved pixels are not interpolated.

    Args:
        images: RGB in 0 to 255, `[H, W, 3]` or `[N, H, W, 3]` of any numeric dtype. Values are
            rounded to integers.
        seed: the seed of the training.
        step: the step of the training. Each step gives new operations.
        position: the position of the (first) image in the global batch.
        strength: the mean of the strengths, 0 to 10.
        deviation: the standard deviation of the strengths before they are clipped to 0 to 10.
        probability: the probability of each of the two operations.
        fill: the color of pixels from outside of the image.

    Returns:
        uint8 of the same shape.
    """
    images = _to_uint8(tf.convert_to_tensor(images))
    place = {"seed": seed, "step": step, "position": position}
    if images.shape.rank == 3:
        options = {"strength": strength, "deviation": deviation, "probability": probability}
        return rand_augment(images[tf.newaxis], fill=fill, **options, **place)[0]
    count, sides = tf.shape(images)[0], tf.shape(images)[1:3]
    draws = uniform(count, 6, stream=POLICY, **place)
    spread = normal(count, 2, stream=STRENGTH, **place) * np.float32(deviation)
    names = (*INCREASING, "identity")
    for layer in range(2):
        choice, applied, sign = tf.unstack(draws[:, 3 * layer : 3 * layer + 3], axis=1)
        levels = tf.clip_by_value(strength + spread[:, layer], 0, 10)
        signs = tf.where(sign < 0.5, -1.0, 1.0)
        choice = tf.cast(choice * len(INCREASING), tf.int32)
        every = [amounts(levels, signs, sides) for amounts in INCREASING.values()]
        amounts = tf.gather(tf.stack(every, axis=1), choice, batch_dims=1)
        choice = tf.where(applied < probability, choice, len(INCREASING))
        images = _apply(names, images, choice, amounts, fill)
    return images


def _to_uint8(images: tf.Tensor) -> tf.Tensor:
    if images.dtype == tf.uint8:
        return images
    return tf.saturate_cast(tf.round(tf.cast(images, tf.float32)), tf.uint8)


def _apply(
    names: Sequence[str],
    images: tf.Tensor,
    choice: tf.Tensor,
    amounts: tf.Tensor,
    fill: Sequence[int],
) -> tf.Tensor:
    """Apply to each image the operation with the index in `choice`, one batch per operation."""
    indices, batches, amounts = (
        tf.dynamic_partition(values, choice, len(names))
        for values in (tf.range(tf.shape(images)[0]), images, amounts)
    )
    results = [
        operations.apply(name, batch, amount, fill=fill)
        for name, batch, amount in zip(names, batches, amounts, strict=True)
    ]
    return tf.ensure_shape(tf.dynamic_stitch(indices, results), images.shape)
