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

from keras_resnet import distribution
from keras_resnet.analysis import summarize
from keras_resnet.model import build, feature_pyramid, freeze, load
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


def randomised(model):
    """The model, with weights that no initializer gives: moving statistics, gamma and beta too."""
    random = np.random.default_rng(0)
    for variable in model.variables:
        if "kernel" in variable.path:
            fan_in = np.prod(variable.shape[:-1])
            variable.assign(random.normal(size=variable.shape) * np.sqrt(2 / fan_in))
        else:
            variable.assign(random.uniform(0.5, 1.5, size=variable.shape))
    return model


@functools.cache
def small(spec):
    """A model that no test changes."""
    return randomised(build(spec, input_shape=(32, 32, 3), classes=5))


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
from pathlib import Path

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

limit, *names = sys.argv[1:]
sys.setrecursionlimit(int(limit))
outputs = {}
with tf.device("CPU:0"):
    for name in names:
        path = Path(name + ".keras")
        model = keras.models.load_model(path)
        path.unlink()
        outputs[name] = model(np.load("pictures.npy"), training=False).numpy()
np.savez("outputs.npz", **outputs)
"""


def reopened(folder, models, images, recursion_limit=1000):
    """Saves each of `models`, pairs of name and model, one after the other. By name, what they answer to `images`
    here and what they answer once reopened where `keras_resnet` cannot be imported.
    """
    np.save(folder / "pictures.npy", images)
    wanted = {}
    for name, model in models:
        model.save(folder / f"{name}.keras")
        # On the CPU, where the same operations give the same bits.
        with tf.device("CPU:0"):
            wanted[name] = values(model, images)
    done = subprocess.run(
        [sys.executable, "-I", "-c", _REOPEN, str(recursion_limit), *wanted],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    got = np.load(folder / "outputs.npz")
    assert set(got) == set(wanted)
    return {name: (wanted[name], got[name]) for name in wanted}


@pytest.mark.slow
def test_saved_models_open_where_this_package_is_not_installed(tmp_path):
    names = {str(number): spec for number, spec in enumerate(SMALL)}
    answers = reopened(tmp_path, ((name, small(spec)) for name, spec in names.items()), pictures(2, 32, 32, 3))
    for name, (wanted, got) in answers.items():
        np.testing.assert_array_equal(got, wanted, err_msg=label(names[name]))
    # Each network answers otherwise, so no file stands for another. Only without shortcuts are the two orders one
    # chain of the same layers.
    assert len({got.tobytes() for _, got in answers.values()}) == len(
        {replace(s, order="post") if s.shortcut is None else s for s in SMALL}
    )


def calibrated(network, images):
    """A network of the paper under whose weights every layer matters to the answer, however many there are.

    Its moving statistics are those of `images`, so that nothing grows or shrinks from layer to layer.
    """
    spec = NETWORKS[network]
    model = build(spec, classes=10 if spec.stem == "cifar" else 1000)
    random = np.random.default_rng(0)
    for layer in norms(model):
        # Small, so that the softmax of a sum over hundreds of units is not all at one class.
        layer.gamma.assign(random.uniform(0.05, 0.15, size=layer.gamma.shape))
        layer.beta.assign(random.uniform(-0.05, 0.05, size=layer.beta.shape))
        layer.momentum = 0
    model(images, training=True)
    for layer in norms(model):
        layer.momentum = 0.9
    return model


def assert_reopens(folder, networks, recursion_limit=1000):
    images = pictures(2, 32, 32, 3)
    models = ((network, calibrated(network, images)) for network in networks)
    for network, (wanted, got) in reopened(folder, models, images, recursion_limit).items():
        assert np.isfinite(wanted).all(), network
        assert 0 < wanted.min() < wanted.max() < 1, network
        # What differs in the pictures comes through to the end.
        assert np.abs(wanted[0] - wanted[1]).max() > 1e-3 * wanted.max(), network
        np.testing.assert_array_equal(got, wanted, err_msg=network)


@pytest.mark.slow
def test_every_network_opens_where_this_package_is_not_installed(tmp_path):
    assert_reopens(tmp_path, [network for network in NETWORKS if network != "resnet1202"])


@pytest.mark.slow
def test_resnet1202_opens_where_this_package_is_not_installed(tmp_path):
    """Keras walks a model by recursion, so whoever opens ResNet-1202 with Keras alone calls
    `sys.setrecursionlimit(10_000)` first. Saving it needs nothing.
    """
    assert sys.getrecursionlimit() == 1000
    assert_reopens(tmp_path, ["resnet1202"], recursion_limit=10_000)


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


def end_of(unit):
    """The layer whose output is that of the unit, in order "pre"."""
    return f"{unit.name}_out" if unit.shortcut else f"{unit.convolutions[-1].name}_conv"


def same_shape_units(spec):
    """Of every stage the units that keep the shape, and the layer whose output goes into the first of them."""
    before = "pool1_pool" if spec.stem == "imagenet" else "conv1_conv"
    for stage in spec.stages():
        units = [unit for unit in stage if unit.stride == 1 and unit.inputs == unit.outputs]
        assert len(units) >= 2
        yield (before if units == stage else end_of(stage[0])), units
        before = end_of(stage[-1])


def through(model, start, units, training):
    """Forward: what goes into the units, what comes out, the sum of their branches. Backward, for the loss of the
    network on some pictures: its gradient by what goes in, by what comes out, and what of the latter comes back
    through the branches.
    """
    branches, end = [f"{unit.convolutions[-1].name}_conv" for unit in units], end_of(units[-1])
    stage = keras.Model(
        model.get_layer(start).output, {name: model.get_layer(name).output for name in (*branches, end)}
    )
    rest = part(model, end, "predictions")
    x = part(model, "", start)(pictures(4, 32, 32, 3), training=training)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        outputs = stage(x, training=training)
        out, total = outputs[end], tf.add_n([outputs[name] for name in branches])
        logits = rest(out, training=training)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.range(4), logits)
    by_out = tape.gradient(loss, out)
    by_x, by_branches = tape.gradient(loss, x), tape.gradient(total, x, output_gradients=by_out)
    return map(array, (x, out, total, by_x, by_out, by_branches))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "spec",
    # Units that keep the shape do not stride, wherever the others do.
    [s for s in SMALL if s.order == "pre" and s.shortcut in ("A", "B") and s.stride_on == "1x1"],
    ids=label,
)
def test_pre_activation_carries_its_input_and_its_gradient_through_a_stage(spec, training):
    """He et al. (2016), equation 4: with identity shortcuts, x_L = x_l + the sum of the residual branches between.
    Equation 5: the gradient of the loss by x_l is that by x_L, plus what comes back through the branches.
    """
    spec = replace(spec, blocks=(3, 3))
    model = randomised(build(spec, input_shape=(32, 32, 3), classes=5, classifier_activation=None))
    for start, units in same_shape_units(spec):
        assert {unit.shortcut for unit in units} == {"identity"}
        x, out, branches, by_x, by_out, by_branches = through(model, start, units, training)
        for whole, carried, residual in ((out, x, branches), (by_x, by_out, by_branches)):
            size = np.abs(whole).max()
            np.testing.assert_allclose(whole, carried + residual, rtol=0, atol=1e-5 * size)
            assert np.abs(carried).max() > 0.05 * size
            assert np.abs(residual).max() > 0.05 * size


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
@pytest.mark.parametrize("shortcut", ["A", None])
def test_a_gradient_passes_branches_of_zero_untouched_and_only_by_the_shortcut(shortcut, block, training):
    """Section 3.2: the identity shortcut hands on the gradient whatever the layers beside it do. In the plain network
    these layers are all there is, and one zero stops everything: why depth hurts there and not here.
    """
    spec = ResNetSpec(stem="cifar", block=block, blocks=(3, 3), width=4, shortcut=shortcut, order="pre")
    model = randomised(build(spec, input_shape=(32, 32, 3), classes=5, classifier_activation=None))
    for start, units in same_shape_units(spec):
        for unit in units:
            kernel = model.get_layer(f"{unit.convolutions[-1].name}_conv").kernel
            kernel.assign(np.zeros(kernel.shape))
        _, _, _, by_x, by_out, _ = through(model, start, units, training)
        assert np.abs(by_out).max() > 1e-6
        np.testing.assert_array_equal(by_x, np.zeros_like(by_x) if shortcut is None else by_out)


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
    """Section 3.4 and its reference [13]: a Gaussian of standard deviation sqrt(2 / fan in) and mean 0."""
    keras.utils.set_random_seed(0)
    model = build(replace(NETWORKS["resnet50"], blocks=(1, 1)), classes=1000)
    kernels = [layer.kernel for layer in model.layers if isinstance(layer, (layers.Conv2D, layers.Dense))]
    assert len(kernels) == 1 + 2 * 4 + 1
    for kernel in map(array, kernels):
        wanted = np.sqrt(2 / np.prod(kernel.shape[:-1]))
        # The relative error of a standard deviation from n samples is about 1 / sqrt(2 n); five of these.
        assert abs(kernel.std() / wanted - 1) < 5 / np.sqrt(2 * kernel.size)
        assert abs(kernel.mean()) < 5 * wanted / np.sqrt(kernel.size)
        # 1.24 % of a Gaussian lies beyond 2.5 deviations, nothing of one cut off at two.
        beyond = np.mean(np.abs(kernel) > 2.5 * wanted)
        assert abs(beyond - 0.01242) < 5 * np.sqrt(0.01242 / kernel.size)
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


def assert_ends_in_float32(model, spec, name):
    assert keras.config.dtype_policy().name == name
    half = name.removeprefix("mixed_")
    convolutions = [layer for layer in model.layers if isinstance(layer, layers.Conv2D)]
    assert len(convolutions) == sum(layer.kind == "convolution" for layer in spec.layers(32, 10))
    for layer in convolutions:
        assert layer.compute_dtype == layer.output.dtype == half, layer.name
    assert model.get_layer("predictions").compute_dtype == "float32"
    assert model.output.dtype == "float32"
    assert {variable.dtype for variable in model.variables} == {"float32"}


@pytest.mark.parametrize("name", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("spec", [CIFAR, replace(IMAGENET, order="pre")], ids=label)
def test_mixed_precision_ends_in_float32(policy, name, spec):
    policy(name)
    model = build(spec, input_shape=(32, 32, 3), classes=5)
    assert_ends_in_float32(model, spec, name)
    probabilities = values(model, pictures(2, 32, 32, 3))
    assert probabilities.dtype == np.float32
    # Half precision would leave an error of about 1e-3 here.
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("network", "name"),
    [
        pytest.param(
            network, name, marks=() if network in ("resnet18", "resnet20", "resnet50", "plain20") else pytest.mark.slow
        )
        for network in NETWORKS
        for name in ("mixed_float16", "mixed_bfloat16")
        # Once: it takes the longest to build, and its layers are ResNet-110's, only more of them.
        if (network, name) != ("resnet1202", "mixed_bfloat16")
    ],
)
def test_every_network_ends_in_float32_under_mixed_precision(policy, network, name):
    policy(name)
    spec = NETWORKS[network]
    assert_ends_in_float32(build(spec, classes=10), spec, name)


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
    with distribution.strategy(["CPU:0", "CPU:1"]).scope():
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


@pytest.mark.slow
def test_load_opens_what_is_too_deep_for_keras_alone(tmp_path):
    """So that evaluate, export and predict take a run of ResNet-1202; narrow here, which makes it no shallower."""
    model = build(replace(NETWORKS["resnet1202"], width=2), classes=3, input_shape=(8, 8, 3))
    model.save(tmp_path / "model.keras")
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)  # Python's own; pytest and others may have raised it
    try:
        with pytest.raises(RecursionError):
            keras.models.load_model(tmp_path / "model.keras")
        again = load(tmp_path / "model.keras")
    finally:
        sys.setrecursionlimit(before)
    for got, wanted in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(got, wanted)


PYRAMIDS = [
    # Table 1 for 224 px pictures: conv2_x to conv5_x; section 4.2 for 32 px.
    ("resnet18", 224, {"C2": (56, 64), "C3": (28, 128), "C4": (14, 256), "C5": (7, 512)}),
    ("plain18", 224, {"C2": (56, 64), "C3": (28, 128), "C4": (14, 256), "C5": (7, 512)}),
    ("resnet50", 224, {"C2": (56, 256), "C3": (28, 512), "C4": (14, 1024), "C5": (7, 2048)}),
    ("resnet20", 32, {"C2": (32, 16), "C3": (16, 32), "C4": (8, 64)}),
    ("plain20", 32, {"C2": (32, 16), "C3": (16, 32), "C4": (8, 64)}),
]


@pytest.mark.parametrize("order", ["post", "pre"])
@pytest.mark.parametrize(("network", "size", "wanted"), PYRAMIDS, ids=[row[0] for row in PYRAMIDS])
def test_feature_pyramid(network, size, wanted, order):
    model = build(replace(NETWORKS[network], order=order), include_top=False, input_shape=(size, size, 3))
    pyramid = feature_pyramid(model)
    shapes = {name: tuple(output.shape[1:]) for name, output in pyramid.output.items()}
    assert shapes == {name: (side, side, channels) for name, (side, channels) in wanted.items()}


@pytest.mark.parametrize("include_top", [True, False])
def test_the_last_of_the_pyramid_is_what_the_rest_of_the_model_sees(include_top, tmp_path):
    """Of a model reopened from a file, too: the layers are found by name."""
    spec = ResNetSpec(stem="imagenet", block="bottleneck", blocks=(1, 2), width=4)
    build(spec, include_top=include_top, classes=3, classifier_activation=None).save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    pictures = np.random.default_rng(0).normal(size=(2, 48, 40, 3)).astype("float32")
    features = feature_pyramid(model)(pictures)
    assert {name: tuple(value.shape) for name, value in features.items()} == {
        "C2": (2, 12, 10, 16),
        "C3": (2, 6, 5, 32),
    }
    last = features["C3"]
    if include_top:
        last = model.get_layer("predictions")(tf.reduce_mean(last, axis=(1, 2)))
    np.testing.assert_allclose(last, model(pictures), rtol=1e-5, atol=1e-6)


def test_a_model_without_stages_has_no_pyramid():
    inputs = keras.Input((8, 8, 3))
    with pytest.raises(ValueError, match="no stages"):
        feature_pyramid(keras.Model(inputs, keras.layers.Conv2D(3, 1)(inputs)))


def trained_by(model, what):
    """Names of the layers that a step of training moved, statistics included."""
    keras.utils.set_random_seed(0)
    freeze(model, what)
    model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = {layer.name: layer.get_weights() for layer in model.layers}
    pictures = np.random.default_rng(0).normal(1, 2, size=(8, 16, 16, 3)).astype("float32")
    model.fit(pictures, np.arange(8) % 3, batch_size=8, epochs=1, verbose=0)
    return {
        layer.name
        for layer in model.layers
        if any((old != new).any() for old, new in zip(before[layer.name], layer.get_weights(), strict=True))
    }


@pytest.mark.parametrize("order", ["post", "pre"])
def test_freeze(order):
    spec = ResNetSpec(stem="cifar", blocks=(1, 1), width=4, order=order)
    kernels = {f"{name}_conv" for name in ("conv1", "conv2_block1_1", "conv2_block1_2", "conv3_block1_0")}
    kernels |= {f"conv3_block1_{i}_conv" for i in (1, 2)}
    assert trained_by(build(spec, classes=3, classifier_activation=None), "batch_norm") == kernels | {"predictions"}
    assert trained_by(build(spec, classes=3, classifier_activation=None), "backbone") == {"predictions"}


def test_a_frozen_batch_norm_runs_in_inference_mode():
    """Otherwise fine-tuning would normalise by the batch, and nothing learnt before would hold (keras#9214)."""
    model = build(ResNetSpec(stem="cifar", blocks=(1, 1), width=4), classes=3)
    pictures = np.random.default_rng(0).normal(1, 2, size=(8, 16, 16, 3)).astype("float32")
    assert np.abs(model(pictures, training=True) - model(pictures, training=False)).max() > 1e-3
    freeze(model, "batch_norm")
    np.testing.assert_array_equal(model(pictures, training=True), model(pictures, training=False))
    for layer in model.layers:
        layer.trainable = True
    assert np.abs(model(pictures, training=True) - model(pictures, training=False)).max() > 1e-3


def test_freeze_reaches_a_backbone_inside_a_model_and_leaves_a_users_head():
    backbone = build(ResNetSpec(stem="cifar", blocks=(1, 1), width=4), include_top=False, pooling="avg")
    inputs = keras.Input((16, 16, 3))
    model = keras.Sequential([inputs, backbone, keras.layers.BatchNormalization(), keras.layers.Dense(3, name="mine")])
    freeze(model, "backbone")
    assert [v.path.split("/")[-2:] for v in model.trainable_variables[-2:]] == [["mine", "kernel"], ["mine", "bias"]]
    assert len(model.trainable_variables) == 4, "batch norm and dense of the user"
    freeze(model, "batch_norm")
    assert len(model.trainable_variables) == 2


def test_freeze_refuses_what_it_does_not_know():
    model = build(ResNetSpec(stem="cifar", blocks=(1, 1), width=4), classes=3)
    with pytest.raises(ValueError, match="what to freeze is 'bn'; choose one of 'batch_norm', 'backbone'"):
        freeze(model, "bn")
    with pytest.raises(ValueError, match="no backbone to freeze"):
        freeze(keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)]), "backbone")


