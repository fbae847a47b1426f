"""What runs the trials: each is a training as any other, in a folder of the search's."""

import csv
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import grpc
import keras
import tensorflow as tf
from keras_tuner.engine.base_tuner import BaseTuner
from keras_tuner.engine.trial import Trial
from keras_tuner.errors import FailedTrialError, FatalError
from rich.console import Console

from .. import start
from ..recipe import Recipe
from ..run import Run
from ..spec import require
from ..train import train
from .folder import OBJECTIVE, Search, begin
from .oracle import Algorithm, SavedOracle, oracle_for
from .space import AXES, values, vary

BACK = "when it is back, start this worker again under its name, and it goes on"

HOLDOUT = 0.1
"""share of the training split that a search keeps to choose by, where the recipe keeps none"""


def search(
    recipe: Recipe,
    directory: str | os.PathLike[str],
    *,
    trials: int,
    over: Sequence[str] = ("learning_rate", "weight_decay"),
    algorithm: Algorithm = "random",
    checkpoint_seconds: float = 60.0,
    console: Console | None = None,
) -> Search:
    """Trains up to `trials` variants of `recipe` in `directory` and keeps the one of the lowest validation error.

    It is the error of the last epoch, on pictures held out of the training split: the test split has no part in a
    search. A loss that is no number any more counts as an error of 100 %. "hyperband" (Li et al., 2018) tries many
    variants for a few epochs and the better ones for more, up to the recipe's; each from the beginning, because a
    schedule is made for a length. The same call again goes on, in the middle of a trial too; `trials` may then be more.

    Raises:
        ValueError: an argument, a variable of keras-tuner's or the recipe is not usable, or the folder holds another
            search.
        OSError: the folder cannot be written. What has been saved stays whole.
    """
    console = console or Console(stderr=True)
    found = Search(Path(directory))
    if trials < 1:
        raise ValueError(f"trials is {trials}; give a positive number")
    if not over:
        raise ValueError(f"over is empty; give one or more of {', '.join(AXES)}")
    for name in over:
        require("over", name, tuple(AXES))
    if not recipe.holdout:
        recipe = _hold_out(recipe, console)
    oracle = oracle_for(recipe, found, trials, over, algorithm)
    # Those who share a search are kept apart by their chief.
    shared = "KERASTUNER_ORACLE_IP" in os.environ
    with nullcontext() if shared else Run(found.path).alone():
        begin(found, {"recipe": asdict(recipe), "over": sorted(over), "algorithm": algorithm})
        if found.oracle_file.exists() and (not shared or "chief" in os.environ.get("KERASTUNER_TUNER_ID", "")):
            oracle.reload()
        try:
            _Tuner(oracle, found, recipe, over, checkpoint_seconds, console).search()
        except FatalError as error:
            assert error.__cause__ is not None
            raise error.__cause__ from None
        except grpc.RpcError as error:
            raise ValueError(f"the chief of the search does not answer ({error.code().name}); {BACK}") from None
        except RuntimeError as error:  # its own: a variable is missing, or one trial after another has failed
            raise ValueError(f"keras-tuner: {error}") from error
    return found


def _hold_out(recipe: Recipe, console: Console) -> Recipe:
    """The recipe with a part of the training split to choose by, where the data set has no validation split."""
    dataset = start.dataset(recipe)
    if dataset.validation is not None:
        return recipe
    holdout = max(1, round(HOLDOUT * len(dataset.train)))
    console.print(
        f"{dataset.name}: {holdout} of {len(dataset.train)} training pictures are held out to choose by",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return replace(recipe, holdout=holdout)


class _Tuner(BaseTuner):
    """Runs what the oracle proposes."""

    def __init__(
        self,
        oracle: SavedOracle,
        found: Search,
        recipe: Recipe,
        over: Sequence[str],
        checkpoint_seconds: float,
        console: Console,
    ) -> None:
        super().__init__(oracle, directory=str(found.path), project_name=".")
        self.found, self.recipe, self.over = found, recipe, over
        self.checkpoint_seconds, self.console = checkpoint_seconds, console

    def run_trial(self, trial: Trial) -> dict[str, float]:
        recipe = vary(trial.hyperparameters, self.recipe, self.over)
        chosen = ", ".join(f"{name} {value}" for name, value in values(recipe, self.over).items())
        self.console.print(f"trial {trial.trial_id}: {chosen}", highlight=False, soft_wrap=True)
        keras.utils.clear_session()  # else every network of the search stays in memory
        try:
            run = train(
                recipe,
                self.found.trial(trial.trial_id).path,
                checkpoint_seconds=self.checkpoint_seconds,
                console=self.console,
            )
        except FloatingPointError as error:
            self.console.print(f"trial {trial.trial_id}: {error}", highlight=False, markup=False, soft_wrap=True)
            return {OBJECTIVE: 100.0}
        except tf.errors.ResourceExhaustedError as error:
            raise FailedTrialError(f"too large for the memory: {error.message}") from error
        except Exception as error:  # ends the search; keras-tuner would count it as a failure of the trial's values
            raise FatalError from error
        return {OBJECTIVE: _validation_error(run)}

    def _run_and_update_trial(self, trial: Trial, *args: Any, **kwargs: Any) -> None:
        try:
            super()._run_and_update_trial(trial, *args, **kwargs)
        except grpc.RpcError as error:  # keras-tuner would count it as a failure of the trial
            raise FatalError from ValueError(f"the chief of the search does not answer ({error.code().name}); {BACK}")

    def save(self) -> None:
        """What there is to keep is the oracle's."""
        if isinstance(self.oracle, SavedOracle):
            self.oracle.save()


def _validation_error(run: Run) -> float:
    """Percent, of the last epoch."""
    with open(run.history_file, newline="", encoding="utf-8") as file:
        *_, last = csv.DictReader(file)
    return 100 * (1 - float(last["val_accuracy"]))
