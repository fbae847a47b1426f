"""Recipes: the paper's numbers, invalid values, and JSON."""

import json
import math
from dataclasses import replace

import pytest

from keras_resnet.networks.paper import NETWORKS
from keras_resnet.runs.recipe import Recipe
from keras_resnet.runs.recipes import RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_json_round_trip(name):
    assert Recipe.from_json(RECIPES[name].to_json()) == RECIPES[name]
    assert RECIPES[name].name == name


def test_the_papers_cifar_recipe():
    """Section 4.2: batch 128, weight decay 1e-4 and momentum 0.9.

    The rate of 0.1 is divided by 10 at 32k and 48k of 64k iterations.
    """
    recipe = RECIPES["cifar10-resnet20"]
    total = recipe.total_steps(steps_per_epoch=390)
    assert total == 64_000
    assert [(start * total, recipe.learning_rate * m) for start, m in recipe.schedule] == [
        (0, 0.1),
        (32_000, pytest.approx(0.01)),
        (48_000, pytest.approx(0.001)),
    ]
    assert (recipe.batch_size, recipe.momentum, recipe.weight_decay) == (128, 0.9, 1e-4)
    assert recipe.augmentation == "pad-crop-flip"


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_every_network_of_section_4_2_has_its_recipe(dataset):
    for depth in (20, 32, 44, 56, 110, 1202):
        for kind in ("resnet", "plain"):
            if (kind, depth) == ("plain", 1202):
                continue  # the paper does not train it
            recipe = RECIPES[f"{dataset}-{kind}{depth}"]
            assert (recipe.spec, recipe.dataset) == (NETWORKS[f"{kind}{depth}"], dataset)
            assert recipe.spec.shortcut == (None if kind == "plain" else "A")
            # "We use 0.01 to warm up the training" with 110 layers, about 400 iterations.
            warm = depth >= 110
            assert recipe.schedule[0] == (0.0, pytest.approx(0.1 if warm else 1.0))
            assert [start * 64_000 for start, _ in recipe.schedule[1:-2]] == ([400] if warm else [])


@pytest.mark.parametrize(
    "network", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "plain18", "plain34"]
)
def test_the_papers_imagenet_recipes(network):
    """Section 3.4: batch 256, rate 0.1, weight decay 1e-4, momentum 0.9, up to 60e4 iterations.

    The color augmentation is from AlexNet.
    """
    recipe = RECIPES[f"imagenet-{network}"]
    assert (recipe.spec, recipe.dataset) == (NETWORKS[network], "imagenet2012")
    assert (recipe.batch_size, recipe.learning_rate, recipe.weight_decay, recipe.momentum) == (
        256,
        0.1,
        1e-4,
        0.9,
    )
    assert (recipe.steps, recipe.augmentation, recipe.lighting) == (600_000, "scale-crop-flip", 0.1)


def test_torchvisions_second_recipe():
    """Numbers from pytorch/vision#3995 and its references/classification/README.md."""
    recipe = RECIPES["imagenet-resnet50-v2"]
    assert recipe.spec == replace(NETWORKS["resnet50"], stride_on="3x3")
    assert (recipe.batch_size, recipe.epochs, recipe.learning_rate) == (1024, 600, 0.5)
    assert (recipe.weight_decay, recipe.label_smoothing, recipe.erasing) == (2e-5, 0.1, 0.1)
    assert (recipe.mixup, recipe.cutmix, recipe.repeated_augmentation) == (0.2, 1.0, 4)
    assert recipe.trivial_augment and recipe.image_size == 176 and recipe.schedule == "cosine"
    assert recipe.warmup * recipe.epochs == pytest.approx(5)
    # torchvision averages every 32 steps, with the decay 1 - 2e-5 * batch size * 32 / epochs.
    assert recipe.ema**32 == pytest.approx(1 - 2e-5 * 1024 * 32 / 600, abs=2e-6)


