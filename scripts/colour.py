"""Shows the colour augmentation: what it does to a photograph, and the same short training with and without it.

    python scripts/colour.py [--data-dir DIR] [--epochs 3]

The photograph ships with scikit-learn; the training is on CIFAR-10 by tensorflow-datasets. Writes the picture
`lighting.png`, and recipe, history and evaluation of both trainings, to scripts/results/colour.
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

from keras_resnet.data import views
from keras_resnet.evaluate import evaluate
from keras_resnet.recipe import RECIPES
from keras_resnet.train import train

RESULTS = Path(__file__).parent / "results" / "colour"
DEVIATIONS = (0.0, 0.1, 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="where tensorflow-datasets keeps CIFAR-10")
    parser.add_argument("--epochs", type=float, default=3)
    args = parser.parse_args()
    draw()

    table = Table("lighting", "training error", "validation error", "test error", title="ResNet-20, CIFAR-10")
    for deviation in (0.0, 0.1):
        recipe = replace(
            RECIPES["cifar10-resnet20"].override(epochs=args.epochs),
            data_dir=args.data_dir,
            lighting=deviation,
            holdout=5000,
        )
        run = train(recipe, Path("runs") / f"colour-{deviation:g}")
        result = evaluate(run.path)
        kept = RESULTS / f"lighting-{deviation:g}"
        kept.mkdir(parents=True, exist_ok=True)
        for file in (run.recipe_file, run.history_file, run.evaluation_file()):
            shutil.copy(file, kept)
        last = run.history_file.read_text(encoding="utf-8").splitlines()
        row = dict(zip(last[0].split(","), last[-1].split(","), strict=True))
        table.add_row(
            f"{deviation:g}",
            *(f"{100 * (1 - float(row[name])):.2f} %" for name in ("accuracy", "val_accuracy")),
            f"{result['top1_error']:.2f} %",
        )
    Console(width=120).print(table)


def draw() -> None:
    """A row for each standard deviation: AlexNet's 0.1 can just be seen."""
    photograph = tf.cast(load_sample_image("flower.jpg")[40:400:3, 120:480:3], tf.float32)
    pictures = tf.repeat(photograph[tf.newaxis], 8, axis=0)
    draws = tf.random.stateless_normal([len(pictures), 3], [0, 0])
    rows = [views.lighting(pictures, deviation, draws) for deviation in DEVIATIONS]
    grid = np.concatenate([np.concatenate(list(row.numpy()), axis=1) for row in rows], axis=0)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "lighting.png").write_bytes(tf.io.encode_png(tf.saturate_cast(tf.round(grid), tf.uint8)).numpy())


if __name__ == "__main__":
    main()
