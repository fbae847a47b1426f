"""Run Keras' `fit` from the last checkpoint to the end of a training."""

import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import FrameType

import keras
import tensorflow as tf
from rich.console import Console

from ..networks.freezing import freeze, unfreeze
from ..runs.dataset import TrainingData, broken_image
from ..runs.interval import wilson_interval, with_interval
from ..runs.run import Run
from ..terminal import say
from . import distribution
from .callbacks import (
    Averages,
    Best,
    Checkpoints,
    EarlyStopping,
    History,
    Plateau,
    StopOnNaN,
)
from .curves import Curves
from .optimizer import averages
from .progress import ProgressBar
from .schedule import Schedule


def fit(
    model: keras.Model,
    schedule: Schedule,
    data: TrainingData,
    run: Run,
    extra: Sequence[keras.callbacks.Callback],
    checkpoint_seconds: float,
    console: Console,
) -> None:
    """Run `fit` from the last checkpoint to the end, and set the model to the weights to keep.

    By the recipe, these are the last weights or those with the lowest validation error, or their
    moving averages.

    Args:
        model: a compiled and prepared model.
        schedule: the learning rate schedule of the model.
        data: the training data with its recipe.
        run: the run, whose folder gets the checkpoints and the history.
        extra: the caller's callbacks.
        checkpoint_seconds: the time between two checkpoints.
        console: the console for progress.

    Raises:
        OSError: the folder is not writable, or an image has gone missing.
        FloatingPointError: the loss is not finite.
        KeyboardInterrupt: SIGINT or SIGTERM was received, and the state is saved.
    """
    recipe, steps = data.recipe, data.steps_per_epoch
    total = recipe.total_steps(steps)
    epochs = -(-total // steps)
    validated = [n for n in range(1, epochs + 1) if n % recipe.validate_every == 0 or n == epochs]
    strategy, chief = model.distribute_strategy, distribution.rank() == 0
    distribute = partial(distribution.distribute, strategy, batch_size=recipe.batch_size)
    validation = distribute(data.validation_batches)
    with _stop_signals() as stop_requested:
        history = History(
            run.history_file if chief else None,
            steps,
            recipe.batch_size,
            names_best=recipe.keep == "best" or recipe.patience > 0,
        )
        best = Best(history) if recipe.keep == "best" else None
        early = EarlyStopping(history, recipe.patience) if recipe.patience else None
        gather = partial(distribution.gather, strategy) if distribution.workers() > 1 else None
        curves = Curves(run.tensorboard if chief else None, history, schedule)
        checkpoints = Checkpoints(
            run.checkpoints,
            history,
            total,
            checkpoint_seconds,
            stop_requested,
            gather,
            chief,
            best,
            curves.flush,
        )
        first = checkpoints.restore(model)
        if first:
            say(console, f"{run.path}: resuming from step {first} of {total}")
            history.write()
        progress = ProgressBar(console, total, steps, recipe.batch_size, first, len(data.held_out))
        present = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: run.require_begun())
        curves.resume(first)
        if chief and first == 0:
            curves.show(run.augmentation_figure)
        # NaN is detected before anything is saved. Checkpoints come last, so that they include the
        # results of the other callbacks.
        callbacks = [
            *([Plateau(schedule, history)] if recipe.schedule == "plateau" else []),
            StopOnNaN(),
            # Before anything is written, because the folder may have been deleted.
            *([present] if chief else []),
            *([best] if best else []),
            *([Averages()] if recipe.ema else []),
            history,
            *([early] if early else []),
            curves,
            progress,
            *extra,
            checkpoints,
        ]
        try:
            for begin, end in segments(first, total, steps, recipe.head_epochs):
                if early and early.is_over():
                    break
                _freeze(model, "backbone" if begin < recipe.head_epochs * steps else recipe.freeze)
                model.fit(
                    distribute(partial(data.batches, begin)),
                    initial_epoch=begin // steps,
                    epochs=-(-end // steps),
                    steps_per_epoch=min(steps, end - begin),
                    validation_data=validation,
                    validation_steps=-(-len(data.held_out) // recipe.batch_size),
                    validation_freq=validated,
                    callbacks=callbacks,
                    shuffle=False,  # the pipeline orders the images
                    verbose=0,
                )
                if model.stop_training:  # set by a callback of the caller
                    break
        except tf.errors.OpError:
            found = broken_image(data.dataset)
            if found is None:
                raise
            name, reason = found
            raise OSError(
                f"{name} could be read when the training began ({reason}); restore it, and"
                f" `{run.resume_command}` resumes the training"
            ) from None
        finally:
            progress.stop()
            curves.close()
            _freeze(model, "none")
    if early and early.is_over() and len(history.rows) < epochs:
        say(console, f"no lower validation error in {recipe.patience} validations: training ends")
    if best and best.weights is not None:
        model.set_weights(best.weights)
        assert history.best is not None
        error = 100 * (1 - history.best["val_accuracy"])
        measured = with_interval(error, wilson_interval(error, len(data.held_out)))
        say(console, f"kept: epoch {history.best['epoch']}, validation error {measured}")
    elif recipe.ema:
        for weight, average in averages(model):
            weight.assign(average.numpy())


def _freeze(model: keras.Model, what: str) -> None:
    unfreeze(model)
    if what != "none":
        freeze(model, what)
    # The traced function would train the previous set of weights.
    model.train_function = None


def segments(
    first: int, total: int, steps_per_epoch: int, head_epochs: int = 0
) -> Iterator[tuple[int, int]]:
    """Yield spans of steps that one call of `fit` can run: part of an epoch, or whole epochs.

    There are at most four: the rest of an interrupted epoch, whole epochs that train only the
    classifier, other whole epochs, and a shorter last epoch.

    Args:
        first: the first step.
        total: the number of steps of the training.
        steps_per_epoch: the number of steps per epoch.
        head_epochs: the number of first epochs that train only the classifier.
    """
    head = head_epochs * steps_per_epoch
    while first < total:
        if first % steps_per_epoch or total - first < steps_per_epoch:
            end = min(total, (first // steps_per_epoch + 1) * steps_per_epoch)
        else:
            end = total // steps_per_epoch * steps_per_epoch
        if first < head:
            end = min(end, head)
        yield first, end
        first = end


@contextlib.contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether SIGINT or SIGTERM has been received."""
    received: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        if received:  # a second signal interrupts at once
            raise KeyboardInterrupt
        received.append(number)

    try:
        before = {n: signal.signal(n, remember) for n in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # only the main thread can handle signals
        before = {}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
