import math
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_resnet.runs.recipes import RECIPES
from keras_resnet.training.optimizer import averages, compile_for

TINY = RECIPES["digits-tiny"]


def classifier():
    """Return a model with a kernel and batch norm, and a kernel and biases."""
    keras.utils.set_random_seed(1)
    layers = [
        keras.layers.Dense(6, use_bias=False),
        keras.layers.BatchNormalization(),
        keras.layers.ReLU(),
        keras.layers.Dense(10),
    ]
    return keras.Sequential([keras.Input((12,)), *layers])


def test_training_on_shares_validates_on_labels():
    model = classifier()
    compile_for(TINY, model, 10)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(8, 12)).astype(np.float32)
    shares = rng.dirichlet(np.ones(10), 8).astype(np.float32)
    labels = rng.integers(0, 10, 8)
    model.fit(images, shares, validation_data=(images, labels), epochs=2, verbose=0)
    (found,) = model.history.history["val_accuracy"][-1:]
    wanted = (model.predict(images, verbose=0).argmax(axis=1) == labels).mean()
    assert found == pytest.approx(wanted)


@pytest.fixture
def float64():
    keras.config.set_dtype_policy("float64")
    keras.config.set_floatx("float64")
    yield
    keras.config.set_dtype_policy("float32")
    keras.config.set_floatx("float32")


def adamw(weight, update, rate):
    """Apply an update as in Loshchilov and Hutter 2019, algorithm 2."""
    return weight - rate * update


def lamb(weight, update, rate):
    """Apply an update scaled to the norm of the weights, unless it is zero (You et al. 2020,
    algorithm 2)."""
    length = np.linalg.norm(weight)
    ratio = length / np.linalg.norm(update) if length and np.linalg.norm(update) else 1.0
    return weight - rate * ratio * update


@pytest.mark.slow
@pytest.mark.parametrize("step", [adamw, lamb])
@pytest.mark.usefixtures("float64")
def test_two_steps_by_hand(step):
    """Bias-corrected moments with 0.85 and 0.999, after kernels have decayed by rate times decay.

    Equal up to 2e-5, because Keras rounds 0.999 to float32.
    """
    recipe = replace(
        TINY, optimizer=step.__name__, momentum=0.85, learning_rate=0.01, weight_decay=0.1,
        schedule=((0.0, 1.0),), ema=0.6,
    )  # fmt: skip
    model = classifier()
    compile_for(recipe, model, steps_per_epoch=100)
    rng = np.random.default_rng(0)
    wanted = [w.numpy() for w in model.trainable_variables]
    first = [np.zeros_like(w) for w in wanted]
    second = [np.zeros_like(w) for w in wanted]
    average = None
    for number in (1, 2):
        images, labels = rng.normal(size=(9, 12)), rng.integers(0, 10, 9)
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        gradients = tape.gradient(loss, model.trainable_variables)
        for i, (variable, gradient) in enumerate(
            zip(model.trainable_variables, gradients, strict=True)
        ):
            first[i] = 0.85 * first[i] + 0.15 * gradient.numpy()
            second[i] = 0.999 * second[i] + 0.001 * gradient.numpy() ** 2
            mean, square = first[i] / (1 - 0.85**number), second[i] / (1 - 0.999**number)
            # In AdamW Keras adds epsilon before the bias correction.
            epsilon = 1e-7 / (math.sqrt(1 - 0.999**number) if step is adamw else 1)
            update = mean / (np.sqrt(square) + epsilon)
            if variable.path.endswith("kernel"):
                wanted[i] = wanted[i] * (1 - 0.01 * 0.1)
            wanted[i] = step(wanted[i], update, 0.01)
        model.train_on_batch(images, labels)
        for variable, value in zip(model.trainable_variables, wanted, strict=True):
            np.testing.assert_allclose(variable.numpy(), value, rtol=2e-5, atol=1e-6)
        average = (
            [w.copy() for w in wanted]
            if average is None
            else [0.6 * a + 0.4 * w for a, w in zip(average, wanted, strict=True)]
        )
    for (variable, found), value in zip(averages(model)[: len(average)], average, strict=True):
        np.testing.assert_allclose(found.numpy(), value, rtol=2e-5, atol=1e-6)
        assert not np.array_equal(found.numpy(), variable.numpy())


def test_statistics_are_averaged_too():
    """By hand over three steps. The averages are not variables of the optimizer."""
    recipe = replace(TINY, ema=0.6)
    model = classifier()
    compile_for(recipe, model, steps_per_epoch=100)
    held = len(model.optimizer.variables)
    norm, rng, wanted = model.layers[1], np.random.default_rng(0), None
    for _ in range(3):
        model.train_on_batch(rng.normal(size=(9, 12)), rng.integers(0, 10, 9))
        values = np.stack([norm.moving_mean.numpy(), norm.moving_variance.numpy()])
        wanted = values if wanted is None else 0.6 * wanted + 0.4 * values
    pairs = averages(model)[-2:]
    assert [statistic.path for statistic, _ in pairs] == [own.path for own in norm.weights[2:]]
    np.testing.assert_allclose([average.numpy() for _, average in pairs], wanted, rtol=1e-5)
    # The step count, and the momentum and average of every weight.
    assert len(model.optimizer.variables) == held == 1 + 2 * len(model.trainable_variables)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb"])
def test_a_reopened_model_takes_the_same_next_step(tmp_path, name):
    """Weights of batch norm and biases stay excluded from decay."""
    recipe = replace(TINY, optimizer=name, weight_decay=0.5, ema=0.9, loss="binary_cross_entropy")
    model = classifier()
    compile_for(recipe, model, 100)
    images = np.random.default_rng(0).normal(size=(4, 12)).astype(np.float32)
    model.train_on_batch(images, np.arange(4))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert type(again.optimizer) is type(model.optimizer)
    for one in (model, again):
        one.train_on_batch(images, np.arange(4))
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