@pytest.mark.slow
def test_the_example_of_fine_tuning_in_the_readme(tmp_path, monkeypatch, capfd):
    """Runs as it is printed, and does what its comments say."""
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    example = readme.split("## Fine-tuning")[1].split("```python\n")[1].split("```")[0]
    assert len([line for line in example.splitlines() if line]) <= 12
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    labels = np.arange(48) % 3
    images = (rng.normal(size=(48, 32, 32, 3)) + labels[:, None, None, None]).astype("float32")
    pretrained = build(NETWORKS["resnet20"], classes=10)
    for _ in range(30):
        pretrained(images, training=True)  # gives batch norm the statistics of the pictures
    pretrained.save_weights("pretrained.weights.h5")
    scope = {"images": images, "labels": labels}
    with pytest.warns(UserWarning, match="the backbone is loaded"):
        exec(example, scope)
    model = scope["model"]
    for name in ("conv1_bn", "conv4_block3_2_bn"):
        for got, wanted in zip(
            model.get_layer(name).get_weights(), pretrained.get_layer(name).get_weights(), strict=True
        ):
            np.testing.assert_array_equal(got, wanted)
    assert (model.get_layer("conv1_conv").kernel.numpy() != pretrained.get_layer("conv1_conv").kernel.numpy()).any()
    assert model.evaluate(images, labels, verbose=0)[1] > 0.6
