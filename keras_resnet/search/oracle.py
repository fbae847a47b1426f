"""What proposes the trials: keras-tuner's oracles, with their state in one file."""

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import keras_tuner
import numpy as np
from keras_tuner.engine.trial import Trial
from keras_tuner.oracles import BayesianOptimizationOracle, HyperbandOracle, RandomSearchOracle

from ..recipe import Recipe
from ..run import write_text
from ..spec import require
from .folder import OBJECTIVE, Search, write_results
from .space import vary

Algorithm = Literal["random", "bayesian", "hyperband"]


class SavedOracle:
    """An oracle of keras-tuner's whose state and trials are in one file, whole at every moment.

    keras-tuner itself writes one file a trial and one for the rest, in place: a process that dies within one, or
    between two, loses a trial or the search. The table and the best recipe are as new as the state.
    """

    found: Search
    over: Sequence[str]
    get_state: Callable[[], dict[str, Any]]
    set_state: Callable[[dict[str, Any]], None]
    trials: dict[str, Trial]
    ongoing_trials: dict[str, Trial]
    """by the name of the worker"""

    def save(self) -> None:
        state = self.get_state() | {"trials": [trial.get_state() for trial in self.trials.values()]}
        write_text(self.found.oracle_file, json.dumps(state) + "\n")
        write_results(self.found, self.over, list(self.trials.values()))

    def _save_trial(self, trial: Trial) -> None:
        pass

    def reload(self) -> None:
        try:
            state = json.loads(self.found.oracle_file.read_text(encoding="utf-8"))
            self.trials = {trial["trial_id"]: Trial.from_state(trial) for trial in state["trials"]}
            self.set_state(state)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self.found.oracle_file} is damaged ({error!r}); give another --run-dir") from None
        running = [name for name, trial in self.trials.items() if trial.status == "RUNNING"]
        # Where a chief is started again, its workers may have gone on.
        busy = {name for name in running if self.found.trial(name).is_busy()}
        self.ongoing_trials = {tuner: trial for tuner, trial in self.ongoing_trials.items() if trial.trial_id in busy}
        # The last comes first; a process that died may have ended a trial and not said so.
        self._retry_queue = [name for name in reversed(running) if name not in busy]
        self.save()  # it may also have died before it wrote the table


class _Random(SavedOracle, RandomSearchOracle):
    pass


class _Bayesian(SavedOracle, BayesianOptimizationOracle):
    def populate_space(self, trial_id: str) -> dict[str, Any]:
        # Its state does not hold this one: so that a search that goes on proposes what it would have.
        self._random_state = np.random.RandomState(self.seed + len(self.trials))
        return super().populate_space(trial_id)


class _Hyperband(SavedOracle, HyperbandOracle):
    pass


def oracle_for(recipe: Recipe, found: Search, trials: int, over: Sequence[str], algorithm: Algorithm) -> SavedOracle:
    """Raises `ValueError` where there is no such algorithm, or it does not fit the recipe."""
    hyperparameters = keras_tuner.HyperParameters()
    vary(hyperparameters, recipe, over)
    arguments: dict[str, Any] = {
        "objective": keras_tuner.Objective(OBJECTIVE, "min"),
        "hyperparameters": hyperparameters,
        "seed": recipe.seed + 1,  # zero would be taken for none
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
                "hyperband shares out whole epochs: give their number with --epochs"
            )
        oracle = _Hyperband(max_epochs=int(recipe.epochs), hyperband_iterations=None, **arguments)
        oracle.max_trials = trials
    oracle.found, oracle.over = found, over
    oracle.verbose = 0
    return oracle
