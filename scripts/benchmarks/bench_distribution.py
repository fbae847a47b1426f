"""Measure the overhead of replicas on one device, and the gain by `steps_per_execution`.

It also measures how much float32 rounding changes a training. Times are ratios of calls of `fit`,
which alternate in one process: the median over pairs and its 95 % confidence interval (by order
statistics). Run it on an idle machine:

    python scripts/benchmarks/bench_distribution.py
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import keras
import numpy as np
import tensorflow as tf

from keras_resnet.data.preprocessing import preprocessing_for
from keras_resnet.runs.dataset import TrainingData, load_dataset
from keras_resnet.runs.recipe import Recipe
from keras_resnet.runs.recipes import RECIPES
from keras_resnet.training import distribution
from keras_resnet.training.keras_patches import prepare
from keras_resnet.training.optimizer import compile_for
from keras_resnet.training.train import network

Fit = Callable[[], None]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--pairs", type=int, default=60, help="pairs of the first part; the second has a third"
    )
    pairs = parser.parse_args().pairs
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

    recipe = replace(RECIPES["cifar10-resnet20"], dataset="synthetic", batch_size=128)
    print(f"ResNet-20, 32 px, batch 128, {pairs} pairs of 5 steps")
    plain = fit(recipe, None, 5)
    compare(
        "plain fit of another network against plain fit",
        fit(recipe, None, 5),
        plain,
        pairs,
        5 * 128,
    )
    compare(
        "one device, as `train` chooses it, against plain fit",
        fit(recipe, (), 5),
        plain,
        pairs,
        5 * 128,
    )

    tiny, pairs = RECIPES["digits-tiny"], -(-pairs // 3)
    print(f"ResNet-8, 8 px, batch 64, {pairs} pairs of 110 steps")
    for name, devices in (
        ("one device", ()),
        ("two replicas on one processor", ("CPU:0", "CPU:1")),
    ):
        one, many = fit(tiny, devices, 110), fit(tiny, devices, 110, 22)
        compare(f"{name}: 22 steps an execution against 1", many, one, pairs, 110 * 64)

    print(
        "ResNet-20 on the digits in float32, learning rate 0.1: relative difference of the loss of"
        " a step"
    )
    base = losses(())
    for name, others in {
        "the same again": losses(()),
        "one weight moved by its last bit": losses((), move=True),
        "two replicas": losses(("CPU:0", "CPU:1")),
    }.items():
        found = np.abs(others - base) / base
        print(f"  {name}: step 1 {found[0]:.1e}, step 10 {found[9]:.1e}, step 22 {found[21]:.1e}")


def prepared(
    recipe: Recipe, devices: tuple[str, ...] | None, steps_per_execution: int = 1
) -> tuple:
    """Return a compiled network and its batches, without `prepare` if `devices` is None."""
    dataset = load_dataset(recipe)
    data = TrainingData(recipe, dataset, preprocessing_for(dataset, None))
    keras.utils.set_random_seed(1)
    strategy = tf.distribute.get_strategy() if devices is None else distribution.strategy(devices)
    with strategy.scope():
        model = network(data, weight_decay=recipe.weight_decay)
        if devices is not None:
            model = prepare(model)
        compile_for(recipe, model, 1000, steps_per_execution=steps_per_execution)
    if devices is None:
        return model, data.batches()
    return model, distribution.distribute(strategy, partial(data.batches, 0), recipe.batch_size)


def fit(
    recipe: Recipe, devices: tuple[str, ...] | None, steps: int, steps_per_execution: int = 1
) -> Fit:
    model, batches = prepared(recipe, devices, steps_per_execution)
    return lambda: model.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0)


def losses(devices: tuple[str, ...], move: bool = False) -> np.ndarray:
    model, batches = prepared(RECIPES["digits-resnet20"], devices)
    if move:
        kernel = model.trainable_variables[0].numpy()
        kernel.flat[0] = np.nextafter(kernel.flat[0], np.inf)
        model.trainable_variables[0].assign(kernel)
    means = []  # over the steps so far
    each = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda _, logs: means.append(float(logs["loss"]))
    )
    model.fit(batches, steps_per_epoch=22, shuffle=False, verbose=0, callbacks=[each])
    return np.diff(np.array(means) * np.arange(1, 23), prepend=0)


def compare(name: str, ours: Fit, theirs: Fit, pairs: int, images: int) -> None:
    times: dict[Fit, list[float]] = {ours: [], theirs: []}
    for which in (ours, theirs):
        which()  # the first call compiles
    for pair in range(pairs):
        # The order alternates, so that a drift of the machine's speed favors neither.
        for which in (ours, theirs) if pair % 2 else (theirs, ours):
            begin = time.perf_counter()
            which()
            times[which].append(time.perf_counter() - begin)
    ratios = sorted(a / b for a, b in zip(times[ours], times[theirs], strict=True))
    k = max(1, int(np.floor((pairs - 1.96 * np.sqrt(pairs)) / 2)))
    print(
        f"  {name}: {images / np.median(times[ours]):.0f} and"
        f" {images / np.median(times[theirs]):.0f} images/s, ratio of times {np.median(ratios):.4f}"
        f" [{ratios[k - 1]:.4f}, {ratios[-k]:.4f}]"
    )


if __name__ == "__main__":
    main()
