"""The verbs that train a recipe: each calls one public function and says what is next."""

import contextlib
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..runs.recipe import Recipe
from ..runs.run import Run, is_run
from ..terminal import printable
from . import tables
from .flags import Flag, optional
from .groups import RECIPE, Groups, Inline, changes, grouped
from .output import console, print_json, print_line
from .startup import import_tensorflow


def training(what: str | Run, default: Recipe, args: list[str]) -> Callable[..., None]:
    """Return the verb `train`.

    Args:
        what: the name of a recipe, the path of its file, or a run.
        default: its recipe.
        args: what follows the verb.
    """
    unchanged = grouped(_open(default, args), RECIPE)

    def train(
        recipe: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RECIPE")],
        fields: Annotated[Groups, Inline] = unchanged,
        *,
        run_dir: Annotated[Path | None, optional("FOLDER")] = None,
        devices: Annotated[tuple[str, ...], optional("DEVICE ...")] = (),
        steps_per_execution: int = 1,
        checkpoint_seconds: float = 60.0,
        record_gradients: Flag = False,
    ) -> None:
        """Train a recipe, resume a run, or train a finished run further.

        Example: keras-resnet train digits-resnet20 --epochs 10 --learning-rate 0.05

        Args:
            recipe: the name of a recipe, as `list` prints it; a recipe's JSON file; or the folder
                of a run, which is resumed, or with another --run-dir trained further as a new run
            fields: what to change in the recipe
            run_dir: folder of the run; by default runs/NAME
            devices: such as GPU:0 GPU:1; by default all GPUs of this machine, or all workers that
                the environment names
            steps_per_execution: steps that TensorFlow does in one call; more of them save time
                where a step is short
            checkpoint_seconds: time from one checkpoint to the next
            record_gradients: record the gradient at every unit after each epoch, for `explain`
        """
        import_tensorflow()
        from ..evaluation.gradient_history import GradientHistory
        from ..training.distribution import rank
        from ..training.train import train as run_training

        changed = changes(default, fields)
        name = changed.get("name", default.name)
        folder = what.path if isinstance(what, Run) else Path("runs") / name
        trained = Run(run_dir or folder)
        with _resumed_by(["train", *args], trained):
            run = run_training(
                what,
                run_dir,
                devices=devices,
                steps_per_execution=steps_per_execution,
                checkpoint_seconds=checkpoint_seconds,
                callbacks=[GradientHistory(trained)] if record_gradients else [],
                **changed,
            )
        if rank() == 0:
            print_line(f"trained: {run.model_file}")
            print_line(f"next: keras-resnet evaluate {shlex.quote(str(run.path))}")

    return train


def reproduce(
    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")],
    *,
    seed: Annotated[int | None, optional("SEED")] = None,
    data_dir: Annotated[Path | None, optional("FOLDER")] = None,
    run_dir: Annotated[Path | None, optional("FOLDER")] = None,
    json: Flag = False,
) -> None:
    """Train a result of the README again, and compare the errors.

    The exit status is 1 if the new error differs from the median of the recorded ones by more than
    three times their spread, and by more than one percentage point.

    Example: keras-resnet reproduce digits-resnet20

    Args:
        name: the name of the recipe
        seed: by default the first that was recorded
        data_dir: where tensorflow-datasets keeps its data
        run_dir: folder of the run; by default runs/reproduced-NAME-seedSEED
        json: print JSON
    """
    import_tensorflow()
    from ..evaluation.reproduce import reproduce as train_again

    options = {} if data_dir is None else {"data_dir": str(data_dir)}
    found = train_again(name, run_dir, seed=seed, **options)
    if json:
        print_json(
            {
                "run": str(found.run.path),
                "error": found.error,
                "recorded": {str(one): error for one, error in found.recorded.items()},
                "tolerance": found.tolerance,
                "reproduced": found.reproduced,
            }
        )
    else:
        errors = ", ".join(f"{error:.2f} % (seed {one})" for one, error in found.recorded.items())
        print_line(f"{found.run.path}: error {found.error:.2f} %; recorded: {errors}")
        verdict = "reproduced" if found.reproduced else "not reproduced"
        print_line(
            f"{verdict}: {abs(found.error - found.median):.2f} points from the median;"
            f" {found.tolerance:.2f} are tolerated"
        )
    if not found.reproduced:
        raise SystemExit(1)


def searching(default: Recipe, args: list[str]) -> Callable[..., None]:
    """Return the verb `search`.

    Args:
        default: the recipe that is varied.
        args: what follows the verb.
    """
    unchanged = grouped(_open(default, args), RECIPE)

    def search(
        recipe: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RECIPE")],
        fields: Annotated[Groups, Inline] = unchanged,
        *,
        trials: int,
        over: tuple[str, ...] = ("learning_rate", "weight_decay"),
        algorithm: Literal["random", "bayesian", "hyperband"] = "random",
        run_dir: Annotated[Path | None, optional("FOLDER")] = None,
        checkpoint_seconds: float = 60.0,
        json: Flag = False,
    ) -> None:
        """Try variants of a recipe and keep the best one as a recipe file.

        The same command again resumes.

        Example: keras-resnet search digits-tiny --trials 5 --over learning_rate width

        Args:
            recipe: the name of a recipe, as `list` prints it, or a recipe's JSON file
            fields: what to change in the recipe
            trials: how many variants at most
            over: what varies: learning_rate, weight_decay, label_smoothing, warmup, momentum,
                batch_size, depth, width, shortcut
            algorithm: how the next variant is chosen; hyperband trains most of them for a part of
                the epochs only
            run_dir: folder of the search; by default runs/NAME-search
            checkpoint_seconds: time from one checkpoint of a trial to the next
            json: print JSON
        """
        import_tensorflow()
        from ..tuning.tuner import search as run_search

        varied = default.override(**changes(default, fields))
        with _resumed_by(["search", *args]):
            found = run_search(
                varied,
                run_dir,
                trials=trials,
                over=over,
                algorithm=algorithm,
                checkpoint_seconds=checkpoint_seconds,
            )
        rows = found.trials()
        if json:
            return print_json(rows)
        if rows:
            console().print(tables.trials(varied.name, rows))
        if found.best_file.exists():
            print_line(f"next: keras-resnet train {shlex.quote(str(found.best_file))}")

    return search


def _open(recipe: Recipe, args: list[str]) -> Recipe:
    """Return the recipe without the one of `epochs` and `steps` that the other one replaces."""
    for field in ("epochs", "steps"):
        if any(arg.split("=")[0] == f"--{field}" for arg in args):
            recipe = recipe.override(**{field: 1})
    return recipe


@contextlib.contextmanager
def _resumed_by(args: list[str], run: Run | None = None) -> Iterator[None]:
    """Let an interrupt say the command that resumes: a run's own, or else the one given."""
    try:
        yield
    except KeyboardInterrupt:
        given = shlex.join(["keras-resnet", *args])
        command = run.resume_command if run and is_run(run.path) else given
        raise KeyboardInterrupt(printable(f"`{command}` resumes")) from None
