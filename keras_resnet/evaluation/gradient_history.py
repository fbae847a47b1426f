"""Record the gradient at every unit of a network while it trains."""

import os
import warnings
from dataclasses import asdict

import keras

from ..data.dataset import Shard
from ..data.pipeline import evaluation_batches
from ..data.preprocessing import Preprocessing
from ..files import read_table, write_table
from ..networks.build import build
from ..runs.dataset import load_dataset
from ..runs.run import Run, as_run
from ..training import distribution
from .gradients import unit_gradients

IMAGES = 128
"""the default number of training images whose gradient is recorded"""


class GradientHistory(keras.callbacks.Callback):
    """Record the gradient at the input of every unit, before training and after each epoch.

    Give it to `train` as one of the `callbacks`. It writes `gradients.csv` into the run, which
    `explain` draws. The gradients are those of `unit_gradients` for one batch of training images,
    the same after each epoch, with batch norm on the statistics of the batch. A resumed training
    continues the table. Of several hosts the chief records. The training itself does not change.

    Args:
        run: the run that is trained, or the path of its folder.
        images: the number of training images, which are spread over the split.

    Raises:
        ValueError: `images` is not positive.
    """

    def __init__(self, run: Run | str | os.PathLike[str], images: int = IMAGES) -> None:
        super().__init__()
        if images < 1:
            raise ValueError(f"images is {images}; give a positive number")
        self._run, self._images = as_run(run), images
        self._network: keras.Model | None = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Record the initial weights."""
        # A training that resumes within its first epoch has recorded them.
        if epoch == 0 and not self._run.gradients_file.exists():
            self._record(0)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Record the weights after an epoch."""
        self._record(epoch + 1)

    def _record(self, epochs: int) -> None:
        if distribution.rank() != 0:
            return
        if self._network is None:
            self._open()
        assert self._network is not None
        for layer in self._network.layers:
            if layer.weights:
                layer.set_weights(self.model.get_layer(layer.name).get_weights())
        file, rows = self._run.gradients_file, []
        if epochs:
            rows = [row for row in read_table(file) if int(row["epoch"]) < epochs]
        found = unit_gradients(self._network, self._spec, *self._batch)
        write_table(file, [*rows, *({"epoch": epochs, **asdict(unit)} for unit in found)])

    def _open(self) -> None:
        """Build a network without augmentation in its layers, and read the batch."""
        recipe = self._run.recipe()
        preprocessing = Preprocessing.read(self._run.preprocessing_file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `train` has shown them
            split = load_dataset(recipe, self._run).train
        every = max(1, len(split) // self._images)
        spread = evaluation_batches(split, preprocessing, self._images, Shard(0, every))
        self._batch = next(spread.as_numpy_iterator())
        self._spec = recipe.spec
        self._network = build(
            recipe.spec,
            input_shape=(preprocessing.crop, preprocessing.crop, 3),
            classes=len(self._run.class_names()),
            classifier_activation=None,
        )
