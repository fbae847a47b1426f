"""The named recipes: the paper's, and a few modern ones."""

import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ..choices import lookup, require
from ..files import read_text
from ..networks.paper import NETWORKS, cifar_spec, imagenet_spec
from ..networks.spec import ResNetSpec
from .recipe import PAPER_DROPS, PAPER_WARMUP, Recipe


def _digits(spec: ResNetSpec) -> Recipe:
    return Recipe(
        name=f"digits-{spec.name}",
        spec=spec,
        dataset="digits",
        augmentation="pad-crop",
        batch_size=64,
        epochs=30,
        seed=1,
    )


def _cifar(dataset: str, spec: ResNetSpec) -> Recipe:
    return Recipe(
        name=f"{dataset}-{spec.name}",
        spec=spec,
        dataset=dataset,
        augmentation="pad-crop-flip",
        batch_size=128,
        steps=64_000,
        schedule=PAPER_WARMUP if spec.depth >= 110 else PAPER_DROPS,
    )


def _short(recipe: Recipe) -> Recipe:
    """Return a recipe of a quarter of the paper's epochs.

    It was chosen on CIFAR-10's 45k/5k split: results/cifar10-resnet20-short/trials.csv.
    """
    return replace(
        recipe,
        name=f"{recipe.name}-short",
        epochs=40,
        steps=None,
        schedule="cosine",
        warmup=0.05,
        learning_rate=0.4,
        nesterov=True,
        label_smoothing=0.1,
        weight_decay=5e-4,
        validate_every=4,
    )


def _best(spec: ResNetSpec) -> Recipe:
    """Return a recipe of 200 epochs with the ingredients that scripts/results/ablation has chosen.

    They were chosen for ResNet-20 on the 45k/5k split of the training images, at 15 and 30 epochs.
    It has not been trained to its end yet.
    """
    return replace(
        _short(_cifar("cifar10", spec)),
        name=f"cifar10-{spec.name}-best",
        epochs=200,
        learning_rate=0.2,
        label_smoothing=0.0,
        mixup=0.2,
        validate_every=10,
    )


def _imagenet(spec: ResNetSpec) -> Recipe:
    return Recipe(
        name=f"imagenet-{spec.name}",
        spec=spec,
        dataset="imagenet2012",
        augmentation="scale-crop-flip",
        lighting=0.1,
        batch_size=256,
        steps=600_000,
    )


def _imagenet_v2(spec: ResNetSpec) -> Recipe:
    """Return torchvision's second recipe (pytorch/vision#3995): 80.86 % top-1 with ResNet-50 there.

    Deviations: the classifier's bias is not decayed; the cosine starts with the warm-up; the
    weights are averaged after every step; each pair of images is mixed by its own share; and tests
    at 224 px do not resize to 232.
    """
    return replace(
        _imagenet(spec),
        name="imagenet-resnet50-v2",
        image_size=176,
        augmentation="resized-crop-flip",
        lighting=0.0,
        trivial_augment=True,
        erasing=0.1,
        mixup=0.2,
        cutmix=1.0,
        repeated_augmentation=4,
        label_smoothing=0.1,
        batch_size=1024,
        epochs=600,
        steps=None,
        learning_rate=0.5,
        schedule="cosine",
        warmup=5 / 600,
        weight_decay=2e-5,
        # torchvision's: 1 - 2e-5 * 1024 * 32 / 600, every 32 steps.
        ema=0.99996585,
    )


def _imagenet_a2(spec: ResNetSpec) -> Recipe:
    """Return procedure A2 of *ResNet strikes back* (arXiv 2110.00476, Table 2): 79.8 % there.

    Deviations: batches have 2016 images, not 2048, because they consist of groups of six views; the
    cosine starts with the warm-up; each pair of images is mixed by its own share; stochastic depth
    rises from the first unit's share, not from zero; Keras' LAMB applies the decay apart from its
    step; and RandAugment moves pixels by nearest neighbor.
    """
    return replace(
        _imagenet(spec),
        name="imagenet-resnet50-a2",
        augmentation="resized-crop-flip",
        lighting=0.0,
        rand_augment=7.0,
        mixup=0.1,
        cutmix=1.0,
        repeated_augmentation=3,
        stochastic_depth=0.05,
        zero_gamma=True,
        loss="binary_cross_entropy",
        batch_size=2016,
        epochs=300,
        steps=None,
        optimizer="lamb",
        learning_rate=5e-3,
        schedule="cosine",
        warmup=5 / 300,
        weight_decay=0.02,
    )


