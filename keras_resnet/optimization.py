"""What training minimises and by which rule: the loss, the optimizer, and a network compiled with both."""

import contextlib
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from .recipe import Recipe
from .schedule import Schedule


@contextlib.contextmanager
def floatx(precision: str) -> Iterator[None]:
    """Keras adds up losses and metrics in its global float type, which must not fall behind the network's."""
    before = keras.config.floatx()
    keras.config.set_floatx("float64" if precision == "float64" else "float32")
    try:
        yield
    finally:
        keras.config.set_floatx(before)


class SGD(keras.optimizers.SGD):
    """Keras' own, but that the moving averages take the place of the weights when they are asked to.

    `fit` would do it at the end of each of its calls, of which a training has several.
    """

    def finalize_variable_values(self, var_list: list[keras.Variable]) -> None:
        pass

    def take_averages(self, var_list: list[keras.Variable]) -> None:
        super().finalize_variable_values(var_list)


def compile_for(
    recipe: Recipe,
    model: keras.Model,
    steps_per_epoch: int,
    class_weights: np.ndarray | None = None,
    steps_per_execution: int = 1,
) -> Schedule:
    """Compiles `model` with the recipe's loss and optimizer, and builds every variable that training has.

    `class_weights`, float32 `[classes]`, is what a picture of each class counts in the loss; None: one.

    Returns the learning rate's schedule. Call it in the scope of the strategy that the model was built in.
    """
    schedule = Schedule(recipe, recipe.total_steps(steps_per_epoch))
    classes = model.output_shape[-1]

    def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        targets = keras.ops.one_hot(labels, classes)
        losses = keras.losses.categorical_crossentropy(
            targets, logits, from_logits=True, label_smoothing=recipe.label_smoothing
        )
        return losses if class_weights is None else losses * tf.linalg.matvec(targets, class_weights)

    model.compile(
        SGD(
            schedule,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            use_ema=recipe.ema > 0,
            ema_momentum=recipe.ema,
        ),
        cross_entropy,
        metrics=["accuracy"],
        steps_per_execution=steps_per_execution,
    )
    model.optimizer.build(model.trainable_variables)
    # Metrics get their variables at their first use; a checkpoint can only be restored into variables.
    logits = np.zeros((model.distribute_strategy.num_replicas_in_sync, model.output_shape[-1]), np.float32)
    model.compute_metrics(x=None, y=np.zeros(len(logits), np.int32), y_pred=logits)
    model.reset_metrics()
    return schedule
