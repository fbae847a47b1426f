import pytest

from keras_resnet.choices import lookup, nearest, require
from keras_resnet.networks.paper import NETWORKS

FLAGS = ["--learning-rate", "--label-smoothing", "--batch-size", "--spec.width", "--weights"]


@pytest.mark.parametrize(
    ("name", "names", "found"),
    [
        ("trian", ["train", "list", "evaluate"], ["train"]),
        ("--lr", FLAGS, ["--learning-rate"]),  # initials
        ("--ls", FLAGS, ["--label-smoothing"]),
        ("--batch", FLAGS, ["--batch-size"]),
        ("--rate", FLAGS, ["--learning-rate"]),
        ("--width", FLAGS, ["--spec.width"]),
        ("--weigths", FLAGS, ["--weights"]),
        ("--LEARNING_RATE", FLAGS, ["--learning-rate"]),
        # The closest depth first.
        ("resnet35", NETWORKS, ["resnet34", "resnet32", "resnet44"]),
        ("resnet1000", NETWORKS, ["resnet1202", "resnet152", "resnet110"]),
        ("ResNet-50", NETWORKS, ["resnet50", "resnet44", "resnet56"]),
        ("plain35", NETWORKS, ["plain34", "plain32", "plain44"]),
        # Nothing is near.
        ("xyz", NETWORKS, []),
        ("", NETWORKS, []),
        ("--", FLAGS, []),
        ("50", FLAGS, []),
    ],
)
def test_nearest_names(name, names, found):
    assert nearest(name, names) == found


def test_an_unknown_name_is_answered_with_the_nearest_or_all():
    table = {"left": 1, "right": 2}
    assert lookup("side", "left", table) == 1
    with pytest.raises(ValueError, match="^no side is called 'rihgt'; the nearest is right$"):
        lookup("side", "rihgt", table)
    with pytest.raises(ValueError, match="^no side is called 'up'; choose one of left, right$"):
        lookup("side", "up", table)


def test_a_value_is_required_to_be_a_choice():
    require("side", 2, (1, 2))
    with pytest.raises(ValueError, match="^side is 3; choose one of 1, 2$"):
        require("side", 3, (1, 2))


def test_long_values_are_cut_in_messages():
    """A damaged file can hold a name of a megabyte."""
    for refuse in (
        lambda: require("color", "r" * 1_000_000, ("red", "green")),
        lambda: lookup("color", "r" * 1000, {"red": 1, "green": 2}),
    ):
        with pytest.raises(ValueError, match=r"'r{96}\.\.\.") as raised:
            refuse()
        assert len(str(raised.value)) < 200
