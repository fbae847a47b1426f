"""The Keras model of a spec: its layers, and the paper's formulas."""

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
from helpers import PROGRAMS
from keras import layers, ops

from keras_resnet.networks.applications import ResNet
from keras_resnet.networks.build import build, load
from keras_resnet.networks.paper import NETWORKS
from keras_resnet.networks.spec import ResNetSpec
from keras_resnet.networks.summary import summarize
from keras_resnet.training import distribution

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "golden" / "networks.json").read_text(encoding="utf-8")
)

# Two units in the first stage and one of stride 2 in the second have every kind of shortcut.
SMALL = [
    ResNetSpec(
        stem=stem,
        block=block,
        blocks=(2, 1),
        width=4,
        shortcut=shortcut,
        stride_on=stride_on,
        order=order,
    )
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


def randomized(model):
    """Randomize all weights, including moving statistics, gamma and beta."""
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
    """Return a model that tests share and must not change."""
    return randomized(build(spec, input_shape=(32, 32, 3), classes=5))


def array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def part(model, start, end):
    """Return the layers after `start` ("" for the input), up to and including `end`, as a model."""
    return keras.Model(
        model.get_layer(start).output if start else model.input, model.get_layer(end).output
    )


def values(model, inputs):
    return array(model(np.asarray(inputs, "float32"), training=False))


def photos(*shape):
    return np.random.default_rng(1).normal(size=shape).astype("float32")


def convolve(x, kernel, stride):
    """Compute a convolution by its definition, with equal padding on all sides."""
    side, pad = kernel.shape[0], (kernel.shape[0] - 1) // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows, columns = (range(0, size - side + 1, stride) for size in x.shape[1:3])
    return np.stack(
        [
            np.stack(
                [np.tensordot(x[:, i : i + side, j : j + side], kernel, 3) for j in columns], axis=1
            )
            for i in rows
        ],
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
        output = (
            (None, layer.outputs) if layer.kind == "dense" else (None, *layer.size, layer.outputs)
        )
        assert tuple(found.output.shape) == output, name
        if layer.kind in ("convolution", "max pool"):
            assert found.strides == (layer.stride, layer.stride), name
    assert model.count_params() == summarize(spec, size, classes).total_parameters


@pytest.mark.slow
@pytest.mark.parametrize("spec", SMALL, ids=label)
def test_small_networks_have_the_layers_of_their_spec(spec):
    assert_layers_equal(small(spec), spec, 32, 5)


@pytest.mark.slow
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
def test_the_papers_networks_have_the_layers_of_their_spec(network, size):
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


@pytest.mark.slow
@pytest.mark.parametrize("size", [(33, 64), (40, 23), (7, 9)])
@pytest.mark.parametrize(
    "spec",
    [IMAGENET, replace(CIFAR, block="bottleneck"), replace(IMAGENET, order="pre")],
    ids=label,
)
def test_odd_images_give_the_sizes_of_the_spec(spec, size):
    for shortcut in ("A", "C"):
        model = build(replace(spec, shortcut=shortcut), input_shape=(*size, 3), classes=5)
        assert_layers_equal(model, replace(spec, shortcut=shortcut), size, 5)


@pytest.mark.parametrize("spec", SMALL, ids=label)
def test_every_layer_is_built_into_keras(spec):
    for operation in small(spec).operations:
        assert isinstance(operation, keras.layers.Layer), operation.name
        assert type(operation).__module__.split(".")[0] == "keras", operation.name


# Earlier versions padded channels, and pooled before any ReLU, by operations without a layer.
HAD_OPERATIONS = [
    spec
    for spec in SMALL
    if spec.block == "basic" and (spec.shortcut == "A" or spec.order == "pre")
]


@pytest.mark.slow
@pytest.mark.parametrize("spec", HAD_OPERATIONS, ids=label)
def test_keras_opens_every_file_format(spec, tmp_path):
    """The .h5 format stores layers only, so a network must not have other operations."""
    model = randomized(build(spec, classes=5))
    images = photos(2, 32, 32, 3)
    wanted = values(model, images)
    model.save(tmp_path / "model.h5")
    model.save(tmp_path / "model.keras")
    opened = [
        keras.models.load_model(tmp_path / "model.h5", compile=False),
        keras.models.load_model(tmp_path / "model.keras"),
    ]
    for new in (keras.models.clone_model(model), keras.models.model_from_json(model.to_json())):
        new.set_weights(model.get_weights())
        opened.append(new)
    for copy in opened:
        np.testing.assert_array_equal(values(copy, images), wanted)


def padding_by_an_operation(padding, data_format=None, name=None):
    """Pad channels by an operation instead of a layer, as earlier versions did."""
    if data_format is None:
        return ZERO_PADDING_LAYER(padding, name=name)
    return lambda x: ops.pad(x, ((0, 0), (0, 0), *padding))


ZERO_PADDING_LAYER = layers.ZeroPadding2D


@pytest.mark.slow
@pytest.mark.parametrize("order", ["post", "pre"])
def test_files_with_channels_padded_by_an_operation_still_open(order, tmp_path, monkeypatch):
    spec = replace(CIFAR, shortcut="A", order=order)
    with monkeypatch.context() as patch:
        patch.setattr(layers, "ZeroPadding2D", padding_by_an_operation)
        before = randomized(build(spec, classes=5))
    assert [op for op in before.operations if not isinstance(op, keras.layers.Layer)]
    before.save(tmp_path / "before.keras")
    before.save_weights(tmp_path / "before.weights.h5")
    images = photos(2, 32, 32, 3)
    wanted = values(before, images)
    np.testing.assert_array_equal(values(load(tmp_path / "before.keras"), images), wanted)
    now = build(spec, classes=5)
    assert [weight.path for weight in now.weights] == [weight.path for weight in before.weights]
    now.load_weights(tmp_path / "before.weights.h5")
    np.testing.assert_array_equal(values(now, images), wanted)
    now = ResNet(spec, weights=tmp_path / "before.keras", classes=5)
    np.testing.assert_array_equal(values(now, images), wanted)


@pytest.mark.slow
def test_an_early_run_gives_the_same_outputs_as_a_network_built_now():
    path = Path(__file__).parents[2] / "scripts" / "results" / "cifar10-resnet20" / "model.keras"
    before = load(path)
    assert "Pad" in {type(operation).__name__ for operation in before.operations}
    now = ResNet(NETWORKS["resnet20"], classes=10, classifier_activation=None, weights=path)
    images = photos(4, 32, 32, 3)
    np.testing.assert_array_equal(values(now, images), values(before, images))


def reopened(folder, models, images):
    """Save models, given as pairs of name and model, and open them without `keras_resnet`.

    Return by name the outputs for `images` before and after.
    """
    np.save(folder / "images.npy", images)
    wanted = {}
    for name, model in models:
        model.save(folder / f"{name}.keras")
        # On the CPU the same operations give the same bits.
        with tf.device("CPU:0"):
            wanted[name] = values(model, images)
    done = subprocess.run(
        [sys.executable, "-I", str(PROGRAMS / "reopen.py"), *wanted],
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
    answers = reopened(
        tmp_path, ((name, small(spec)) for name, spec in names.items()), photos(2, 32, 32, 3)
    )
    for name, (wanted, got) in answers.items():
        np.testing.assert_array_equal(got, wanted, err_msg=label(names[name]))
    # All networks give different outputs, so no file was taken for another. Without shortcuts the
    # two orders are the same chain of layers.
    assert len({got.tobytes() for _, got in answers.values()}) == len(
        {replace(s, order="post") if s.shortcut is None else s for s in SMALL}
    )


def calibrated(network, images):
    """Build a network of the paper with weights by which every layer affects the output.

    The moving statistics are computed from `images`, so that activations neither grow nor shrink
    from layer to layer.
    """
    spec = NETWORKS[network]
    model = build(spec, classes=10 if spec.stem == "cifar" else 1000)
    random = np.random.default_rng(0)
    for layer in norms(model):
        # Small scales keep the softmax of a sum over hundreds of units from saturating.
        layer.gamma.assign(random.uniform(0.05, 0.15, size=layer.gamma.shape))
        layer.beta.assign(random.uniform(-0.05, 0.05, size=layer.beta.shape))
        layer.momentum = 0
    model(images, training=True)
    for layer in norms(model):
        layer.momentum = 0.9
    return model


def assert_reopens(folder, networks):
    images = photos(2, 32, 32, 3)
    models = ((network, calibrated(network, images)) for network in networks)
    for network, (wanted, got) in reopened(folder, models, images).items():
        assert np.isfinite(wanted).all(), network
        assert 0 < wanted.min() < wanted.max() < 1, network
        # The difference between the images is visible in the outputs.
        assert np.abs(wanted[0] - wanted[1]).max() > 1e-3 * wanted.max(), network
        np.testing.assert_array_equal(got, wanted, err_msg=network)


@pytest.mark.slow
def test_every_kind_of_network_opens_where_this_package_is_not_installed(tmp_path):
    """Deeper ones have more of the same layers."""
    deeper = {"resnet32", "resnet44", "resnet110", "resnet1202", "resnet101", "resnet152"}
    deeper |= {network.replace("resnet", "plain") for network in deeper}
    assert_reopens(tmp_path, [network for network in NETWORKS if network not in deeper])


def test_zero_padding_shortcut_appends_its_zeros_after_the_real_channels():
    """Section 3.3, option A: identity with extra zero channels, subsampled at stride 2."""
    model = build(
        ResNetSpec(stem="cifar", blocks=(1, 1), width=2, shortcut="A"),
        input_shape=(5, 4, 3),
        classes=5,
    )
    for name in ("conv3_block1_1_conv", "conv3_block1_2_conv"):
        model.get_layer(name).kernel.assign(np.zeros(model.get_layer(name).kernel.shape))
    # A unit with zero convolutions equals its shortcut, and ReLU keeps positive values.
    x = np.arange(1, 41, dtype="float32").reshape(1, 5, 4, 2)
    got = values(part(model, "conv2_block1_out", "conv3_block1_out"), x)
    assert got.tolist() == [
        [
            [[1, 2, 0, 0], [5, 6, 0, 0]],
            [[17, 18, 0, 0], [21, 22, 0, 0]],
            [[33, 34, 0, 0], [37, 38, 0, 0]],
        ]
    ]


def test_zero_padding_shortcut_if_only_the_channels_change():
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
    """Equations 1 and 2: y = F(x) + x, or F(x) + W x; ReLU after the addition (Fig. 2)."""
    model = small(replace(CIFAR, shortcut=shortcut))
    x = np.abs(photos(2, 32, 32, 4))
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
    """Return the name of the layer that ends a unit of order "pre"."""
    return f"{unit.name}_out" if unit.shortcut else f"{unit.convolutions[-1].name}_conv"


def same_shape_units(spec):
    """Yield per stage the layer before the first unit that keeps the shape, and all such units."""
    before = "pool1_pool" if spec.stem == "imagenet" else "conv1_conv"
    for stage in spec.stages():
        units = [unit for unit in stage if unit.stride == 1 and unit.inputs == unit.outputs]
        assert len(units) >= 2
        yield (before if units == stage else end_of(stage[0])), units
        before = end_of(stage[-1])


def through(model, start, units, training):
    """Return the signals that consecutive units pass forward and backward.

    They are the input x of the first unit, the output of the last, and the sum of the branches;
    then the gradients of the network's loss with respect to x and to the output, and the part of
    the gradient with respect to x that flows through the branches.
    """
    branches, end = [f"{unit.convolutions[-1].name}_conv" for unit in units], end_of(units[-1])
    stage = keras.Model(
        model.get_layer(start).output,
        {name: model.get_layer(name).output for name in (*branches, end)},
    )
    rest = part(model, end, "predictions")
    x = part(model, "", start)(photos(4, 32, 32, 3), training=training)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        outputs = stage(x, training=training)
        out, total = outputs[end], tf.add_n([outputs[name] for name in branches])
        logits = rest(out, training=training)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.range(4), logits)
    by_out = tape.gradient(loss, out)
    by_x, by_branches = tape.gradient(loss, x), tape.gradient(total, x, output_gradients=by_out)
    return map(array, (x, out, total, by_x, by_out, by_branches))


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "spec",
    # Units that keep the shape have stride 1 with either placement.
    [s for s in SMALL if s.order == "pre" and s.shortcut in ("A", "B") and s.stride_on == "1x1"],
    ids=label,
)
def test_pre_activation_carries_its_input_and_its_gradient_through_a_stage(spec, training):
    """He et al. (2016), equations 4 and 5, for stages of identity shortcuts.

    x_L equals x_l plus the sum of the residual branches between them. The gradient with respect to
    x_l is the gradient with respect to x_L plus the part that flows through the branches.
    """
    spec = replace(spec, blocks=(3, 3))
    model = randomized(build(spec, input_shape=(32, 32, 3), classes=5, classifier_activation=None))
    for start, units in same_shape_units(spec):
        assert {unit.shortcut for unit in units} == {"identity"}
        x, out, branches, by_x, by_out, by_branches = through(model, start, units, training)
        for whole, carried, residual in ((out, x, branches), (by_x, by_out, by_branches)):
            size = np.abs(whole).max()
            np.testing.assert_allclose(whole, carried + residual, rtol=0, atol=1e-5 * size)
            assert np.abs(carried).max() > 0.05 * size
            assert np.abs(residual).max() > 0.05 * size


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
@pytest.mark.parametrize("shortcut", ["A", None])
def test_gradients_bypass_branches_of_zeros_only_on_shortcuts(shortcut, block, training):
    """Section 3.2: an identity shortcut passes the gradient on, whatever its branch does.

    In a plain network a branch of zeros stops the gradient.
    """
    spec = ResNetSpec(
        stem="cifar", block=block, blocks=(3, 3), width=4, shortcut=shortcut, order="pre"
    )
    model = randomized(build(spec, input_shape=(32, 32, 3), classes=5, classifier_activation=None))
    for start, units in same_shape_units(spec):
        for unit in units:
            kernel = model.get_layer(f"{unit.convolutions[-1].name}_conv").kernel
            kernel.assign(np.zeros(kernel.shape))
        _, _, _, by_x, by_out, _ = through(model, start, units, training)
        assert np.abs(by_out).max() > 1e-6
        np.testing.assert_array_equal(by_x, np.zeros_like(by_x) if shortcut is None else by_out)


@pytest.mark.parametrize("spec", [CIFAR, IMAGENET], ids=label)
def test_pre_activation_projects_the_activation_and_pads_the_input(spec):
    """He et al. (2016), appendix: a projection reads the unit's first ReLU, an identity reads x."""
    projecting = small(replace(spec, order="pre", shortcut="B"))
    assert (
        projecting.get_layer("conv3_block1_0_conv").input
        is projecting.get_layer("conv3_block1_preact_relu").output
    )
    padding = small(replace(spec, order="pre", shortcut="A"))
    assert (
        padding.get_layer("conv3_block1_0_subsample").input
        is padding.get_layer("conv2_block2_out").output
    )


@pytest.mark.parametrize(
    ("spec", "start", "end"),
    [
        (IMAGENET, "", "conv1_conv"),
        (IMAGENET, "conv2_block2_out", "conv3_block1_1_conv"),
        (IMAGENET, "conv2_block2_out", "conv3_block1_0_conv"),
        (replace(IMAGENET, block="bottleneck"), "conv2_block2_out", "conv3_block1_1_conv"),
        (
            replace(IMAGENET, block="bottleneck", stride_on="3x3"),
            "conv3_block1_1_relu",
            "conv3_block1_2_conv",
        ),
        (CIFAR, "", "conv1_conv"),
        (CIFAR, "conv2_block1_1_relu", "conv2_block1_2_conv"),
    ],
)
@pytest.mark.parametrize("size", [(8, 8), (9, 12)])
def test_convolutions_are_padded_equally_on_all_sides(spec, start, end, size):
    """At even sizes TensorFlow's "same" pads 7x7/2 by 2 and 3 pixels, and 3x3/2 by 0 and 1.

    PyTorch and Caffe pad equally.
    """
    model = build(spec, classes=5)
    piece = part(model, start, end)
    layer = model.get_layer(end)
    x = photos(2, *size, piece.input.shape[-1])
    wanted = convolve(x, array(layer.kernel), layer.strides[0])
    np.testing.assert_allclose(values(piece, x), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(16, 16), (17, 22), (18, 19), (1, 2), (3, 5)])
