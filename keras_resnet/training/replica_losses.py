"""Compute losses that are correct on several replicas, in the place of methods of Keras."""

import functools
import threading
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf


def compute_loss(
    model: Any,
    x: Any = None,
    y: Any = None,
    y_pred: Any = None,
    sample_weight: Any = None,
    training: bool = True,
) -> Any:
    """Compute Keras' loss, with a gradient that weighs all images of the global batch equally.

    Each replica's loss is multiplied by its share: its number of images divided by the mean number
    per replica. Losses that are sums over the batch need no such factor.
    """
    keras_loss = functools.partial(type(model).compute_loss, model, x, y, y_pred, sample_weight)
    if model._compute_loss_has_training_arg:  # a user's override need not have it
        keras_loss = functools.partial(keras_loss, training=training)
    # The metrics of the outputs' losses, if there are several outputs.
    metrics = getattr(model._compile_loss, "metrics", [])
    replica = tf.distribute.get_replica_context()
    if replica is None or (replica.num_replicas_in_sync == 1 and not metrics):
        return keras_loss()
    # A model with its own loss may have no labels.
    batch = keras.tree.flatten([part for part in (y, x, y_pred) if part is not None])[0]
    replicas = replica.num_replicas_in_sync
    known = None if model.run_eagerly else batch.shape[0]
    even = replicas == 1 or known is not None
    count = tf.cast(tf.shape(batch)[0] if known is None else known, keras.config.floatx())
    mean = count if even else replica.all_reduce("SUM", count) / replicas
    sums = reductions(model) == {"sum"}
    for metric in metrics:
        metric.update_state = functools.partial(
            _update_state, metric, weight=mean if sums else count
        )
    loss = keras_loss()
    if even:
        return loss
    share = tf.cast(count / mean, loss.dtype)
    if sums:
        of_layers = sum(
            tf.cast(model._aggregate_additional_loss(own), loss.dtype) for own in model.losses
        )
        weighed = loss + (share - 1) * of_layers
    else:
        weighed = share * loss
    # A mean over no images is NaN.
    weighed = tf.where(share > 0, weighed, 0)
    # The value is divided by the share, because the loss metric multiplies it by the number of
    # images; the gradient keeps the share.
    return weighed + tf.stop_gradient(tf.math.divide_no_nan(weighed, share) - weighed)


def _update_state(metric: Any, values: Any, sample_weight: Any = None, *, weight: Any) -> Any:
    """Weigh the loss of one output by the number of images.

    Keras weighs it by the batch size if that is statically known, otherwise by one.
    """
    return type(metric).update_state(metric, values, sample_weight=weight)


class LossesOfReplica(threading.local):
    """The list of losses that a layer has added, one list per thread.

    Each replica runs in its own thread. The threads switch at every collective, of which
    synchronized batch norm has many.
    """

    def __init__(self) -> None:
        self.losses: list[Any] = []

    def extend(self, losses: Sequence[Any]) -> None:
        """Add losses to the list of this thread."""
        self.losses.extend(losses)

    def clear(self) -> None:
        """Empty the list of this thread."""
        self.losses.clear()

    def __getitem__(self, part: slice) -> list[Any]:
        return self.losses[part]


def reductions(model: Any) -> set[str]:
    """Return the set of reductions of the model's losses."""
    means = {None: "sum_over_batch_size", "mean": "sum_over_batch_size"}
    losses = [loss for loss in keras.tree.flatten(model.loss) if loss is not None]
    found = [getattr(loss, "reduction", None) for loss in losses]
    return {str(means.get(reduction, reduction)) for reduction in found}
