"""Train a recipe in a folder. Repeating the call resumes the training."""

import contextlib
import functools
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console

from .. import data as data_sets
from ..data.dataset import Dataset
from ..data.preprocessing import Preprocessing, denormalize, preprocessing_for
from ..data.records import PreparedSplit
from ..figures import image_grid
from ..files import whole_file, write_text
from ..networks.build import build
from ..runs.dataset import TrainingData, load_dataset, record
from ..runs.recipe import Recipe
from ..runs.recipes import RECIPES, recipe_of
from ..runs.run import Run, as_run, is_run
from ..terminal import say
from . import distillation, distribution, initial_weights
from .batch_statistics import set_population_statistics
from .fit import fit
from .hardware import fast_half_precision, refuse_frozen_weights
from .keras_patches import prepare
from .optimizer import compile_for, floatx

UNEVEN = 2
"""the smallest ratio of the largest to the smallest class that is reported"""


def train(
    recipe: str | os.PathLike[str] | Recipe | Run,
    run_dir: str | os.PathLike[str] | None = None,
    *,
    devices: Sequence[str] = (),
    steps_per_execution: int = 1,
    checkpoint_seconds: float = 60.0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    console: Console | None = None,
    **changes: Any,
) -> Run:
    """Train a recipe, or resume its training.

    The complete state is saved every `checkpoint_seconds`. SIGINT and SIGTERM save it and end the
    training with `KeyboardInterrupt`. A finished run is returned unchanged. Neither the devices nor
    `steps_per_execution` change the result. Of several workers only the chief writes files, and all
    must share the folder.

    Args:
        recipe: a name of `RECIPES`, a recipe, the path of a recipe's JSON file, or a run (or the
            path of its folder). A run is resumed. With another `run_dir` a finished run is trained
            further: the new run has the same recipe, with the finished run as its `weights`.
        run_dir: the folder of the run; by default `runs/NAME`.
        devices: the devices to train on, as in `distribution.strategy`; empty for all.
        steps_per_execution: the number of steps that TensorFlow runs without returning to Python.
            Checkpoints and the progress bar are updated only between executions.
        checkpoint_seconds: the time between two checkpoints.
        callbacks: callbacks for `fit`, called before each checkpoint. Checkpoints do not contain
            their state.
        console: the console for progress; by default standard error.
        changes: fields of the recipe with new values.

    Raises:
        ValueError: the recipe does not fit the data or the devices, or the folder holds a training
            of another recipe.
        OSError: the folder is not writable, an image has gone missing, or another worker died. The
            last checkpoint stays intact.
    """
    refuse_frozen_weights()
    recipe, run = _recipe_and_run(recipe, run_dir, changes)
    return train_in(
        run,
        recipe,
        devices=devices,
        steps_per_execution=steps_per_execution,
        checkpoint_seconds=checkpoint_seconds,
        callbacks=callbacks,
        console=console,
    )