def test_procedure_a2():
    """Table 2 of arXiv 2110.00476."""
    recipe = RECIPES["imagenet-resnet50-a2"]
    assert (recipe.epochs, recipe.optimizer, recipe.learning_rate) == (300, "lamb", 5e-3)
    assert (recipe.weight_decay, recipe.stochastic_depth, recipe.rand_augment) == (0.02, 0.05, 7)
    assert (recipe.mixup, recipe.cutmix, recipe.repeated_augmentation) == (0.1, 1.0, 3)
    assert (recipe.loss, recipe.label_smoothing, recipe.erasing) == ("binary_cross_entropy", 0, 0)
    assert abs(recipe.batch_size - 2048) < 0.02 * 2048
    assert recipe.warmup * recipe.epochs == pytest.approx(5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schedule": "step"}, "schedule is 'step'; choose one of 'cosine', 'plateau'"),
        ({"schedule": "plateau"}, "schedule is 'plateau' and holdout is 0"),
        ({"warmup": 1.0}, "warmup is 1.0"),
        ({"ema": 1.0}, "ema is 1.0"),
        ({"label_smoothing": -0.1}, "label_smoothing is -0.1"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov is True.* momentum is 0.0"),
        ({"nesterov": True, "optimizer": "adamw"}, "nesterov is True, optimizer is 'adamw'"),
        ({"optimizer": "adam"}, "'adam'.*'sgd', 'adamw', 'lamb'"),
        ({"loss": "hinge"}, "'hinge'.*'cross_entropy', 'binary_cross_entropy'"),
        (
            {"loss": "binary_cross_entropy", "label_smoothing": 0.1},
            "loss is 'binary_cross_entropy' and label_smoothing is 0.1",
        ),
        ({"spec": NETWORKS["plain20"], "stochastic_depth": 0.1}, "spec.shortcut is None"),
        ({"spec": NETWORKS["plain20"], "zero_gamma": True}, "spec.shortcut is None"),
        (
            {"spec": replace(NETWORKS["resnet20"], order="pre"), "zero_gamma": True},
            "zero_gamma is True.* spec.order is 'pre'",
        ),
        ({"keep": "first"}, "'first'.*'last', 'best'"),
        ({"patience": -1}, "patience is -1"),
        ({"mixup": -0.1}, "mixup is -0.1"),
        ({"cutmix": float("nan")}, "cutmix is nan"),
        ({"erasing": 1.5}, "erasing is 1.5; give a number from 0 to 1"),
        ({"rand_augment": 11.0}, "rand_augment is 11.0; give a number from 0 to 10"),
        ({"rand_augment": 7.0, "trivial_augment": True}, "give one of them"),
        ({"crop_area": 0.0}, "crop_area is 0.0"),
        ({"repeated_augmentation": 0}, "repeated_augmentation is 0"),
        ({"stochastic_depth": 1.0}, "stochastic_depth is 1.0"),
        ({"dropout": -0.5}, "dropout is -0.5"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"distillation": 1.1}, "distillation is 1.1"),
        ({"bn_statistics": "batch"}, "'batch'.*'moving', 'population'"),
        ({"lighting": -1.0}, "lighting is -1.0"),
        ({"augmentation": "mixup"}, "'mixup'.*'none', 'pad-crop', 'pad-crop-flip'"),
        ({"precision": "half"}, "'half'.*'float32'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"steps": 5}, "epochs is 3 and steps is 5; give exactly one"),
        ({"epochs": None}, "give exactly one"),
        ({"schedule": ()}, "schedule is"),
        ({"schedule": ((0.5, 1.0),)}, "schedule is"),
        ({"schedule": ((0.0, 1.0), (0.5, 0.1), (0.5, 0.01))}, "schedule is"),
        ({"schedule": ((0.0, 1.0), (1.0, 0.1))}, "schedule is"),
        ({"schedule": ((0.0, float("nan")),)}, "schedule is"),
        ({"schedule": ((0.0, 1.0), (float("nan"), 0.1))}, "schedule is"),
        ({"weight_decay": float("inf")}, "weight_decay is inf"),
        ({"epochs": float("inf")}, "epochs is inf"),
        ({"name": "../../x"}, "name is '../../x'; give the name of a folder, not a path"),
        ({"name": "/tmp/x"}, "name is '/tmp/x'"),
        ({"name": "a\\b"}, "name is"),
        ({"name": ".."}, r"name is '\.\.'"),
        ({"name": "."}, r"name is '\.'"),
        ({"name": ""}, "name is ''"),
        ({"name": "a\x1b[31mb"}, r"name is 'a\\x1b\[31mb'"),
        ({"name": "a\0b"}, "name is"),
    ],
)
def test_errors_name_invalid_values(change, message):
    with pytest.raises(ValueError, match=message):
        replace(RECIPES["digits-tiny"], **change)