@pytest.mark.parametrize("order", ["post", "pre"])
def test_pool_of_the_stem(order, size):
    """3x3, stride 2, one pixel of padding that is never the maximum."""
    model = build(replace(IMAGENET, order=order), classes=5)
    before = "conv1_relu" if order == "post" else "conv1_conv"
    x = values(part(model, "", before), photos(2, *size, 3))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::2, ::2]
    np.testing.assert_array_equal(
        values(part(model, before, "pool1_pool"), x), windows.max(axis=(-2, -1))
    )


def test_pool_before_any_relu_lets_negative_values_through():
    model = build(replace(IMAGENET, order="pre"), classes=5)
    kernel = model.get_layer("conv1_conv").kernel
    kernel.assign(np.ones(kernel.shape))
    pooled = values(part(model, "", "pool1_pool"), -np.ones((1, 16, 16, 3)))
    assert (pooled < 0).all()
    assert np.isfinite(pooled).all()


@pytest.mark.parametrize(
    "spec", [CIFAR, replace(IMAGENET, block="bottleneck", order="pre")], ids=label
)
def test_constants_of_every_layer(spec):
    """Convolutions have no bias, because BN follows (section 3.4).

    Momentum 0.9 and epsilon 1e-5 are as in Caffe and PyTorch.
    """
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
        for weight, start in (
            (layer.gamma, 1),
            (layer.beta, 0),
            (layer.moving_mean, 0),
            (layer.moving_variance, 1),
        ):
            assert (array(weight) == start).all()


