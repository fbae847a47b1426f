"""Show the color augmentation on a photograph, and train briefly with and without it.

    python scripts/experiments/color.py [--data-dir DIR] [--epochs 3]

The photograph comes with scikit-learn, CIFAR-10 from tensorflow-datasets. Writes the image
`lighting.png`, and the recipe, history and evaluation of both trainings, to scripts/results/color.
"""

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_sample_image

from keras_resnet.data import augmentation as views
from keras_resnet.evaluation.evaluate import evaluate
from keras_resnet.runs.recipes import RECIPES
from keras_resnet.training.train import train

RESULTS = Path(__file__).parents[1] / "results" / "color"
DEVIATIONS = (0.0, 0.1, 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", help="where tensorflow-datasets keeps CIFAR-10")
    parser.add_argument("--epochs", type=float, default=3)
    args = parser.parse_args()
    draw()

    table = Table(
        "lighting", "training error", "validation error", "test error", title="ResNet-20, CIFAR-10"
    )
    for deviation in (0.0, 0.1):
        recipe = replace(
            RECIPES["cifar10-resnet20"].override(epochs=args.epochs),
            data_dir=args.data_dir,
            lighting=deviation,
            holdout=5000,
        )
        run = train(recipe, Path("runs") / f"color-{deviation:g}")
        result = evaluate(run.path)
        folder = RESULTS / f"lighting-{deviation:g}"
        folder.mkdir(parents=True, exist_ok=True)
        for file in (run.recipe_file, run.history_file, run.evaluation_file()):
            shutil.copy(file, folder)
        last = run.history_file.read_text(encoding="utf-8").splitlines()
        row = dict(zip(last[0].split(","), last[-1].split(","), strict=True))
        table.add_row(
            f"{deviation:g}",
            *(f"{100 * (1 - float(row[name])):.2f} %" for name in ("accuracy", "val_accuracy")),
            f"{result['top1_error']:.2f} %",
        )
    Console(width=120).print(table)


def draw() -> None:
    """Draw one row per standard deviation; AlexNet's 0.1 is just visible."""
    photograph = tf.cast(load_sample_image("flower.jpg")[40:400:3, 120:480:3], tf.float32)
    images = tf.repeat(photograph[tf.newaxis], 8, axis=0)
    rows = [views.lighting(images, seed=0, step=0, deviation=d) for d in DEVIATIONS]
    grid = np.concatenate([np.concatenate(list(row.numpy()), axis=1) for row in rows], axis=0)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "lighting.png").write_bytes(
        tf.io.encode_png(tf.saturate_cast(tf.round(grid), tf.uint8)).numpy()
    )


if __name__ == "__main__":
    main()
