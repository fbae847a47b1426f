"""Counts against golden/networks.json, and sizes against Table 1."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from keras_resnet.networks.paper import NETWORKS
from keras_resnet.networks.spec import ResNetSpec
from keras_resnet.networks.summary import multiply_adds, parameters, receptive_field, summarize

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "golden" / "networks.json").read_text(encoding="utf-8")
)

# Two 3x3 convolutions between stem and classifier can be counted by hand.
TINY = ResNetSpec(stem="cifar", blocks=(1,), width=2, shortcut="A")


LABELS = ("network", "shortcut", "stride_on", "stage", "classes")


def label(row):
    return "-".join(str(row[key]) for key in LABELS if key in row)


@pytest.mark.parametrize("row", GOLDEN["parameters"], ids=label)
def test_parameters(row):
    spec = replace(NETWORKS[row["network"]], shortcut=row["shortcut"])
    summary = summarize(spec, 64, row["classes"])
    assert summary.parameters == row["trainable"]
    if "total" in row:
        assert summary.total_parameters == row["total"]
    if "total_without_top" in row:
        head = summary.stages[-1]
        # The counts 11,190,464 and 21,306,048 for 18 and 34 layers include a projection in conv2_x,
        # where the shape does not change (tensorflow/models issue 10583).
        assert summary.total_parameters - head.parameters == row["total_without_top"]
    if "paper_millions" in row:
        digits = len(row["paper_millions"].split(".")[1])
        assert f"{summary.parameters / 1e6:.{digits}f}" == row["paper_millions"]


@pytest.mark.parametrize("row", GOLDEN["keras_applications"], ids=label)
def test_parameters_with_a_bias_on_every_convolution(row):
    """keras.applications has biases, although the next batch norm makes them redundant."""
    spec = NETWORKS[row["network"]]
    summary = summarize(spec, 224, 1000)
    biases = sum(layer.outputs for layer in spec.layers(224, 1000) if layer.kind == "convolution")
    assert summary.parameters + biases == row["trainable"]
    assert summary.total_parameters + biases == row["total"]
    assert (
        summary.total_parameters + biases - summary.stages[-1].parameters
        == row["total_without_top"]
    )


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("order", ["post", "pre"])
def test_option_a_and_the_plain_network_cost_the_same(name, order):
    a, plain = (
        summarize(replace(NETWORKS[name], shortcut=shortcut, order=order), 64, 10)
        for shortcut in ("A", None)
    )
    assert a == plain


@pytest.mark.parametrize("row", GOLDEN["multiply_adds"], ids=label)
def test_multiply_adds(row):
    spec = replace(NETWORKS[row["network"]], shortcut=row["shortcut"], stride_on=row["stride_on"])
    count = summarize(spec, row["input_size"], row["classes"]).multiply_adds
    assert count == row["multiply_adds"]
    if "paper_billions" in row:
        # Table 1 rounds some of its numbers and truncates others.
        assert abs(count / 1e9 - float(row["paper_billions"])) < 0.1


@pytest.mark.parametrize("row", GOLDEN["receptive_fields"], ids=label)
def test_receptive_fields(row):
    spec = replace(NETWORKS[row["network"]], stride_on=row["stride_on"])
    fields = {stage.name: stage.receptive_field for stage in summarize(spec, 224, 10).stages}
    assert fields[row["stage"]] == row["pixels"]


@pytest.mark.parametrize("shortcut", ["A", "C", None])
def test_shortcuts_do_not_widen_the_receptive_field(shortcut):
    projections, other = (
        summarize(replace(NETWORKS["resnet34"], shortcut=s), 224, 10) for s in ("B", shortcut)
    )
    assert [stage.receptive_field for stage in projections.stages] == [
        stage.receptive_field for stage in other.stages
    ]


def test_receptive_field_of_the_stem_is_eleven():
    # 7 from the convolution, plus 2 steps of 2 pixels from the pool.
    stem = [
        layer
        for layer in NETWORKS["resnet34"].layers(224, 10)
        if layer.name in ("conv1_conv", "pool1_pool")
    ]
    assert receptive_field(stem) == 11
    assert receptive_field([]) == 1


@pytest.mark.parametrize(
    "name", [name for name, spec in NETWORKS.items() if spec.stem == "imagenet"]
)
@pytest.mark.parametrize("order", ["post", "pre"])
def test_output_sizes_of_table_1(name, order):
    spec = replace(NETWORKS[name], order=order)
    stages = summarize(spec, 224, 1000).stages
    assert [stage.name for stage in stages] == [
        "conv1",
        "conv2_x",
        "conv3_x",
        "conv4_x",
        "conv5_x",
        "head",
    ]
    assert [stage.output_size for stage in stages] == [
        (112,) * 2,
        (56,) * 2,
        (28,) * 2,
        (14,) * 2,
        (7,) * 2,
        (1,) * 2,
    ]
    widths = [256, 512, 1024, 2048] if spec.block == "bottleneck" else [64, 128, 256, 512]
    assert [stage.channels for stage in stages] == [64, *widths, 1000]
    assert [stage.blocks for stage in stages] == [0, *spec.blocks, 0]


def test_output_sizes_of_section_4_2():
    stages = summarize(NETWORKS["resnet20"], 32, 10).stages
    assert [(stage.output_size, stage.channels) for stage in stages] == [
        ((32, 32), 16),
        ((32, 32), 16),
        ((16, 16), 32),
        ((8, 8), 64),
        ((1, 1), 10),
    ]


@pytest.mark.parametrize("name", NETWORKS)
def test_totals_are_sums_over_the_stages(name):
    spec = NETWORKS[name]
    layers, summary = spec.layers(64, 10), summarize(spec, 64, 10)
    assert (
        summary.parameters
        == sum(stage.parameters for stage in summary.stages)
        == sum(map(parameters, layers))
    )
    assert (
        summary.multiply_adds
        == sum(s.multiply_adds for s in summary.stages)
        == sum(map(multiply_adds, layers))
    )
    assert sum(stage.blocks for stage in summary.stages) == sum(spec.blocks)


@pytest.mark.parametrize("order", ["post", "pre"])
def test_a_network_counted_by_hand(order):
    # conv1: 3*3*3*2 = 54; two convolutions: 3*3*2*2 = 36 each; three batch norms: 2*2 each;
    # classifier: (2+1)*3 = 9.
    summary = summarize(replace(TINY, order=order), 4, 3)
    assert summary.parameters == 54 + 2 * 36 + 3 * 4 + 9
    assert summary.total_parameters == summary.parameters + 3 * 4
    assert summary.multiply_adds == 16 * (54 + 2 * 36) + 2 * 3


def test_images_that_are_not_square():
    # 224 x 160: halved five times to 7 x 5.
    wide = summarize(NETWORKS["resnet18"], (224, 160), 1000)
    assert [stage.output_size for stage in wide.stages] == [
        (112, 80),
        (56, 40),
        (28, 20),
        (14, 10),
        (7, 5),
        (1, 1),
    ]
    square = summarize(NETWORKS["resnet18"], 224, 1000)
    assert wide.parameters == square.parameters
    # The cost of convolutions grows with the number of pixels; the classifier's does not.
    classifier = 512 * 1000
    assert (wide.multiply_adds - classifier) * 224 == (square.multiply_adds - classifier) * 160


def test_odd_sizes_round_up():
    # Symmetric padding of 3, 1, 1, ... keeps ceil(size / 2): 33, 17, 9, 5, 3, 2.
    stages = summarize(NETWORKS["resnet50"], (33, 64), 10).stages
    assert [stage.output_size[0] for stage in stages] == [17, 9, 5, 3, 2, 1]
