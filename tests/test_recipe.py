import json
from dataclasses import replace

import pytest

from keras_resnet.recipe import RECIPES, Recipe
from keras_resnet.spec import NETWORKS


@pytest.mark.parametrize("name", RECIPES)
def test_json_round_trip(name):
    assert Recipe.from_json(RECIPES[name].to_json()) == RECIPES[name]
    assert RECIPES[name].name == name


def test_the_papers_cifar_recipe():
    """Section 4.2: batch 128, 0.1, divided by 10 at 32k and 48k of 64k iterations, decay 1e-4, momentum 0.9."""
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
                continue  # the paper trains none
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
    """Section 3.4: batch 256, from 0.1 on, decay 1e-4, momentum 0.9, up to 60e4 iterations, AlexNet's colour shift."""
    recipe = RECIPES[f"imagenet-{network}"]
    assert (recipe.spec, recipe.dataset) == (NETWORKS[network], "imagenet2012")
    assert (recipe.batch_size, recipe.learning_rate, recipe.weight_decay, recipe.momentum) == (256, 0.1, 1e-4, 0.9)
    assert (recipe.steps, recipe.augmentation, recipe.lighting) == (600_000, "scale-crop-flip", 0.1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schedule": "step"}, "schedule is 'step'; choose one of 'cosine', 'plateau'"),
        ({"schedule": "plateau"}, "schedule is 'plateau' and holdout is 0"),
        ({"warmup": 1.0}, "warmup is 1.0"),
        ({"ema": 1.0}, "ema is 1.0"),
        ({"label_smoothing": -0.1}, "label_smoothing is -0.1"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov is True and momentum is 0"),
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
    ],
)
def test_unusable_values_are_named(change, says):
    with pytest.raises(ValueError, match=says):
        replace(RECIPES["digits-tiny"], **change)


def test_giving_steps_takes_epochs_back_and_the_other_way_round():
    recipe = RECIPES["digits-tiny"].override(steps=7)
    assert (recipe.epochs, recipe.steps, recipe.total_steps(22)) == (None, 7, 7)
    recipe = recipe.override(epochs=2.5)
    assert (recipe.epochs, recipe.steps, recipe.total_steps(22)) == (2.5, None, 55)
    assert recipe.override(epochs=0.001).total_steps(22) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not a recipe"),
        ("[]", "not a recipe"),
        ('{"spec": {}}', "stem"),
        (json.dumps({"spec": {"stem": "cifar", "blocks": [1], "width": 4, "deep": 1}}), "'deep'.*'stem'"),
        (RECIPES["digits-tiny"].to_json().replace('"seed"', '"sead"'), "'sead'.*'seed'"),
    ],
)
def test_text_that_is_no_recipe(text, says):
    with pytest.raises(ValueError, match=says):
        Recipe.from_json(text)
