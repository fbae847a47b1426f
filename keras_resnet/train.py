"""Train a recipe in a folder. The same call again goes on where the last one ended."""

import contextlib
import math
import os
import signal
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from types import FrameType

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console

from . import bn_statistics, data, distribution, start
from .callbacks import Checkpoints, History, Plateau, ProgressBar, StopOnNaN
from .model import build, freeze
from .optimization import compile_for, floatx
from .recipe import Recipe
from .replicas import prepare
from .run import Run, whole_file, write_text
from .schedule import Schedule

UNEVEN = 2
"""times as many pictures in one class as in another from which on it is said"""


def train(
    recipe: Recipe,
    run_dir: str | os.PathLike[str],
    *,
    devices: Sequence[str] = (),
    steps_per_execution: int = 1,
    checkpoint_seconds: float = 60.0,
    console: Console | None = None,
) -> Run:
    """Trains `recipe` in the folder `run_dir`, or goes on with a training of the same recipe there.

    The complete state is saved every `checkpoint_seconds`; SIGINT and SIGTERM save it and end the training
    with `KeyboardInterrupt`. A folder whose training is complete is returned as it is. Neither the devices nor
    `steps_per_execution` change the result. Of several workers the chief alone writes; `run_dir` must be one folder for
    all of them.

    Args:
        devices: as in `distribution.strategy`, which says what is chosen where none is named.
        steps_per_execution: steps that TensorFlow does in one go, without coming back to Python. Checkpoints and the
            progress bar wait for it.

    Raises:
        ValueError: the recipe does not fit the data or the devices, or the folder holds another recipe's training.
        OSError: the folder cannot be written, a picture is gone meanwhile, or another worker has ended. The last
            checkpoint stays whole.
    """
    run = Run(Path(run_dir))
    chief = distribution.worker() == 0
    console = console or Console(stderr=True, quiet=not chief)
    if distribution.workers() > 1:
        console.print(f"waiting for {distribution.workers()} workers", highlight=False)
    strategy = distribution.strategy(devices)  # first of all: a cluster can be joined only before anything is computed
    distribution.require_even(strategy, recipe.batch_size)
    with run.alone() if chief else contextlib.nullcontext(), distribution.peers(), floatx(recipe.precision):
        run.require_same(recipe)
        if run.model_file.exists():
            return run
        keras.utils.set_random_seed(recipe.seed)
        if recipe.deterministic:
            tf.config.experimental.enable_op_determinism()
        dataset = start.dataset(recipe)
        begun = start.find(recipe)
        preprocessing = begun.preprocessing or data.preprocessing_for(dataset, recipe.image_size)
        steps = data.steps_per_epoch(dataset.train, recipe.batch_size)
        _require_whole_executions(recipe.total_steps(steps), steps, steps_per_execution)
        if chief:
            run.begin(recipe)  # only now: what was wrong with the data may be mended by another recipe
            start.keep(run, dataset)
            _report_classes(recipe, dataset, console)
            write_text(run.labels_file, "".join(f"{label}\n" for label in dataset.labels))
            write_text(run.preprocessing_file, preprocessing.to_json())
            if not run.augmentation_figure.exists():
                batches = _training_batches(recipe, dataset, preprocessing, 0)
                _draw_pictures(run.augmentation_figure, batches, preprocessing)

        with strategy.scope():
            model = network(recipe, preprocessing.crop, len(dataset.labels), recipe.precision, recipe.weight_decay)
            if begun.weights:
                start.take(begun, model, recipe, dataset.labels)
            schedule = compile_for(
                recipe,
                prepare(model),
                steps,
                _class_weights(dataset) if recipe.weigh_classes else None,
                steps_per_execution,
            )
        _fit(model, recipe, schedule, run, dataset, preprocessing, checkpoint_seconds, console)

        if recipe.ema:
            # mixed_float16 wraps the optimizer in one that scales the loss.
            getattr(model.optimizer, "inner_optimizer", model.optimizer).take_averages(model.trainable_variables)
        if chief:
            plain = network(recipe, preprocessing.crop, len(dataset.labels))  # float32, outside the strategy
            plain.set_weights(model.get_weights())
            if recipe.bn_statistics == "population":  # of the averaged weights, so it comes after them
                bn_statistics.population(plain, _training_batches(recipe, dataset, preprocessing, 0), steps)
            with whole_file(run.model_file) as sibling:
                plain.save(sibling)
        distribution.gather(strategy, [0.0])  # a worker that ended before the chief has saved would take it along
    return run


