"""The Keras model of a spec: the layers that the spec lists, and the numbers that the paper's formulas give."""

import functools
import json
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_resnet.analysis import summarize
from keras_resnet.model import build
from keras_resnet.spec import NETWORKS, ResNetSpec

GOLDEN = json.loads((Path(__file__).parent / "golden" / "networks.json").read_text(encoding="utf-8"))

# Two units in the first stage and one that strides in the second: every kind of shortcut, few channels.
SMALL = [
    ResNetSpec(stem=stem, block=block, blocks=(2, 1), width=4, shortcut=shortcut, stride_on=stride_on, order=order)
    for stem, (block, stride_on), shortcut, order in product(
        ("cifar", "imagenet"),
        (("basic", "1x1"), ("bottleneck", "1x1"), ("bottleneck", "3x3")),
        ("A", "B", "C", None),
        ("post", "pre"),
    )
]
CIFAR = ResNetSpec(stem="cifar", blocks=(2, 1), width=4, shortcut="A")
IMAGENET = ResNetSpec(stem="imagenet", blocks=(2, 1), width=4)


def label(spec):
    return f"{spec.stem}-{spec.block}-{spec.name}"


@functools.cache
def small(spec):
    """A model that no test changes, with weights that no initializer gives: moving statistics, gamma and beta too."""
    model = build(spec, input_shape=(32, 32, 3), classes=5)
    random = np.random.default_rng(0)
    for variable in model.variables:
        if "kernel" in variable.path:
            fan_in = np.prod(variable.shape[:-1])
            variable.assign(random.normal(size=variable.shape) * np.sqrt(2 / fan_in))
        else:
            variable.assign(random.uniform(0.5, 1.5, size=variable.shape))
    return model


def array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def part(model, start, end):
    """The layers of `model` after the one called `start` ("" for its input), up to the one called `end`."""
    return keras.Model(model.get_layer(start).output if start else model.input, model.get_layer(end).output)


def values(model, inputs):
    return array(model(np.asarray(inputs, "float32"), training=False))


def pictures(*shape):
    return np.random.default_rng(1).normal(size=shape).astype("float32")


def convolve(x, kernel, stride):
    """A convolution by its definition: as many zeros before as behind, in height as in width."""
    side, pad = kernel.shape[0], (kernel.shape[0] - 1) // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows, columns = (range(0, size - side + 1, stride) for size in x.shape[1:3])
    return np.stack(
        [np.stack([np.tensordot(x[:, i : i + side, j : j + side], kernel, 3) for j in columns], axis=1) for i in rows],
        axis=1,
    )


def assert_layers_equal(model, spec, size, classes):
    wanted = {layer.name: layer for layer in spec.layers(size, classes)}
    names = {layer.name for layer in model.layers if layer.weights}
    assert names == {name for name, layer in wanted.items() if layer.kind != "max pool"}
    for name, layer in wanted.items():
        found = model.get_layer(name)
        shapes = {
            "convolution": [(layer.kernel, layer.kernel, layer.inputs, layer.outputs)],
            "batch norm": [(layer.outputs,)] * 4,
            "max pool": [],
            "dense": [(layer.inputs, layer.outputs), (layer.outputs,)],
        }[layer.kind]
        assert [tuple(weight.shape) for weight in found.weights] == shapes, name
        output = (None, layer.outputs) if layer.kind == "dense" else (None, *layer.size, layer.outputs)
        assert tuple(found.output.shape) == output, name
        if layer.kind in ("convolution", "max pool"):
            assert found.strides == (layer.stride, layer.stride), name
    assert model.count_params() == summarize(spec, size, classes).total_parameters


@pytest.mark.parametrize("spec", SMALL, ids=label)
def test_layers_of_small_networks_are_those_of_the_spec(spec):
    assert_layers_equal(small(spec), spec, 32, 5)


