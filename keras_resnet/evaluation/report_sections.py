"""Compute what the sections of a report show, as plain values for its template."""

import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..data.crops import VIEWS
from ..files import read_json
from ..networks.summary import summarize
from ..runs.interval import with_interval
from ..runs.recipe import Recipe
from ..runs.run import Run
from .compare import compare
from .diagnostics import ClassScores, LabelErrors, class_scores
from .errors import confusion_matrix, softmax
from .prediction_files import Predictions
from .report_figures import Curve
from .temperature import calibration_error


@dataclass(frozen=True)
class Evaluated:
    """A run with what `evaluate` has stored of it."""

    run: Run
    name: str
    """the folder's name, or its path if several runs have that name"""
    recipe: Recipe
    evaluation: Mapping[str, Any]
    predictions: Predictions

    @cached_property
    def probabilities(self) -> np.ndarray:
        """The probabilities, float64 `[N, classes]`."""
        return softmax(self.predictions.logits)

    @property
    def labels(self) -> np.ndarray:
        """The labels, int32 `[N]`."""
        return self.predictions.labels

    @cached_property
    def confusion(self) -> np.ndarray:
        """The confusion matrix, int `[classes, classes]`."""
        return confusion_matrix(self.probabilities, self.labels)

    @cached_property
    def scores(self) -> ClassScores:
        """Precision, recall and F1 per class."""
        return class_scores(self.probabilities, self.labels)

    @cached_property
    def calibration_error(self) -> float:
        """The expected calibration error in percent, as `evaluate` reports it."""
        return calibration_error(self.probabilities, self.labels)

    @cached_property
    def history(self) -> list[dict[str, float]]:
        """The rows of the history; none if the file does not exist."""
        return self.run.history() if self.run.history_file.is_file() else []


@dataclass(frozen=True)
class Table:
    """Rows of texts with one column per run."""

    rows: list[tuple[str, list[str]]] = field(default_factory=list)

    def add(self, name: str, values: Sequence[str]) -> None:
        """Add a row, unless all its values are empty."""
        if any(values):
            self.rows.append((name, list(values)))

    def differing(self) -> list[tuple[str, list[str]]]:
        """Return the rows whose values are not all the same."""
        return [(name, values) for name, values in self.rows if len(set(values)) > 1]


def summary(runs: Sequence[Evaluated]) -> Table:
    """Tabulate networks, errors with their intervals, and the costs of training.

    Args:
        runs: the runs.
    """
    table = Table()
    table.add("network", [run.recipe.spec.name for run in runs])
    table.add("parameters", [f"{_parameters(run):,}" for run in runs])
    table.add("data set", [f"{r.evaluation['dataset']}, {r.evaluation['split']}" for r in runs])
    table.add("images", [f"{len(run.labels):,}" for run in runs])
    for k in (1, 5):
        table.add(f"top-{k} error", [_error(run.evaluation, k) for run in runs])
    table.add("expected calibration error", [f"{run.calibration_error:.2f} %" for run in runs])
    table.add("mean F1", [f"{np.nanmean(run.scores.f1):.4f}" for run in runs])
    for views in [views for views in VIEWS if views != "single"]:
        table.add(f"top-1 error, {views}", [_other_views(run, views) for run in runs])
    for key, name in (("accuracy", "training error"), ("val_accuracy", "validation error")):
        last = [_errors(run, key)[-1:] for run in runs]
        table.add(f"last {name}", [f"{e[0][1]:.2f} %" if e else "" for e in last])
    table.add("epochs", [f"{len(run.history):,}" if run.history else "" for run in runs])
    table.add("time of training steps", [_duration(run.history) for run in runs])
    return table


def comparisons(runs: Sequence[Evaluated]) -> list[dict[str, Any]]:
    """Compare every pair of runs on the same images.

    Args:
        runs: the runs.

    Raises:
        ValueError: two runs were not tested on the same images, labels and classes.
    """
    return [
        {"first": first.name, "second": second.name} | asdict(compare(first.run, second.run))
        for first, second in itertools.combinations(runs, 2)
    ]