def _require_whole_executions(total: int, steps_per_epoch: int, steps_per_execution: int) -> None:
    """Raises `ValueError` where an epoch would end within an execution, naming the numbers that divide its steps."""
    common = math.gcd(steps_per_epoch, total % steps_per_epoch)
    if steps_per_execution < 1 or common % steps_per_execution:
        divisors = [str(number) for number in range(1, common + 1) if common % number == 0]
        last = f" and the last one {total % steps_per_epoch}" if total % steps_per_epoch else ""
        raise ValueError(
            f"steps_per_execution is {steps_per_execution}, and an epoch has {steps_per_epoch} steps{last}; "
            f"give one of {', '.join(divisors)}"
        )


def _report_classes(recipe: Recipe, dataset: data.Dataset, console: Console) -> None:
    """One line where some classes have many more pictures than others, and all labels are at hand."""
    if isinstance(dataset.train, data.Records):
        return
    counts = data.class_counts(dataset.train, len(dataset.labels))
    few, many = int(counts.argmin()), int(counts.argmax())
    if counts[many] >= UNEVEN * counts[few]:
        hint = "" if recipe.weigh_classes else "; --weigh-classes makes them count alike"
        console.print(
            f"{dataset.name}: {counts[many]} pictures of {dataset.labels[many]}, {counts[few]} of {dataset.labels[few]}"
            + hint,
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def _class_weights(dataset: data.Dataset) -> np.ndarray:
    """For each class, what a picture of it counts: the same sum for every class, one a picture on average."""
    counts = data.class_counts(dataset.train, len(dataset.labels))
    return (counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1))).astype(np.float32)


