"""The networks as values, against Table 1, Fig. 3, Fig. 5 and sections 3.3 and 4.2 of the paper."""

import json
from dataclasses import FrozenInstanceError, asdict, replace
from pathlib import Path

import pytest

from keras_resnet.choices import lookup
from keras_resnet.networks.paper import NETWORKS, cifar_spec, imagenet_spec
from keras_resnet.networks.spec import ResNetSpec

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "golden" / "networks.json").read_text(encoding="utf-8")
)

BASIC = imagenet_spec("basic", (3, 4, 6, 3))
BOTTLENECK = imagenet_spec("bottleneck", (3, 4, 6, 3))


def units(spec):
    return [unit for stage in spec.stages() for unit in stage]


# Counted in Table 1: the units, and the changes of the number of channels. A basic first stage
# keeps 64 channels, a bottleneck one goes from 64 to 256. Section 4.1: in the 34-layer network
# option C has thirteen projections more than the three of B.
@pytest.mark.parametrize(
    ("network", "shortcut", "projections", "zero_paddings", "identities"),
    [
        ("resnet18", "A", 0, 3, 5),
        ("resnet18", "B", 3, 0, 5),
        ("resnet18", "C", 8, 0, 0),
        ("resnet34", "A", 0, 3, 13),
        ("resnet34", "B", 3, 0, 13),
        ("resnet34", "C", 16, 0, 0),
        ("resnet50", "A", 0, 4, 12),
        ("resnet50", "B", 4, 0, 12),
        ("resnet50", "C", 16, 0, 0),
        ("resnet101", "B", 4, 0, 29),
        ("resnet152", "B", 4, 0, 46),
        ("resnet20", "A", 0, 2, 7),
        ("resnet20", "B", 2, 0, 7),
        ("resnet20", "C", 9, 0, 0),
        ("resnet110", "A", 0, 2, 52),
        ("resnet1202", "A", 0, 2, 598),
    ],
)
def test_number_of_shortcuts_of_each_kind(
    network, shortcut, projections, zero_paddings, identities
):
    kinds = [unit.shortcut for unit in units(replace(NETWORKS[network], shortcut=shortcut))]
    assert kinds.count("projection") == projections
    assert kinds.count("zero padding") == zero_paddings
    assert kinds.count("identity") == identities
    assert len(kinds) == projections + zero_paddings + identities


@pytest.mark.parametrize(
    ("spec", "changes"),
    [
        (BASIC, ["conv3_block1", "conv4_block1", "conv5_block1"]),
        (NETWORKS["resnet18"], ["conv3_block1", "conv4_block1", "conv5_block1"]),
        (BOTTLENECK, ["conv2_block1", "conv3_block1", "conv4_block1", "conv5_block1"]),
        (cifar_spec(20), ["conv3_block1", "conv4_block1"]),
    ],
)
@pytest.mark.parametrize(("shortcut", "kind"), [("A", "zero padding"), ("B", "projection")])
def test_shortcuts_compute_only_where_the_shape_changes(spec, changes, shortcut, kind):
    for unit in units(replace(spec, shortcut=shortcut)):
        assert unit.shortcut == (kind if unit.name in changes else "identity"), unit.name


@pytest.mark.parametrize("name", [name for name in NETWORKS if name.startswith("plain")])
def test_plain_networks_have_no_shortcut(name):
    assert {unit.shortcut for unit in units(NETWORKS[name])} == {None}
    assert not any(layer.on_shortcut for layer in NETWORKS[name].layers(32, 10))


@pytest.mark.parametrize("name", NETWORKS)
def test_plain_network_has_the_layers_of_option_a(name):
    """Section 4.1: option A has no parameters, which makes it comparable to the plain network."""
    spec = NETWORKS[name]
    assert replace(spec, shortcut=None).layers(64, 10) == replace(spec, shortcut="A").layers(64, 10)


@pytest.mark.parametrize(
    ("spec", "shapes"),
    [
        # (kernel, inputs, outputs, stride) in the first unit of conv3_x, which halves the size by
        # stride 2: Fig. 5 and Table 1.
        (BASIC, [(3, 64, 128, 2), (3, 128, 128, 1)]),
        (BOTTLENECK, [(1, 256, 128, 2), (3, 128, 128, 1), (1, 128, 512, 1)]),
        (
            replace(BOTTLENECK, stride_on="3x3"),
            [(1, 256, 128, 1), (3, 128, 128, 2), (1, 128, 512, 1)],
        ),
    ],
)
def test_convolutions_of_a_unit_with_stride_2(spec, shapes):
    unit = list(spec.stages())[1][0]
    assert [(c.kernel, c.inputs, c.outputs, c.stride) for c in unit.convolutions] == shapes
    inputs, outputs = shapes[0][1], shapes[-1][2]
    assert (unit.projection.kernel, unit.projection.inputs, unit.projection.outputs) == (
        1,
        inputs,
        outputs,
    )
    assert unit.projection.stride == unit.stride == 2


@pytest.mark.parametrize(
    "spec", [BASIC, BOTTLENECK, replace(BOTTLENECK, stride_on="3x3"), cifar_spec(20)]
)
def test_only_the_first_unit_of_later_stages_has_stride_2(spec):
    strides = [[unit.stride for unit in stage] for stage in spec.stages()]
    assert strides == [
        [2 if stage and not unit else 1 for unit in range(n)] for stage, n in enumerate(spec.blocks)
    ]


@pytest.mark.parametrize(
    ("spec", "features"),
    [
        (BASIC, 512),
        (BOTTLENECK, 2048),
        (cifar_spec(20), 64),
        (replace(BASIC, blocks=(1, 1), width=8), 16),
    ],
)
def test_features_are_the_channels_before_the_classifier(spec, features):
    assert spec.features == features
    assert units(spec)[-1].outputs == features
    assert spec.layers(32, 7)[-1].inputs == features