@pytest.mark.parametrize(
    ("network", "size"),
    [
        ("resnet20", 32),
        ("resnet50", 224),
        ("plain34", 224),
        pytest.param("resnet152", 224, marks=pytest.mark.slow),
        pytest.param("resnet1202", 32, marks=pytest.mark.slow),
    ],
)
def test_layers_of_the_papers_networks_are_those_of_the_spec(network, size):
    spec = NETWORKS[network]
    (row,) = (
        row
        for row in GOLDEN["parameters"]
        if row["network"] == network and row["shortcut"] == spec.shortcut and row["classes"] != 100
    )
    model = build(spec, input_shape=(size, size, 3), classes=row["classes"])
    assert_layers_equal(model, spec, size, row["classes"])
    assert sum(int(np.prod(weight.shape)) for weight in model.trainable_weights) == row["trainable"]
    assert model.count_params() == row.get("total", model.count_params())
    assert model.name == network


@pytest.mark.parametrize("size", [(33, 64), (40, 23), (7, 9)])
@pytest.mark.parametrize(
    "spec", [IMAGENET, replace(CIFAR, block="bottleneck"), replace(IMAGENET, order="pre")], ids=label
)
def test_sizes_of_odd_pictures_are_those_of_the_spec(spec, size):
    for shortcut in ("A", "C"):
        model = build(replace(spec, shortcut=shortcut), input_shape=(*size, 3), classes=5)
        assert_layers_equal(model, replace(spec, shortcut=shortcut), size, 5)


@pytest.mark.parametrize("spec", SMALL, ids=label)
def test_every_layer_is_stock_keras(spec):
    for layer in small(spec).layers:
        assert type(layer).__module__.split(".")[0] == "keras", layer.name


_REOPEN = """
import sys

class Uninstalled:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "keras_resnet":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Uninstalled())
try:
    import keras_resnet
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("keras_resnet is here")

import keras
import numpy as np
import tensorflow as tf

outputs = {}
with tf.device("CPU:0"):
    for name in sys.argv[1:]:
        model = keras.models.load_model(name + ".keras")
        outputs[name] = model(np.load("pictures.npy"), training=False).numpy()
np.savez("outputs.npz", **outputs)
"""


