"""Measure how the gradient of the loss reaches the units of a network, and by which way.

At an identity shortcut the gradient at a unit's input is the gradient at its sum, which the
shortcut carries back unchanged, plus what the branch adds (He et al. 2016, *Identity Mappings in
Deep Residual Networks*, equation 5).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from ..networks.blocks import Unit, units
from ..networks.graph import deep_recursion
from ..networks.spec import ResNetSpec


@dataclass(frozen=True)
class UnitGradient:
    """The gradient of an image's loss at the input of a unit: root mean squares over the images."""

    unit: str
    total: float
    """the norm of the gradient"""
    shortcut: float | None
    """the norm of the part that an identity shortcut carries; None at other units"""
    branch: float | None
    """the norm of the part that comes through the convolutions; None at other units"""
    kernel: float
    """the norm of the gradient of the mean loss for the kernel of the unit's first convolution"""


def unit_gradients(
    model: keras.Model,
    spec: ResNetSpec,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    batch_norm: bool = True,
) -> list[UnitGradient]:
    """Compute the gradient of the cross-entropy at the input of every unit.

    The weights and statistics of the model stay as they are.

    Args:
        model: a network that `build` has built, with logits as output.
        spec: its spec.
        images: preprocessed images, float32 `[N, H, W, 3]`, in one batch.
        labels: class numbers, int `[N]`.
        batch_norm: whether batch norm uses the statistics of the batch, as in training; otherwise
            it uses its moving statistics. Those of a network that has not been trained change
            nothing, so it is then a network without batch norm.

    Returns:
        One entry per unit, from the first to the last.
    """
    found = units(spec)
    tensors = [model.get_layer(unit.first).input for unit in found]
    sums = [_sum(model, unit) for unit in found]
    kernels = [
        model.get_layer(f"{unit.block.convolutions[0].name}_conv").kernel.value for unit in found
    ]
    with deep_recursion(spec.depth):
        inner = keras.Model(
            model.inputs, [*tensors, *(s for s in sums if s is not None), model.output]
        )
    statistics = [v for v in model.variables if v.path not in _paths(model.trainable_variables)]
    before = [variable.numpy() for variable in statistics]
    with tf.GradientTape() as tape:
        *activations, logits = inner(tf.constant(images), training=batch_norm)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
            tf.constant(labels), tf.cast(logits, tf.float32)
        )
        loss = tf.reduce_mean(losses)
    gradients = tape.gradient(loss, [*activations, *kernels])
    for variable, value in zip(statistics, before, strict=True):
        variable.assign(value)

    # The gradient of an image's own loss: that of the mean, times the number of images.
    at_inputs = [len(images) * g.numpy().astype(np.float64) for g in gradients[: len(found)]]
    rest = iter(gradients[len(found) : len(activations)])
    rows = []
    for unit, at_input, total, kernel in zip(
        found, at_inputs, sums, gradients[len(activations) :], strict=True
    ):
        carried = None
        if total is not None:
            carried = len(images) * next(rest).numpy().astype(np.float64)
        rows.append(
            UnitGradient(
                unit.name,
                _norm(at_input),
                None if carried is None else _norm(carried),
                None if carried is None else _norm(at_input - carried),
                float(np.linalg.norm(kernel.numpy())),
            )
        )
    return rows


def _paths(variables: Sequence[keras.Variable]) -> set[str]:
    return {variable.path for variable in variables}


def _sum(model: keras.Model, unit: Unit) -> keras.KerasTensor | None:
    """Return the sum of a unit whose shortcut is the identity, or None."""
    if unit.sum is None or unit.block.shortcut != "identity":
        return None
    return model.get_layer(unit.sum).output


def _norm(gradient: np.ndarray) -> float:
    """Return the root mean square of the images' norms."""
    return float(np.sqrt((gradient**2).reshape(len(gradient), -1).sum(axis=1).mean()))