@pytest.mark.parametrize("order", ["post", "pre"])
@pytest.mark.parametrize("shortcut", ["A", "B", "C", None])
@pytest.mark.parametrize("spec", [BASIC, BOTTLENECK, cifar_spec(20)])
def test_layer_names_are_unique(spec, shortcut, order):
    names = [layer.name for layer in replace(spec, shortcut=shortcut, order=order).layers(64, 10)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("shortcut", ["A", "B", "C", None])
@pytest.mark.parametrize("spec", [BASIC, BOTTLENECK, cifar_spec(20)])
def test_order_moves_batch_norms_but_no_convolution(spec, shortcut):
    """He et al. (2016), Fig. 1: full pre-activation keeps the convolutions."""

    def convolutions(order):
        layers = replace(spec, shortcut=shortcut, order=order).layers(64, 10)
        return [layer for layer in layers if layer.kind == "convolution"]

    assert convolutions("pre") == convolutions("post")


def test_pre_activation_normalizes_the_input_of_each_convolution():
    """He et al. (2016), Fig. 4(e), and one batch norm after the last unit.

    The stem and the shortcuts have none.
    """
    spec = replace(BASIC, blocks=(1, 1), order="pre")
    assert [layer.name for layer in spec.layers(32, 10)] == [
        "conv1_conv",
        "pool1_pool",
        "conv2_block1_preact_bn",
        "conv2_block1_1_conv",
        "conv2_block1_1_bn",
        "conv2_block1_2_conv",
        "conv3_block1_preact_bn",
        "conv3_block1_0_conv",
        "conv3_block1_1_conv",
        "conv3_block1_1_bn",
        "conv3_block1_2_conv",
        "post_bn",
        "predictions",
    ]


@pytest.mark.parametrize(
    ("order", "kinds"), [("post", {"convolution", "batch norm"}), ("pre", {"convolution"})]
)
def test_layers_on_shortcuts_are_the_projections(order, kinds):
    spec = replace(BOTTLENECK, order=order)
    across = [layer for layer in spec.layers(64, 10) if layer.on_shortcut]
    assert {layer.kind for layer in across} == kinds
    assert len(across) == 4 * len(kinds)
    assert {layer.name.split("_")[2] for layer in across} == {"0"}


def test_an_integer_input_size_is_the_side_of_a_square():
    assert BASIC.layers(96, 10) == BASIC.layers((96, 96), 10) != BASIC.layers((96, 64), 10)


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        (replace(BASIC, shortcut="A"), "resnet34-a"),
        (BASIC, "resnet34"),
        (replace(BASIC, shortcut="C"), "resnet34-c"),
        (replace(BASIC, shortcut=None), "plain34"),
        (replace(BASIC, stride_on="3x3"), "resnet34"),  # basic units have no 1x1 to stride on
        (replace(BOTTLENECK, stride_on="3x3"), "resnet50-v1.5"),
        (replace(BOTTLENECK, shortcut="C", stride_on="3x3", order="pre"), "resnet50-c-v1.5-pre"),
        (replace(cifar_spec(110), order="pre"), "resnet110-pre"),
        (cifar_spec(20, shortcut="B"), "resnet20-b"),
        (cifar_spec(20, shortcut=None), "plain20"),
        (replace(cifar_spec(20, shortcut=None), order="pre"), "plain20-pre"),
    ],
)
def test_derived_names(spec, name):
    assert spec.name == name


@pytest.mark.parametrize(
    ("field", "value", "choices"),
    [
        ("stem", "mnist", ["'cifar'", "'imagenet'"]),
        ("block", "wide", ["'basic'", "'bottleneck'"]),
        ("shortcut", "D", ["'A'", "'B'", "'C'", "None"]),
        ("shortcut", "b", ["'A'", "'B'", "'C'", "None"]),
        ("stride_on", "5x5", ["'1x1'", "'3x3'"]),
        ("order", "v2", ["'post'", "'pre'"]),
        ("blocks", (), ["positive"]),
        ("blocks", (2, 0), ["positive"]),
        ("width", 0, ["positive"]),
    ],
)
def test_errors_of_wrong_fields_name_value_and_choices(field, value, choices):
    with pytest.raises(ValueError, match=field) as refusal:
        replace(BASIC, **{field: value})
    for wanted in (repr(value), *choices):
        assert wanted in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet43", "resnet44"),
        ("ResNet50", "resnet50"),
        ("resnet-34", "resnet34"),
        ("plain43", "plain44"),
    ],
)
def test_lookup_gives_the_nearest_names(name, hint):
    with pytest.raises(
        ValueError, match=rf"no network is called '{name}'; the nearest are .*\b{hint}\b"
    ):
        lookup("network", name, NETWORKS)


def test_lookup_gives_all_names_if_none_is_near():
    with pytest.raises(ValueError, match="no network is called 'zzz'; choose one of ") as refusal:
        lookup("network", "zzz", NETWORKS)
    for name in NETWORKS:
        assert name in str(refusal.value)


def test_lookup_finds():
    assert lookup("network", "resnet34", NETWORKS) is NETWORKS["resnet34"]


def test_a_spec_is_a_value():
    assert ResNetSpec(**asdict(BASIC)) == BASIC
    assert len({BASIC, replace(BASIC), replace(BASIC, shortcut="C")}) == 2
    with pytest.raises(FrozenInstanceError):
        BASIC.width = 3
    with pytest.raises(TypeError):
        ResNetSpec("imagenet", (2, 2), 64)