def test_saved_models_open_where_this_package_is_not_installed(tmp_path):
    images = pictures(2, 32, 32, 3)
    np.save(tmp_path / "pictures.npy", images)
    for number, spec in enumerate(SMALL):
        small(spec).save(tmp_path / f"{number}.keras")
    names = [str(number) for number in range(len(SMALL))]
    done = subprocess.run(
        [sys.executable, "-I", "-c", _REOPEN, *names], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    outputs = np.load(tmp_path / "outputs.npz")
    for name, spec in zip(names, SMALL, strict=True):
        # On the CPU, where the same operations give the same bits.
        with tf.device("CPU:0"):
            np.testing.assert_array_equal(outputs[name], values(small(spec), images), err_msg=label(spec))
    # Each network answers otherwise, so no file stands for another. Only without shortcuts are the two orders one
    # chain of the same layers.
    assert len({outputs[name].tobytes() for name in names}) == len(
        {replace(s, order="post") if s.shortcut is None else s for s in SMALL}
    )


def test_zero_padding_shortcut_appends_its_zeros_after_the_real_channels():
    """Section 3.3, option A: identity mapping with extra zero entries, at stride 2 every second pixel."""
    model = build(ResNetSpec(stem="cifar", blocks=(1, 1), width=2, shortcut="A"), input_shape=(5, 4, 3), classes=5)
    for name in ("conv3_block1_1_conv", "conv3_block1_2_conv"):
        model.get_layer(name).kernel.assign(np.zeros(model.get_layer(name).kernel.shape))
    # With its convolutions at zero a unit is its shortcut, and ReLU keeps what is positive.
    x = np.arange(1, 41, dtype="float32").reshape(1, 5, 4, 2)
    got = values(part(model, "conv2_block1_out", "conv3_block1_out"), x)
    assert got.tolist() == [
        [
            [[1, 2, 0, 0], [5, 6, 0, 0]],
            [[17, 18, 0, 0], [21, 22, 0, 0]],
            [[33, 34, 0, 0], [37, 38, 0, 0]],
        ]
    ]


def test_zero_padding_shortcut_where_only_the_channels_change():
    """A bottleneck's first stage keeps the size and has four times the channels."""
    model = build(
        ResNetSpec(stem="cifar", block="bottleneck", blocks=(1,), width=1, shortcut="A"),
        input_shape=(2, 1, 3),
        classes=5,
    )
    last = model.get_layer("conv2_block1_3_conv")
    last.kernel.assign(np.zeros(last.kernel.shape))
    got = values(part(model, "conv1_relu", "conv2_block1_out"), [[[[3]], [[7]]]])
    assert got.tolist() == [[[[3, 0, 0, 0]], [[7, 0, 0, 0]]]]


@pytest.mark.parametrize("shortcut", ["A", "B", "C", None])
def test_a_unit_is_its_shortcut_plus_its_branch(shortcut):
    """Equation 1 and 2: y = F(x) + x, or F(x) + W x; ReLU after the addition (Fig. 2)."""
    model = small(replace(CIFAR, shortcut=shortcut))
    x = np.abs(pictures(2, 32, 32, 4))
    branch = values(part(model, "conv2_block2_out", "conv3_block1_2_bn"), x)
    across = {
        "A": lambda: np.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (0, 4))),
        "B": lambda: values(part(model, "conv2_block2_out", "conv3_block1_0_bn"), x),
        "C": lambda: values(part(model, "conv2_block2_out", "conv3_block1_0_bn"), x),
        None: lambda: 0,
    }[shortcut]()
    got = values(part(model, "conv2_block2_out", "conv3_block1_out"), x)
    np.testing.assert_allclose(got, np.maximum(branch + across, 0), rtol=1e-5, atol=1e-5)
    assert (branch < 0).any(), "nothing for the ReLU to cut"


@pytest.mark.parametrize("spec", [s for s in SMALL if s.order == "pre" and s.shortcut in ("A", "B")], ids=label)
def test_pre_activation_carries_its_input_through_a_stage(spec):
    """He et al. (2016), equation 4: with identity shortcuts, x_L = x_l + the sum of the residual branches between."""
    spec = replace(spec, blocks=(3, 1))
    stage = next(spec.stages())
    identities = [unit for unit in stage if unit.shortcut == "identity"]
    assert len(identities) >= 2
    model = small(spec)
    inputs = {3: "pool1_pool" if spec.stem == "imagenet" else "conv1_conv", 2: f"{stage[0].name}_out"}[len(identities)]
    ends = [inputs, *(f"{unit.convolutions[-1].name}_conv" for unit in identities), f"{stage[-1].name}_out"]
    probe = keras.Model(model.input, [model.get_layer(name).output for name in ends])
    x, *branches, out = (array(value) for value in probe(pictures(2, 32, 32, 3), training=False))
    np.testing.assert_allclose(out, x + sum(branches), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spec", [CIFAR, IMAGENET], ids=label)
def test_pre_activation_projects_the_activation_and_pads_the_input(spec):
    """He et al. (2016), appendix: a projection shares the unit's first BN and ReLU; an identity carries x itself."""
    projecting = small(replace(spec, order="pre", shortcut="B"))
    assert projecting.get_layer("conv3_block1_0_conv").input is projecting.get_layer("conv3_block1_preact_relu").output
    padding = small(replace(spec, order="pre", shortcut="A"))
    assert padding.get_layer("conv3_block1_0_subsample").input is padding.get_layer("conv2_block2_out").output


@pytest.mark.parametrize(
    ("spec", "start", "end"),
    [
        (IMAGENET, "", "conv1_conv"),
        (IMAGENET, "conv2_block2_out", "conv3_block1_1_conv"),
        (IMAGENET, "conv2_block2_out", "conv3_block1_0_conv"),
        (replace(IMAGENET, block="bottleneck"), "conv2_block2_out", "conv3_block1_1_conv"),
        (replace(IMAGENET, block="bottleneck", stride_on="3x3"), "conv3_block1_1_relu", "conv3_block1_2_conv"),
        (CIFAR, "", "conv1_conv"),
        (CIFAR, "conv2_block1_1_relu", "conv2_block1_2_conv"),
    ],
)
@pytest.mark.parametrize("size", [(8, 8), (9, 12)])
def test_convolutions_are_padded_alike_on_all_sides(spec, start, end, size):
    """TensorFlow's "same" pads 7x7/2 with 2 and 3, 3x3/2 with 0 and 1 pixels at even sizes; torch and Caffe do not."""
    model = build(spec, classes=5)
    piece = part(model, start, end)
    layer = model.get_layer(end)
    x = pictures(2, *size, piece.input.shape[-1])
    wanted = convolve(x, array(layer.kernel), layer.strides[0])
    np.testing.assert_allclose(values(piece, x), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(16, 16), (17, 22)])
