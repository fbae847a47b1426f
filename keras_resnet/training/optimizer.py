"""Compile a network with the optimizer, the learning rate and the loss of a recipe."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from ..runs.recipe import Recipe
from .loss import Accuracy, loss_of
from .schedule import Schedule, schedule_of


class _KeepsAverages:
    """Keep moving averages of the weights and of batch norm's statistics, available by `averages`.

    Keras' `fit` would replace the weights with their averages at the end of each call, and a
    training calls it several times. It would also leave the statistics of the last weights, which
    do not fit the averages.
    """

    statistics: Sequence[keras.Variable] = ()
    statistics_averages: Sequence[keras.Variable] = ()

    def average_too(self, statistics: Sequence[keras.Variable]) -> None:
        """Keep averages of batch norm's statistics in addition to those of the weights.

        They are not variables of the optimizer: Keras could not reopen a saved model with them.
        """
        copies = [
            keras.Variable("zeros", v.shape, v.dtype, trainable=False, name="average")
            for v in statistics
        ]
        # Keras would register variables that are set as attributes with the optimizer.
        object.__setattr__(self, "statistics", statistics)
        object.__setattr__(self, "statistics_averages", copies)

    def _update_model_variables_moving_average(self, trainable: list[keras.Variable]) -> None:
        super()._update_model_variables_moving_average(trainable)  # type: ignore[misc]
        for statistic, average in zip(self.statistics, self.statistics_averages, strict=True):
            # As for the weights in Keras, the first average is the first value.
            begun = keras.ops.cast(self.iterations != 0, statistic.dtype)  # type: ignore[attr-defined]
            momentum = self.ema_momentum * begun  # type: ignore[attr-defined]
            average.assign(momentum * average + (1 - momentum) * statistic)

    def finalize_variable_values(self, var_list: list[keras.Variable]) -> None:
        """Do not replace the weights with their averages."""


class _DecaysKernels:
    """Exclude biases, gamma and beta from weight decay."""

    def build(self, variables: list[keras.Variable]) -> None:
        """Create the optimizer's variables."""
        # Here, because Keras does not serialize exclusions that a caller makes.
        self.exclude_from_weight_decay([v for v in variables if len(v.shape) < 2])  # type: ignore[attr-defined]
        super().build(variables)  # type: ignore[misc]


@keras.saving.register_keras_serializable(package="keras_resnet")
class SGD(_KeepsAverages, keras.optimizers.SGD):
    """Keras' SGD, without replacing the weights by their moving averages."""


@keras.saving.register_keras_serializable(package="keras_resnet")
class AdamW(_KeepsAverages, _DecaysKernels, keras.optimizers.AdamW):
    """Keras' AdamW (Loshchilov and Hutter 2019), with weight decay of kernels only."""


@keras.saving.register_keras_serializable(package="keras_resnet")
class Lamb(_KeepsAverages, _DecaysKernels, keras.optimizers.Lamb):
    """Keras' LAMB (You et al. 2020), with weight decay of kernels only.

    Keras subtracts the decay separately. In the paper it is part of the step, which is then scaled
    to the norm of the kernel.
    """


def averages(model: keras.Model) -> list[tuple[keras.Variable, keras.Variable]]:
    """Return pairs of a trained variable or batch norm statistic and its moving average.

    Args:
        model: a model that `compile_for` compiled with moving averages (`recipe.ema`).
    """
    optimizer = without_loss_scale(model.optimizer)
    return [
        *zip(
            optimizer._trainable_variables, optimizer._model_variables_moving_average, strict=True
        ),
        *zip(optimizer.statistics, optimizer.statistics_averages, strict=True),
    ]


def without_loss_scale(optimizer: keras.optimizers.Optimizer) -> Any:
    """Return the optimizer inside the loss scaling that mixed_float16 wraps it in.

    Args:
        optimizer: the optimizer of a compiled model.
    """
    return getattr(optimizer, "inner_optimizer", optimizer)


@contextlib.contextmanager
def floatx(precision: str) -> Iterator[None]:
    """Set `floatx`, the dtype of losses and metrics: float64 for float64, otherwise float32.

    Args:
        precision: the precision of the recipe.
    """
    before = keras.config.floatx()
    keras.config.set_floatx("float64" if precision == "float64" else "float32")
    try:
        yield
    finally:
        keras.config.set_floatx(before)


def optimizer_of(recipe: Recipe, schedule: Schedule) -> keras.optimizers.Optimizer:
    """Return the optimizer of a recipe.

    SGD has no weight decay: the paper's is a penalty that `build` adds to the network.

    Args:
        recipe: the recipe.
        schedule: the learning rate schedule.
    """
    ema = {"use_ema": recipe.ema > 0, "ema_momentum": recipe.ema}
    if recipe.optimizer == "sgd":
        return SGD(schedule, momentum=recipe.momentum, nesterov=recipe.nesterov, **ema)
    optimizer = AdamW if recipe.optimizer == "adamw" else Lamb
    return optimizer(schedule, weight_decay=recipe.weight_decay, beta_1=recipe.momentum, **ema)


def compile_for(
    recipe: Recipe,
    model: keras.Model,
    steps_per_epoch: int,
    class_weights: np.ndarray | None = None,
    steps_per_execution: int = 1,
) -> Schedule:
    """Compile a network with the recipe's loss and optimizer, and create all their variables.

    Call it in the scope of the strategy that the model was built in.

    Args:
        recipe: the recipe.
        model: a network with logits `[N, classes]` as output.
        steps_per_epoch: the number of steps per epoch.
        class_weights: the weight of each class in the loss, `[classes]`; None for equal weights.
        steps_per_execution: the number of steps that TensorFlow runs without returning to Python.

    Returns:
        The learning rate schedule.
    """
    schedule = schedule_of(recipe, recipe.total_steps(steps_per_epoch))
    weights = None if class_weights is None else [float(weight) for weight in class_weights]
    model.compile(
        optimizer_of(recipe, schedule),
        loss_of(recipe, weights),
        metrics=[Accuracy()],
        steps_per_execution=steps_per_execution,
    )
    model.optimizer.build(model.trainable_variables)
    if recipe.ema:
        norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
        statistics = [v for norm in norms for v in (norm.moving_mean, norm.moving_variance)]
        without_loss_scale(model.optimizer).average_too(statistics)
    # Metrics create their variables at their first use, and a checkpoint restores into these.
    replicas = model.distribute_strategy.num_replicas_in_sync
    logits = np.zeros((replicas, model.output_shape[-1]), np.float32)
    model.compute_metrics(x=None, y=np.zeros(len(logits), np.int32), y_pred=logits)
    model.reset_metrics()
    return schedule