def train_in(
    run: Run,
    recipe: Recipe,
    *,
    load: Callable[..., Dataset] = data_sets.load,
    devices: Sequence[str] = (),
    steps_per_execution: int = 1,
    checkpoint_seconds: float = 60.0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    console: Console | None = None,
) -> Run:
    """Train a recipe in a run, as `train` does.

    Args:
        run: the run, of this recipe if it exists.
        recipe: the recipe.
        load: loads its data; `data.load`, or a function that takes its arguments.
        devices: as in `train`, and so are the others.
        steps_per_execution: as in `train`.
        checkpoint_seconds: as in `train`.
        callbacks: as in `train`.
        console: as in `train`.

    Raises:
        ValueError: as `train`.
        OSError: as `train`.
    """
    chief = distribution.rank() == 0
    console = console or Console(stderr=True, quiet=not chief)
    if distribution.workers() > 1:
        say(console, f"waiting for {distribution.workers()} workers")
    # A process can join a cluster only before it computes anything.
    strategy = distribution.strategy(devices)
    distribution.require_divisible(strategy, recipe.batch_size)
    with (
        run.alone() if chief else contextlib.nullcontext(),
        distribution.peers(),
        floatx(recipe.precision),
    ):
        run.require_same(recipe)
        if run.model_file.exists():
            if not run.recipe_file.exists():
                raise ValueError(
                    f"{run.path} has {run.model_file.name} and no {run.recipe_file.name}, so it is"
                    " no run; give another `run_dir`"
                )
            return run
        keras.utils.set_random_seed(recipe.seed)
        if recipe.deterministic:
            tf.config.experimental.enable_op_determinism()

        load = functools.partial(load, hosts=distribution.hosts(strategy))
        dataset = load_dataset(recipe, run, load)
        initial = initial_weights.find(recipe, run)
        data = TrainingData(recipe, dataset, _preprocessing(recipe, dataset, initial, run))
        teacher = distillation.find(recipe, run, dataset.class_names, data.preprocessing)
        _require_validation(data)
        _require_whole_executions(data, steps_per_execution)
        if chief:
            # After all checks, because a recipe that fails them must not claim the folder.
            if not run.recipe_file.exists():
                _advise_precision(recipe, console)
            run.begin(
                recipe,
                initial.provenance(),
                initial_weights.fingerprint(teacher.model_file) if teacher else None,
            )
            _describe(run, data, console)

        with strategy.scope():
            model = network(data, recipe.precision, **_for_training(recipe))
            if initial.file:
                initial_weights.load_into(initial, model, recipe, dataset.class_names)
            if teacher:
                model = distillation.Student(
                    model,
                    distillation.answers_of(teacher),
                    recipe.distillation,
                    recipe.temperature,
                )
            schedule = compile_for(
                recipe,
                prepare(model, recipe.seed),
                data.steps_per_epoch,
                _class_weights(data.class_counts) if recipe.weigh_classes else None,
                steps_per_execution,
            )
        fit(model, schedule, data, run, callbacks, checkpoint_seconds, console)
        _finish(model, data, run, chief)
        # Wait for the chief: a worker that ends before the chief has saved would stop it.
        distribution.gather(strategy, [0.0])
    return run


