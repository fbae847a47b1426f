"""Logits and features of classifiers, of this package and of keras.applications."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from small_models import (
    TINY,
    Unknown,
    body,
    call_counts,
    images_for,
    model_ending_in,
    nested,
    of_type,
    pixels,
    pooled,
    softmax,
    trained,
)

from keras_resnet import ResNet
from keras_resnet.networks.folding import fold_batch_norm
from keras_resnet.networks.logits import features_and_logits


def assert_is_split(model, scores="softmax", features=True):
    """Require that the split model, folded or not, gives the model's outputs.

    Its features times the classifier must be its logits. The model must stay unchanged.
    """
    images = images_for(model)
    own = np.asarray(model(images, training=False))
    weights = model.get_weights()
    nodes = call_counts(model)
    split = features_and_logits(model)
    assert call_counts(model) == nodes, "operations of the model were called"
    assert split.scores == scores
    assert (split.note == "") == features
    assert {layer.compute_dtype for layer in split.model.layers} <= {"float32", "uint8"}
    assert not any(isinstance(layer, keras.Model) for layer in split.model.layers), "flat"
    assert not set(map(id, split.model.variables)) & set(map(id, model.variables))
    for network in (split.model, fold_batch_norm(split.model)):
        assert network.input.dtype == model.inputs[0].dtype
        answers = {name: np.asarray(value) for name, value in network(images).items()}
        logits = answers.pop("logits")
        if scores == "sigmoid":
            np.testing.assert_array_equal(logits[:, 0], 0)
            np.testing.assert_allclose(softmax(logits)[:, 1:], own, atol=1e-5)
        elif scores == "softmax":
            np.testing.assert_allclose(softmax(logits), own, atol=1e-5)
        else:
            np.testing.assert_allclose(logits, own, rtol=1e-4, atol=1e-5)
        assert set(answers) == ({"features"} if features else set())
        if features:
            kernel, bias = [
                layer.get_weights()
                for layer in network.layers
                if isinstance(layer, (layers.Dense, layers.Conv2D))
            ][-1]
            product = answers["features"] @ kernel.reshape(kernel.shape[-2:]) + bias
            if scores == "sigmoid":
                product = np.concatenate([0 * product, product], axis=1)
            np.testing.assert_allclose(product, logits, rtol=1e-4, atol=1e-5)
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    return split


@pytest.mark.slow
@pytest.mark.parametrize(
    "end",
    [
        lambda x: layers.Dense(3, activation="softmax")(pooled(x)),
        lambda x: layers.Dense(3, activation=tf.nn.softmax)(pooled(x)),
        lambda x: layers.Softmax()(layers.Dense(3)(pooled(x))),
        lambda x: layers.Softmax(axis=1)(layers.Dense(3)(pooled(x))),
        lambda x: layers.Activation("softmax")(layers.Dense(3)(pooled(x))),
        lambda x: ops.softmax(layers.Dense(3)(pooled(x))),
        lambda x: keras.activations.softmax(layers.Dense(3)(pooled(x))),
        lambda x: layers.Dropout(0.5)(layers.Dense(3, activation="softmax")(pooled(x))),
        lambda x: layers.Softmax()(layers.Activation("linear")(layers.Dense(3)(pooled(x)))),
        # The head of keras.applications.MobileNet, and equivalent heads.
        lambda x: layers.Softmax()(layers.Reshape((3,))(layers.Conv2D(3, 1)(pixels(x)))),
        lambda x: layers.Flatten()(layers.Conv2D(3, 1, activation="softmax")(pixels(x))),
        lambda x: ops.squeeze(layers.Conv2D(3, 1, activation="softmax")(pixels(x)), axis=(1, 2)),
        lambda x: layers.Reshape((3,))(layers.Softmax()(layers.Dense(3)(pixels(x)))),
    ],
)
def test_every_form_of_softmax_is_removed(end):
    assert_is_split(model_ending_in(end))


@pytest.mark.parametrize(
    "end",
    [
        lambda x: layers.Dense(3)(pooled(x)),
        lambda x: layers.Activation("linear", dtype="float32")(layers.Dense(3)(pooled(x))),
        lambda x: ops.cast(layers.Dense(3)(layers.Dropout(0.2)(pooled(x))), "float32"),
        lambda x: layers.Flatten()(layers.Conv2D(3, 1)(pixels(x))),
    ],
)
def test_logits_are_kept(end):
    assert_is_split(model_ending_in(end), scores="logits")


@pytest.mark.parametrize(
    "end",
    [
        lambda x: layers.Dense(1, activation="sigmoid")(pooled(x)),
        lambda x: layers.Dense(1, activation=tf.nn.sigmoid)(pooled(x)),
        lambda x: layers.Activation("sigmoid")(layers.Dense(1)(pooled(x))),
        lambda x: ops.sigmoid(layers.Dense(1)(pooled(x))),
        lambda x: layers.Flatten()(layers.Conv2D(1, 1, activation="sigmoid")(pixels(x))),
    ],
)
def test_a_sigmoid_unit_is_two_classes(end):
    split = assert_is_split(model_ending_in(end), scores="sigmoid")
    assert split.model.output["logits"].shape == (None, 2)


@pytest.mark.parametrize(
    ("end", "scores", "note"),
    [
        # SqueezeNet's head: each position votes.
        (
            lambda x: layers.Softmax()(
                layers.GlobalAveragePooling2D()(layers.Conv2D(3, 1)(body(x)))
            ),
            "softmax",
            "GlobalAveragePooling2D",
        ),
        (
            lambda x: layers.GlobalAveragePooling2D()(layers.Conv2D(3, 1)(body(x))),
            "logits",
            "GlobalAveragePooling2D",
        ),
        (
            lambda x: layers.Flatten()(layers.Conv2D(3, 5, activation="softmax")(body(x))),
            "softmax",
            "several positions",
        ),
        (
            lambda x: layers.Softmax()(layers.Dense(3, activation="relu")(pooled(x))),
            "softmax",
            "Dense",
        ),
        (
            lambda x: layers.Softmax()(layers.Add()([layers.Dense(3)(pooled(x)) for _ in "ab"])),
            "softmax",
            "Add",
        ),
    ],
)
def test_features_that_cannot_be_identified_are_left_out_with_a_note(end, scores, note):
    split = assert_is_split(model_ending_in(end, (16, 16, 3)), scores=scores, features=False)
    assert note in split.note


def test_log_softmax_is_logits():
    model = model_ending_in(lambda x: layers.Dense(3, activation="log_softmax")(pooled(x)))
    split = assert_is_split(model, scores="logits", features=False)
    np.testing.assert_allclose(
        np.exp(split.model(images_for(model))["logits"]).sum(axis=1), 1, atol=1e-6
    )


class Nameless(layers.Layer):
    """A layer that Keras names by counting the layers of its class."""

    def __init__(self):
        super().__init__()

    def get_config(self):
        return {}

    def call(self, inputs):
        return 2 * inputs


@pytest.mark.slow
@pytest.mark.parametrize("units", [1, 3])
def test_new_operations_get_unused_names(units):
    """A loaded model may already have the names that Keras' counters give next."""

    def end(x):
        y = layers.Conv2D(units, 1, activation="sigmoid" if units == 1 else "softmax")(pixels(x))
        return layers.Flatten()(y)

    model = model_ending_in(lambda x: end(Nameless()(x)))
    taken = iter(
        [
            f"{name}{n}"
            for n in ("", *(f"_{i}" for i in range(9)))
            for name in ("logits", "features", "two_logits", "reshape", "pad", "nameless")
        ]
    )
    inputs = x = keras.Input(model.input_shape[1:])
    for name in taken:
        x = layers.Identity(name=name)(x)
    keras.utils.set_random_seed(0)
    keras.backend.clear_session()  # resets the counters
    wrapped = keras.Model(inputs, model(x))
    assert_is_split(wrapped, "sigmoid" if units == 1 else "softmax")


