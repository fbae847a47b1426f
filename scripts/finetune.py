"""What fine-tuning is worth on a few hundred pictures: rosettes of other numbers of petals, from a trained network and
from nothing.

    python scripts/finetune.py [--seeds 5]

Five classes of 600 drawn pictures train ResNet-20. Three other classes of 60 pictures are then learned from it and from
random weights, with the same pictures, epochs and views, at two learning rates each. The pictures lie in folders, as
people's own do. Writes recipes, histories and evaluations to scripts/results/finetune.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from keras_resnet.evaluate import evaluate
from keras_resnet.recipe import RECIPES
from keras_resnet.train import train

RESULTS = Path(__file__).parent / "results" / "finetune"
KNOWN, NEW = (0, 2, 4, 6, 8), (3, 5, 7)
"""petals"""
SIZE = 32
"""pixels"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        errors = compare(Path(folder), args.seeds)

    table = Table("start", "learning rate", "test error, by seed", "median", title="3 classes of 60 pictures")
    for (start, rate), values in errors.items():
        table.add_row(start, f"{rate:g}", ", ".join(f"{v:.2f} %" for v in values), f"{np.median(values):.2f} %")
    Console(width=120).print(table)


def compare(folder: Path, seeds: int) -> dict[tuple[str, float], list[float]]:
    rng = np.random.default_rng(0)
    for name, petals, counts in (("known", KNOWN, (600, 50)), ("new", NEW, (60, 300))):
        for split, count in zip(("train", "test"), counts, strict=True):
            write(folder / name / split, petals, count, rng)

    base = replace(RECIPES["digits-resnet20"], name="rosettes", augmentation="pad-crop-flip", schedule="cosine")
    before = train(replace(base, dataset=str(folder / "known"), epochs=12, learning_rate=0.03), folder / "before")
    evaluate(before.path)
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
                errors.setdefault((start, rate), []).append(evaluate(run.path)["top1_error"])
                keep(run.path, name)
    return errors


def rosette(petals: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 `[SIZE, SIZE, 3]`: one, of any place, size, turn and colours, on noise."""
    y, x = np.mgrid[:SIZE, :SIZE] - rng.uniform(12, SIZE - 12, (2, 1, 1))
    edge = rng.uniform(9, 12) * (1 + 0.35 * np.cos(petals * (np.arctan2(y, x) + rng.uniform(0, 2 * np.pi)))) / 1.35
    inside = np.clip(edge - np.hypot(y, x) + 0.5, 0, 1)[..., np.newaxis]
    ground, colour = rng.uniform(0, 100, 3), rng.uniform(150, 255, 3)
    picture = ground + inside * (colour - ground) + rng.normal(0, 60, (SIZE, SIZE, 3))
    return np.clip(picture, 0, 255).astype(np.uint8)


def write(folder: Path, petals: tuple[int, ...], count: int, rng: np.random.Generator) -> None:
    for number in petals:
        place = folder / f"{number} petals"
        place.mkdir(parents=True)
        for i in range(count):
            (place / f"{i}.png").write_bytes(tf.io.encode_png(rosette(number, rng)).numpy())


def keep(run: Path, name: str) -> None:
    """The files that say what was done, without the folder that is gone afterwards."""
    (RESULTS / name).mkdir(parents=True, exist_ok=True)
    for file in ("recipe.json", "history.csv", "evaluation.json"):
        text = (run / file).read_text(encoding="utf-8").replace(f"{run.parent}/", "")
        (RESULTS / name / file).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