def network(data: TrainingData, precision: str = "float32", **for_training: Any) -> keras.Model:
    """Build the recipe's network for its data, with logits as output.

    Args:
        data: the training data with its recipe.
        precision: the dtype policy of the layers.
        for_training: arguments of `build` that have no effect after training: `weight_decay`,
            `stochastic_depth`, `dropout` and `zero_gamma`.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        return build(
            data.recipe.spec,
            input_shape=(data.preprocessing.crop, data.preprocessing.crop, 3),
            classes=len(data.dataset.class_names),
            classifier_activation=None,
            **for_training,
        )
    finally:
        keras.config.set_dtype_policy(before)


def _for_training(recipe: Recipe) -> dict[str, Any]:
    """Return the arguments of `build` that only matter in training."""
    return {
        # Other optimizers decay the weights themselves.
        "weight_decay": recipe.weight_decay if recipe.optimizer == "sgd" else 0.0,
        "stochastic_depth": recipe.stochastic_depth,
        "dropout": recipe.dropout,
        "zero_gamma": recipe.zero_gamma,
    }


def _recipe_and_run(
    target: str | os.PathLike[str] | Recipe | Run,
    run_dir: str | os.PathLike[str] | None,
    changes: dict[str, Any],
) -> tuple[Recipe, Run]:
    """Return the recipe and the run that the arguments of `train` stand for."""
    if isinstance(target, Recipe) or (
        # The name of a recipe takes precedence over a folder of the same name.
        not isinstance(target, Run) and (str(target) in RECIPES or not is_run(target))
    ):
        recipe = recipe_of(target, **changes)
        return recipe, Run(Path("runs", recipe.name) if run_dir is None else Path(run_dir))
    given = as_run(target)
    run = given if run_dir is None else Run(Path(run_dir))
    if run.path.resolve() == given.path.resolve():
        for name, value in changes.items():
            if getattr(given.recipe(), name, value) != value:
                raise ValueError(
                    f"{name} is {value!r}; {given.path} holds a run with"
                    f" {getattr(given.recipe(), name)!r}; another `run_dir` trains it further"
                )
        return given.recipe(), given
    if run.recipe_file.is_file():  # resumes a run that trains `given` further
        weights = run.recipe().weights
    else:
        given.require_trained()
        weights = str(given.path.resolve())
    return recipe_of(given.recipe(), **{"weights": weights} | changes), run


def _preprocessing(
    recipe: Recipe, dataset: Dataset, initial: initial_weights.InitialWeights, run: Run
) -> Preprocessing:
    """Return the preprocessing that the run began with, or that of its weights or its data."""
    if run.preprocessing_file.is_file():
        # An earlier version may have chosen another.
        return Preprocessing.read(run.preprocessing_file)
    return initial.preprocessing or preprocessing_for(dataset, recipe.image_size)


def _require_validation(data: TrainingData) -> None:
    """Raise `ValueError` if the test split would choose the weights or end the training."""
    recipe = data.recipe
    if (recipe.keep == "best" or recipe.patience) and data.dataset.validation is None:
        raise ValueError(
            f"keep is {recipe.keep!r}, patience is {recipe.patience} and holdout is 0;"
            f" {data.dataset.name} has no validation split, and the test split must not choose:"
            " hold images out of the training split"
        )


def _require_whole_executions(data: TrainingData, steps_per_execution: int) -> None:
    """Raise `ValueError`, naming the valid choices, if an epoch would end within an execution."""
    steps = data.steps_per_epoch
    last = data.recipe.total_steps(steps) % steps
    common = math.gcd(steps, last)
    if steps_per_execution < 1 or common % steps_per_execution:
        divisors = [str(number) for number in range(1, common + 1) if common % number == 0]
        raise ValueError(
            f"steps_per_execution is {steps_per_execution}, and an epoch has {steps} steps"
            f"{f' and the last one {last}' if last else ''}; give one of {', '.join(divisors)}"
        )


def _describe(run: Run, data: TrainingData, console: Console) -> None:
    """Write the description of the run's data, and report classes of very different sizes."""
    record(run, data.dataset)
    names = data.dataset.class_names
    write_text(run.class_names_file, "".join(f"{name}\n" for name in names))
    write_text(run.preprocessing_file, data.preprocessing.to_json())
    if not run.augmentation_figure.exists():
        images = denormalize(data.preprocessing, next(iter(data.batches()))[0])[:64]
        with whole_file(run.augmentation_figure) as sibling:
            sibling.write_bytes(tf.io.encode_png(image_grid(images.numpy())).numpy())
    if isinstance(data.dataset.train, PreparedSplit):
        return  # its labels are not in memory
    counts = data.class_counts
    few, many = int(counts.argmin()), int(counts.argmax())
    if counts[many] >= UNEVEN * counts[few]:
        hint = "" if data.recipe.weigh_classes else "; `weigh_classes` makes them count equally"
        say(
            console,
            f"{data.dataset.name}: {counts[many]} images of {names[many]}, {counts[few]} of"
            f" {names[few]}{hint}",
        )


def _advise_precision(recipe: Recipe, console: Console) -> None:
    """Tell the user that half precision is fast on this machine."""
    fast = fast_half_precision()
    if recipe.precision == "float32" and fast is not None:
        precision, reason = fast
        say(console, f"{reason}: with `precision` {precision} training may be faster")


def _class_weights(counts: np.ndarray) -> np.ndarray:
    """Return weights, one on average, that give all classes the same total weight."""
    return (counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1))).astype(np.float32)


def _finish(model: keras.Model, data: TrainingData, run: Run, chief: bool) -> None:
    """Save the trained network in float32, rebuilt outside of the strategy."""
    if chief:
        plain = network(data)
        # By name, because dropout layers change the order of the layers.
        for layer in plain.layers:
            if layer.weights:
                layer.set_weights(model.get_layer(layer.name).get_weights())
        if data.recipe.bn_statistics == "population":
            set_population_statistics(plain, data.batches(), data.steps_per_epoch)
        with whole_file(run.model_file) as sibling:
            plain.save(sibling)