class OwnCall(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, inputs):
        return self.dense(ops.mean(inputs, axis=(1, 2)))


class FunctionalWithOwnCall(keras.Model):
    """A subclass of a Functional model that overrides `call`."""

    def call(self, inputs, training=None, mask=None):
        return 1 - super().call(inputs)


def shared_softmax(x):
    dense = layers.Dense(6, activation="softmax")
    return dense(dense(pooled(x)))


def two_outputs(x):
    y = pooled(x)
    return [layers.Dense(3)(y), layers.Dense(2)(y)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "message"),
    [
        (lambda x: layers.Dense(4, activation="sigmoid")(pooled(x)), "4 sigmoid units.* one class"),
        (lambda x: ops.sigmoid(layers.Dense(4)(pooled(x))), "4 sigmoid units"),
        (lambda x: layers.Dense(1)(pooled(x)), "one unit without a sigmoid; .*end in one sigmoid"),
        (lambda x: layers.Dense(1, activation="softmax")(pooled(x)), "one unit without a sigmoid"),
        (lambda x: layers.Dense(3, activation="relu", name="end")(pooled(x)), "Dense 'end' .relu."),
        (lambda x: layers.ReLU(name="end")(layers.Dense(3)(pooled(x))), "ReLU 'end'"),
        (lambda x: layers.Dense(3, activation=lambda z: z)(pooled(x)), "<lambda>"),
        (pooled, "ReLU"),
        (lambda x: Unknown(2.0)(layers.Dense(3)(pooled(x))), "Unknown"),
        (lambda x: layers.Lambda(lambda y: y)(layers.Dense(3)(pooled(x))), "Lambda"),
        (lambda x: layers.Dense(3)(pooled(x)) * 2, "Multiply"),
        (lambda x: layers.Dense(4)(pooled(x))[:, ::-1], "GetItem"),
        (
            lambda x: layers.Average(name="vote")(
                [layers.Dense(3, activation="softmax")(pooled(x)) for _ in "ab"]
            ),
            "Average 'vote'.* softmax over the classes, or one sigmoid unit",
        ),
        (lambda x: layers.Softmax(axis=0)(layers.Dense(3)(pooled(x))), "axis 0"),
        (
            lambda x: layers.GlobalAveragePooling2D()(layers.Conv2D(3, 1, activation="softmax")(x)),
            "Conv2D .* .softmax.",
        ),
        # A softmax over a single channel is always one.
        (
            lambda x: layers.Reshape((3,))(
                layers.Softmax()(layers.Reshape((3, 1))(layers.Dense(3)(pooled(x))))
            ),
            "Reshape",
        ),
        (shared_softmax, "called more than once"),
        (lambda x: layers.Dense(3)(body(x)), r"outputs of shape \(None, 3, 3, 3\)"),
        (two_outputs, "has 2 outputs; give a model with one"),
        (lambda x: {"scores": layers.Dense(3)(pooled(x))}, "dict of outputs"),
    ],
)
def test_models_without_identifiable_logits_are_refused(end, message):
    model = model_ending_in(end)
    with pytest.raises(ValueError, match=message) as refusal:
        features_and_logits(model)
    assert str(refusal.value).startswith("mine ")
    assert "\n" not in str(refusal.value)


