"""What happens beside the steps of `model.fit`: the history, the checkpoints, the plateau, the progress bar."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from . import checkpoint
from .run import write_table
from .schedule import Schedule, plateau_factor


class History(keras.callbacks.Callback):
    """One row an epoch, in a CSV file that is whole at every moment."""

    def __init__(self, path: Path, steps_per_epoch: int, batch_size: int) -> None:
        super().__init__()
        self.path = path
        self.steps_per_epoch = steps_per_epoch
        self.batch_size = batch_size
        self.rows: list[dict[str, Any]] = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._begin, self._steps = time.perf_counter(), 0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._steps += 1
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
        write_table(self.path, self.rows)


class StopOnNaN(keras.callbacks.Callback):
    """Ends a training whose loss is no number any more. It must stand before what saves the state."""

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        loss = float((logs or {})["loss"])
        if not math.isfinite(loss):
            step = int(self.model.optimizer.iterations)
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
    `stop_requested` is asked after every step; where it says yes, the state is saved and training ends
    with `KeyboardInterrupt`.
    """

    def __init__(
        self, folder: Path, history: History, total_steps: int, seconds: float, stop_requested: Callable[[], bool]
    ) -> None:
        super().__init__()
        self.folder = folder
        self.history = history
        self.total_steps = total_steps
        self.seconds = seconds
        self.stop_requested = stop_requested
        self.step = 0
        self._metrics: list[Any] | None = None

    def restore(self, model: keras.Model) -> int:
        """Puts the newest checkpoint into the model and the history; returns the steps already done."""
        found = checkpoint.restore(self.folder, model)
        if found is not None:
            self.step, notes = found
            self.history.rows = notes["history"]
            self._metrics = [variable.numpy() for variable in model.metrics_variables]
        return self.step

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._saved = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        # fit has just reset the metrics; in an epoch that goes on they go on too.
        if self._metrics is not None and self.step % self.history.steps_per_epoch:
            for variable, value in zip(self.model.metrics_variables, self._metrics, strict=True):
                variable.assign(value)
        self._metrics = None

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.step += 1
        if self.step % self.history.steps_per_epoch and self.step < self.total_steps:
            self._save_if_due()
        # else the epoch is about to end, and with it this step's checkpoint is complete.

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._save_if_due(final=self.step == self.total_steps)

    def _save_if_due(self, final: bool = False) -> None:
        stop = self.stop_requested()
        if final or stop or time.monotonic() - self._saved >= self.seconds:
            checkpoint.save(self.folder, self.step, self.model, {"history": self.history.rows})
            self._saved = time.monotonic()
        if stop and not final:
            raise KeyboardInterrupt


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
        self.bar.update(self.task, advance=1, rate=rate)

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