def test_he_initialization():
    """Section 3.4, reference [13]: a Gaussian of mean 0 and standard deviation sqrt(2 / fan in)."""
    keras.utils.set_random_seed(0)
    model = build(replace(NETWORKS["resnet50"], blocks=(1, 1)), classes=1000)
    kernels = [
        layer.kernel for layer in model.layers if isinstance(layer, (layers.Conv2D, layers.Dense))
    ]
    assert len(kernels) == 1 + 2 * 4 + 1
    for kernel in map(array, kernels):
        wanted = np.sqrt(2 / np.prod(kernel.shape[:-1]))
        # A standard deviation of n samples has a relative error of about 1 / sqrt(2 n). Allow five.
        assert abs(kernel.std() / wanted - 1) < 5 / np.sqrt(2 * kernel.size)
        assert abs(kernel.mean()) < 5 * wanted / np.sqrt(kernel.size)
        # 1.24 % of a Gaussian lies beyond 2.5 deviations, but nothing if it is truncated at two.
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


@pytest.mark.parametrize(
    "spec", [CIFAR, replace(IMAGENET, block="bottleneck", shortcut="B")], ids=label
)
def test_penalty_is_half_the_weight_decay_times_the_squared_kernels(spec):
    """The gradient of 0.5e-4 * w^2 is 1e-4 * w, the decay of section 3.4; here on kernels only."""
    model = build(spec, classes=5, weight_decay=1e-4)
    kernels = [
        variable for variable in model.trainable_variables if variable.path.endswith("kernel")
    ]
    convolutions = sum(layer.kind == "convolution" for layer in spec.layers(32, 5))
    assert len(kernels) == convolutions + 1
    wanted = (
        1e-4
        / 2
        * sum(float(np.square(array(kernel).astype("float64")).sum()) for kernel in kernels)
    )
    assert float(sum(model.losses)) == pytest.approx(wanted, rel=1e-5)


