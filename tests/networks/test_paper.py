"""The paper's networks and errors, against Tables 1 to 3 and 6 and section 4.2 of the paper."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from keras_resnet.networks.paper import NETWORKS, PAPER_ERRORS, cifar_spec
from keras_resnet.networks.spec import ResNetSpec

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "golden" / "networks.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", NETWORKS)
def test_depth_and_name(name):
    spec = NETWORKS[name]
    assert spec.depth == int(name.removeprefix("resnet").removeprefix("plain"))
    assert spec.name == name


# Table 1, and section 4.2 with n = 3, 5, 7, 9, 18, 200.
@pytest.mark.parametrize(
    ("name", "stem", "block", "blocks", "width"),
    [
        ("resnet18", "imagenet", "basic", (2, 2, 2, 2), 64),
        ("resnet34", "imagenet", "basic", (3, 4, 6, 3), 64),
        ("resnet50", "imagenet", "bottleneck", (3, 4, 6, 3), 64),
        ("resnet101", "imagenet", "bottleneck", (3, 4, 23, 3), 64),
        ("resnet152", "imagenet", "bottleneck", (3, 8, 36, 3), 64),
        ("plain18", "imagenet", "basic", (2, 2, 2, 2), 64),
        ("plain34", "imagenet", "basic", (3, 4, 6, 3), 64),
        ("resnet20", "cifar", "basic", (3, 3, 3), 16),
        ("resnet32", "cifar", "basic", (5, 5, 5), 16),
        ("resnet44", "cifar", "basic", (7, 7, 7), 16),
        ("resnet56", "cifar", "basic", (9, 9, 9), 16),
        ("resnet110", "cifar", "basic", (18, 18, 18), 16),
        ("resnet1202", "cifar", "basic", (200, 200, 200), 16),
        ("plain20", "cifar", "basic", (3, 3, 3), 16),
        ("plain32", "cifar", "basic", (5, 5, 5), 16),
        ("plain44", "cifar", "basic", (7, 7, 7), 16),
        ("plain56", "cifar", "basic", (9, 9, 9), 16),
        ("plain110", "cifar", "basic", (18, 18, 18), 16),
    ],
)
def test_networks_match_the_paper(name, stem, block, blocks, width):
    shortcut = None if name.startswith("plain") else {"cifar": "A", "imagenet": "B"}[stem]
    assert NETWORKS[name] == ResNetSpec(
        stem=stem, block=block, blocks=blocks, width=width, shortcut=shortcut
    )
    assert NETWORKS[name].stride_on == "1x1"
    assert NETWORKS[name].order == "post"


def test_paper_errors():
    assert {name: error for name, (error, _) in PAPER_ERRORS.items()} == {
        row["network"]: row["percent"] for row in GOLDEN["paper_errors"]
    }


def test_every_paper_error_belongs_to_the_name_of_a_network():
    names = {
        replace(NETWORKS[name], shortcut=s).name for name in NETWORKS for s in ("A", "B", "C", None)
    }
    assert set(PAPER_ERRORS) <= names


@pytest.mark.parametrize("depth", [-4, 0, 2, 7, 18, 21, 34, 101, 1200])
def test_cifar_depths_other_than_6n_plus_2_are_refused(depth):
    with pytest.raises(ValueError, match=rf"depth is {depth};.*6n\+2.*20, 32"):
        cifar_spec(depth)


@pytest.mark.parametrize("n", [1, 2, 3, 18, 200])
def test_cifar_family(n):
    """Section 4.2: one convolution, 6n convolutions in three stages, and a classifier."""
    spec = cifar_spec(6 * n + 2)
    assert (spec.depth, spec.blocks, spec.shortcut) == (6 * n + 2, (n, n, n), "A")
