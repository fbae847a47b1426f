"""Compare losses of layers and of several outputs on two replicas with one device and NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_resnet.training.distribution import strategy
from keras_resnet.training.keras_patches import prepare

REPLICAS = strategy(["CPU:0", "CPU:1"])
ALONE = tf.distribute.get_strategy()


@pytest.fixture(autouse=True)
def float64():
    keras.config.set_dtype_policy("float64")
    keras.config.set_floatx("float64")
    yield
    keras.config.set_dtype_policy("float32")
    keras.config.set_floatx("float32")


class MeanSquare(keras.layers.Layer):
    """Pass the input on, and add 0.3 times its mean square to the loss."""

    def call(self, inputs):
        self.add_loss(0.3 * keras.ops.mean(keras.ops.square(inputs)))
        return inputs


def two_outputs(within, reduction="sum_over_batch_size"):
    """Return a model with two outputs, and with losses before and after synchronized batch norm.

    The threads of the replicas switch at its collectives.
    """
    keras.utils.set_random_seed(1)
    with within.scope():
        images = keras.Input((4, 4, 2))
        x = keras.layers.Conv2D(
            3,
            3,
            padding="same",
            kernel_regularizer=keras.regularizers.L2(0.0625),
            activity_regularizer=keras.regularizers.L2(0.125),
            name="convolution",
        )(images)
        x = MeanSquare()(x)
        x = keras.layers.BatchNormalization(synchronized=True)(x)
        x = MeanSquare(name="pooled")(keras.layers.GlobalAveragePooling2D()(x))
        outputs = [keras.layers.Dense(3, name="a")(x), keras.layers.Dense(1, name="b")(x)]
        model = prepare(keras.Model(images, outputs))
        entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
        model.compile(
            keras.optimizers.SGD(0.05),
            {"a": entropy, "b": keras.losses.MeanSquaredError(reduction=reduction)},
            loss_weights={"a": 1.0, "b": 0.5},
        )
    return model


def examples(count):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(count, 4, 4, 2))
    return images, {"a": rng.integers(0, 3, count), "b": rng.normal(size=(count, 1))}


def batches(count):
    return tf.data.Dataset.from_tensor_slices(examples(count)).batch(16)


class WithoutTraining(keras.Model):
    """A model with the signature of `compute_loss` before Keras 3.3."""

    def compute_loss(self, x, y, y_pred, sample_weight=None):
        return 2 * super().compute_loss(x, y, y_pred, sample_weight)


@pytest.mark.slow
@pytest.mark.parametrize("within", [ALONE, REPLICAS], ids=["one device", "replicas"])
def test_an_overridden_compute_loss_without_training(within):
    """By hand, for mean squared errors on 5 images: w - 0.125 * 2 * mean(2 x (w x - y))."""
    x, y = np.arange(1.0, 6.0)[:, None], np.ones((5, 1))
    with within.scope():
        inputs = keras.Input((1,))
        outputs = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")(inputs)
        model = prepare(WithoutTraining(inputs, outputs))
        model.compile(keras.optimizers.SGD(0.125), "mse")
    model.fit(tf.data.Dataset.from_tensor_slices((x, y)).batch(5), verbose=0)
    wanted = 1 - 0.125 * 2 * np.mean(2 * x * (x - y))
    assert model.get_weights()[0].item() == pytest.approx(wanted, rel=1e-10)


# In the last batch the replicas get 1 and 0, or 7 and 6 images.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "reduction"), [(17, "sum_over_batch_size"), (29, "sum_over_batch_size"), (17, "sum")]
)
def test_weights_and_logs_equal_those_of_one_device(count, reduction):
    found = []
    for within in (ALONE, REPLICAS):
        model = two_outputs(within, reduction)
        logs = model.fit(
            batches(count), epochs=2, validation_data=batches(count + 2), shuffle=False, verbose=0
        ).history
        found.append((logs, model.get_weights()))
    (wanted, wanted_weights), (logs, weights) = found
    assert set(logs) == {
        f"{split}{loss}" for split in ("", "val_") for loss in ("loss", "a_loss", "b_loss")
    }
    for name, values in wanted.items():
        np.testing.assert_allclose(logs[name], values, rtol=1e-10, err_msg=name)
    for ours, theirs in zip(weights, wanted_weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("within", [ALONE, REPLICAS], ids=["one device", "replicas"])
def test_evaluate_counts_every_image_once(within):
    """In NumPy: means over 17 images, in batches of 16 and 1, and the penalty of the kernel."""
    model = two_outputs(within)
    model.fit(batches(32), verbose=0)
    images, labels = examples(17)
    layers = [model.get_layer(name).output for name in ("convolution", "pooled", "a", "b")]
    convolved, pooled, logits, values = keras.Model(model.inputs, layers).predict(images, verbose=0)
    log = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    a = -log[np.arange(17), labels["a"]].mean()
    b = np.square(values - labels["b"]).mean()
    of_layers = 0.125 * np.square(convolved).sum() / 17 + 0.3 * (
        np.square(convolved).mean() + np.square(pooled).mean()
    )
    penalty = 0.0625 * np.square(model.get_layer("convolution").kernel.numpy()).sum()
    wanted = {"loss": a + 0.5 * b + of_layers + penalty, "a_loss": a, "b_loss": b}
    assert model.evaluate(batches(17), verbose=0, return_dict=True) == pytest.approx(
        wanted, rel=1e-10
    )


def test_what_is_no_model_is_refused():
    with pytest.raises(ValueError, match=r"model is <Dense .*>; give a keras.Model"):
        prepare(keras.layers.Dense(2))
