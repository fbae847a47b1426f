"""What `train` costs over a bare loop of steps: `fit` with all its callbacks against `step(next(batches))`.

Both run the same compiled training step on the same model from the same pipeline, in turn, in one process.
Ratios of wall time, pair by pair; their median, and the interval that holds the true median with 95 % confidence
(by order statistics). Run it with nothing else running:

    python scripts/bench_fit.py --data-dir DIRECTORY_OF_TFDS
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console

from keras_resnet import data
from keras_resnet.callbacks import Checkpoints, History, ProgressBar
from keras_resnet.recipe import RECIPES
from keras_resnet.optimization import compile_for
from keras_resnet.train import network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="where tensorflow-datasets keeps CIFAR-10")
    parser.add_argument("--dataset", default="cifar10", help="cifar10, or synthetic where that is missing")
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--long", type=int, default=60, help="steps of the long epoch")
    parser.add_argument("--short", type=int, default=10, help="steps of the short epochs, about 2 s with validation")
    args = parser.parse_args()

    recipe = replace(RECIPES["cifar10-resnet20"], dataset=args.dataset, data_dir=args.data_dir)
    dataset = data.load(recipe.dataset, data_dir=recipe.data_dir)
    preprocessing = data.preprocessing_for(dataset, None)
    model = network(recipe, preprocessing.crop, len(dataset.labels), weight_decay=recipe.weight_decay)
    compile_for(recipe, model, 390)
    validation = data.test_batches(dataset.test.take(np.arange(512)), preprocessing, recipe.batch_size)

    def batches() -> tf.data.Dataset:
        return data.train_batches(
            dataset.train, preprocessing, batch_size=recipe.batch_size, augmentation=recipe.augmentation
        )

    train_step, test_step = tf.function(model.train_step), tf.function(model.test_step)

    def bare(steps: int, epochs: int, validate: bool) -> None:
        iterator = iter(batches())
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
            checkpoints = Checkpoints(path / "checkpoint", history, steps * epochs, 60.0, lambda: False)
            progress = ProgressBar(Console(file=open("/dev/null", "w")), steps * epochs, steps, recipe.batch_size, 0)
            tensorboard = keras.callbacks.TensorBoard(str(path / "tensorboard"), write_graph=False)
            model.fit(
                batches(),
                epochs=epochs,
                steps_per_epoch=steps,
                validation_data=validation.repeat() if validate else None,
                validation_steps=4 if validate else None,
                callbacks=[history, tensorboard, progress, checkpoints],
                shuffle=False,
                verbose=0,
            )

    print(f"ResNet-20, {recipe.dataset}, batch {recipe.batch_size}, {args.pairs} pairs")
    for name, case in {
        "one long epoch": (args.long, 1, False),
        "four short epochs with validation": (args.short, 4, True),
    }.items():
        # The first time compiles.
        fit(*case)
        bare(*case)
        compare(name, case, fit, bare, args.pairs, recipe.batch_size)


def compare(name: str, case: tuple, fit: Callable, bare: Callable, pairs: int, batch_size: int) -> None:
    times: dict[str, list[float]] = {"fit": [], "bare": []}
    for pair in range(pairs):
        # Who goes first alternates, so that a drift of the machine's speed favours neither.
        for which in ("fit", "bare") if pair % 2 else ("bare", "fit"):
            begin = time.perf_counter()
            {"fit": fit, "bare": bare}[which](*case)
            times[which].append(time.perf_counter() - begin)
    ratios = sorted(f / b for f, b in zip(times["fit"], times["bare"], strict=True))
    # With n pairs, the k-th smallest and k-th largest ratio hold the median with 95 % where binomial(n, 1/2) allows.
    k = max(1, int(np.floor((pairs - 1.96 * np.sqrt(pairs)) / 2)))
    steps, epochs, _ = case
    images = steps * epochs * batch_size
    print(
        f"{name} ({steps} steps): bare {np.median(times['bare']):.2f} s"
        f" ({images / np.median(times['bare']):.0f} training images/s), fit {np.median(times['fit']):.2f} s;"
        f" fit/bare {np.median(ratios):.4f} [{ratios[k - 1]:.4f}, {ratios[-k]:.4f}]"
    )


if __name__ == "__main__":
    main()
