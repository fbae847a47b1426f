"""Test exports of any Keras model in the C++ loader."""

import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from PIL import Image

from keras_resnet import PREPROCESSING, Preprocessing, ResNet20
from keras_resnet.data.decoding import decode
from keras_resnet.data.preprocessing import normalize, resize_and_crop
from keras_resnet.networks.float32 import float32_copy
from keras_resnet.networks.logits import FeaturesAndLogits
from keras_resnet.serving.audit import audit, read_graph
from keras_resnet.serving.cpp_loader import Call, strings
from keras_resnet.serving.export import export


def scaled(size):
    """Return a preprocessing for an input of `size` pixels in which every field has an effect."""
    return Preprocessing(
        resize=size + 9, crop=size, channels="BGR", mean=(104, 117, 124), scale=(58, 57, 60)
    )


def unscaled(size):
    """Return a preprocessing without normalization."""
    return Preprocessing(resize=size, crop=size)


def photographs(size):
    """Return encoded images of other sizes than the input, alternately JPEG and PNG."""
    random = np.random.default_rng(1)
    sides = [(size + 13, size + 40), (2 * size, size + 7), (size // 2, size - 3), (3 * size,) * 2]
    encoded = []
    for index, side in enumerate(sides):
        colors = Image.fromarray(random.uniform(0, 255, (5, 5, 3)).astype(np.uint8))
        file = io.BytesIO()
        colors.resize(side, Image.Resampling.BICUBIC).save(file, ("JPEG", "PNG")[index % 2])
        encoded.append(file.getvalue())
    return encoded


def views(preprocessing, encoded):
    """Return the inputs that a user of the model would compute, float32 `[N, crop, crop, 3]`."""
    rows = [resize_and_crop(preprocessing, decode(one)[tf.newaxis]) for one in encoded]
    return normalize(preprocessing, tf.concat(rows, axis=0)).numpy()


def with_random_norms(model, preprocessing):
    """Give a model random batch norms near those of images, so that its answers differ."""
    random = np.random.default_rng(0)
    norms = [one for one in inner_layers(model) if isinstance(one, layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        for name, bounds in {"gamma": (0.5, 1.5), "beta": (-0.3, 0.3)}.items():
            if (weight := getattr(norm, name)) is not None:
                weight.assign(random.uniform(*bounds, weight.shape))
    images = views(preprocessing, photographs(preprocessing.crop))
    # Noise gives every channel some variance; a small variance would amplify rounding.
    noise = images.std() * random.normal(size=images.shape).astype(np.float32)
    model(np.concatenate([images, images[::-1] + noise, noise]), training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        for weight in (norm.moving_mean, norm.moving_variance):
            weight.assign(weight * random.uniform(0.8, 1.25, weight.shape))
    # Random networks amplify rounding; smaller logits keep its effect on probabilities small.
    *_, classifier = (layer for layer in inner_layers(model) if layer.weights)
    classifier.set_weights([weight / 4 for weight in classifier.get_weights()])
    return model


def inner_layers(model):
    """Yield the layers of a model and of its inner models."""
    for layer in model.layers:
        yield from inner_layers(layer) if isinstance(layer, keras.Model) else [layer]


def small(*ends, size=20):
    """Return a model with a convolution, a batch norm, pooling and these last layers."""
    inputs = keras.Input((size, size, 3))
    x = layers.Conv2D(8, 3, strides=2, use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.GlobalAveragePooling2D()(x)
    for end in ends:
        x = end(x)
    return keras.Model(inputs, x, name="small")


def names(count):
    return [f"class {number}" for number in range(count)]


def mobilenet(size):
    return keras.applications.MobileNet(weights=None, input_shape=(size, size, 3), classes=10)


def resnet20_with_softmax():
    model = ResNet20(weights=None, input_shape=(32, 32, 3), classes=7)
    assert model.layers[-1].activation is keras.activations.softmax
    return model


def sequential_around_a_backbone():
    backbone = ResNet20(weights=None, input_shape=(24, 24, 3), include_top=False, pooling="avg")
    return keras.Sequential([backbone, layers.Dropout(0.5), layers.Dense(5)])


def rescaling_inside():
    return keras.Sequential(
        [
            keras.Input((20, 20, 3)),
            layers.Rescaling(1 / 127.5, -1.0),
            layers.RandomFlip(),
            layers.Conv2D(8, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
            layers.Softmax(),
        ]
    )


def one_sigmoid_unit():
    return small(layers.Dense(1, activation="sigmoid"))


KINDS = {
    "mobilenet": (lambda: mobilenet(64), PREPROCESSING["tf"].for_size(64)),
    "resnet20 with softmax": (resnet20_with_softmax, scaled(32)),
    "sequential around a backbone": (sequential_around_a_backbone, scaled(24)),
    "rescaling inside": (rescaling_inside, unscaled(20)),
    "one sigmoid unit": (one_sigmoid_unit, scaled(20)),
}
SLOW = KINDS.keys() - {"resnet20 with softmax", "one sigmoid unit"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=pytest.mark.slow) if k in SLOW else k for k in KINDS]
)
def test_served_probabilities_equal_those_of_the_unchanged_model(kind, tmp_path, ask):
    build, preprocessing = KINDS[kind]
    keras.utils.set_random_seed(1)
    model = with_random_norms(build(), preprocessing)
    encoded = photographs(preprocessing.crop)
    outputs = model.predict(views(preprocessing, encoded), verbose=0)
    if outputs.shape[1] == 1:
        outputs = np.concatenate([1 - outputs, outputs], axis=1)
    elif kind == "sequential around a backbone":  # its outputs are logits
        outputs = keras.ops.softmax(outputs.astype(np.float64)).numpy()
    # A hundred times the tolerance below.
    assert np.ptp(outputs, axis=0).max() > 1e-3, "answers that do not depend on the image"
    class_names = names(outputs.shape[1])
    weights, config = model.get_weights(), model.get_config()

    version = export(
        model, tmp_path / "export", class_names=class_names, preprocessing=preprocessing
    )

    (call,) = ask(
        version, Call(signature="serving_default", inputs={"image_bytes": strings(encoded)})
    )
    assert not call.error
    np.testing.assert_allclose(call.outputs["probabilities"], outputs, rtol=0, atol=1e-5)
    best = np.argsort(-outputs, axis=1)[:, : min(5, len(class_names))]
    wanted = [[class_names[index].encode() for index in row] for row in best]
    assert call.outputs["classes"].tolist() == wanted
    assert list(audit(version, read_graph(version))) == [], "batch norm is folded"
    assert model.get_config() == config
    for one, other in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize(
    "policy", ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)]
)
def test_a_half_precision_model_is_served_as_its_float32_copy(policy, tmp_path, ask):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = small(layers.Dense(4), layers.Activation("softmax", dtype="float32"))
    finally:
        keras.config.set_dtype_policy(before)
    model, encoded = with_random_norms(model, scaled(20)), photographs(20)
    images = views(scaled(20), encoded)
    own = float32_copy(model).predict(images, verbose=0)
    assert np.abs(own - model.predict(images, verbose=0)).max() > 1e-5, "half precision is visible"
    version = export(model, tmp_path, class_names=names(4), preprocessing=scaled(20))
    (call,) = ask(
        version, Call(signature="serving_default", inputs={"image_bytes": strings(encoded)})
    )
    np.testing.assert_allclose(call.outputs["probabilities"], own, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_stretched_view_without_antialiasing_is_served_as_trained(tmp_path, ask):
    """Keras' image loaders resize in this way."""
    model = with_random_norms(small(layers.Dense(4, activation="softmax")), scaled(20))
    encoded = photographs(20)
    pixels = [np.asarray(Image.open(io.BytesIO(one))) for one in encoded]
    images = [tf.image.resize(image, (20, 20)) for image in pixels]
    own = model.predict(np.stack(images) / 255, verbose=0)
    preprocessing = Preprocessing(
        resize=20, crop=20, scale=(255, 255, 255), aspect="stretch", antialias=False
    )
    version = export(model, tmp_path, class_names=names(4), preprocessing=preprocessing)
    (call,) = ask(
        version, Call(signature="serving_default", inputs={"image_bytes": strings(encoded)})
    )
    np.testing.assert_allclose(call.outputs["probabilities"], own, rtol=0, atol=1e-5)
    assert "Both sides are resized to 20 px, bilinear" in (version / "README.md").read_text()


def test_the_card_of_a_model(tmp_path, unchecked):
    model = one_sigmoid_unit()
    version = export(model, tmp_path / "pets", class_names=["cat", "dog"], preprocessing=scaled(20))
    card = (version / "README.md").read_text()
    # 8 kernels of 3x3x3, a batch norm of 4 numbers per channel, 8 weights and a bias.
    assert card.startswith("# pets\n\nThe Functional Keras model `small` of 257 parameters.\n")
    assert "The names of its 2 classes are in `assets/labels.txt`." in card
    assert "The shorter side is resized to 29 px, bilinear and antialiased." in card
    assert "An EXIF orientation is ignored." in card
    assert "BGR channels, mean (104.0, 117.0, 124.0) and scale (58.0, 57.0, 60.0)." in card
    assert "Unknown: the model was not trained by a run of this package." in card
    assert card.count("\n| `features` |") == 1
    assert (
        len(
            card.split("## Files")[1]
            .split("|---|---|---|")[1]
            .split("Made")[0]
            .strip()
            .splitlines()
        )
        == 8
    )


@pytest.mark.slow
def test_a_model_that_cannot_be_folded_is_exported_unfolded(tmp_path, ask, monkeypatch):
    def refuse(model):
        raise ValueError("the layer 'odd' cannot be copied")

    monkeypatch.setattr("keras_resnet.serving.export.fold_batch_norm", refuse)
    model, encoded = with_random_norms(one_sigmoid_unit(), scaled(20)), photographs(20)
    version = export(model, tmp_path, class_names=["cat", "dog"], preprocessing=scaled(20))
    card = (version / "README.md").read_text()
    assert "- Batch norm is not folded: the layer 'odd' cannot be copied\n" in card
    assert "- 1 batch norms are computed for every request; they could be folded\n" in card
    (call,) = ask(
        version, Call(signature="serving_default", inputs={"image_bytes": strings(encoded)})
    )
    own = model.predict(views(scaled(20), encoded), verbose=0)
    np.testing.assert_allclose(call.outputs["probabilities"][:, 1:], own, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_any_class_name_of_one_line_is_served(tmp_path, ask):
    class_names = ["Käse", "猫 🐈", "  two  spaces ", "a\tb", '"quoted", \\n', "\ufeffmark"]
    model = with_random_norms(small(layers.Dense(6, activation="softmax")), scaled(20))
    version = export(model, tmp_path, class_names=class_names, preprocessing=scaled(20))
    (call,) = ask(
        version,
        Call(signature="serving_default", inputs={"image_bytes": strings(photographs(20))}),
    )
    served = {name.decode() for name in call.outputs["classes"].flat}
    assert len(served) >= 5 and served <= set(class_names)
    text = (version / "assets" / "labels.txt").read_bytes().decode()
    assert text.split("\n") == [*class_names, ""]


def two_inputs():
    one, two = keras.Input((20, 20, 3)), keras.Input((20, 20, 3))
    pooled = layers.GlobalAveragePooling2D()(layers.Add()([one, two]))
    return keras.Model([one, two], layers.Dense(2)(pooled))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.pool, self.dense = layers.GlobalAveragePooling2D(), layers.Dense(2)

    def call(self, images):
        return self.dense(self.pool(images))


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 20, 20, 3), np.float32))
    return model


@pytest.mark.parametrize(
    "build", [two_inputs, subclassed, lambda: small(layers.Dense(2, activation="sigmoid"))]
)
def test_other_models_are_refused_with_one_line(build, tmp_path):
    with pytest.raises(ValueError) as raised:
        export(build(), tmp_path / "export", class_names=names(2), preprocessing=unscaled(20))
    assert len(str(raised.value).splitlines()) == 1
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize(
    ("left_out", "message"),
    [
        ("directory", "directory is None; give the folder of the versions"),
        ("class_names", "class_names is None; give"),
        ("preprocessing", "preprocessing is None; give"),
    ],
)
def test_a_model_needs_all_arguments(left_out, message, tmp_path):
    arguments = {
        "directory": tmp_path / "export",
        "class_names": ["cat", "dog"],
        "preprocessing": scaled(20),
    }
    with pytest.raises(ValueError, match=message):
        export(one_sigmoid_unit(), **arguments | {left_out: None})
    assert not (tmp_path / "export").exists()


@pytest.mark.slow
def test_a_softmax_that_is_treated_as_logits_is_not_exported(tmp_path, monkeypatch):
    """A softmax of a softmax would pass if the export were compared with itself."""
    model = with_random_norms(small(layers.Dense(4, activation="softmax")), scaled(20))
    split = FeaturesAndLogits(
        model=keras.Model(model.inputs, {"logits": model.output}), scores="softmax", note="none"
    )
    monkeypatch.setattr("keras_resnet.runs.classifier.features_and_logits", lambda model: split)
    with pytest.raises(ValueError, match="serving_default: probabilities differ from the model's"):
        export(model, tmp_path, class_names=names(4), preprocessing=scaled(20))
    assert list(tmp_path.iterdir()) == []


def test_probabilities_that_are_treated_as_logits_are_refused(tmp_path, monkeypatch):
    model = with_random_norms(small(layers.Dense(4, activation="softmax")), scaled(20))
    split = FeaturesAndLogits(
        model=keras.Model(model.inputs, {"logits": model.output}), scores="logits", note="none"
    )
    monkeypatch.setattr("keras_resnet.runs.classifier.features_and_logits", lambda model: split)
    with pytest.raises(ValueError, match="the outputs of small look like probabilities"):
        export(model, tmp_path / "export", class_names=names(4), preprocessing=scaled(20))
    assert not (tmp_path / "export").exists()
