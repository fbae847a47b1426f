"""Curves and the first augmented images for TensorBoard."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from . import event_files
from .callbacks import History
from .event_files import EPOCH, EventFile
from .schedule import Schedule


class Curves(keras.callbacks.Callback):
    """Write loss and learning rate of each step, and each epoch's row of the history.

    The epochs' tags are those of Keras' callback, and epochs count from 0. A step's loss is its
    own, where Keras writes the mean since the epoch began. Of several steps in one execution the
    mean is written, and the last one's learning rate.

    It must follow the history. Call `resume` before training, and `flush` before a checkpoint is
    saved: each event is then written once, however often the training is interrupted.

    Every worker needs it, because all workers must read the metrics together. Only the chief has a
    folder, and writes.
    """

    def __init__(self, folder: Path | None, history: History, schedule: Schedule) -> None:
        super().__init__()
        self.folder = folder
        self.history = history
        self.step = 0
        self._files: dict[str, EventFile] = {}

        @tf.function(autograph=False)
        def rates(steps: tf.Tensor) -> tf.Tensor:
            return tf.map_fn(schedule, steps, fn_output_signature=tf.float32)

        self._rates_of = rates

    def resume(self, step: int) -> None:
        """Continue from a state, and remove the events after it.

        Args:
            step: steps done in the state that the history is of.
        """
        self.step = step
        if self.folder is None:
            return
        event_files.cut(self.folder, step, len(self.history.rows))
        self._files = {part: EventFile(self.folder / part) for part in ("train", "validation")}

    def show(self, images: Path) -> None:
        """Write the first augmented images.

        Args:
            images: a PNG file of them.
        """
        self._files["train"].add_png(0, "augmentation", images.read_bytes())

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Compute the learning rates of the epoch."""
        steps = self.history.steps_per_epoch
        self._done = self.step % steps
        # All of an epoch in one call, which costs about half a millisecond.
        self._rates = self._rates_of(np.arange(steps) + self.step - self._done).numpy()
        self._mean: float | None = None

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Remember the mean loss of a resumed epoch's steps."""
        if self._mean is None:
            # In the rest of an epoch the metrics have been restored by now. Reading them sums over
            # replicas, for which every worker waits.
            self._mean = float(self.model.get_metrics_result()["loss"]) if self._done else 0.0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Add the loss and learning rate of the step."""
        assert self._mean is not None
        steps, mean = self.model.steps_per_execution, float((logs or {})["loss"])
        loss = mean + (mean - self._mean) * self._done / steps
        self._done, self._mean = self._done + steps, mean
        self.step += steps
        if self._files:
            rate = self._rates[self._done - 1]
            self._files["train"].add(self.step, step_loss=loss, step_learning_rate=rate)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add the epoch's row of the history."""
        if not self._files:
            return
        for name, value in self.history.rows[-1].items():
            if name != "epoch":
                part = "validation" if name.startswith("val_") else "train"
                self._files[part].add(epoch, **{f"{EPOCH}{name.removeprefix('val_')}": value})
        self.flush()

    def flush(self) -> None:
        """Write what is still in memory to the files."""
        for file in self._files.values():
            file.flush()

    def close(self) -> None:
        """Write what is still in memory, and close the files."""
        for file in self._files.values():
            file.close()
