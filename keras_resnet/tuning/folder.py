"""The folder of one search: its settings, the table of its trials, and the best recipe."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from keras_tuner.engine.trial import Trial

from ..files import read_json, read_table, write_table, write_text
from ..runs.dataset import held_out_images
from ..runs.interval import wilson_interval
from ..runs.run import Run
from .space import values

OBJECTIVE = "validation_error"


@dataclass(frozen=True)
class Search:
    """One search in the folder `path`."""

    path: Path

    @property
    def search_file(self) -> Path:
        """The recipe, the axes and the algorithm, as JSON."""
        return self.path / "search.json"

    @property
    def trials_file(self) -> Path:
        """The table of ended trials, one row each."""
        return self.path / "trials.csv"

    @property
    def best_file(self) -> Path:
        """The recipe with the lowest validation error so far, as JSON."""
        return self.path / "best.json"

    @property
    def oracle_file(self) -> Path:
        """The state of keras-tuner, as JSON."""
        return self.path / "oracle.json"

    def trial(self, number: str) -> Run:
        """Return the run of a trial."""
        return Run(self.path / "trials" / number)

    def trials(self) -> list[dict[str, str]]:
        """Read the rows of the table, best first; empty if no trial has ended.

        Raises:
            ValueError: the file is damaged.
        """
        return read_table(self.trials_file) if self.trials_file.exists() else []


def begin(folder: Search, settings: dict[str, Any]) -> None:
    """Write the search's settings, or compare them with an earlier search in the folder.

    Args:
        folder: the folder of the search.
        settings: its recipe, axes and algorithm.

    Raises:
        ValueError: the earlier search differs. The message names the first difference.
    """
    text = json.dumps(settings, indent=2) + "\n"
    if not folder.search_file.exists():
        return write_text(folder.search_file, text)
    earlier, current = read_json(folder.search_file), json.loads(text)
    try:
        pairs = [(name, earlier[name], current[name]) for name in ("over", "algorithm")]
        pairs += [(name, earlier["recipe"][name], new) for name, new in current["recipe"].items()]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{folder.search_file} is damaged ({error!r}); give another `directory`"
        ) from None
    for name, old, new in pairs:
        if old != new:
            raise ValueError(
                f"{folder.path} holds a search with {name}={old!r}, not {new!r};"
                " give the same value, or another `directory`"
            )


def write_results(folder: Search, over: Sequence[str], trials: list[Trial]) -> None:
    """Write the table of ended trials, best first, and the best recipe.

    Args:
        folder: the folder of the search.
        over: the axes that vary, one column each.
        trials: all trials of the search.
    """
    ended = [trial for trial in trials if trial.status in ("COMPLETED", "FAILED")]
    ended.sort(key=lambda trial: (trial.status == "FAILED", trial.score))
    rows = []
    for trial in ended:
        run = folder.trial(trial.trial_id)
        recipe = run.recipe()  # keras-tuner's values are not rounded
        rows.append(
            {"trial": trial.trial_id}
            | values(recipe, over)
            | ({"epochs": recipe.epochs} if recipe.steps is None else {"steps": recipe.steps})
            | {
                OBJECTIVE: None if trial.score is None else round(trial.score, 4),
                "interval": "" if trial.score is None else _interval(run, trial.score),
                "status": trial.status.lower(),
            }
        )
    if not rows:
        return
    write_table(folder.trials_file, rows)
    if ended[0].status == "COMPLETED":
        best = folder.trial(ended[0].trial_id).recipe()
        write_text(folder.best_file, replace(best, name=f"{best.name}-best").to_json())


def _interval(run: Run, error: float) -> str:
    """Return the 95 % interval of a validation error, such as `1.13 to 4.32`."""
    low, high = wilson_interval(error, held_out_images(run))
    return f"{low:.2f} to {high:.2f}"
