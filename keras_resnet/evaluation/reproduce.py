"""Train a recorded result again, and compare the errors."""

import os
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..choices import require
from ..files import read_json
from ..runs.recipes import RECIPES
from ..runs.run import Run
from ..training.train import train
from .evaluate import evaluate

RECORDED = Path(__file__).with_name("recorded.json")
"""the test errors of each recipe in percent by seed; `scripts/record_results.py` writes it"""
LEAST = 1.0
"""the smallest tolerance in percentage points"""
SPREADS = 3.0
"""the tolerance as a multiple of the spread of the recorded seeds"""


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """A result that was trained again."""

    run: Run
    error: float
    """the new test error in percent"""
    recorded: dict[int, float]
    """the recorded test errors in percent by seed"""

    @property
    def median(self) -> float:
        """The median of the recorded errors."""
        return statistics.median(self.recorded.values())

    @property
    def tolerance(self) -> float:
        """By how many percentage points the new error may differ from the median.

        It is three times the difference between the largest and the smallest recorded error, and
        at least one point.
        """
        found = self.recorded.values()
        return max(LEAST, SPREADS * (max(found) - min(found)))

    @property
    def reproduced(self) -> bool:
        """Whether the new error is within the tolerance."""
        return abs(self.error - self.median) <= self.tolerance


def recorded() -> dict[str, dict[int, float]]:
    """Return the recorded test errors in percent, by recipe and seed."""
    return {
        name: {int(seed): error for seed, error in errors.items()}
        for name, errors in read_json(RECORDED).items()
    }


def reproduce(
    name: str,
    run_dir: str | os.PathLike[str] | None = None,
    *,
    seed: int | None = None,
    **options: Any,
) -> Reproduction:
    """Train a recipe whose errors are recorded, test it, and compare.

    An interrupted training is resumed by the same call.

    Args:
        name: the name of the recipe.
        run_dir: the folder of the run; by default `runs/reproduced-NAME-seedSEED`.
        seed: the seed; by default the first recorded one. Other processors and versions round
            differently, so even the same seed ends with another error.
        options: arguments of `train`: fields of the recipe such as `data_dir`, and `devices`.
            Fields that change the training make the comparison meaningless.

    Raises:
        ValueError: no error of this name is recorded, or as `train`.
        OSError: as `train`.
    """
    found = recorded()
    require("name", name, tuple(found))
    seed = next(iter(found[name])) if seed is None else seed
    run_dir = run_dir or Path("runs") / f"reproduced-{name}-seed{seed}"
    run = train(RECIPES[name], run_dir, seed=seed, **options)
    return Reproduction(run=run, error=evaluate(run)["top1_error"], recorded=found[name])
