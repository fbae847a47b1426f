"""The progress of a training on a terminal or in a log."""

import time
from datetime import timedelta
from typing import Any

import keras
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from ..runs.interval import wilson_interval, with_interval

MAX_SILENCE = 60.0
"""seconds after which a line is printed if the output is not a terminal"""


class ProgressBar(keras.callbacks.Callback):
    """Show steps, loss, images/s and the time left in a bar, and one line per epoch.

    Without a terminal, lines replace the bar, at least every `MAX_SILENCE` seconds unless one step
    takes longer. Loss and error are means since the epoch began, while the weights change. The
    validation error is of the weights at the end, with its 95 % interval.
    """

    def __init__(
        self,
        console: Console,
        total_steps: int,
        steps_per_epoch: int,
        batch_size: int,
        step: int,
        validation_images: int,
    ) -> None:
        super().__init__()
        self.console = console
        self.batch_size = batch_size
        self.validation_images = validation_images
        self.epochs = -(-total_steps // steps_per_epoch)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("{task.fields[rate]} images/s"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
        )
        self.task: TaskID = self.bar.add_task(
            "", total=total_steps, completed=step, loss="-", rate="-"
        )
        self._printed = self._called = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Show the number of the epoch."""
        if self.console.is_terminal:
            self.bar.start()
        self._epoch = f"epoch {epoch + 1}/{self.epochs}"
        self.bar.update(self.task, description=self._epoch)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Advance the bar, or print a line after a long silence."""
        speed = self.bar.tasks[self.task].speed
        self.bar.update(
            self.task,
            advance=self.model.steps_per_execution,
            loss=f"{float((logs or {})['loss']):.4f}",
            rate="-" if speed is None else f"{speed * self.batch_size:,.0f}",
        )
        self._print_if_silent()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Show that a validation has begun."""
        self.bar.update(self.task, description=f"{self._epoch} validating")

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Print a line after a long silence."""
        self._print_if_silent()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Print the line of the epoch."""
        logs = logs or {}
        parts = [self._epoch, f"loss {float(logs['loss']):.4f}"]
        parts += [f"error {100 * (1 - float(logs['accuracy'])):.2f} %"]
        if "val_accuracy" in logs:
            error = 100 * (1 - float(logs["val_accuracy"]))
            interval = wilson_interval(error, self.validation_images)
            parts += [f"validation error {with_interval(error, interval)}"]
        self._print(parts)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Release the terminal."""
        self.stop()

    def stop(self) -> None:
        """Release the terminal. Stopping a bar that was never started would print a line."""
        if self.console.is_terminal:
            self.bar.stop()

    def _print_if_silent(self) -> None:
        now = time.monotonic()
        next_call = 2 * now - self._called  # if the next step takes as long as this one
        self._called = now
        if self.console.is_terminal or next_call < self._printed + MAX_SILENCE:
            return
        task = self.bar.tasks[self.task]
        parts = [task.description, f"step {task.completed:,.0f} of {task.total:,.0f}"]
        parts += [f"loss {task.fields['loss']}", f"{task.fields['rate']} images/s"]
        if task.time_remaining is not None:
            parts += [f"{timedelta(seconds=round(task.time_remaining))} left"]
        self._print(parts)

    def _print(self, parts: list[str]) -> None:
        self.console.print("  ".join(parts), highlight=False, soft_wrap=True)
        self._printed = time.monotonic()
