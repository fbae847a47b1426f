"""Draw dropout masks from the seed, the step, the layer and the position in the batch.

Keras draws them from a counter. It is equal on all replicas, so the n-th images of all replicas
lose the same units, and a training that resumes on other devices draws other masks.
"""

import math
from typing import Any

import keras
import tensorflow as tf

LAYERS = 2**20
"""more dropout layers than any model has"""


def draw_by_position(model: keras.Model, seed: int = 0) -> None:
    """Replace the `call` of a model's dropout layers with one that draws stateless masks.

    An image's mask is a function of the seed, `model.optimizer.iterations`, the layer's number
    among the model's dropout layers, and the image's position in the global batch. A training
    therefore draws the same masks after a resume, and on any number of replicas and hosts. The
    position is exact if all replicas have equally many images; otherwise two images of a batch can
    get the same mask. A layer that is called twice in a step draws the same mask twice.

    A layer's own `seed` takes precedence. Layers whose class overrides `call`, such as
    `GaussianDropout`, are left unchanged. Before the model has an optimizer, Keras draws the masks.

    Args:
        model: a model, compiled or not.
        seed: the seed of the training.
    """
    dropouts = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.Dropout) and type(layer).call is keras.layers.Dropout.call
    ]
    for number, layer in enumerate(dropouts):
        layer.call = _call_of(layer, model, seed if layer.seed is None else layer.seed, number)


def _call_of(layer: Any, model: Any, seed: int, number: int) -> Any:
    def call(inputs: Any, training: bool = False) -> Any:
        optimizer = getattr(model, "optimizer", None)
        if not training or not layer.rate or optimizer is None:
            return type(layer).call(layer, inputs, training=training)
        # `iterations` does not advance while gradients are accumulated; `_iterations` does.
        step = getattr(optimizer, "inner_optimizer", optimizer)._iterations
        sizes = layer.noise_shape or (None,) * len(inputs.shape)
        shape = [
            inputs.shape[axis] or tf.shape(inputs)[axis] if size is None else size
            for axis, size in enumerate(sizes)
        ]
        first = _replica() * shape[0] if sizes[0] is None else 0
        stream = LAYERS * tf.cast(step, tf.int64) + number
        kept = uniform(shape, seed, stream, first) >= layer.rate
        factors = tf.where(kept, tf.constant(1 / (1 - layer.rate), inputs.dtype), 0)
        outputs = inputs * factors
        outputs.set_shape(inputs.shape)
        return outputs

    return call


def _replica() -> int | tf.Tensor:
    """Return this replica's number among the replicas of all hosts."""
    replica = tf.distribute.get_replica_context()
    return 0 if replica is None else replica.replica_id_in_sync_group


def uniform(
    shape: list[int | tf.Tensor], seed: int, stream: int | tf.Tensor, first: int | tf.Tensor
) -> tf.Tensor:
    """Draw the uniform numbers in [0, 1) for consecutive rows of a batch.

    The generator is a function of a key and a counter with four numbers per count, so it can start
    at any row (Philox: Salmon et al. 2011). The numbers are equal on all devices and with XLA;
    those of `tf.random.stateless_uniform` differ with XLA.

    Args:
        shape: the shape of the result, `[rows, ...]`.
        seed: the seed. Different seeds give independent numbers.
        stream: int64. Different streams give independent numbers.
        first: the position of the first row in the global batch.

    Returns:
        float32 `[rows, ...]`.
    """
    rows, numbers = shape[0], math.prod(shape[1:])
    counts = (numbers + 3) // 4
    counter = tf.stack([tf.cast(first, tf.int64) * tf.cast(counts, tf.int64), stream])
    bits = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=tf.stack([rows, 4 * counts]),
        key=tf.constant([seed % 2**64], tf.uint64),
        counter=tf.bitcast(counter, tf.uint64),
        alg=1,  # Philox
        dtype=tf.uint32,
    )
    bits = tf.reshape(bits[:, :numbers], tf.stack(shape))
    return tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.float32) / 2**24