@pytest.mark.parametrize("order", ["post", "pre"])
def test_pool_of_the_stem(order, size):
    """3x3, stride 2, one pixel of padding that never wins."""
    model = build(replace(IMAGENET, order=order), classes=5)
    before = "conv1_relu" if order == "post" else "conv1_conv"
    x = values(part(model, "", before), pictures(2, *size, 3))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::2, ::2]
    np.testing.assert_array_equal(values(part(model, before, "pool1_pool"), x), windows.max(axis=(-2, -1)))


def test_pool_before_any_relu_lets_negative_values_through():
    model = build(replace(IMAGENET, order="pre"), classes=5)
    kernel = model.get_layer("conv1_conv").kernel
    kernel.assign(np.ones(kernel.shape))
    pooled = values(part(model, "", "pool1_pool"), -np.ones((1, 16, 16, 3)))
    assert (pooled < 0).all()
    assert np.isfinite(pooled).all()


@pytest.mark.parametrize("spec", [CIFAR, replace(IMAGENET, block="bottleneck", order="pre")], ids=label)
def test_constants_of_every_layer(spec):
    """Section 3.4: BN follows convolutions, so none has a bias; momentum 0.9, epsilon 1e-5 as in Caffe and torch."""
    model = build(spec, classes=5)
    convolutions = [layer for layer in model.layers if isinstance(layer, layers.Conv2D)]
    norms = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    assert convolutions
    assert norms
    for layer in convolutions:
        assert not layer.use_bias
        assert layer.activation is keras.activations.linear
    for layer in norms:
        assert (layer.epsilon, layer.momentum, layer.center, layer.scale) == (1e-5, 0.9, True, True)
        assert not layer.synchronized
        for weight, start in ((layer.gamma, 1), (layer.beta, 0), (layer.moving_mean, 0), (layer.moving_variance, 1)):
            assert (array(weight) == start).all()


def test_he_initialisation():
    """Section 3.4 and its reference [13]: standard deviation sqrt(2 / fan in), mean 0."""
    keras.utils.set_random_seed(0)
    model = build(replace(NETWORKS["resnet50"], blocks=(1, 1)), classes=1000)
    kernels = [layer.kernel for layer in model.layers if isinstance(layer, (layers.Conv2D, layers.Dense))]
    assert len(kernels) == 1 + 2 * 4 + 1
    for kernel in map(array, kernels):
        wanted = np.sqrt(2 / np.prod(kernel.shape[:-1]))
        # The relative error of a standard deviation from n samples is about 1 / sqrt(2 n); five of these.
        assert abs(kernel.std() / wanted - 1) < 5 / np.sqrt(2 * kernel.size)
        assert abs(kernel.mean()) < 5 * wanted / np.sqrt(kernel.size)
    assert (array(model.get_layer("predictions").bias) == 0).all()


