"""Remove or add single ingredients of a CIFAR-10 recipe, and compare the errors.

    python scripts/experiments/ablation.py [--data-dir DIR] [--epochs 15] [--seeds 1]
        [--only VARIANT ...]

Trains ResNet-20 on 45,000 images and reports the error on the other 5,000 of the training split;
the test split is not used. The recipe `cifar10-resnet20-best` has what this table has chosen.
Interrupted trainings resume and finished ones are not repeated, so more seeds can be added later.
Writes scripts/results/ablation/table.csv and prints it.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from trainings import errors, listed, measure, median

from keras_resnet import RECIPES

TABLE = Path(__file__).parents[1] / "results" / "ablation" / "table.csv"
HOLDOUT = 5000

VARIANTS: dict[str, dict[str, Any]] = {
    "the recipe": {},
    "without MixUp": {"mixup": 0.0},
    "without the average of the weights": {"ema": 0.0},
    "without MixUp and the average of the weights": {"mixup": 0.0, "ema": 0.0},
    "without Nesterov's momentum": {"nesterov": False},
    "without warm-up": {"warmup": 0.0},
    "weight decay 1e-4 in place of 5e-4": {"weight_decay": 1e-4},
    "the paper's steps in place of the cosine": {"schedule": RECIPES["cifar10-resnet20"].schedule},
    "without random crops and mirror images": {"augmentation": "none"},
    "with label smoothing 0.1": {"label_smoothing": 0.1},
    "with CutMix": {"cutmix": 1.0},
    "with TrivialAugment": {"trivial_augment": True},
    "with random erasing 0.1": {"erasing": 0.1},
    "with stochastic depth 0.1": {"stochastic_depth": 0.1},
    "with zero-initialized gamma": {"zero_gamma": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", help="where tensorflow-datasets keeps CIFAR-10")
    parser.add_argument("--epochs", type=float, default=15)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--precision", default="float32")
    parser.add_argument(
        "--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME"
    )
    args = parser.parse_args()
    base = replace(
        RECIPES["cifar10-resnet20-best"],
        ema=0.999,  # was part of the recipe before this table
        data_dir=args.data_dir,
        epochs=args.epochs,
        holdout=HOLDOUT,
        precision=args.precision,
        validate_every=max(1, round(args.epochs)),
    )
    for seed in range(args.seeds):
        for name in args.only:
            recipe = replace(base, seed=seed, **VARIANTS[name])
            key = {
                "variant": name,
                "epochs": f"{recipe.epochs:g}",
                "seed": seed,
                "precision": recipe.precision,
            }
            measure(TABLE, key, recipe, "ablation")
    show()


def show() -> None:
    """Print the table: the errors by seed, and the difference of their median to the recipe's."""
    found = errors(TABLE)
    table = Table("variant", "epochs", "validation error, by seed", "difference of the medians")
    for (variant, epochs), values in found.items():
        reference = found.get(("the recipe", epochs), values)
        table.add_row(
            variant,
            f"{epochs:g}",
            listed(values),
            f"{median(values) - median(reference):+.2f}",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