def curves(runs: Sequence[Evaluated]) -> tuple[list[Curve], str]:
    """Return the errors during training, and the unit of their horizontal axis.

    It is iterations, as in the paper, if all runs have recorded the size of their training split.

    Args:
        runs: the runs; those without a history are left out.
    """
    trained = [run for run in runs if run.history]
    steps = [_recorded(run.run)[0].get("train", 0) // run.recipe.batch_size for run in trained]
    found = [
        Curve(
            name=run.name,
            plain=run.recipe.spec.shortcut is None,
            training=_errors(run, "accuracy", per_epoch if all(steps) else None),
            test=_errors(run, "val_accuracy", per_epoch if all(steps) else None),
        )
        for run, per_epoch in zip(trained, steps, strict=True)
    ]
    return found, "iterations" if all(steps) else "epochs"


def per_class(runs: Sequence[Evaluated]) -> list[dict[str, Any]]:
    """Return precision, recall and F1 per class, the lowest F1 of the first run first.

    Args:
        runs: the runs, with the same classes and images.
    """
    first = runs[0]
    order = np.argsort(np.nan_to_num(first.scores.f1, nan=2.0), kind="stable")
    return [
        {
            "name": first.predictions.class_names[index],
            "images": f"{first.scores.images[index]:,}",
            "scores": [
                f"{value:.3f}" if math.isfinite(value) else "–"
                for run in runs
                for value in (
                    run.scores.precision[index],
                    run.scores.recall[index],
                    run.scores.f1[index],
                )
            ],
        }
        for index in order
    ]


def confusions(run: Evaluated, count: int = 3) -> str:
    """Describe the most frequent confusions, for those who do not see the matrix.

    Args:
        run: the run.
        count: the number of pairs of classes.
    """
    wrong = run.confusion.copy()
    np.fill_diagonal(wrong, 0)
    largest = np.argsort(-wrong, axis=None, kind="stable")[:count]
    pairs = [np.unravel_index(index, wrong.shape) for index in largest]
    return ", ".join(
        f"{run.predictions.class_names[true]} taken for {run.predictions.class_names[taken]}"
        f" ({wrong[true, taken]:,})"
        for true, taken in pairs
        if wrong[true, taken]
    )


def suspicions(run: Evaluated, suspects: LabelErrors, count: int = 3) -> str:
    """Describe the most frequent pairs of a label and the likely one.

    Args:
        run: the run.
        suspects: its likely label errors.
        count: the number of pairs.
    """
    names = run.predictions.class_names
    labels = run.labels[suspects.rows].tolist()
    pairs = Counter(zip(labels, suspects.likely.tolist(), strict=True)).most_common(count)
    return ", ".join(f"{names[a]} may be {names[b]} ({images:,})" for (a, b), images in pairs)


def recipes(runs: Sequence[Evaluated]) -> Table:
    """Tabulate the fields of the recipes, those of the network included.

    Args:
        runs: the runs.
    """
    return _merged([_flat(json.loads(run.recipe.to_json())) for run in runs])


def provenance(runs: Sequence[Evaluated]) -> Table:
    """Tabulate the origin of the runs: data, command, versions, hash of the trained network.

    Args:
        runs: the runs.
    """
    found = []
    for run in runs:
        splits, notes = _recorded(run.run)
        values = {"folder": str(run.run.path.resolve())} | _flat(run.run.provenance())
        values |= {f"images, {name}": f"{images:,}" for name, images in splits.items()}
        values |= {"notes on the data": "; ".join(notes)}
        if run.run.model_file.is_file():
            digest = hashlib.sha256(run.run.model_file.read_bytes()).hexdigest()
            values[f"SHA-256 of {run.run.model_file.name}"] = digest
        found.append(values)
    return _merged(found)


def _parameters(run: Evaluated) -> int:
    # The number does not depend on the size of the images.
    return summarize(run.recipe.spec, 32, len(run.predictions.class_names)).parameters


def _error(result: Mapping[str, Any], k: int) -> str:
    if f"top{k}_error" not in result:
        return ""
    return with_interval(result[f"top{k}_error"], result[f"top{k}_interval"])


def _other_views(run: Evaluated, views: str) -> str:
    return _error(run.run.evaluation(views), 1) if run.run.evaluation_file(views).is_file() else ""


def _duration(history: list[dict[str, float]]) -> str:
    seconds = sum(row.get("seconds", 0.0) for row in history)
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if seconds else ""
    return f"{minutes // 60} h {minutes % 60} min"


def _errors(run: Evaluated, key: str, steps: int | None = None) -> list[tuple[float, float]]:
    """Return the errors in percent by epoch, or by iteration with this many per epoch."""
    last = run.recipe.total_steps(steps) if steps else math.inf  # the last epoch may be shorter
    return [
        (min(row["epoch"] * (steps or 1), last), 100 * (1 - row[key]))
        for row in run.history
        if "epoch" in row and math.isfinite(row.get(key, math.nan))
    ]


def _recorded(run: Run) -> tuple[dict[str, int], list[str]]:
    """Return the images per split and the notes that a run has recorded of its data, if it has."""
    if not run.data_file.is_file():
        return {}, []
    record = read_json(run.data_file)
    try:
        splits = {name: int(split["images"]) for name, split in record["splits"].items()}
        return splits, [str(note) for note in record.get("notes", [])]
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{run.data_file} is damaged ({error!r})") from None


def _flat(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the values as texts, those of inner objects as `outer.inner`."""
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{key}": text for key, text in _flat(value).items()}
        else:
            found[name] = value if isinstance(value, str) else json.dumps(value)
    return found


def _merged(columns: Sequence[Mapping[str, str]]) -> Table:
    table = Table()
    for name in dict.fromkeys(name for column in columns for name in column):
        table.add(name, [column.get(name, "") for column in columns])
    return table
