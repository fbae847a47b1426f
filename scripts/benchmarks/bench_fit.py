"""Measure the overhead of `train` over a bare loop of steps.

`fit` with all its callbacks is compared with `step(next(batches))`: the same compiled training step
of the same model with the same pipeline, alternately in one process. The result is the median ratio
of wall times over pairs and its 95 % confidence interval (by order statistics). Run it on an idle
machine:

    python scripts/benchmarks/bench_fit.py --data-dir DIRECTORY_OF_TFDS
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import tensorflow as tf
from rich.console import Console

from keras_resnet.data.pipeline import evaluation_batches
from keras_resnet.data.preprocessing import preprocessing_for
from keras_resnet.runs.dataset import TrainingData, load_dataset
from keras_resnet.runs.recipes import RECIPES
from keras_resnet.training.callbacks import Checkpoints, History
from keras_resnet.training.curves import Curves
from keras_resnet.training.optimizer import compile_for
from keras_resnet.training.progress import ProgressBar
from keras_resnet.training.train import network


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", help="where tensorflow-datasets keeps CIFAR-10")
    parser.add_argument(
        "--dataset", default="cifar10", help="cifar10, or synthetic if that is missing"
    )
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--long", type=int, default=60, help="steps of the long epoch")
    parser.add_argument(
        "--short", type=int, default=10, help="steps of the short epochs, about 2 s with validation"
    )
    args = parser.parse_args()

    recipe = replace(RECIPES["cifar10-resnet20"], dataset=args.dataset, data_dir=args.data_dir)
    dataset = load_dataset(recipe)
    data = TrainingData(recipe, dataset, preprocessing_for(dataset, None))
    model = network(data, weight_decay=recipe.weight_decay)
    schedule = compile_for(recipe, model, 390)
    validation = evaluation_batches(
        dataset.test.take(np.arange(min(512, len(dataset.test)))),
        data.preprocessing,
        recipe.batch_size,
    )
    train_step, test_step = tf.function(model.train_step), tf.function(model.test_step)

    def bare(steps: int, epochs: int, validate: bool) -> None:
        iterator = iter(data.batches())
        for _ in range(epochs):
            model.reset_metrics()
            for _ in range(steps):
                logs = train_step(next(iterator))
            {name: float(value) for name, value in logs.items()}
            if validate:
                model.reset_metrics()
                for batch in validation:
                    logs = test_step(batch)
                {name: float(value) for name, value in logs.items()}

    def fit(steps: int, epochs: int, validate: bool) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            history = History(path / "history.csv", steps, recipe.batch_size)
            checkpoints = Checkpoints(
                path / "checkpoint", history, steps * epochs, 60.0, lambda: False
            )
            progress = ProgressBar(
                Console(file=open("/dev/null", "w")), steps * epochs, steps, recipe.batch_size, 0
            )
            curves = Curves(path / "tensorboard", history, schedule)
            curves.resume(0)
            model.fit(
                data.batches(),
                epochs=epochs,
                steps_per_epoch=steps,
                validation_data=validation.repeat() if validate else None,
                validation_steps=4 if validate else None,
                callbacks=[history, curves, progress, checkpoints],
                shuffle=False,
                verbose=0,
            )

    print(f"ResNet-20, {recipe.dataset}, batch {recipe.batch_size}, {args.pairs} pairs")
    for name, case in {
        "one long epoch": (args.long, 1, False),
        "four short epochs with validation": (args.short, 4, True),
    }.items():
        # The first call compiles.
        fit(*case)
        bare(*case)
        compare(name, case, fit, bare, args.pairs, recipe.batch_size)


def compare(
    name: str, case: tuple, fit: Callable, bare: Callable, pairs: int, batch_size: int
) -> None:
    times: dict[str, list[float]] = {"fit": [], "bare": []}
    for pair in range(pairs):
        # The order alternates, so that a drift of the machine's speed favors neither.
        for which in ("fit", "bare") if pair % 2 else ("bare", "fit"):
            begin = time.perf_counter()
            {"fit": fit, "bare": bare}[which](*case)
            times[which].append(time.perf_counter() - begin)
    ratios = sorted(f / b for f, b in zip(times["fit"], times["bare"], strict=True))
    # The k-th smallest and k-th largest of n ratios enclose the median with 95 % by
    # binomial(n, 1/2).
    k = max(1, int(np.floor((pairs - 1.96 * np.sqrt(pairs)) / 2)))
    steps, epochs, _ = case
    images = steps * epochs * batch_size
    print(
        f"{name} ({steps} steps): bare {np.median(times['bare']):.2f} s"
        f" ({images / np.median(times['bare']):.0f} training images/s), fit"
        f" {np.median(times['fit']):.2f} s; fit/bare {np.median(ratios):.4f} [{ratios[k - 1]:.4f},"
        f" {ratios[-k]:.4f}]"
    )


if __name__ == "__main__":
    main()
