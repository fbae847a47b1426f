"""The learning rate of a recipe, step by step."""

import math
from collections.abc import Sequence

import keras
import tensorflow as tf

from .recipe import Recipe

PATIENCE = 5
"""validations without a new lowest error after which "plateau" divides the rate by ten"""


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """The recipe's peak, times a linear warm-up, times its pieces, half a cosine, or what the plateaus left of it.

    Make it inside the strategy's scope: it holds a variable.
    """

    def __init__(self, recipe: Recipe, total_steps: int) -> None:
        self.peak = recipe.learning_rate
        self.warmup_steps = round(recipe.warmup * total_steps)
        self.total_steps = total_steps
        self.form = recipe.schedule
        self.factor = tf.Variable(1.0, trainable=False, name="plateau_factor")

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        if self.form == "cosine":
            rate = self.peak * 0.5 * (1 + tf.cos(math.pi * tf.cast(step, tf.float32) / self.total_steps))
        elif self.form == "plateau":
            rate = self.peak * self.factor
        else:
            assert not isinstance(self.form, str)
            starts, multipliers = zip(*self.form, strict=True)
            begun = tf.cast(step, tf.int64) >= tf.constant(
                [round(start * self.total_steps) for start in starts], tf.int64
            )
            rate = tf.constant([self.peak * multiplier for multiplier in multipliers])[
                tf.reduce_sum(tf.cast(begun, tf.int32)) - 1
            ]
        if self.warmup_steps:
            rate *= tf.minimum(1.0, (tf.cast(step, tf.float32) + 1) / self.warmup_steps)
        return rate

    def get_config(self) -> dict[str, object]:
        raise NotImplementedError("a schedule belongs to its training and is made anew from the recipe")


def plateau_factor(errors: Sequence[float], patience: int = PATIENCE) -> float:
    """A tenth for each time that the error has not gone below its lowest for `patience` validations in a row.

    A function of the errors so far alone, so that a training that goes on needs nothing but its history.
    """
    lowest, waited, factor = math.inf, 0, 1.0
    for error in errors:
        waited = 0 if error < lowest else waited + 1
        lowest = min(lowest, error)
        if waited == patience:
            waited, factor = 0, factor / 10
    return factor
