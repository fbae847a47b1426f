"""Make Keras fast on one device and correct on several replicas, by `prepare`.

The other functions of this file replace private methods of Keras.
"""

import functools
import warnings
from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from .batch_norm import fuse
from .convolution import flip_input_gradient, flipping_pays
from .dropout import draw_by_position
from .hardware import refuse_frozen_weights
from .replica_losses import LossesOfReplica, compute_loss, reductions

TESTED_KERAS = "3.15"
"""the minor version of Keras whose private methods are replaced"""


def prepare(model: keras.Model, seed: int = 0) -> keras.Model:
    """Make `compile`, `fit`, `evaluate` and `predict` fast, and correct on several replicas.

    Build the model in the scope of the `tf.distribute` strategy, if any, then call this once. The
    layers and the model keep their classes, so a saved model opens where this package is not
    installed.

    On any number of devices:

    - Batch norm uses the fused kernel of oneDNN or cuDNN. On x86 processors without AVX-512 the
      input gradient of 3x3 convolutions is a forward convolution. Both depend only on dtype and
      processor (`keras_resnet.training.batch_norm` and `keras_resnet.training.convolution`).
    - The masks of `Dropout` layers are a function of the seed, the step, the layer and the image's
      position in the global batch. They resume exactly, and are equal on any number of replicas
      that have equally many images. In Keras all replicas draw the same masks
      (`keras_resnet.training.dropout`).
    - If a model has several losses, the log of each is a mean over images, never over batches.

    On several replicas, compared with Keras 3.15:

    - If the replicas do not divide a batch, the mean is over all images, not over the replicas'
      means. A replica without images does not contribute; in Keras every weight becomes NaN. This
      holds for losses that are means or sums over the batch, for losses of layers (`add_loss`,
      `activity_regularizer`) that are means over it, and for synchronized batch norm, which the
      networks of this package use on several replicas. An uneven first batch no longer fails.
      After an uneven step callbacks see the mean over replicas; the logs of the epoch and of
      `evaluate` are exact.
    - Each replica has the losses that its own layers add. Keras keeps them in one list, so replicas
      lose them or take those of other replicas.
    - Synchronized batch norm needs one all-reduce per layer and direction.
    - Gradients are clipped after they are summed over replicas. Keras clips each replica's.
    - In half precision an infinite gradient on one replica makes all replicas skip the step. In
      Keras the others continue, with infinite weights or a hanging job.
    - `steps_per_execution` and `MultiWorkerMirroredStrategy` no longer fail.
    - Unsynchronized batch norm keeps the mean of the replicas' moving statistics. In Keras they
      drift apart, and only the first replica's are saved. It requires batches of one known size
      (`drop_remainder=True`).

    Args:
        model: a model, compiled or not.
        seed: the seed of the masks of dropout layers without a seed.

    Returns:
        The same model. With an untested version of Keras, a model on one device is returned
        unchanged, with a warning.

    Raises:
        ValueError: `model` is no Keras model, it was built outside of the scope, Keras is of an
            untested version and there are several replicas, or oneDNN is told that weights are
            frozen. `fit` raises it for settings that are not correct on several replicas:
            `jit_compile`, `gradient_accumulation_steps`, `ema_overwrite_frequency`, a loss whose
            `reduction` is "mean_with_sample_weight", and losses with different reductions.
    """
    if not isinstance(model, keras.Model):
        raise ValueError(f"model is {model!r}; give a keras.Model")
    refuse_frozen_weights()
    replicas = model.distribute_strategy.num_replicas_in_sync
    if model._distribute_strategy is None and tf.distribute.get_strategy().num_replicas_in_sync > 1:
        raise ValueError(
            f"{model.name} was built outside of the strategy's scope; build it in that scope"
        )
    if keras.__version__.split(".")[:2] != TESTED_KERAS.split("."):
        advice = f"pip install 'keras=={TESTED_KERAS}.*'"
        if replicas == 1:
            warnings.warn(
                f"Keras is {keras.__version__}; batch norm is fast with Keras {TESTED_KERAS} only,"
                f" whose private methods it replaces: {advice}",
                stacklevel=2,
            )
            return model
        raise ValueError(
            f"Keras is {keras.__version__}; training on several replicas is correct with Keras"
            f" {TESTED_KERAS} only, whose private methods it replaces: {advice}"
        )
    if replicas > 1:
        for norm in _unsynchronized_norms(model):
            for statistic in (norm.moving_mean, norm.moving_variance):
                statistic.value._aggregation = tf.VariableAggregation.MEAN
        for function in (_maybe_symbolic_build, _make_function):
            setattr(model, function.__name__, MethodType(function, model))
        for layer in model._flatten_layers():
            layer._losses = LossesOfReplica()
    model.compute_loss = MethodType(compute_loss, model)
    draw_by_position(model, seed)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            fuse(layer)
        elif isinstance(layer, keras.layers.Conv2D):
            if replicas > 1:
                layer.convolution_op = MethodType(convolution_op, layer)
            if flipping_pays():
                flip_input_gradient(layer)
    return model


