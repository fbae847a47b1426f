"""Measure the gain by fine-tuning on a few hundred images.

The images are drawn rosettes; the class is the number of petals.

    python scripts/experiments/finetune.py [--seeds 5]

ResNet-20 is trained on five classes of 600 images. Then it is trained on three other classes of 60
images, from these weights and from random ones, with the same images, epochs and augmentation, at
two learning rates. The images are in folders, like a user's own. Writes recipes, histories and
evaluations to scripts/results/finetune.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from keras_resnet import RECIPES, evaluate, train

RESULTS = Path(__file__).parents[1] / "results" / "finetune"
KNOWN, NEW = (0, 2, 4, 6, 8), (3, 5, 7)
"""the classes: numbers of petals"""
SIZE = 32
"""the side of an image in pixels"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        errors = compare(Path(folder), args.seeds)

    table = Table(
        "start", "learning rate", "test error, by seed", "median", title="3 classes of 60 images"
    )
    for (start, rate), values in errors.items():
        table.add_row(
            start,
            f"{rate:g}",
            ", ".join(f"{v:.2f} %" for v in values),
            f"{np.median(values):.2f} %",
        )
    Console(width=120).print(table)


def compare(folder: Path, seeds: int) -> dict[tuple[str, float], list[float]]:
    rng = np.random.default_rng(0)
    for name, petals, counts in (("known", KNOWN, (600, 50)), ("new", NEW, (60, 300))):
        for split, count in zip(("train", "test"), counts, strict=True):
            write(folder / name / split, petals, count, rng)

    base = replace(
        RECIPES["digits-resnet20"], name="rosettes", augmentation="pad-crop-flip", schedule="cosine"
    )
    before = train(
        replace(base, dataset=str(folder / "known"), epochs=12, learning_rate=0.03),
        folder / "before",
    )
    evaluate(before)
    keep(before.path, "before")
    base = replace(base, dataset=str(folder / "new"), batch_size=25, epochs=10)
    errors: dict[tuple[str, float], list[float]] = {}
    for seed in range(1, seeds + 1):
        for rate in (0.01, 0.1):
            scratch = replace(base, learning_rate=rate, seed=seed)
            tuned = replace(scratch, weights=str(before.path), head_epochs=3)
            for start, recipe in (("other rosettes", tuned), ("random", scratch)):
                name = f"{'tuned' if recipe.weights else 'scratch'}-{rate:g}-seed{seed}"
                run = train(recipe, folder / name)
                errors.setdefault((start, rate), []).append(evaluate(run)["top1_error"])
                keep(run.path, name)
    return errors


def rosette(petals: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a rosette of random position, size, rotation and colors on noise.

    Returns:
        uint8 `[SIZE, SIZE, 3]`.
    """
    y, x = np.mgrid[:SIZE, :SIZE] - rng.uniform(12, SIZE - 12, (2, 1, 1))
    edge = (
        rng.uniform(9, 12)
        * (1 + 0.35 * np.cos(petals * (np.arctan2(y, x) + rng.uniform(0, 2 * np.pi))))
        / 1.35
    )
    inside = np.clip(edge - np.hypot(y, x) + 0.5, 0, 1)[..., np.newaxis]
    background, color = rng.uniform(0, 100, 3), rng.uniform(150, 255, 3)
    image = background + inside * (color - background) + rng.normal(0, 60, (SIZE, SIZE, 3))
    return np.clip(image, 0, 255).astype(np.uint8)


def write(folder: Path, petals: tuple[int, ...], count: int, rng: np.random.Generator) -> None:
    for number in petals:
        class_folder = folder / f"{number} petals"
        class_folder.mkdir(parents=True)
        for i in range(count):
            png = tf.io.encode_png(rosette(number, rng)).numpy()
            (class_folder / f"{i}.png").write_bytes(png)


def keep(run: Path, name: str) -> None:
    """Copy the files that document a run, without the path of the temporary folder."""
    (RESULTS / name).mkdir(parents=True, exist_ok=True)
    for file in ("recipe.json", "history.csv", "evaluation.json"):
        text = (run / file).read_text(encoding="utf-8").replace(f"{run.parent}/", "")
        (RESULTS / name / file).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
