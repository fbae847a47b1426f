"""Train variants of a recipe, and keep a table with one row per training.

Interrupted trainings resume, and those in the table are not repeated.
"""

import csv
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnet import Recipe, train
from keras_resnet.files import read_table, write_table

RUNS = Path("runs")


def measure(table: Path, key: dict[str, Any], recipe: Recipe, folder: str) -> None:
    """Train a variant that is not in the table, and add its errors to it.

    Args:
        table: the CSV file of the table.
        key: the columns that tell the row from others.
        recipe: what is trained.
        folder: the name of the folder of runs in `runs`.
    """
    if any(
        all(row.get(column) == str(value) for column, value in key.items()) for row in rows(table)
    ):
        return
    words = "-".join("".join(c if c.isalnum() else " " for c in str(key["variant"])).split())
    name = f"{words}-{recipe.epochs:g}-{recipe.precision}-seed{recipe.seed}"
    run = train(recipe, RUNS / folder / name)
    with open(run.history_file, newline="", encoding="utf-8") as file:
        *_, last = csv.DictReader(file)
    row = {
        **key,
        "validation_error": round(100 * (1 - float(last["val_accuracy"])), 2),
        "training_error": round(100 * (1 - float(last["accuracy"])), 2),
    }
    table.parent.mkdir(parents=True, exist_ok=True)
    write_table(table, [*rows(table), row])
    history = table.parent / "histories" / f"{name}.csv"
    history.parent.mkdir(exist_ok=True)
    history.write_bytes(run.history_file.read_bytes())


def rows(table: Path) -> list[dict[str, Any]]:
    """Return the rows measured so far."""
    return list(read_table(table)) if table.exists() else []


def errors(table: Path, column: str = "validation_error") -> dict[tuple[str, float], list[float]]:
    """Return the errors of all seeds, by the variant and the number of epochs."""
    found: dict[tuple[str, float], list[float]] = {}
    for row in rows(table):
        found.setdefault((row["variant"], float(row["epochs"])), []).append(float(row[column]))
    return found


def listed(values: list[float]) -> str:
    """Return errors in percent for a cell of a table."""
    return ", ".join(f"{value:.2f} %" for value in values)


def median(values: list[float]) -> float:
    """Return the median."""
    return float(np.median(values))