def test_without_weight_decay_there_is_no_penalty():
    assert build(CIFAR, classes=5).losses == []


@pytest.fixture
def policy():
    """Set the global dtype policy for one test."""
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
    probabilities = values(model, photos(2, 32, 32, 3))
    assert probabilities.dtype == np.float32
    # Half precision would have an error of about 1e-3.
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "name"),
    [
        pytest.param(
            network,
            name,
            marks=(
                ()
                if network in ("resnet18", "resnet20", "resnet50", "plain20")
                else pytest.mark.slow
            ),
        )
        for network in NETWORKS
        for name in ("mixed_float16", "mixed_bfloat16")
        # Deeper networks take the longest to build, and only repeat the blocks of these.
        if sum(NETWORKS[network].blocks) <= 27
    ],
)
def test_every_network_ends_in_float32_under_mixed_precision(policy, network, name):
    policy(name)
    spec = NETWORKS[network]
    assert_ends_in_float32(build(spec, classes=10), spec, name)


@pytest.mark.parametrize("name", ["float32", "mixed_float16"])
def test_building_keeps_the_global_policy(policy, name):
    policy(name)
    for spec in (CIFAR, replace(IMAGENET, order="pre")):
        build(spec, classes=5)
        assert keras.config.dtype_policy().name == name


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec",
    [CIFAR, replace(CIFAR, order="pre"), IMAGENET, replace(IMAGENET, order="pre")],
    ids=label,
)
@pytest.mark.parametrize("size", [(32, 32), (40, 57)])
def test_images_of_any_size(spec, size):
    free = build(spec, classes=5)
    assert free.input_shape == (None, None, None, 3)
    assert free.output_shape == (None, 5)
    fixed = build(spec, input_shape=(*size, 3), classes=5)
    fixed.set_weights(free.get_weights())
    images = photos(2, *size, 3)
    got = values(free, images)
    assert got.shape == (2, 5)
    np.testing.assert_allclose(got, values(fixed, images), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("order", ["post", "pre"])
def test_networks_without_top(order):
    spec = replace(IMAGENET, order=order)
    images = photos(2, 32, 48, 3)
    bare, average, largest = (
        build(spec, include_top=False, pooling=pooling) for pooling in (None, "avg", "max")
    )
    assert bare.output_shape == (None, None, None, 8)
    assert average.output_shape == largest.output_shape == (None, 8)
    average.set_weights(bare.get_weights())
    largest.set_weights(bare.get_weights())
    features = values(bare, images)
    assert features.shape == (2, 4, 6, 8)
    assert (features >= 0).all(), "the last operation is a ReLU in either order"
    np.testing.assert_allclose(
        values(average, images), features.mean(axis=(1, 2)), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        values(largest, images), features.max(axis=(1, 2)), rtol=1e-5, atol=1e-6
    )


def test_top_is_average_dense_softmax():
    """Section 3.3: global average pooling and a fully connected layer with softmax."""
    model = small(IMAGENET)
    images = photos(2, 32, 32, 3)
    features = values(part(model, "", "conv3_block1_out"), images).mean(axis=(1, 2))
    kernel, bias = model.get_layer("predictions").get_weights()
    logits = features @ kernel + bias
    wanted = np.exp(logits - logits.max(axis=1, keepdims=True))
    got = values(model, images)
    np.testing.assert_allclose(
        got, wanted / wanted.sum(axis=1, keepdims=True), rtol=1e-4, atol=1e-6
    )

    no_softmax = build(IMAGENET, classes=5, classifier_activation=None)
    no_softmax.set_weights(model.get_weights())
    np.testing.assert_allclose(values(no_softmax, images), logits, rtol=1e-4, atol=1e-4)


def test_input_tensor():
    """The network continues from another layer's output, as in keras.applications."""
    inputs = keras.Input((32, 32, 3))
    scaled = layers.Rescaling(1 / 255)(inputs)
    model = build(IMAGENET, input_tensor=scaled, classes=5)
    assert model.input is inputs
    plain = small(IMAGENET)
    model.set_weights(plain.get_weights())
    images = photos(2, 32, 32, 3)
    np.testing.assert_allclose(
        values(model, images * 255), values(plain, images), rtol=1e-4, atol=1e-6
    )


def test_impossible_input_shapes_are_refused():
    with pytest.raises(
        ValueError, match=r"input_shape is \(32, 32\); give \(height, width, channels\)"
    ):
        build(CIFAR, input_shape=(32, 32))
    with pytest.raises(
        ValueError,
        match=r"input_shape is \(8, 8, 3\), but input_tensor has shape \(None, 32, 32, 3\)",
    ):
        build(CIFAR, input_tensor=keras.Input((32, 32, 3)), input_shape=(8, 8, 3))


@pytest.mark.slow
def test_building_restores_the_recursion_limit():
    before = sys.getrecursionlimit()
    build(replace(CIFAR, blocks=(150, 1)), input_shape=(8, 8, 3), classes=5)
    assert sys.getrecursionlimit() == before


def test_gray_images():
    assert build(CIFAR, input_shape=(8, 8, 1), classes=5).get_layer("conv1_conv").kernel.shape == (
        3,
        3,
        1,
        4,
    )


def test_the_name_of_the_model():
    assert build(IMAGENET, classes=5).name == IMAGENET.name
    assert build(IMAGENET, classes=5, name="mine").name == "mine"


def norms(model):
    return [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]


def test_batch_norm_is_synchronized_on_several_replicas():
    # conftest.py creates the two logical devices.
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
        ({"stochastic_depth": 1}, ["stochastic_depth", "1", "below 1"]),
        ({"dropout": -0.1}, ["dropout", "-0.1", "at least 0"]),
    ],
)
def test_errors_of_wrong_arguments_name_value_and_choices(arguments, wanted):
    with pytest.raises(ValueError) as refusal:
        build(CIFAR, **arguments)
    for text in wanted:
        assert text in str(refusal.value)


