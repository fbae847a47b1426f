"""The folder of one search: what is searched, the table of its trials, and the best recipe."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from keras_tuner.engine.trial import Trial

from ..run import Run, write_table, write_text
from .space import values

OBJECTIVE = "validation_error"


@dataclass(frozen=True)
class Search:
    """One search in the folder `path`."""

    path: Path

    @property
    def search_file(self) -> Path:
        """What is searched, as JSON."""
        return self.path / "search.json"

    @property
    def trials_file(self) -> Path:
        """One row a trial, of those that have ended."""
        return self.path / "trials.csv"

    @property
    def best_file(self) -> Path:
        """The recipe of the lowest validation error so far, as JSON."""
        return self.path / "best.json"

    @property
    def oracle_file(self) -> Path:
        """keras-tuner's state."""
        return self.path / "oracle.json"

    def trial(self, number: str) -> Run:
        return Run(self.path / "trials" / number)

    def trials(self) -> list[dict[str, str]]:
        """The rows of the table, best first. Empty where none has ended."""
        if not self.trials_file.exists():
            return []
        with open(self.trials_file, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))


def begin(found: Search, wanted: dict[str, Any]) -> None:
    """Writes what is searched, or raises `ValueError` naming the first thing in which an earlier search differs."""
    text = json.dumps(wanted, indent=2) + "\n"
    if not found.search_file.exists():
        return write_text(found.search_file, text)
    try:
        earlier, now = json.loads(found.search_file.read_text(encoding="utf-8")), json.loads(text)
        pairs = [(name, earlier[name], now[name]) for name in ("over", "algorithm")]
        pairs += [(name, earlier["recipe"][name], value) for name, value in now["recipe"].items()]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{found.search_file} is damaged ({error!r}); give another --run-dir") from None
    for name, was, is_now in pairs:
        if was != is_now:
            raise ValueError(
                f"{found.path} holds a search with {name}={was!r}, not {is_now!r}; "
                "give what it was started with, or another --run-dir"
            )


def write_results(found: Search, over: Sequence[str], trials: list[Trial]) -> None:
    """The table of the trials that have ended, best first, and the best recipe."""
    ended = [trial for trial in trials if trial.status in ("COMPLETED", "FAILED")]
    ended.sort(key=lambda trial: (trial.status == "FAILED", trial.score))
    rows = []
    for trial in ended:
        recipe = found.trial(trial.trial_id).recipe()  # the values that were trained with
        rows.append(
            {"trial": trial.trial_id}
            | values(recipe, over)
            | ({"epochs": recipe.epochs} if recipe.steps is None else {"steps": recipe.steps})
            | {
                OBJECTIVE: None if trial.score is None else round(trial.score, 4),
                "status": trial.status.lower(),
            }
        )
    if not rows:
        return
    write_table(found.trials_file, rows)
    if ended[0].status == "COMPLETED":
        best = found.trial(ended[0].trial_id).recipe()
        write_text(found.best_file, replace(best, name=f"{best.name}-best").to_json())