def test_steps_and_epochs_replace_each_other():
    recipe = RECIPES["digits-tiny"].override(steps=7)
    assert (recipe.epochs, recipe.steps, recipe.total_steps(22)) == (None, 7, 7)
    recipe = recipe.override(epochs=2.5)
    assert (recipe.epochs, recipe.steps, recipe.total_steps(22)) == (2.5, None, 55)
    assert recipe.override(epochs=0.001).total_steps(22) == 1


def changed(**values):
    return json.dumps(json.loads(RECIPES["digits-tiny"].to_json()) | values)


def test_a_run_of_too_many_epochs_is_refused():
    recipe = RECIPES["digits-tiny"]
    assert recipe.override(epochs=1e6).total_steps(22) == 22_000_000
    for length in ({"epochs": 1e12}, {"steps": 10**12}, {"epochs": 1_000_001}):
        with pytest.raises(ValueError, match="give at most 1,000,000 epochs, here of 22 steps"):
            recipe.override(**length).total_steps(22)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a recipe"),
        ("[]", "not a recipe"),
        ('{"spec": {}}', "stem"),
        ("5", "of type int; expected an object"),
        ("[" * 100_000, "nested too deeply"),
        ('{"spec": ' * 100_000, "nested too deeply"),
        (changed(epochs=10**400), "epochs is 1000.*0; give a value of type float"),
        (changed(epochs=True), "epochs is True; give a value of type float"),
        (changed(epochs="3"), "epochs is '3'; give a value of type float"),
        (changed(seed=1.5), "seed is 1.5; give a value of type int"),
        (changed(seed=2**64), "seed is 18446744073709551616; give a value of type int"),
        (changed(name=None), "name is None; give a value of type str"),
        (changed(weights=["a"]), "weights is .*; give a value of type str"),
        (changed(nesterov="yes"), "nesterov is 'yes'; give a value of type bool"),
        (changed(precision={}), "precision is {}; give a value of type Literal"),
        (changed(schedule=5), "schedule is 5; give a value of type Union"),
        (changed(schedule=[1]), "schedule is .*; give a value of type Union"),
        (changed(schedule=[["0", 1]]), "schedule is .*; give a value of type Union"),
        (changed(learning_rate=math.inf), "learning_rate is inf; give a positive number"),
        (changed(spec={"stem": "cifar", "blocks": 5, "width": 4}), "blocks is 5"),
        (changed(spec={"stem": [], "blocks": [1], "width": 4}), r"stem is \(\)"),
        (changed(spec={"stem": "cifar", "blocks": [10**9], "width": 4}), "at most .* 10,000"),
        (changed(spec={"stem": "cifar", "blocks": [1] * 100, "width": 4}), "at most 8 stages"),
        (changed(spec={"stem": "cifar", "blocks": [1], "width": 10**9}), "at most 65,536"),
        (
            json.dumps({"spec": {"stem": "cifar", "blocks": [1], "width": 4, "deep": 1}}),
            "'deep'.*'stem'",
        ),
        (RECIPES["digits-tiny"].to_json().replace('"seed"', '"sead"'), "'sead'.*'seed'"),
    ],
)
def test_text_other_than_a_recipe_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Recipe.from_json(text)