def of_shape(*shapes, dtype=None):
    inputs = [keras.Input(shape, dtype=dtype) for shape in shapes]
    flat = [layers.Dense(3)(layers.Flatten()(x)) for x in inputs]
    return keras.Model(inputs, flat[0] if len(flat) == 1 else layers.Add()(flat))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (OwnCall, "OwnCall with a `call` of its own.* Functional or Sequential"),
        (
            lambda: FunctionalWithOwnCall(
                *(lambda x: (x, layers.Dense(2)(pooled(x))))(keras.Input((9, 9, 3)))
            ),
            "FunctionalWithOwnCall with a `call` of its own",
        ),
        (lambda: keras.Sequential([layers.Flatten(), layers.Dense(3)]), "not built.* keras.Input"),
        (lambda: of_shape((8, 8, 3), (8, 8, 3)), "has 2 inputs; give a model with one"),
        (lambda: of_shape((8, 8, 1)), r"\(None, 8, 8, 1\).*\(N, H, W, 3\)"),
        (lambda: of_shape((3, 8, 8)), r"\(None, 3, 8, 8\)"),
        (lambda: of_shape((8, 3)), r"\(None, 8, 3\)"),
        (
            lambda: keras.Model(
                {"image": (x := keras.Input((8, 8, 3), name="image"))}, layers.Dense(3)(pooled(x))
            ),
            "dict of inputs",
        ),
        (lambda: "runs/mine", "str; give a keras.Model"),
    ],
)
def test_models_other_than_image_classifiers_are_refused(model, message):
    with pytest.raises(ValueError, match=message) as refusal:
        features_and_logits(model())
    assert "\n" not in str(refusal.value)


class OwnTrainStep(keras.Model):
    def train_step(self, data):
        return {}


def test_a_model_with_its_own_train_step_is_accepted():
    inputs = keras.Input((12, 12, 3))
    assert_is_split(trained(OwnTrainStep(inputs, layers.Dense(3)(pooled(inputs)))), scores="logits")


def test_a_compiled_model_is_accepted_with_any_loss():
    model = model_ending_in(lambda x: layers.Dense(3)(pooled(x)))
    model.compile("sgd", loss=lambda wanted, got: got)
    assert_is_split(model, scores="logits")


def test_nested_models_are_inlined():
    model = nested()
    split = assert_is_split(model)
    folded = fold_batch_norm(split.model)
    assert not of_type(folded, layers.BatchNormalization)
    assert len(of_type(folded, layers.Rescaling)) == 3, "Rescaling, and two norms after the pool"


def test_a_model_called_twice_keeps_one_set_of_weights():
    inner = trained(ResNet(TINY, input_shape=(16, 16, 3), include_top=False, pooling="avg"))
    inputs = keras.Input((16, 16, 3))
    x = layers.Concatenate()([inner(inputs), inner(inputs[:, :, ::-1])])
    model = keras.Model(inputs, layers.Dense(3)(x))
    split = assert_is_split(model, scores="logits")
    assert split.model.count_params() == model.count_params()


