"""Run the trials of a search: each is an ordinary training in the search's folder."""

import functools
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

from .. import data
from ..choices import require
from ..data.dataset import Dataset
from ..data.decoded import decode_files
from ..runs.dataset import load_dataset
from ..runs.recipe import Recipe
from ..runs.recipes import recipe_of
from ..runs.run import Run
from ..terminal import say
from ..training.hardware import refuse_frozen_weights
from ..training.train import train_in
from .folder import OBJECTIVE, Search, begin
from .oracle import Algorithm, SavedOracle, oracle_for
from .space import AXES, values, vary

NO_CHIEF = (
    "the chief of the search does not answer ({}); when it is back, start this worker again with"
    " the same name to resume"
)

HOLDOUT = 0.1
"""share of the training split that a search holds out for validation if the recipe does not"""


def search(
    recipe: Recipe | str | os.PathLike[str],
    directory: str | os.PathLike[str] | None = None,
    *,
    trials: int,
    over: Sequence[str] = ("learning_rate", "weight_decay"),
    algorithm: Algorithm = "random",
    checkpoint_seconds: float = 60.0,
    console: Console | None = None,
) -> Search:
    """Train variants of a recipe and keep the one with the lowest validation error.

    The error is measured with the weights that the recipe keeps, on images held out of the training
    split. The test split is not used. A NaN loss counts as an error of 100 %. The same call resumes
    an interrupted search, even in the middle of a trial; `trials` may then be larger.

    Args:
        recipe: a name in `RECIPES`, a `Recipe`, or the path of a recipe's JSON file. If the data
            set has no validation split and the recipe holds out no images, a tenth of the training
            split is held out.
        directory: folder of the search; None: `runs/NAME-search`. Processes that share a search
            share this folder.
        trials: the largest number of variants.
        over: the axes that vary: names in `tuning.space.AXES`, such as "learning_rate", "depth" or
            "shortcut".
        algorithm: "random"; "bayesian", by a model of the errors so far; or "hyperband" (Li et al.,
            2018), which trains many variants for a few epochs and the better ones for more, up to
            the recipe's. Each length starts from scratch, because schedules depend on the length.
        checkpoint_seconds: time between two checkpoints of a trial.
        console: the console for progress; None: standard error.

    Returns:
        The search. Its `trials()` are the rows of the table, best first, and its `best_file` holds
        the best recipe.

    Raises:
        ValueError: an argument, an environment variable of keras-tuner or the recipe is invalid, or
            the folder holds another search.
        OSError: the folder cannot be written. Files saved before stay whole.
    """
    refuse_frozen_weights()
    recipe = recipe_of(recipe)
    console = console or Console(stderr=True)
    default = Path("runs") / f"{recipe.name}-search"
    folder = Search(default if directory is None else Path(directory))
    if trials < 1:
        raise ValueError(f"trials is {trials}; give a positive number")
    if not over:
        raise ValueError(f"over is empty; give one or more of {', '.join(AXES)}")
    for name in over:
        require("over", name, tuple(AXES))
    if not recipe.holdout:
        recipe = _hold_out(recipe, console)
    oracle = oracle_for(recipe, folder, trials, over, algorithm)
    # If processes share the search, the chief gives each its own trials.
    shared = "KERASTUNER_ORACLE_IP" in os.environ
    with nullcontext() if shared else Run(folder.path).alone():
        begin(folder, {"recipe": asdict(recipe), "over": sorted(over), "algorithm": algorithm})
        if folder.oracle_file.exists() and (
            not shared or "chief" in os.environ.get("KERASTUNER_TUNER_ID", "")
        ):
            oracle.reload()
        try:
            _Tuner(oracle, folder, recipe, over, checkpoint_seconds, console).search()
        except FatalError as error:
            assert error.__cause__ is not None
            raise error.__cause__ from None
        except grpc.RpcError as error:
            raise ValueError(NO_CHIEF.format(error.code().name)) from None
        except RuntimeError as error:
            # keras-tuner raises it if a variable is missing or several trials in a row fail.
            raise ValueError(f"keras-tuner: {error}") from error
    return folder


def _hold_out(recipe: Recipe, console: Console) -> Recipe:
    """Return the recipe with images held out for validation, unless the data has such a split."""
    dataset = load_dataset(recipe)
    if dataset.validation is not None:
        return recipe
    holdout = max(1, round(HOLDOUT * len(dataset.train)))
    say(
        console,
        f"{dataset.name}: {holdout} of {len(dataset.train)} training images are held out for"
        " validation",
    )
    return replace(recipe, holdout=holdout)


def _load(*arguments: Any, **options: Any) -> Dataset:
    """Return what `data.load` does, decoded."""
    return decode_files(data.load(*arguments, **options))


class _Tuner(BaseTuner):
    """Runs the trials that the oracle proposes."""

    def __init__(
        self,
        oracle: SavedOracle,
        folder: Search,
        recipe: Recipe,
        over: Sequence[str],
        checkpoint_seconds: float,
        console: Console,
    ) -> None:
        super().__init__(oracle, directory=str(folder.path), project_name=".")
        self.folder, self.recipe, self.over = folder, recipe, over
        self.checkpoint_seconds, self.console = checkpoint_seconds, console
        # No axis changes the data, so what fits in memory is decoded once for all trials.
        self.load = functools.lru_cache(maxsize=1)(_load)

    def run_trial(self, trial: Trial) -> dict[str, float]:
        """Train one variant and return its error."""
        recipe = vary(trial.hyperparameters, self.recipe, self.over)
        chosen = ", ".join(f"{name} {value}" for name, value in values(recipe, self.over).items())
        say(self.console, f"trial {trial.trial_id}: {chosen}")
        keras.utils.clear_session()  # otherwise every network of the search stays in memory
        try:
            run = train_in(
                self.folder.trial(trial.trial_id),
                recipe,
                load=self.load,
                checkpoint_seconds=self.checkpoint_seconds,
                console=self.console,
            )
        except FloatingPointError as error:
            say(self.console, f"trial {trial.trial_id}: {error}")
            return {OBJECTIVE: 100.0}
        except tf.errors.ResourceExhaustedError as error:
            raise FailedTrialError(f"too large for memory: {error.message}") from error
        except Exception as error:
            # End the search. Otherwise keras-tuner would only mark the trial as failed.
            raise FatalError from error
        return {OBJECTIVE: _validation_error(run)}

    def _run_and_update_trial(self, trial: Trial, *args: Any, **kwargs: Any) -> None:
        try:
            super()._run_and_update_trial(trial, *args, **kwargs)
        except grpc.RpcError as error:  # keras-tuner would mark the trial as failed
            raise FatalError from ValueError(NO_CHIEF.format(error.code().name))

    def save(self) -> None:
        """Save the oracle, which holds the whole state of a search."""
        if isinstance(self.oracle, SavedOracle):
            self.oracle.save()


def _validation_error(run: Run) -> float:
    """Return the validation error of the kept weights, in percent."""
    history = run.history()
    if "val_accuracy" not in history[-1]:
        raise ValueError(f"{run.history_file} is damaged: its last epoch has no val_accuracy")
    accuracies = [row["val_accuracy"] for row in history if "val_accuracy" in row]
    return 100 * (1 - (max(accuracies) if run.recipe().keep == "best" else accuracies[-1]))