@pytest.mark.parametrize("activation", ["softmax", "log_softmax", keras.activations.softmax])
def test_a_softmax_over_one_class_is_refused(activation):
    """It gives the same output for every image, so nothing could be learned."""
    with pytest.raises(ValueError, match="classes is 1 and .* give 'sigmoid' or None"):
        build(CIFAR, classes=1, classifier_activation=activation)


def test_one_class_has_a_sigmoid_or_logits():
    for activation in ("sigmoid", None):
        model = build(CIFAR, classes=1, classifier_activation=activation)
        assert len(set(np.asarray(model(photos(4, 16, 16, 3))).ravel())) == 4
    assert build(CIFAR, classes=1, include_top=False)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["post", "pre"])
def test_drop_rates_rise_linearly_from_unit_to_unit(order):
    """Huang et al. 2016, section 3: the survival probability falls linearly to one half.

    Of L = 54 units, (3 L - 1) / 4, about 40, are expected to be active.
    """
    spec = replace(NETWORKS["resnet110"], width=2, order=order)
    model = build(spec, input_shape=(8, 8, 3), classes=2, stochastic_depth=0.5)
    drops = [layer for layer in model.layers if isinstance(layer, layers.Dropout)]
    assert len(drops) == 54
    assert sum(1 - layer.rate for layer in drops) == pytest.approx((3 * 54 - 1) / 4)
    rates = [layer.rate for layer in drops]
    np.testing.assert_allclose(np.diff(rates), 0.5 / 54)
    assert rates[-1] == 0.5