def test_a_sequential_model_around_a_backbone():
    backbone = ResNet(TINY, include_top=False, input_shape=(16, 16, 3))
    model = keras.Sequential(
        [backbone, layers.GlobalAveragePooling2D(), layers.Dense(1, activation="sigmoid")]
    )
    assert_is_split(trained(model), scores="sigmoid")


def double(x):
    return 2 * x


def adapted():
    norm = layers.Normalization()
    norm.adapt(np.random.default_rng(5).normal(3, 2, size=(9, 12, 12, 3)))
    return norm


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [
        lambda: layers.Rescaling(1 / 127.5, offset=-1),
        adapted,
        lambda: layers.Normalization(mean=[1, 2, 3], variance=[4, 5, 6]),
        lambda: layers.Resizing(20, 24),
        lambda: layers.Lambda(double),
        lambda: layers.Lambda(lambda x, by: x * by, arguments={"by": 3.0}),
        lambda: keras_preprocessing,
        lambda: layers.TimeDistributed(layers.Dense(3)),
        lambda: lambda x: ops.pad(x, np.array(((0, 0), (1, 2), (0, 3), (0, 0)))),
        lambda: lambda x: x / np.array([1.0, 2.0, 3.0], np.float32) - 0.5,
    ],
)
def test_preprocessing_inside_a_model_is_kept(first):
    assert_is_split(
        model_ending_in(lambda x: layers.Dense(3, activation="softmax")(pooled(first()(x))))
    )


@pytest.mark.parametrize("layer", [layers.Dropout(0.9), layers.RandomFlip("vertical")])
def test_outputs_are_those_of_inference_even_with_training_true(layer):
    """`predict` overrides `training=True` in the graph, too."""
    model = model_ending_in(lambda x: layers.Dense(3)(pooled(layer(x, training=True))))
    split = assert_is_split(model, scores="logits").model
    images = images_for(model)
    np.testing.assert_array_equal(split(images)["logits"], split(images)["logits"])


def keras_preprocessing(x):
    return keras.applications.imagenet_utils.preprocess_input(x, mode="torch")


def test_the_input_dtype_is_kept():
    inputs = keras.Input((12, 12, 3), dtype="uint8")
    model = keras.Model(inputs, layers.Dense(3)(pooled(layers.Rescaling(1 / 255)(inputs))))
    images = np.random.default_rng(0).integers(0, 256, size=(4, 12, 12, 3), dtype=np.uint8)
    split = features_and_logits(trained(model)).model
    assert split.input.dtype == "uint8"
    np.testing.assert_allclose(split(images)["logits"], model(images), rtol=1e-5, atol=1e-6)


APPLICATIONS = sorted(
    name
    for name, value in vars(keras.applications).items()
    if name[0].isupper() and callable(value)
)


def application(name, **arguments):
    side = {"InceptionResNetV2": 75, "InceptionV3": 75, "Xception": 71}.get(name, 32)
    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(side, side, 3), classes=7, **arguments
    )
    # With larger scales, sums over hundreds of residual units grow until float32 networks become
    # chaotic. With scales around 1, EfficientNetV2L differs from its float64 version by 150 %.
    return trained(model, gamma=(0.1, 0.3))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("MobileNet", {"alpha": 0.25}),
        ("MobileNetV2", {"alpha": 0.35, "classifier_activation": None}),
    ],
)
def test_small_networks_of_keras_applications(name, arguments):
    assert_is_split(application(name, **arguments), "logits" if len(arguments) > 1 else "softmax")


# The smallest of each family; scripts/experiments/applications.py tests all of them.
FAMILIES = {
    "ConvNeXt": "ConvNeXtTiny",
    "DenseNet": "DenseNet121",
    "EfficientNetB": "EfficientNetB0",
    "EfficientNetV2": "EfficientNetV2B0",
    "InceptionResNet": "InceptionResNetV2",
    "InceptionV3": "InceptionV3",
    "MobileNetV3": "MobileNetV3Small",
    "MobileNet": "MobileNet",
    "NASNet": "NASNetMobile",
    "ResNet": "ResNet50",
    "VGG": "VGG16",
    "Xception": "Xception",
}


LARGEST = {"DenseNet121", "EfficientNetB0", "InceptionResNetV2", "InceptionV3", "NASNetMobile"}
"""families whose layers others have, and which take longest"""


@pytest.mark.slow
@pytest.mark.parametrize("name", [*sorted({*FAMILIES.values()} - LARGEST), "ResNet50V2"])
def test_families_of_keras_applications(name):
    model = application(name)
    assert_is_split(model)
    assert len(of_type(fold_batch_norm(model), layers.BatchNormalization)) == 0
    keras.backend.clear_session()


def test_every_family_of_keras_applications_is_known():
    assert len(APPLICATIONS) >= 30
    assert all(name.startswith(tuple(FAMILIES)) for name in APPLICATIONS)
    assert set(FAMILIES.values()) <= set(APPLICATIONS)