def _unsynchronized_norms(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """Return the batch norms that take their statistics on each replica alone."""
    norms = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    return [norm for norm in norms if not norm.synchronized]


# The functions below replace the methods of the same names in keras/src:
# backend/tensorflow/trainer.py, trainers/trainer.py, layers/convolutional/base_conv.py and
# optimizers/loss_scale_optimizer.py.


def _maybe_symbolic_build(model: Any, iterator: Any = None, data_batch: Any = None) -> None:
    """Build the model from the first replica's first batch.

    Keras takes the mean over replicas, whose batches can have different shapes.
    """
    if all(
        part is None or part.built
        for part in (model._compile_metrics, model._compile_loss, model.optimizer)
    ):
        return
    strategy = model.distribute_strategy
    if iterator is not None:
        for _, _, batches in iterator:
            data_batch = keras.tree.map_structure(
                lambda value: strategy.experimental_local_results(value)[0], next(batches)
            )
            break
    with strategy.scope():
        model._symbolic_build(data_batch=data_batch)


def _make_function(model: Any, step_function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a step function whose loop has no condition around collectives.

    Keras passes batches through the loop as optionals, and averages scalars along axis 0.
    """
    if model.jit_compile:
        raise ValueError("jit_compile is True, which fails on several replicas; leave it at 'auto'")
    optimizer = model.optimizer
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer.apply = MethodType(apply, optimizer)
        optimizer = optimizer.inner_optimizer
    if optimizer is not None:
        for argument in ("gradient_accumulation_steps", "ema_overwrite_frequency"):
            if getattr(optimizer, argument):
                raise ValueError(
                    f"{argument} is {getattr(optimizer, argument)}, which fails on several"
                    " replicas: leave it out, or train on one device"
                )
        optimizer._clip_gradients = MethodType(_clip_gradients, optimizer)
    found = reductions(model)
    if "mean_with_sample_weight" in found or len(found) > 1:
        raise ValueError(
            f"reduction is {', '.join(sorted(found))}; on several replicas give all losses"
            " 'sum_over_batch_size', or all 'sum'"
        )
    strategy = model.distribute_strategy
    needs_one_size = step_function == model.train_step and bool(_unsynchronized_norms(model))

    def one_step(batch: Any) -> Any:
        logs = strategy.run(step_function, args=(batch,))
        return keras.tree.map_structure(
            lambda value: strategy.reduce("MEAN", value, axis=None), logs
        )

    if not model.run_eagerly:
        one_step = tf.function(one_step, reduce_retracing=True, autograph=False)
    one_step = model._autoconvert_optionals(one_step)

    with tf.device("CPU"):
        done = tf.Variable(0, trainable=False)

    def steps(iterator: Any) -> Any:
        # Collectives fail inside a condition, such as whether there is a next batch.
        logs = one_step(next(iterator))
        for _ in tf.range(model.steps_per_execution - 1):
            done.assign_add(1)
            logs = one_step(next(iterator))
        return logs

    if not model.run_eagerly:
        steps = tf.function(steps, reduce_retracing=True)

    def function(iterator: Any) -> Any:
        if not isinstance(iterator, tf.data.Iterator | tf.distribute.DistributedIterator):
            return one_step(next(iterator))  # train_on_batch and test_on_batch
        if needs_one_size and any(
            part.shape[0] is None for part in _tensors(iterator.element_spec)
        ):
            raise ValueError(
                f"{model.name} has batch norm that is not synchronized, which needs batches of one"
                " known size: batch with drop_remainder=True, or build the network with"
                " synchronized=True"
            )
        done.assign(0)
        try:
            return steps(iterator)
        except tf.errors.OutOfRangeError:
            if done == 0:
                raise  # no batches left: fit ends the epoch
            return model.get_metrics_result()  # the last batches have been trained on

    return function


def _tensors(specs: Any) -> list[tf.TensorSpec]:
    return tf.nest.flatten(specs, expand_composites=True)


def _clip_gradients(optimizer: Any, gradients: Sequence[Any]) -> Sequence[Any]:
    """Clip the sum of the replicas' gradients.

    Keras calls this on each replica and sums the results, so each replica returns an equal share of
    the clipped sum.
    """
    if not (optimizer.clipnorm or optimizer.global_clipnorm or optimizer.clipvalue):
        return gradients
    replica = tf.distribute.get_replica_context()
    present = [i for i, gradient in enumerate(gradients) if gradient is not None]
    summed = list(gradients)
    totals = replica.all_reduce("SUM", [tf.convert_to_tensor(gradients[i]) for i in present])
    for i, total in zip(present, totals, strict=True):
        summed[i] = total
    clipped = type(optimizer)._clip_gradients(optimizer, summed)
    replicas = replica.num_replicas_in_sync
    return [gradient if gradient is None else gradient / replicas for gradient in clipped]


def convolution_op(layer: Any, inputs: Any, kernel: Any) -> Any:
    """Convolve, with the right number of output channels for an empty batch too.

    For an empty batch oneDNN returns as many channels as the input has.
    """
    keras_convolution = functools.partial(type(layer).convolution_op, layer)
    if inputs.shape[0]:
        return keras_convolution(inputs, kernel)
    count = tf.shape(inputs)[0]
    blank = functools.partial(
        tf.zeros, tf.concat([[1], tf.shape(inputs)[1:]], axis=0), inputs.dtype
    )
    nonempty = tf.cond(count > 0, lambda: inputs, blank)
    nonempty = tf.ensure_shape(nonempty, [None, *inputs.shape[1:]])
    return keras_convolution(nonempty, kernel)[:count]


def apply(optimizer: Any, gradients: Sequence[Any], variables: Any = None) -> Any:
    """Skip the step on all replicas if a gradient is infinite on one of them.

    Keras checks only the first replica of each host, before gradients are summed.
    """
    replica = tf.distribute.get_replica_context()
    finite = tf.cast(optimizer.check_finite(gradients), tf.float32)
    all_finite = replica.all_reduce("SUM", finite) >= replica.num_replicas_in_sync
    poisoned = [
        g if g is None else tf.where(all_finite, g, tf.constant(np.inf, g.dtype)) for g in gradients
    ]
    return type(optimizer).apply(optimizer, poisoned, variables)
