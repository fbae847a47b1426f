"""Test dropout masks as a function of seed, step, layer and position in the batch."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_resnet.training.distribution import strategy
from keras_resnet.training.dropout import uniform
from keras_resnet.training.keras_patches import prepare

REPLICAS = strategy(["CPU:0", "CPU:1"])
ALONE = tf.distribute.get_strategy()


def dropping(*layers, shape, within=ALONE, seed=0, optimizer=None):
    """Return a model with one output per dropout layer, all with the same input."""
    with within.scope():
        inputs = keras.Input(shape)
        model = prepare(keras.Model(inputs, [layer(inputs) for layer in layers]), seed)
        model.compile(optimizer or keras.optimizers.SGD())
        model.optimizer.build(model.trainable_variables)
    return model


def dropped(model, ones, step=0):
    """Return the outputs of a training step for inputs of ones, one array per layer."""
    inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    inner._iterations.assign(step)
    # In a graph, as in `fit`.
    outputs = tf.function(lambda: model(ones, training=True))()
    return [output.numpy() for output in tf.nest.flatten(outputs)]


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_the_rate_and_the_mean(rate):
    """Up to five standard deviations of 120,000 draws; kept units are divided by 1 - rate."""
    (values,) = dropped(dropping(keras.layers.Dropout(rate), shape=(300,)), tf.ones([400, 300]))
    np.testing.assert_allclose(np.unique(values), [0, 1 / (1 - rate)], rtol=1e-6)
    deviation = np.sqrt(rate * (1 - rate) / values.size)
    assert abs((values == 0).mean() - rate) < 5 * deviation
    assert abs(values.mean() - 1) < 5 * deviation / (1 - rate)
    # The rate holds for every unit and for every image, too.
    for axis in (0, 1):
        spread = np.sqrt(rate * (1 - rate) / values.shape[axis])
        assert abs((values == 0).mean(axis=axis) - rate).max() < 5 * spread


def test_masks_are_independent_of_layer_step_seed_and_position():
    """Correlations of 20,000 draws are within five standard deviations of zero."""
    ones = tf.ones([1000, 20])
    layers = [keras.layers.Dropout(0.5), keras.layers.Dropout(0.5)]
    model = dropping(*layers, shape=(20,))
    first, second = dropped(model, ones)
    masks = {"layer 0": first, "layer 1": second, "step": dropped(model, ones, 1)[0]}
    masks["seed"] = dropped(dropping(keras.layers.Dropout(0.5), shape=(20,), seed=1), ones)[0]
    masks["its own seed"] = dropped(dropping(keras.layers.Dropout(0.5, seed=2), shape=(20,)), ones)[
        0
    ]
    masks["position"] = np.roll(first, 1, axis=0)
    flat = np.stack([mask.ravel() for mask in masks.values()])
    correlations = np.corrcoef(flat) - np.eye(len(flat))
    assert abs(correlations).max() < 5 / np.sqrt(flat.shape[1])
    np.testing.assert_array_equal(first, dropped(model, ones)[0], "the same again")


# The generator draws four numbers at a time: fewer than four, a multiple, and noise shapes.
SHAPES = [((3,), None), ((8,), None), ((4, 4, 3), (None, 1, 1, 1)), ((4, 3), (None, 1, 3))]


@pytest.mark.parametrize(("shape", "noise_shape"), SHAPES)
def test_replicas_draw_their_part_of_the_masks_of_one_device(shape, noise_shape):
    """13 images per replica: a prime, so no shape divides it."""
    layer = {"rate": 0.5, "noise_shape": noise_shape}
    alone = dropping(keras.layers.Dropout(**layer), shape=shape)
    (wanted,) = dropped(alone, tf.ones([26, *shape]), 7)
    model = dropping(keras.layers.Dropout(**layer), shape=shape, within=REPLICAS)
    model.optimizer.iterations.assign(7)
    step = tf.function(lambda: REPLICAS.run(lambda: model(tf.ones([13, *shape]), training=True)))
    found = REPLICAS.experimental_local_results(tf.nest.flatten(step())[0])
    np.testing.assert_array_equal(np.concatenate([part.numpy() for part in found]), wanted)
    assert not np.array_equal(found[0], found[1]), "in Keras they are equal"


def test_a_mask_shared_by_all_images_is_equal_on_all_replicas():
    layer = {"rate": 0.5, "noise_shape": (1, 40)}
    (wanted,) = dropped(dropping(keras.layers.Dropout(**layer), shape=(40,)), tf.ones([4, 40]))
    assert (wanted == wanted[0]).all() and 0 < (wanted == 0).mean() < 1
    model = dropping(keras.layers.Dropout(**layer), shape=(40,), within=REPLICAS)
    step = tf.function(lambda: REPLICAS.run(lambda: model(tf.ones([2, 40]), training=True)))
    for part in REPLICAS.experimental_local_results(tf.nest.flatten(step())[0]):
        np.testing.assert_array_equal(part, wanted[:2])


def test_the_generator_is_philox():
    """The authors' known answers (Random123, kat_vectors, philox4x32 10) for a counter and key of
    zeros and for the digits of pi."""
    zeros = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    pi = [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]
    wanted = np.array([zeros, pi]) // 256 / 2**24
    np.testing.assert_array_equal(uniform([1, 4], 0, tf.constant(0, tf.int64), 0)[0], wanted[0])
    first, stream = 0x85A308D3_243F6A88 - 2**64, 0x03707344_13198A2E
    drawn = uniform([1, 4], 0x299F31D0_A4093822, *(tf.constant(n) for n in (stream, first)))
    np.testing.assert_array_equal(drawn[0], wanted[1])


@pytest.mark.parametrize("numbers", [1, 3, 8])
def test_rows_do_not_depend_on_where_a_draw_begins(numbers):
    stream = tf.constant(5, tf.int64)
    whole = uniform([10, numbers], 3, stream, 0).numpy()
    assert len(np.unique(whole)) == whole.size and 0 <= whole.min() and whole.max() < 1
    np.testing.assert_array_equal(uniform([4, numbers], 3, stream, tf.constant(6)), whole[6:])
    assert uniform([0, numbers], 3, stream, 6).shape == (0, numbers)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_dtypes_get_the_masks_of_float32(dtype):
    keep = keras.layers.Dropout(0.25)
    (wanted,) = dropped(dropping(keep, shape=(64,)), tf.ones([64, 64]))
    model = dropping(keras.layers.Dropout(0.25, dtype=dtype), shape=(64,))
    output = model(tf.ones([64, 64], dtype), training=True)
    assert output.dtype == dtype
    np.testing.assert_array_equal(output == 0, wanted == 0)


def test_xla_draws_the_same_masks():
    model = dropping(keras.layers.Dropout(0.5), shape=(6,))
    (wanted,) = dropped(model, tf.ones([20, 6]))
    compiled = tf.function(lambda ones: model(ones, training=True), jit_compile=True)
    np.testing.assert_array_equal(compiled(tf.ones([20, 6])), wanted)


def test_every_step_has_its_own_mask_with_accumulated_gradients_and_scaled_losses():
    accumulating = keras.optimizers.SGD(gradient_accumulation_steps=4)
    scaling = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())
    for optimizer in (accumulating, scaling):
        model = dropping(keras.layers.Dropout(0.5), shape=(64,), optimizer=optimizer)
        first, second = (dropped(model, tf.ones([8, 64]), step)[0] for step in (0, 1))
        assert not np.array_equal(first, second)


def test_inference_and_other_layers_are_unchanged():
    model = dropping(keras.layers.Dropout(0.5), shape=(64,))
    np.testing.assert_array_equal(model(tf.ones([8, 64])), 1)
    others = [keras.layers.GaussianDropout(0.5), keras.layers.SpatialDropout1D(0.5)]
    inputs = keras.Input((4, 4))
    prepare(keras.Model(inputs, [layer(inputs) for layer in others]))
    assert not any("call" in vars(layer) for layer in others)


def test_a_model_without_an_optimizer_uses_the_masks_of_keras():
    inputs = keras.Input((64,))
    model = prepare(keras.Model(inputs, keras.layers.Dropout(0.5)(inputs)))
    first, second = (model(tf.ones([8, 64]), training=True).numpy() for _ in range(2))
    assert 0 < (first == 0).mean() < 1 and not np.array_equal(first, second)


def test_the_saved_model_has_keras_layers(tmp_path):
    model = dropping(keras.layers.Dropout(0.5, name="drop"), shape=(64,), seed=9)
    model.save(tmp_path / "model.keras")
    layer = keras.models.load_model(tmp_path / "model.keras").get_layer("drop")
    assert type(layer) is keras.layers.Dropout and "call" not in vars(layer)
    assert layer.seed is None and layer.rate == 0.5
