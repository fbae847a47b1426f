"""Search for a better recipe: keras-tuner proposes, `train` tries.

Every trial is a run as any other, in a folder of the search's. Several processes share one search where keras-tuner's
variables are set: `KERASTUNER_TUNER_ID` ("chief" for the one that proposes and does not train, any other name for each
that trains), `KERASTUNER_ORACLE_IP` and `KERASTUNER_ORACLE_PORT`, and the folder is on storage that all of them see.
"""

import csv
import json
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import grpc
import keras
import keras_tuner
import numpy as np
import tensorflow as tf
from keras_tuner.engine.base_tuner import BaseTuner
from keras_tuner.engine.trial import Trial
from keras_tuner.errors import FailedTrialError, FatalError
from keras_tuner.oracles import BayesianOptimizationOracle, HyperbandOracle, RandomSearchOracle
from rich.console import Console

from . import start
from .recipe import Recipe
from .run import Run, write_table, write_text
from .spec import require
from .train import train

Algorithm = Literal["random", "bayesian", "hyperband"]

OBJECTIVE = "validation_error"

BACK = "when it is back, start this worker again under its name, and it goes on"

HOLDOUT = 0.1
"""share of the training split that a search keeps to choose by, where the recipe keeps none"""

# The paper's, and what lies between.
_BLOCKS = {
    ("cifar", "basic"): tuple((n, n, n) for n in (1, 3, 5, 7, 9)),
    ("cifar", "bottleneck"): tuple((n, n, n) for n in (1, 2, 3, 4, 6)),
    ("imagenet", "basic"): ((1, 1, 1, 1), (2, 2, 2, 2), (3, 4, 6, 3)),
    ("imagenet", "bottleneck"): ((2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3)),
}


def _depth(hp: keras_tuner.HyperParameters, recipe: Recipe) -> Recipe:
    of_depth = {
        (spec := replace(recipe.spec, blocks=b)).depth: spec for b in _BLOCKS[recipe.spec.stem, recipe.spec.block]
    }
    return replace(recipe, spec=of_depth[hp.Choice("depth", list(of_depth))])


def _float(name: str, low: float, high: float, sampling: str) -> Callable:
    def vary(hp: keras_tuner.HyperParameters, recipe: Recipe) -> Recipe:
        # Four digits are enough, and pass through keras-tuner's messages in single precision.
        return recipe.override(**{name: float(f"{hp.Float(name, low, high, sampling=sampling):.4g}")})

    return vary


AXES: dict[str, Callable[[keras_tuner.HyperParameters, Recipe], Recipe]] = {
    "learning_rate": _float("learning_rate", 0.001, 1.0, "log"),
    "weight_decay": _float("weight_decay", 1e-5, 1e-2, "log"),
    "label_smoothing": _float("label_smoothing", 0.0, 0.2, "linear"),
    "warmup": _float("warmup", 0.0, 0.2, "linear"),
    "momentum": lambda hp, recipe: replace(recipe, momentum=hp.Choice("momentum", [0.8, 0.9, 0.95, 0.98])),
    "batch_size": lambda hp, recipe: replace(recipe, batch_size=hp.Choice("batch_size", [32, 64, 128, 256])),
    "depth": _depth,
    "width": lambda hp, recipe: replace(recipe, spec=replace(recipe.spec, width=hp.Choice("width", [8, 16, 32, 64]))),
    "shortcut": lambda hp, recipe: replace(
        recipe, spec=replace(recipe.spec, shortcut=hp.Choice("shortcut", ["A", "B", "C"]))
    ),
}
"""What a search can vary: from keras-tuner's choice of a value, and the recipe, to the recipe with that value."""


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
    oracle = _oracle(recipe, found, trials, over, algorithm)
    # Those who share a search are kept apart by their chief.
    shared = "KERASTUNER_ORACLE_IP" in os.environ
    with nullcontext() if shared else Run(found.path).alone():
        _begin(found, {"recipe": asdict(recipe), "over": sorted(over), "algorithm": algorithm})
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


def _vary(hp: keras_tuner.HyperParameters, recipe: Recipe, over: Sequence[str]) -> Recipe:
    for name in AXES:
        if name in over:
            recipe = AXES[name](hp, recipe)
    epochs = hp.values.get("tuner/epochs")  # Hyperband's
    return recipe if epochs is None else recipe.override(epochs=epochs)


def _begin(found: Search, wanted: dict[str, Any]) -> None:
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


class _Saved:
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
        _write_results(self.found, self.over, list(self.trials.values()))

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


class _Random(_Saved, RandomSearchOracle):
    pass


class _Bayesian(_Saved, BayesianOptimizationOracle):
    def populate_space(self, trial_id: str) -> dict[str, Any]:
        # Its state does not hold this one: so that a search that goes on proposes what it would have.
        self._random_state = np.random.RandomState(self.seed + len(self.trials))
        return super().populate_space(trial_id)


class _Hyperband(_Saved, HyperbandOracle):
    pass


def _oracle(recipe: Recipe, found: Search, trials: int, over: Sequence[str], algorithm: Algorithm) -> _Saved:
    hyperparameters = keras_tuner.HyperParameters()
    _vary(hyperparameters, recipe, over)
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


class _Tuner(BaseTuner):
    """Runs what the oracle proposes."""

    def __init__(
        self,
        oracle: _Saved,
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
        recipe = _vary(trial.hyperparameters, self.recipe, self.over)
        values = ", ".join(f"{name} {value}" for name, value in _values(recipe, self.over).items())
        self.console.print(f"trial {trial.trial_id}: {values}", highlight=False, soft_wrap=True)
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
        if isinstance(self.oracle, _Saved):
            self.oracle.save()


def _validation_error(run: Run) -> float:
    """Percent, of the last epoch."""
    with open(run.history_file, newline="", encoding="utf-8") as file:
        *_, last = csv.DictReader(file)
    return 100 * (1 - float(last["val_accuracy"]))


def _values(recipe: Recipe, over: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(recipe if hasattr(recipe, name) else recipe.spec, name) for name in AXES if name in over}


def _write_results(found: Search, over: Sequence[str], trials: list[Trial]) -> None:
    """The table of the trials that have ended, best first, and the best recipe."""
    ended = [trial for trial in trials if trial.status in ("COMPLETED", "FAILED")]
    ended.sort(key=lambda trial: (trial.status == "FAILED", trial.score))
    rows = []
    for trial in ended:
        recipe = found.trial(trial.trial_id).recipe()  # the values that were trained with
        rows.append(
            {"trial": trial.trial_id}
            | _values(recipe, over)
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