def network(
    recipe: Recipe, size: int, classes: int, precision: str = "float32", weight_decay: float = 0.0
) -> keras.Model:
    """The recipe's network for square pictures of `size` pixels, giving logits."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        return build(
            recipe.spec,
            input_shape=(size, size, 3),
            classes=classes,
            classifier_activation=None,
            weight_decay=weight_decay,
        )
    finally:
        keras.config.set_dtype_policy(before)


def _fit(
    model: keras.Model,
    recipe: Recipe,
    schedule: Schedule,
    run: Run,
    dataset: data.Dataset,
    preprocessing: data.Preprocessing,
    checkpoint_seconds: float,
    console: Console,
) -> None:
    steps = data.steps_per_epoch(dataset.train, recipe.batch_size)
    total = recipe.total_steps(steps)
    epochs = -(-total // steps)
    validated = [epoch for epoch in range(1, epochs + 1) if epoch % recipe.validate_every == 0 or epoch == epochs]
    held_out = dataset.test if dataset.validation is None else dataset.validation
    strategy, chief = model.distribute_strategy, distribution.worker() == 0
    validation = distribution.distribute(
        strategy,
        lambda index, count: data.test_batches(
            held_out, preprocessing, recipe.batch_size // count, data.Shard(index, count)
        ),
        recipe.batch_size,
    )
    with _stop_signals() as stop_requested:
        history = History(run.history_file if chief else None, steps, recipe.batch_size)
        gather = partial(distribution.gather, strategy) if distribution.workers() > 1 else None
        checkpoints = Checkpoints(run.checkpoints, history, total, checkpoint_seconds, stop_requested, gather, chief)
        first = checkpoints.restore(model)
        if first:
            console.print(f"{run.path}: going on from step {first} of {total}", highlight=False, soft_wrap=True)
            history.write()
        progress = ProgressBar(console, total, steps, recipe.batch_size, first)
        callbacks = [StopOnNaN(), history, progress, checkpoints]
        if chief:
            callbacks.insert(2, keras.callbacks.TensorBoard(str(run.tensorboard), write_graph=False))
        if recipe.schedule == "plateau":
            callbacks.insert(0, Plateau(schedule, history))
        try:
            for begin, end in segments(first, total, steps, recipe.head_epochs):
                _freeze(model, "backbone" if begin < recipe.head_epochs * steps else recipe.freeze)
                model.fit(
                    distribution.distribute(
                        strategy,
                        partial(_training_batches, recipe, dataset, preprocessing, begin),
                        recipe.batch_size,
                    ),
                    initial_epoch=begin // steps,
                    epochs=-(-end // steps),
                    steps_per_epoch=min(steps, end - begin),
                    validation_data=validation,
                    validation_steps=-(-len(held_out) // recipe.batch_size),
                    validation_freq=validated,
                    callbacks=callbacks,
                    shuffle=False,  # the pipeline orders the pictures
                    verbose=0,
                )
        except tf.errors.NotFoundError as error:
            what = next((line for line in error.message.splitlines() if "; No such file" in line), "a file")
            name = what.rpartition(": ")[2].partition(";")[0]
            raise OSError(f"{name} was there when the training began; put it back, and the training goes on") from None
        finally:
            progress.stop()
            _freeze(model, "none")


def _freeze(model: keras.Model, what: str) -> None:
    for layer in model.layers:
        layer.trainable = True
    if what != "none":
        freeze(model, what)
    # What fit has traced still trains what was trained before.
    model.train_function = None


def segments(first: int, total: int, steps_per_epoch: int, head_epochs: int = 0) -> Iterator[tuple[int, int]]:
    """The steps from `first` to `total` as spans that one call of `fit` can run: a part of one epoch, or whole epochs.

    At most four: the rest of an epoch that was interrupted, whole epochs of the head alone, whole epochs of everything,
    and a last epoch that is cut short.
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


def _training_batches(
    recipe: Recipe,
    dataset: data.Dataset,
    preprocessing: data.Preprocessing,
    first_step: int,
    index: int = 0,
    count: int = 1,
) -> tf.data.Dataset:
    """From `first_step` on, the part `index` of `count` equal parts of each batch."""
    return data.train_batches(
        dataset.train,
        preprocessing,
        batch_size=recipe.batch_size,
        augmentation=data.augmentation_for(dataset) if recipe.augmentation == "auto" else recipe.augmentation,
        lighting=recipe.lighting,
        seed=recipe.seed,
        first_step=first_step,
        shard=data.Shard(index, count),
    )


def _draw_pictures(path: Path, batches: tf.data.Dataset, preprocessing: data.Preprocessing) -> None:
    """Up to 64 pictures of the first batch as the network will see them, side by side in a PNG file."""
    pictures = data.denormalize(preprocessing, next(iter(batches))[0])[:64].numpy()
    columns = 8
    pictures = np.pad(pictures, ((0, -len(pictures) % columns), (0, 0), (0, 0), (0, 0)), constant_values=255)
    rows, height, width = len(pictures) // columns, *pictures.shape[1:3]
    grid = pictures.reshape(rows, columns, height, width, 3).swapaxes(1, 2).reshape(rows * height, columns * width, 3)
    with whole_file(path) as sibling:
        sibling.write_bytes(tf.io.encode_png(grid).numpy())


@contextlib.contextmanager
def _stop_signals() -> Iterator:
    """SIGINT and SIGTERM become an answer that is asked for between steps, when the state is whole."""
    received: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        if received:  # the second time means now
            raise KeyboardInterrupt
        received.append(number)

    try:
        before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: its signals are not ours to take
        before = {}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
