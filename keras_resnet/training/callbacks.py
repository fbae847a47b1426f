"""Callbacks of `fit`: history, best weights, early stopping, checkpoints, plateau."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ..files import write_table
from . import checkpoint
from .distribution import assign_replica_values, replica_values
from .optimizer import averages
from .schedule import Schedule, plateau_factor, validations_since_best

MEETING_SECONDS = 1.0
"""how often several workers ask each other whether to save or to stop"""


class History(keras.callbacks.Callback):
    """One row per epoch, in a CSV file that is always whole; without a path, only in memory.

    With `names_best` each row names the epoch with the lowest validation error so far.
    """

    def __init__(
        self,
        path: Path | None,
        steps_per_epoch: int,
        batch_size: int,
        names_best: bool = False,
    ) -> None:
        super().__init__()
        self.path = path
        self.steps_per_epoch = steps_per_epoch
        self.batch_size = batch_size
        self.names_best = names_best
        self.rows: list[dict[str, Any]] = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Start the clock of the epoch."""
        self._begin, self._steps = time.perf_counter(), 0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Count the steps of the epoch."""
        self._steps += self.model.steps_per_execution
        self._end = time.perf_counter()

    @property
    def errors(self) -> list[float]:
        """The errors of all validations so far."""
        return [1 - row["val_accuracy"] for row in self._validated]

    @property
    def best(self) -> dict[str, Any] | None:
        """The row with the lowest validation error, the first of equal ones."""
        return min(self._validated, key=lambda row: 1 - row["val_accuracy"], default=None)

    @property
    def _validated(self) -> list[dict[str, Any]]:
        return [row for row in self.rows if "val_accuracy" in row]

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add the epoch's row, and write the file."""
        logs = {name: float(value) for name, value in (logs or {}).items()}
        learning_rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        seconds = self._end - self._begin
        self.rows.append(
            {"epoch": epoch + 1, "learning_rate": learning_rate}
            | logs
            | {
                "seconds": round(seconds, 3),
                "images_per_second": round(self._steps * self.batch_size / seconds, 1),
            }
        )
        if self.names_best and self.best is not None:
            self.rows[-1]["best_epoch"] = self.best["epoch"]
        self.write()

    def write(self) -> None:
        """Write all rows to the file, if there is a path."""
        if self.path is not None:
            write_table(self.path, self.rows)


class StopOnNaN(keras.callbacks.Callback):
    """Stop training when the loss becomes NaN. It must precede what saves the state."""

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Raise `FloatingPointError` if the loss is not finite."""
        loss = float((logs or {})["loss"])
        if not math.isfinite(loss):
            step = int(self.model.optimizer.iterations.numpy())
            rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
            raise FloatingPointError(
                f"the loss is {loss} at step {step}, with learning rate {rate:g}; "
                "start again with a lower `learning_rate` or with `warmup`, in another `run_dir`"
            )


class Plateau(keras.callbacks.Callback):
    """Set the schedule's factor from the validation errors before each epoch."""

    def __init__(self, schedule: Schedule, history: History) -> None:
        super().__init__()
        self.schedule = schedule
        self.history = history

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Set the factor from the errors so far."""
        self.schedule.factor.assign(plateau_factor(self.history.errors))


class Best(keras.callbacks.Callback):
    """Remember the weights of the lowest validation error, the first of equal ones.

    It must precede `Averages`, so that it sees the weights that are validated, and the history.
    """

    def __init__(self, history: History) -> None:
        super().__init__()
        self.history = history
        self.weights: list[np.ndarray] | None = None
        """in the order of `model.weights`; None before the first validation"""

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Copy the weights if the error is the lowest so far."""
        error = 1 - (logs or {})["accuracy"]
        if error < min(self.history.errors, default=math.inf):
            self.weights = self.model.get_weights()