@pytest.mark.parametrize("order", ["post", "pre"])
def test_branches_are_dropped_for_whole_images_before_the_addition(order):
    spec = replace(IMAGENET, order=order)
    model = randomized(build(spec, input_shape=(32, 32, 3), classes=5, stochastic_depth=0.5))
    drop = model.get_layer("conv3_block1_drop")
    add = model.get_layer("conv3_block1_add" if order == "post" else "conv3_block1_out")
    carried, left = add.input
    seen = keras.Model(model.input, [drop.input, left, carried, add.output])
    branch, left, carried, sums = map(array, seen(photos(40, 32, 32, 3), training=True))
    assert np.abs(branch).max(axis=(1, 2, 3)).min() > 0
    out = (left == 0).all(axis=(1, 2, 3))
    assert 0 < out.sum() < 40
    np.testing.assert_allclose(left[~out], 2 * branch[~out], rtol=1e-6)
    np.testing.assert_allclose(sums, carried + left, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spec", [CIFAR, replace(IMAGENET, shortcut="C", order="pre")], ids=label)
def test_dropout_changes_neither_weights_nor_inference(spec):
    plain = small(spec)
    dropping = build(spec, input_shape=(32, 32, 3), classes=5, stochastic_depth=0.3, dropout=0.4)
    assert dropping.get_layer("dropout").rate == 0.4
    assert dropping.get_layer("predictions").input is dropping.get_layer("dropout").output
    weighted = {layer.name: layer for layer in dropping.layers if layer.weights}
    assert weighted.keys() == {layer.name for layer in plain.layers if layer.weights}
    for name, layer in weighted.items():
        layer.set_weights(plain.get_layer(name).get_weights())
    images = photos(3, 32, 32, 3)
    np.testing.assert_array_equal(values(dropping, images), values(plain, images))


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shortcut", ["A", "B", "C"])
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_with_gamma_zero_every_unit_starts_as_its_shortcut(block, shortcut, training):
    """Goyal et al. 2017, section 5.1. The other batch norms start with gamma 1."""
    spec = replace(IMAGENET, block=block, shortcut=shortcut)
    model = build(spec, input_shape=(32, 32, 3), classes=5, zero_gamma=True)
    last = "_3_bn" if block == "bottleneck" else "_2_bn"
    for norm in norms(model):
        assert (array(norm.gamma) == (0 if norm.name.endswith(last) else 1)).all(), norm.name
    adds = [layer for layer in model.layers if isinstance(layer, layers.Add)]
    assert len(adds) == 3
    outs = [model.get_layer(add.name.replace("_add", "_out")) for add in adds]
    seen = keras.Model(
        model.input, [(add.input[0], out.output) for add, out in zip(adds, outs, strict=True)]
    )
    for carried, output in seen(photos(2, 32, 32, 3), training=training):
        assert np.abs(array(output)).max() > 0
        np.testing.assert_array_equal(array(output), np.maximum(array(carried), 0))


@pytest.mark.parametrize(
    ("spec", "arguments", "wanted"),
    [
        (replace(CIFAR, shortcut=None), {"stochastic_depth": 0.1}, "has no shortcuts"),
        (replace(CIFAR, shortcut=None), {"zero_gamma": True}, "shortcut is None"),
        (replace(CIFAR, order="pre"), {"zero_gamma": True}, "order is 'pre'"),
    ],
)
def test_options_that_do_not_apply_to_a_network_are_refused(spec, arguments, wanted):
    with pytest.raises(ValueError, match=wanted):
        build(spec, classes=5, **arguments)


def test_channels_first_is_refused():
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match="'channels_first'.*'channels_last'"):
            build(CIFAR, classes=5)
    finally:
        keras.config.set_image_data_format("channels_last")


def test_other_backends_are_refused(monkeypatch):
    # Keras chooses its backend once per process, and imports JAX even for NumPy, so patch the name.
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="'jax'.*'tensorflow'"):
        build(CIFAR, classes=5)


@pytest.mark.slow
def test_load_opens_networks_too_deep_for_keras_alone(tmp_path):
    """The model is narrow but as deep as ResNet-1202."""
    model = build(replace(NETWORKS["resnet1202"], width=2), classes=3, input_shape=(8, 8, 3))
    model.save(tmp_path / "model.keras")
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)  # Python's default, which pytest may have raised
    try:
        with pytest.raises(RecursionError):
            keras.models.load_model(tmp_path / "model.keras")
        again = load(tmp_path / "model.keras")
    finally:
        sys.setrecursionlimit(before)
    for got, wanted in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(got, wanted)
