"""Small models shared by the tests of networks."""

import keras
import numpy as np
from keras import layers

from keras_resnet import ResNet
from keras_resnet.networks.spec import ResNetSpec

TINY = ResNetSpec(stem="cifar", blocks=(1, 1), width=4)


def of_type(model, kind):
    return [layer for layer in model._flatten_layers() if isinstance(layer, kind)]


def trained(model, seed=0, gamma=(0.5, 1.5)):
    """Randomize the batch norms as training would; new ones are close to the identity."""
    random = np.random.default_rng(seed)
    for norm in of_type(model, layers.BatchNormalization):
        bounds = {
            "gamma": gamma,
            "beta": (-0.3, 0.3),
            "moving_mean": (-0.3, 0.3),
            "moving_variance": (0.5, 2.0),
        }
        for weight in norm.weights:
            weight.assign(random.uniform(*bounds[weight.name], weight.shape))
    return model


def images_for(model):
    """Return four images of the model's size, by default of 32 px."""
    shape = [side or 32 for side in model.input_shape[1:]]
    return np.random.default_rng(1).normal(size=(4, *shape)).astype(np.float32)


def softmax(logits):
    powers = np.exp(np.float64(logits) - np.max(logits, axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def call_counts(model):
    """Return how often each operation of a model, nested models included, was called."""
    models = [part for part in model._flatten_layers() if isinstance(part, keras.Model)]
    return [
        (operation.name, len(operation._inbound_nodes), len(operation._outbound_nodes))
        for part in models
        for operation in getattr(part, "_functional", part).operations
    ]


def body(x):
    x = layers.Conv2D(6, 3, strides=2, use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    return layers.ReLU()(layers.BatchNormalization()(layers.DepthwiseConv2D(3)(x)))


def pooled(x):
    return layers.GlobalAveragePooling2D()(body(x))


def pixels(x):
    return layers.GlobalAveragePooling2D(keepdims=True)(body(x))


def model_ending_in(end, shape=(12, 12, 3)):
    """Return a model whose batch norms and biases look trained."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input(shape)
    model = trained(keras.Model(inputs, end(inputs), name="mine"))
    random = np.random.default_rng(2)
    for weight in model.weights:
        if weight.name == "bias":
            weight.assign(random.normal(size=weight.shape))
    return model


class Unknown(layers.Layer):
    """A layer that cannot be rebuilt from its config, which lacks `weight`."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def get_config(self):
        return {}

    def call(self, inputs):
        return inputs * self.weight


def nested():
    """Return a model nested three levels deep, with layers of the same name on every level."""
    inner = ResNet(TINY, input_shape=(16, 16, 3), include_top=False, pooling="avg")
    middle = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Rescaling(2.0, offset=-0.5, name="conv1_pad"),
            inner,
            layers.BatchNormalization(name="conv1_bn"),
        ]
    )
    inputs = keras.Input((16, 16, 3))
    x = middle(layers.RandomFlip("horizontal")(inputs), training=False)
    x = layers.BatchNormalization(name="conv1_bn")(x)
    return trained(keras.Model(inputs, layers.Dense(3, activation="softmax")(x)))
