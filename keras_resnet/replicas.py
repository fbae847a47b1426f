"""Keras on several replicas, with the numbers of one device: `prepare`, and what it puts in the place of Keras' own."""

import functools
from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

TESTED_KERAS = "3.15"
"""the minor version whose private parts are replaced"""


def prepare(model: keras.Model) -> keras.Model:
    """Makes `compile`, `fit`, `evaluate` and `predict` of a model right on several replicas; returns the same model.

    Build the model in the scope of a `tf.distribute` strategy, then call this once. On one device it does nothing. Its
    class stays what it was: what `save` writes opens where this package is not installed. What Keras 3.15 does
    otherwise, and what becomes of it:

    - A batch that does not divide: the mean is over all its pictures, not over the means of the replicas. A replica
      that gets none of the last batch has no part in it; Keras makes every weight NaN. (For losses that are means over
      the batch, as all are by default, and synchronised batch norm, as the networks of this package have on several
      replicas.) An uneven first batch no longer fails. What callbacks see after such a step is the mean over replicas;
      the logs of the epoch and of `evaluate` are exact.
    - In half precision a gradient that is infinite on one replica makes all of them leave out the step; in Keras the
      others go on, with weights that are infinite or a job that hangs.
    - `steps_per_execution` no longer fails.
    - `MultiWorkerMirroredStrategy` no longer fails.
    - Batch norm that is not synchronised keeps the mean of the replicas' moving statistics; in Keras they drift apart
      and the first replica's are saved. It takes batches of one known size only (`drop_remainder=True`).

    Raises `ValueError` where the model was built outside of the scope, or Keras is of another version than was tested;
    `fit` does so for what Keras computes on each replica alone: clipped gradients, and `jit_compile`.
    """
    if model._distribute_strategy is None and tf.distribute.get_strategy().num_replicas_in_sync > 1:
        raise ValueError(f"{model.name} was built outside of the strategy's scope; build it in there")
    if model.distribute_strategy.num_replicas_in_sync == 1:
        return model
    if keras.__version__.split(".")[:2] != TESTED_KERAS.split("."):
        raise ValueError(
            f"Keras is {keras.__version__}; several replicas are right with Keras {TESTED_KERAS} only, "
            f"whose private parts are replaced: pip install 'keras=={TESTED_KERAS}.*'"
        )
    for norm in _own_statistics(model):
        for statistic in (norm.moving_mean, norm.moving_variance):
            statistic.value._aggregation = tf.VariableAggregation.MEAN
    for function in (_maybe_symbolic_build, _make_function, compute_loss):
        setattr(model, function.__name__, MethodType(function, model))
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Conv2D):
            layer.convolution_op = MethodType(convolution_op, layer)
    return model


def _own_statistics(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """The batch norms whose statistics are of their replica alone."""
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    return [norm for norm in norms if not norm.synchronized]


# What follows takes the place of methods of the same names in keras/src: backend/tensorflow/trainer.py,
# trainers/trainer.py, layers/convolutional/base_conv.py and optimizers/loss_scale_optimizer.py.


def _maybe_symbolic_build(model: Any, iterator: Any = None, data_batch: Any = None) -> None:
    """Keras takes the mean of the replicas' first batches, which need not have the same shape; one of them will do."""
    if all(part is None or part.built for part in (model._compile_metrics, model._compile_loss, model.optimizer)):
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
    """Keras passes batches through the loop as optionals, and takes a mean along axis 0 of what has no axes."""
    if model.jit_compile:
        raise ValueError("jit_compile is True, which fails on several replicas; leave it at 'auto'")
    optimizer = model.optimizer
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer.apply = MethodType(apply, optimizer)
        optimizer = optimizer.inner_optimizer
    if optimizer is not None and (optimizer.clipnorm or optimizer.global_clipnorm or optimizer.clipvalue):
        raise ValueError(
            "the optimizer clips gradients, which Keras does on each replica alone, before they are summed: "
            "train without, or on one device"
        )
    strategy = model.distribute_strategy
    needs_one_size = step_function == model.train_step and bool(_own_statistics(model))

    def one_step(batch: Any) -> Any:
        logs = strategy.run(step_function, args=(batch,))
        return keras.tree.map_structure(lambda value: strategy.reduce("MEAN", value, axis=None), logs)

    if not model.run_eagerly:
        one_step = tf.function(one_step, reduce_retracing=True, autograph=False)
    one_step = model._autoconvert_optionals(one_step)

    with tf.device("CPU"):
        done = tf.Variable(0, trainable=False)

    def steps(iterator: Any) -> Any:
        # In a condition on whether there is a next batch, what replicas do together fails.
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
        if needs_one_size and any(part.shape[0] is None for part in _tensors(iterator.element_spec)):
            raise ValueError(
                f"{model.name} has batch norm that is not synchronised, which needs batches of one known size: "
                "batch with drop_remainder=True, or build the network with synchronized=True"
            )
        done.assign(0)
        try:
            return steps(iterator)
        except tf.errors.OutOfRangeError:
            if done == 0:
                raise  # nothing was left, and so fit ends the epoch
            return model.get_metrics_result()  # what was left has been trained on

    return function


def _tensors(specs: Any) -> list[tf.TensorSpec]:
    return tf.nest.flatten(specs, expand_composites=True)


def compute_loss(
    model: Any, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
) -> Any:
    """Keras' own, whose gradient counts each picture of the whole batch alike, whichever replica it is on."""
    loss = type(model).compute_loss(model, x, y, y_pred, sample_weight, training=training)
    replica = tf.distribute.get_replica_context()
    if not training or replica is None:
        return loss
    if keras.tree.flatten(y)[0].shape[0] is not None and not model.run_eagerly:
        return loss  # of one known size on all of them
    count = tf.cast(tf.shape(keras.tree.flatten(y)[0])[0], loss.dtype)
    share = count * replica.num_replicas_in_sync / replica.all_reduce("SUM", count)
    # The value stays: Keras' mean of the losses weighs it by the number of pictures already.
    return share * loss + tf.stop_gradient(loss - share * loss)


def convolution_op(layer: Any, inputs: Any, kernel: Any) -> Any:
    """Keras' own, but where there are no pictures: oneDNN then gives back as many channels as there were."""
    keras_own = functools.partial(type(layer).convolution_op, layer)
    if inputs.shape[0]:
        return keras_own(inputs, kernel)
    count = tf.shape(inputs)[0]
    blank = functools.partial(tf.zeros, tf.concat([[1], tf.shape(inputs)[1:]], axis=0), inputs.dtype)
    some = tf.ensure_shape(tf.cond(count > 0, lambda: inputs, blank), [None, *inputs.shape[1:]])
    return keras_own(some, kernel)[:count]


def apply(optimizer: Any, gradients: Sequence[Any], variables: Any = None) -> Any:
    """Keras asks the first replica of each host whether its gradients are finite, before they are summed."""
    replica = tf.distribute.get_replica_context()
    here = tf.cast(optimizer.check_finite(gradients), tf.float32)
    everywhere = replica.all_reduce("SUM", here) >= replica.num_replicas_in_sync
    poisoned = [g if g is None else tf.where(everywhere, g, tf.constant(np.inf, g.dtype)) for g in gradients]
    return type(optimizer).apply(optimizer, poisoned, variables)
