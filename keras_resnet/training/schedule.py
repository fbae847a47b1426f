"""Schedule the learning rate: warm-up, pieces or a cosine, and the plateaus of the error."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import keras
import tensorflow as tf

from ..choices import require
from ..runs.recipe import Pieces, Recipe

PATIENCE = 5
"""the number of validations without a new lowest error after which "plateau" divides the learning
rate by ten"""


@keras.saving.register_keras_serializable(package="keras_resnet")
class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """A peak learning rate, times a linear warm-up, times the form of the schedule.

    A model compiled with a schedule can be saved, and loads if this package is imported. Create the
    schedule in the scope of the model's strategy, because it holds a variable.

    Args:
        peak: the peak learning rate.
        form: one of three: pieces `(from, multiplier)`, where `from` is a fraction of the training;
            "cosine", half a period down to zero; "plateau", the value of `factor`.
        total_steps: the number of steps of the training.
        warmup_steps: the number of steps over which the rate rises linearly.
        factor: the multiplier of the peak after the plateaus so far.

    Raises:
        ValueError: `form` is a string other than "cosine" and "plateau".
    """

    def __init__(
        self,
        peak: float,
        form: Pieces | Literal["cosine", "plateau"],
        total_steps: int,
        warmup_steps: int = 0,
        factor: float = 1.0,
    ) -> None:
        if isinstance(form, str):
            require("form", form, ("cosine", "plateau"))
        else:  # JSON has no tuples
            form = tuple((float(start), float(multiplier)) for start, multiplier in form)
        self.peak = peak
        self.form = form
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps
        self.factor = tf.Variable(factor, trainable=False, name="plateau_factor")

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Return the learning rate of a step, float32 `[]`."""
        if self.form == "cosine":
            angle = math.pi * tf.cast(step, tf.float32) / self.total_steps
            rate = self.peak * 0.5 * (1 + tf.cos(angle))
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

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that create an equal schedule."""
        return {
            "peak": self.peak,
            "form": self.form,
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
            "factor": float(self.factor.numpy()),
        }


def schedule_of(recipe: Recipe, total_steps: int) -> Schedule:
    """Return the learning rate schedule of a recipe.

    Args:
        recipe: the recipe.
        total_steps: the number of steps of the training.
    """
    warmup_steps = round(recipe.warmup * total_steps)
    return Schedule(recipe.learning_rate, recipe.schedule, total_steps, warmup_steps)


def plateau_factor(errors: Sequence[float], patience: int = PATIENCE) -> float:
    """Return the multiplier of the peak learning rate after the plateaus of the error.

    It depends only on the errors, so a training can resume from its history.

    Args:
        errors: the error of every validation so far.
        patience: the number of validations without a new lowest error after which the rate is
            divided by ten.
    """
    lowest, waited, factor = math.inf, 0, 1.0
    for error in errors:
        waited = 0 if error < lowest else waited + 1
        lowest = min(lowest, error)
        if waited == patience:
            waited, factor = 0, factor / 10
    return factor


def validations_since_best(errors: Sequence[float]) -> int:
    """Return the number of validations since the lowest error; of equal errors the first counts.

    Args:
        errors: the error of every validation so far, at least one.
    """
    return len(errors) - 1 - errors.index(min(errors))
