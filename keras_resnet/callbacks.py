"""What happens beside the steps of `model.fit`: the history, the checkpoints, the plateau, the progress bar."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from . import checkpoint
from .distribution import assign_replica_values, replica_values
from .run import write_table
from .schedule import Schedule, plateau_factor


MEETING_SECONDS = 1.0
"""from one time that several workers ask each other whether to save or to stop to the next"""


class History(keras.callbacks.Callback):
    """One row an epoch, in a CSV file that is whole at every moment; with no path, in memory alone."""

    def __init__(self, path: Path | None, steps_per_epoch: int, batch_size: int) -> None:
        super().__init__()
        self.path = path
        self.steps_per_epoch = steps_per_epoch
        self.batch_size = batch_size
        self.rows: list[dict[str, Any]] = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._begin, self._steps = time.perf_counter(), 0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._steps += self.model.steps_per_execution
        self._end = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = {name: float(value) for name, value in (logs or {}).items()}
        learning_rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        seconds = self._end - self._begin
        self.rows.append(
            {"epoch": epoch + 1, "learning_rate": learning_rate}
            | logs
            | {"seconds": round(seconds, 3), "images_per_second": round(self._steps * self.batch_size / seconds, 1)}
        )
        self.write()

    def write(self) -> None:
        if self.path is not None:
            write_table(self.path, self.rows)


class StopOnNaN(keras.callbacks.Callback):
    """Ends a training whose loss is no number any more. It must stand before what saves the state."""

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        loss = float((logs or {})["loss"])
        if not math.isfinite(loss):
            step = int(self.model.optimizer.iterations.numpy())
            rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
            raise FloatingPointError(
                f"the loss is {loss} at step {step}, with learning rate {rate:g}; "
                "start again with a lower --learning-rate or with --warmup, in another --run-dir"
            )


class Plateau(keras.callbacks.Callback):
    """Before each epoch, tells the schedule what the validation errors so far make of the learning rate."""

    def __init__(self, schedule: Schedule, history: History) -> None:
        super().__init__()
        self.schedule = schedule
        self.history = history

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        errors = [1 - row["val_accuracy"] for row in self.history.rows if "val_accuracy" in row]
        self.schedule.factor.assign(plateau_factor(errors))


class Checkpoints(keras.callbacks.Callback):
    """Saves the whole state every `seconds`, in the middle of an epoch too, and goes on from it.

    It must stand last, so that what the others do at the end of an epoch is in the checkpoint.
    `stop_requested` is asked after every execution; where it says yes, the state is saved and training ends
    with `KeyboardInterrupt`.

    Workers must save and stop after the same step. So they ask each other, by `gather`, about once a second: the
    chief's clock counts, and the wish of any to stop. Who is alone asks himself, each time.
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
    ) -> None:
        super().__init__()
        self.folder = folder
        self.history = history
        self.total_steps = total_steps
        self.seconds = seconds
        self.stop_requested = stop_requested
        self.gather = gather
        self.chief = chief
        self.step = 0
        self._metrics: np.ndarray | None = None

    def restore(self, model: keras.Model) -> int:
        """Puts the newest checkpoint into the model and the history; returns the steps already done.

        Raises `ValueError` where workers find different checkpoints: the folder is not the same for all of them.
        """
        found = checkpoint.restore(self.folder, model)
        if self.gather is not None:
            steps = sorted({int(step) for step in self.gather([found[0] if found else 0]).flat})
            if len(steps) > 1:
                raise ValueError(
                    f"workers find different checkpoints in {self.folder} (of the steps {', '.join(map(str, steps))}); "
                    "the run must be in a folder that all of them share"
                )
        if found is not None:
            self.step, notes = found
            self.history.rows = notes["history"]
            self._metrics = np.array(notes["metrics"])
        return self.step

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._saved = self._met = time.monotonic()
        self._met_at, self._meet_at = self.step, 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        # fit has just reset the metrics; in an epoch that goes on they go on too.
        if self._metrics is not None and self.step % self.history.steps_per_epoch:
            assign_replica_values(self.model.distribute_strategy, self.model.metrics_variables, self._metrics)
        self._metrics = None

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.step += self.model.steps_per_execution
        if self.step % self.history.steps_per_epoch and self.step < self.total_steps:
            if self.gather is None or self.step >= self._meet_at:
                self._save_if_due()
        # else the epoch is about to end, and with it this step's checkpoint is complete.

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._save_if_due(final=self.step == self.total_steps)

    def _save_if_due(self, final: bool = False) -> None:
        due, stop = final or time.monotonic() - self._saved >= self.seconds, self.stop_requested()
        if self.gather is not None:
            due, stop = self._meet(due, stop)
        if due or stop:
            metrics = replica_values(self.model.distribute_strategy, self.model.metrics_variables)
            if self.chief:
                notes = {"history": self.history.rows, "metrics": metrics.tolist()}
                checkpoint.save(self.folder, self.step, self.model, notes)
            self._saved = time.monotonic()
        if stop and not final:
            if self.gather is not None:
                self.gather([0.0])  # a worker that ended before the chief has saved would take it along
            raise KeyboardInterrupt

    def _meet(self, due: bool, stop: bool) -> tuple[bool, bool]:
        assert self.gather is not None
        now = time.monotonic()
        done, seconds = self.step - self._met_at, now - self._met
        ahead = max(1, round(done * MEETING_SECONDS / seconds)) if done else 1
        # The chief alone says when; what the others bring counts for nothing.
        brought = [due and self.chief, stop, ahead if self.chief else 0]
        due_for_all, stop_for_all, ahead_for_all = self.gather([float(number) for number in brought]).max(axis=0)
        self._met, self._met_at, self._meet_at = now, self.step, self.step + int(ahead_for_all)
        return bool(due_for_all), bool(stop_for_all)


class ProgressBar(keras.callbacks.Callback):
    """Steps, images/s and time left on a terminal, and one line an epoch anywhere."""

    def __init__(self, console: Console, total_steps: int, steps_per_epoch: int, batch_size: int, step: int) -> None:
        super().__init__()
        self.console = console
        self.batch_size = batch_size
        self.epochs = -(-total_steps // steps_per_epoch)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]} images/s"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
        )
        self.task: TaskID = self.bar.add_task("", total=total_steps, completed=step, rate="-")

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self.console.is_terminal:
            self.bar.start()
        self.bar.update(self.task, description=f"epoch {epoch + 1}/{self.epochs}")

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        speed = self.bar.tasks[self.task].speed
        rate = "-" if speed is None else f"{speed * self.batch_size:,.0f}"
        self.bar.update(self.task, advance=self.model.steps_per_execution, rate=rate)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = logs or {}
        parts = [f"epoch {epoch + 1}/{self.epochs}", f"loss {float(logs['loss']):.4f}"]
        parts += [f"error {100 * (1 - float(logs['accuracy'])):.2f} %"]
        if "val_accuracy" in logs:
            parts += [f"validation error {100 * (1 - float(logs['val_accuracy'])):.2f} %"]
        self.bar.console.print("  ".join(parts), highlight=False, soft_wrap=True)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.stop()

    def stop(self) -> None:
        """Gives the terminal back; where there is none the bar was never started, and stopping it prints a line."""
        if self.console.is_terminal:
            self.bar.stop()