class EarlyStopping(keras.callbacks.Callback):
    """Stop training after `patience` validations without a new lowest error.

    It must follow the history and precede what saves the state.
    """

    def __init__(self, history: History, patience: int) -> None:
        super().__init__()
        self.history = history
        self.patience = patience

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Tell `fit` to stop if the patience is exhausted."""
        if self.is_over():
            self.model.stop_training = True

    def is_over(self) -> bool:
        """Return whether the errors so far have ended the training."""
        errors = self.history.errors
        return bool(errors) and validations_since_best(errors) >= self.patience


class Averages(keras.callbacks.Callback):
    """Validate the moving averages of the weights, which are kept in their place."""

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Replace the weights by their averages."""
        pairs = averages(self.model)
        self._weights = [weight.numpy() for weight, _ in pairs]
        for weight, average in pairs:
            weight.assign(average.numpy())

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Restore the weights."""
        for (weight, _), value in zip(averages(self.model), self._weights, strict=True):
            weight.assign(value)


class Checkpoints(keras.callbacks.Callback):
    """Save the complete state every `seconds`, also within an epoch, and resume from it.

    The best weights so far are part of it, where `best` remembers them. `before_saving` is called
    before the state is saved.

    It must come last: the checkpoint then holds what the others do at the end of an epoch.
    `stop_requested` is called after every execution. When it returns true, the state is saved and
    training ends with `KeyboardInterrupt`.

    Several workers must save and stop after the same step. They agree through `gather` about once a
    second: the chief's clock decides when to save, and any worker may request the stop.
    """

    def __init__(
        self,
        folder: Path,
        history: History,
        total_steps: int,
        seconds: float,
        stop_requested: Callable[[], bool],
        gather: Callable[[Sequence[float]], np.ndarray] | None = None,
        chief: bool = True,
        best: Best | None = None,
        before_saving: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self.folder = folder
        self.history = history
        self.total_steps = total_steps
        self.seconds = seconds
        self.stop_requested = stop_requested
        self.gather = gather
        self.chief = chief
        self.best = best
        self.before_saving = before_saving
        self.step = 0
        self._metrics: np.ndarray | None = None

    def restore(self, model: keras.Model) -> int:
        """Restore the newest checkpoint into the model, the history and the best weights.

        Returns:
            The steps already done.

        Raises:
            ValueError: workers find different checkpoints, so they do not share the folder.
        """
        found = checkpoint.restore(self.folder, model)
        if self.gather is not None:
            steps = sorted({int(step) for step in self.gather([found[0] if found else 0]).flat})
            if len(steps) > 1:
                raise ValueError(
                    f"workers find different checkpoints in {self.folder} (of the steps"
                    f" {', '.join(map(str, steps))}); the run must be in a folder that all of them"
                    " share"
                )
        if found is not None:
            self.step, notes, kept = found
            if self.best is not None:
                self.best.weights = kept
            self.history.rows = notes["history"]
            self._metrics = np.array(notes["metrics"])
        return self.step

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Start the clock of the checkpoints."""
        self._saved = self._met = time.monotonic()
        self._met_at, self._meet_at = self.step, 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Restore the metrics of a resumed epoch."""
        # fit has just reset the metrics; in a resumed epoch they continue.
        if self._metrics is not None and self.step % self.history.steps_per_epoch:
            assign_replica_values(
                self.model.distribute_strategy, self.model.metrics_variables, self._metrics
            )
        self._metrics = None

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Save within an epoch if a checkpoint is due."""
        self.step += self.model.steps_per_execution
        if self.step % self.history.steps_per_epoch and self.step < self.total_steps:
            if self.gather is None or self.step >= self._meet_at:
                self._save_if_due()
        # Otherwise the epoch is about to end, and this step's checkpoint with it.

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Save at the end of the training, or of an epoch if a checkpoint is due."""
        self._save_if_due(final=self.step == self.total_steps or self.model.stop_training)

    def _save_if_due(self, final: bool = False) -> None:
        due, stop = final or time.monotonic() - self._saved >= self.seconds, self.stop_requested()
        if self.gather is not None:
            due, stop = self._meet(due, stop)
        if due or stop:
            metrics = replica_values(self.model.distribute_strategy, self.model.metrics_variables)
            if self.chief:
                self.before_saving()
                notes = {"history": self.history.rows, "metrics": metrics.tolist()}
                kept = None if self.best is None else self.best.weights
                checkpoint.save(self.folder, self.step, self.model, notes, kept)
            self._saved = time.monotonic()
        if stop and not final:
            if self.gather is not None:
                self.gather([0.0])  # a worker that ended first would take the chief with it
            raise KeyboardInterrupt

    def _meet(self, due: bool, stop: bool) -> tuple[bool, bool]:
        assert self.gather is not None
        now = time.monotonic()
        done, seconds = self.step - self._met_at, now - self._met
        ahead = max(1, round(done * MEETING_SECONDS / seconds)) if done else 1
        # Only the chief decides when; the others' values count for nothing.
        brought = [due and self.chief, stop, ahead if self.chief else 0]
        due_for_all, stop_for_all, ahead_for_all = self.gather(
            [float(number) for number in brought]
        ).max(axis=0)
        self._met, self._met_at, self._meet_at = now, self.step, self.step + int(ahead_for_all)
        return bool(due_for_all), bool(stop_for_all)
