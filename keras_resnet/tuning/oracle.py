"""keras-tuner's oracles, which propose the trials, with their state in one file."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import keras_tuner
import numpy as np
from keras_tuner.engine.trial import Trial
from keras_tuner.oracles import BayesianOptimizationOracle, HyperbandOracle, RandomSearchOracle

from ..choices import require
from ..files import read_json, write_text
from ..runs.recipe import Recipe
from .folder import OBJECTIVE, Search, write_results
from .space import vary

Algorithm = Literal["random", "bayesian", "hyperband"]


class SavedOracle:
    """An oracle of keras-tuner with its state and trials in one file, written atomically.

    keras-tuner itself overwrites one file per trial and one for the oracle. A process that dies
    during or between two writes loses a trial or the search. The table and the best recipe are
    written with every state.
    """

    folder: Search
    over: Sequence[str]
    get_state: Callable[[], dict[str, Any]]
    set_state: Callable[[dict[str, Any]], None]
    trials: dict[str, Trial]
    ongoing_trials: dict[str, Trial]
    """the running trials by the name of their worker"""

    def save(self) -> None:
        """Write the state, the table and the best recipe."""
        state = self.get_state() | {"trials": [trial.get_state() for trial in self.trials.values()]}
        write_text(self.folder.oracle_file, json.dumps(state) + "\n")
        write_results(self.folder, self.over, list(self.trials.values()))

    def _save_trial(self, trial: Trial) -> None:
        pass

    def reload(self) -> None:
        """Read the state of an earlier process, and queue its unfinished trials.

        Raises:
            ValueError: the file is damaged.
        """
        state = read_json(self.folder.oracle_file)
        try:
            self.trials = {trial["trial_id"]: Trial.from_state(trial) for trial in state["trials"]}
            for name, trial in self.trials.items():
                # The name becomes that of a folder, and scores are sorted.
                if not re.fullmatch(r"\w+", name, re.ASCII):
                    raise ValueError(f"a trial is called {name!r}")
                if trial.status == "COMPLETED" and not isinstance(trial.score, int | float):
                    raise ValueError(f"trial {name} has no score")
            self.set_state(state)
        except Exception as error:  # keras-tuner raises almost any exception here
            raise ValueError(
                f"{self.folder.oracle_file} is damaged ({error!r}); give another `directory`"
            ) from None
        running = [name for name, trial in self.trials.items() if trial.status == "RUNNING"]
        # After a restart of the chief, workers may still be training.
        busy = {name for name in running if self.folder.trial(name).is_busy()}
        self.ongoing_trials = {
            tuner: trial for tuner, trial in self.ongoing_trials.items() if trial.trial_id in busy
        }
        # The queue is read from its end. A trial whose process died may be complete but unreported.
        self._retry_queue = [name for name in reversed(running) if name not in busy]
        self.save()  # the earlier process may have died before it wrote the table


class _Random(SavedOracle, RandomSearchOracle):
    pass


class _Bayesian(SavedOracle, BayesianOptimizationOracle):
    def populate_space(self, trial_id: str) -> dict[str, Any]:
        # The saved state lacks the random state. Derived from the number of trials, it makes a
        # resumed search propose the same trials as an uninterrupted one.
        self._random_state = np.random.RandomState(self.seed + len(self.trials))
        return super().populate_space(trial_id)


class _Hyperband(SavedOracle, HyperbandOracle):
    pass


def oracle_for(
    recipe: Recipe, folder: Search, trials: int, over: Sequence[str], algorithm: Algorithm
) -> SavedOracle:
    """Return keras-tuner's oracle for a search.

    Args:
        recipe: the recipe to vary.
        folder: the folder of the search.
        trials: the largest number of trials.
        over: the axes that vary.
        algorithm: the way the next trial is chosen.

    Raises:
        ValueError: `algorithm` is unknown or does not fit the recipe.
    """
    hyperparameters = keras_tuner.HyperParameters()
    vary(hyperparameters, recipe, over)
    arguments: dict[str, Any] = {
        "objective": keras_tuner.Objective(OBJECTIVE, "min"),
        "hyperparameters": hyperparameters,
        "seed": recipe.seed + 1,  # keras-tuner treats 0 as no seed
        "allow_new_entries": False,
    }
    if algorithm == "random":
        oracle = _Random(max_trials=trials, **arguments)
    elif algorithm == "bayesian":
        oracle = _Bayesian(max_trials=trials, **arguments)
    else:
        require("algorithm", algorithm, get_args(Algorithm))
        if recipe.epochs is None or recipe.epochs < 1 or recipe.epochs != int(recipe.epochs):
            raise ValueError(
                f"epochs is {recipe.epochs!r} and steps is {recipe.steps!r}; "
                "hyperband allocates whole epochs to trials: give a whole number of `epochs`"
            )
        oracle = _Hyperband(max_epochs=int(recipe.epochs), hyperband_iterations=None, **arguments)
        oracle.max_trials = trials
    oracle.folder, oracle.over = folder, over
    oracle.verbose = 0
    return oracle