def _finetune(spec: ResNetSpec, weights: str) -> Recipe:
    return Recipe(
        name=f"finetune-{spec.name}",
        spec=spec,
        dataset="",
        # The crops of section 3.4 can be as small as a fifth of the image and miss small objects.
        augmentation="resized-crop-flip",
        crop_area=0.35,
        weights=weights,
        head_epochs=3,
        batch_size=32,
        epochs=15,
        learning_rate=0.01,
        schedule="cosine",
    )


CIFAR_DEPTHS = (20, 32, 44, 56, 110)

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        # keras-resnet train digits-resnet20: the degradation problem in minutes, on a laptop.
        # Not in the paper. The README lists their results.
        _digits(cifar_spec(20)),
        _digits(cifar_spec(20, shortcut=None)),
        _digits(cifar_spec(56)),
        _digits(cifar_spec(56, shortcut=None)),
        # keras-resnet train cifar10-resnet20: section 4.2, errors of Table 6.
        *(
            _cifar(dataset, spec)
            for dataset in ("cifar10", "cifar100")
            for spec in (
                *(cifar_spec(depth) for depth in CIFAR_DEPTHS),
                *(cifar_spec(depth, shortcut=None) for depth in CIFAR_DEPTHS),
                cifar_spec(1202),
            )
        ),
        # keras-resnet train cifar10-resnet20-short: not in the paper; reaches about the paper's
        # error in a quarter of its epochs.
        _short(_cifar("cifar10", cifar_spec(20))),
        _short(_cifar("cifar100", cifar_spec(20))),
        # keras-resnet train cifar10-resnet20-best: not in the paper, and not run yet.
        *(_best(cifar_spec(depth)) for depth in CIFAR_DEPTHS),
        # keras-resnet train imagenet-resnet50: section 3.4. The paper's schedule divides by 10
        # "when the error plateaus", for up to 60e4 iterations: --schedule plateau --holdout 50000.
        # The default pieces are from section 4.2.
        *(
            _imagenet(NETWORKS[name])
            for name in (
                "resnet18",
                "resnet34",
                "resnet50",
                "resnet101",
                "resnet152",
                "plain18",
                "plain34",
            )
        ),
        # Modern recipes, never run for lack of hardware.
        _imagenet_v2(replace(NETWORKS["resnet50"], stride_on="3x3")),
        _imagenet_a2(replace(NETWORKS["resnet50"], stride_on="3x3")),
        # keras-resnet train finetune-resnet50 --dataset FOLDER: not in the paper. For a user's own
        # images: from published weights; or from scratch, for many images or for comparison.
        _finetune(NETWORKS["resnet50"], "imagenet"),
        replace(
            _imagenet(NETWORKS["resnet18"]),
            name="scratch-resnet18",
            dataset="",
            augmentation="auto",
            batch_size=64,
            epochs=90,
            steps=None,
        ),  # fmt: skip
        # Tiny versions, which run every code path of the larger recipes in seconds.
        replace(_digits(cifar_spec(8)), name="digits-tiny", epochs=3),
        replace(
            _cifar("cifar10", cifar_spec(8)),
            name="cifar10-tiny",
            steps=20,
            holdout=48_000,
            validate_every=100,
        ),
        replace(
            _imagenet(replace(imagenet_spec("bottleneck", (1, 1)), width=8)),
            name="imagenet-tiny",
            image_size=64,
            batch_size=16,
            steps=20,
        ),
        Recipe(
            name="synthetic-tiny",
            spec=replace(imagenet_spec("bottleneck", (1, 1)), width=8),
            dataset="synthetic",
            image_size=64,
            batch_size=16,
            steps=40,
        ),
    )
}


def recipe_of(what: str | os.PathLike[str] | Recipe, **changes: Any) -> Recipe:
    """Return a recipe by its name or file, with changed fields.

    Args:
        what: a recipe, a name in `RECIPES`, or the path of a recipe's JSON file.
        changes: new values of fields, by name.

    Raises:
        ValueError: no recipe has this name, the file does not hold a recipe, or a field is invalid.
    """
    if isinstance(what, Recipe):
        recipe = what
    elif str(what).endswith(".json"):
        text = read_text(Path(what))
        try:
            recipe = Recipe.from_json(text)
        except ValueError as error:
            raise ValueError(f"{what}: {error}") from None
    else:
        recipe = lookup("recipe", str(what), RECIPES)
    for name in changes:
        require("a field of Recipe", name, tuple(field.name for field in fields(Recipe)))
    return recipe.override(**changes)