def test_initial_weights_follow_the_seed_and_differ_between_layers():
    def kernels(seed):
        keras.utils.set_random_seed(seed)
        model = build(CIFAR, classes=5)
        return [array(model.get_layer(f"conv2_block{unit}_1_conv").kernel) for unit in (1, 2)]

    first, second = kernels(1)
    again, _ = kernels(1)
    other, _ = kernels(2)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("spec", [CIFAR, replace(IMAGENET, block="bottleneck", shortcut="B")], ids=label)
def test_weight_decay_is_half_of_it_times_the_squared_kernels(spec):
    """Section 3.4 gives 1e-4: w -= lr * 1e-4 * w is the gradient of 0.5e-4 * w^2, on kernels alone."""
    model = build(spec, classes=5, weight_decay=1e-4)
    kernels = [variable for variable in model.trainable_variables if variable.path.endswith("kernel")]
    convolutions = sum(layer.kind == "convolution" for layer in spec.layers(32, 5))
    assert len(kernels) == convolutions + 1
    wanted = 1e-4 / 2 * sum(float(np.square(array(kernel).astype("float64")).sum()) for kernel in kernels)
    assert float(sum(model.losses)) == pytest.approx(wanted, rel=1e-5)


def test_without_weight_decay_there_is_no_penalty():
    assert build(CIFAR, classes=5).losses == []


