"""Compare networks of several depths, shortcuts and orders under equal budgets.

    python scripts/experiments/depth.py order
    python scripts/experiments/depth.py shortcuts --data-dir DIR
    python scripts/experiments/depth.py degradation --data-dir DIR

- `order`: batch norm and activation after the convolution (the paper) or before it (He et al.
  2016), at 20, 56 and 110 layers on digits, three seeds: half an hour on two cores.
- `shortcuts`: Plain-18 and 34 and ResNet-18 and 34 with shortcuts A, B and C (Tables 2 and 3), at
  32 px and a quarter of the width on CIFAR-10, 20 epochs, two seeds: at most 20 minutes each.
- `degradation`: plain and residual, 20 and 56 layers on CIFAR-10 (section 4.2, Figure 6), 40
  epochs: half an hour to two hours each.

An interrupted experiment resumes by the same command, and more seeds can be added later. Nothing is
chosen by these errors, so they are test errors, after the last step. Writes
scripts/results/EXPERIMENT/table.csv and the history of each training beside it, and prints the
table. With `--speed` it trains nothing, and times a training step of every network, in turns; run
that on an idle machine. It writes scripts/results/EXPERIMENT/speed.csv.
"""

import argparse
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np
from rich.console import Console
from rich.table import Table
from trainings import errors, listed, measure, median, rows

from keras_resnet import NETWORKS, RECIPES, Recipe, ResNet, ResNetSpec, prepare
from keras_resnet.files import write_table
from keras_resnet.networks.summary import summarize
from keras_resnet.serving.turns import in_turns

RESULTS = Path(__file__).parents[1] / "results"
TURNS = 15


@dataclass(frozen=True)
class Experiment:
    """Networks that are trained by one recipe."""

    recipe: Recipe
    networks: dict[str, ResNetSpec]
    seeds: int
    side: int
    """the side of an image in pixels"""


def _narrow(network: str, shortcut: str | None) -> ResNetSpec:
    """Return a network of Table 1 for 32 px, a quarter as wide, with a 3x3 convolution as stem."""
    return replace(NETWORKS[network], stem="cifar", width=16, shortcut=shortcut)


EXPERIMENTS = {
    "order": Experiment(
        replace(RECIPES["digits-resnet20"], name="order"),
        {
            f"{depth} layers, {order}": replace(NETWORKS[f"resnet{depth}"], order=order)
            for depth in (20, 56, 110)
            for order in ("post", "pre")
        },
        seeds=3,
        side=8,
    ),
    "shortcuts": Experiment(
        replace(RECIPES["cifar10-resnet20-short"], name="shortcuts", epochs=20),
        {
            **{f"plain-{depth}": _narrow(f"plain{depth}", None) for depth in (18, 34)},
            **{
                f"ResNet-{depth} {shortcut}": _narrow(f"resnet{depth}", shortcut)
                for depth in (18, 34)
                for shortcut in ("A", "B", "C")
            },
        },
        seeds=2,
        side=32,
    ),
    "degradation": Experiment(
        replace(RECIPES["cifar10-resnet20-short"], name="degradation"),
        {name: NETWORKS[name] for name in ("plain20", "resnet20", "plain56", "resnet56")},
        seeds=1,
        side=32,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--data-dir", help="where tensorflow-datasets keeps CIFAR-10")
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--speed", action="store_true", help="time the steps instead")
    args = parser.parse_args()
    experiment = EXPERIMENTS[args.experiment]
    folder = RESULTS / args.experiment
    if args.speed:
        folder.mkdir(exist_ok=True)
        write_table(folder / "speed.csv", speeds(experiment, args.precision))
        return show(experiment, folder)
    recipe = replace(
        experiment.recipe,
        data_dir=args.data_dir,
        epochs=args.epochs or experiment.recipe.epochs,
        precision=args.precision,
    )
    for seed in range(1, (args.seeds or experiment.seeds) + 1):
        for name, spec in experiment.networks.items():
            one = replace(recipe, spec=spec, seed=seed)
            key = {
                "variant": name,
                "epochs": f"{one.epochs:g}",
                "seed": seed,
                "precision": one.precision,
            }
            measure(folder / "table.csv", key, one, args.experiment)
    show(experiment, folder)


def speeds(experiment: Experiment, precision: str) -> list[dict[str, str | float]]:
    """Return the milliseconds of a training step of every network, by turns."""
    keras.config.set_dtype_policy(precision)
    random = np.random.default_rng(0)
    batch = experiment.recipe.batch_size
    images = random.normal(size=(batch, experiment.side, experiment.side, 3)).astype(np.float32)
    labels = random.integers(0, 10, batch)
    models = {}
    for name, spec in experiment.networks.items():
        shape = (experiment.side, experiment.side, 3)
        model = prepare(ResNet(spec, input_shape=shape, classes=10))
        model.compile(keras.optimizers.SGD(0.1, 0.9), "sparse_categorical_crossentropy")
        models[name] = model

    def step(name: str) -> float:
        begin = time.perf_counter()
        models[name].train_on_batch(images, labels)
        return 1000 * (time.perf_counter() - begin)

    return [
        {"variant": name, "precision": precision, "ms": round(statistics.median(found), 1)}
        for name, found in in_turns(models, TURNS, step).items()
    ]


def show(experiment: Experiment, folder: Path) -> None:
    """Print the table."""
    took = {row["variant"]: row["ms"] for row in rows(folder / "speed.csv")}
    training = errors(folder / "table.csv", "training_error")
    table = Table(
        *("network", "epochs", "test error, by seed", "median", "training error, median"),
        *("parameters", "multiply-adds", "ms per step"),
    )
    for key, found in errors(folder / "table.csv").items():
        costs = summarize(experiment.networks[key[0]], experiment.side, 10)
        table.add_row(
            key[0],
            f"{key[1]:g}",
            listed(found),
            f"{median(found):.2f} %",
            f"{median(training[key]):.2f} %",
            f"{costs.parameters:,}",
            f"{costs.multiply_adds:,}",
            took.get(key[0], ""),
        )
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