@pytest.fixture
def policy():
    """Sets the global dtype policy, for one test."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("name", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("spec", [CIFAR, replace(IMAGENET, order="pre")], ids=label)
def test_mixed_precision_ends_in_float32(policy, name, spec):
    policy(name)
    half = name.removeprefix("mixed_")
    model = build(spec, input_shape=(32, 32, 3), classes=5)
    assert keras.config.dtype_policy().name == name
    assert model.get_layer("conv3_block1_1_conv").compute_dtype == half
    assert model.get_layer("conv3_block1_1_conv").output.dtype == half
    assert model.get_layer("predictions").compute_dtype == "float32"
    assert model.output.dtype == "float32"
    assert {variable.dtype for variable in model.variables} == {"float32"}
    probabilities = values(model, pictures(2, 32, 32, 3))
    assert probabilities.dtype == np.float32
    # Half precision would leave an error of about 1e-3 here.
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("name", ["float32", "mixed_float16"])
def test_building_leaves_the_global_policy_alone(policy, name):
    policy(name)
    for spec in (CIFAR, replace(IMAGENET, order="pre")):
        build(spec, classes=5)
        assert keras.config.dtype_policy().name == name


@pytest.mark.parametrize(
    "spec", [CIFAR, replace(CIFAR, order="pre"), IMAGENET, replace(IMAGENET, order="pre")], ids=label
)
@pytest.mark.parametrize("size", [(32, 32), (40, 57)])
def test_pictures_of_any_size(spec, size):
    free = build(spec, classes=5)
    assert free.input_shape == (None, None, None, 3)
    assert free.output_shape == (None, 5)
    fixed = build(spec, input_shape=(*size, 3), classes=5)
    fixed.set_weights(free.get_weights())
    images = pictures(2, *size, 3)
    got = values(free, images)
    assert got.shape == (2, 5)
    np.testing.assert_allclose(got, values(fixed, images), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("order", ["post", "pre"])
def test_without_top(order):
    spec = replace(IMAGENET, order=order)
    images = pictures(2, 32, 48, 3)
    bare, average, largest = (build(spec, include_top=False, pooling=pooling) for pooling in (None, "avg", "max"))
    assert bare.output_shape == (None, None, None, 8)
    assert average.output_shape == largest.output_shape == (None, 8)
    average.set_weights(bare.get_weights())
    largest.set_weights(bare.get_weights())
    features = values(bare, images)
    assert features.shape == (2, 4, 6, 8)
    assert (features >= 0).all(), "the last operation is a ReLU in either order"
    np.testing.assert_allclose(values(average, images), features.mean(axis=(1, 2)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(values(largest, images), features.max(axis=(1, 2)), rtol=1e-5, atol=1e-6)


def test_top_is_average_dense_softmax():
    """Section 3.3: global average pooling and a fully connected layer with softmax."""
    model = small(IMAGENET)
    images = pictures(2, 32, 32, 3)
    features = values(part(model, "", "conv3_block1_out"), images).mean(axis=(1, 2))
    kernel, bias = model.get_layer("predictions").get_weights()
    logits = features @ kernel + bias
    wanted = np.exp(logits - logits.max(axis=1, keepdims=True))
    got = values(model, images)
    np.testing.assert_allclose(got, wanted / wanted.sum(axis=1, keepdims=True), rtol=1e-4, atol=1e-6)

    no_softmax = build(IMAGENET, classes=5, classifier_activation=None)
    no_softmax.set_weights(model.get_weights())
    np.testing.assert_allclose(values(no_softmax, images), logits, rtol=1e-4, atol=1e-4)


def test_input_tensor():
    """As in keras.applications: the network goes on from a tensor that another layer made."""
    inputs = keras.Input((32, 32, 3))
    scaled = layers.Rescaling(1 / 255)(inputs)
    model = build(IMAGENET, input_tensor=scaled, classes=5)
    assert model.input is inputs
    plain = small(IMAGENET)
    model.set_weights(plain.get_weights())
    images = pictures(2, 32, 32, 3)
    np.testing.assert_allclose(values(model, images * 255), values(plain, images), rtol=1e-4, atol=1e-6)


def test_input_shapes_that_cannot_be_are_named():
    with pytest.raises(ValueError, match=r"input_shape is \(32, 32\); give \(height, width, channels\)"):
        build(CIFAR, input_shape=(32, 32))
    with pytest.raises(ValueError, match=r"input_shape is \(8, 8, 3\), but input_tensor has shape \(None, 32, 32, 3\)"):
        build(CIFAR, input_tensor=keras.Input((32, 32, 3)), input_shape=(8, 8, 3))


def test_building_leaves_the_recursion_limit_as_it_was():
    before = sys.getrecursionlimit()
    build(replace(CIFAR, blocks=(150, 1)), input_shape=(8, 8, 3), classes=5)
    assert sys.getrecursionlimit() == before


def test_grey_pictures():
    assert build(CIFAR, input_shape=(8, 8, 1), classes=5).get_layer("conv1_conv").kernel.shape == (3, 3, 1, 4)


def test_model_is_called_what_it_is_told():
    assert build(IMAGENET, classes=5).name == IMAGENET.name
    assert build(IMAGENET, classes=5, name="mine").name == "mine"


def norms(model):
    return [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]


def test_batch_norm_is_synchronised_where_there_are_several_replicas():
    # The two logical devices are those of conftest.py.
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model, told = build(CIFAR, classes=5), build(CIFAR, classes=5, synchronized=False)
    assert all(layer.synchronized for layer in norms(model))
    assert not any(layer.synchronized for layer in norms(told))
    assert all(layer.synchronized for layer in norms(build(CIFAR, classes=5, synchronized=True)))


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ({"pooling": "sum"}, ["pooling", "'sum'", "None", "'avg'", "'max'"]),
        ({"classes": 0}, ["classes", "0", "positive"]),
        ({"classes": -3}, ["classes", "-3", "positive"]),
    ],
)
def test_wrong_arguments_are_refused_with_the_value_and_the_choices(arguments, wanted):
    with pytest.raises(ValueError) as refusal:
        build(CIFAR, **arguments)
    for text in wanted:
        assert text in str(refusal.value)


def test_channels_first_is_refused():
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match="'channels_first'.*'channels_last'"):
            build(CIFAR, classes=5)
    finally:
        keras.config.set_image_data_format("channels_last")


def test_other_backends_are_refused(monkeypatch):
    # Keras takes its backend once in a process, and imports JAX even for the numpy one.
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="'jax'.*'tensorflow'"):
        build(CIFAR, classes=5)
