"""The command line: one subcommand a verb.

TensorFlow is imported by the verbs that need it and by no other, so that help, `list` and `show` answer at once.
"""

import contextlib
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from . import __version__, tables
from .analysis import summarize
from .recipe import RECIPES, Recipe
from .spec import NETWORKS, PAPER_ERRORS, ResNetSpec, lookup, require

DESCRIPTION = "Deep residual networks (He et al., 2015): train, test, export to TF Serving."

# Fields of the value stand on the command line without a prefix: --learning-rate, --spec.shortcut.
Inline = tyro.conf.arg(name="")
SAVED_MODELS = Path("saved_models")
Flag = tyro.conf.FlagCreatePairsOff[bool]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb. Returns the exit status: 2 where the user can mend what is wrong, 130 when interrupted."""
    args = list(sys.argv[1:] if argv is None else argv)
    if args == ["--version"]:
        print(f"keras_resnet {__version__}")
        return 0
    warnings.formatwarning = lambda message, *_, **__: f"keras-resnet: {message}\n"
    verbs: dict[str, Callable[..., None]] = {
        "list": list_,
        "show": _show(None),
        "train": _train(_ANY),
        "evaluate": evaluate,
        "export": export,
        "check": check,
        "predict": predict,
        "search": _search(_ANY),
    }
    try:
        # These take a named value and overrides of its fields: the value is what the fields default to.
        for verb, of_recipe in (("train", _train), ("search", _search)):
            if args[:1] == [verb] and (name := _name("recipe", args)):
                verbs[verb] = of_recipe(_recipe(name, args))
        if args[:1] == ["show"]:
            verbs["show"] = _show(lookup("network", name, NETWORKS) if (name := _name("network", args)) else None)
        tyro.extras.subcommand_cli_from_dict(
            verbs, prog="keras-resnet", description=DESCRIPTION, args=args, sort_subcommands=False
        )
    except (ValueError, OSError, FloatingPointError) as error:
        if sys.flags.dev_mode:
            raise
        if isinstance(error, OSError) and error.filename and error.strerror:
            error = OSError(f"{error.filename}: {error.strerror}")  # without the number that Python puts before it
        print(f"keras-resnet: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("keras-resnet: stopped; a training goes on when its command is given again", file=sys.stderr)
        return 130
    return 0


def _name(what: str, args: list[str]) -> str | None:
    """The name after the verb, or None where only help is asked for."""
    if len(args) > 1 and not args[1].startswith("-"):
        return args[1]
    if any(arg in ("-h", "--help") for arg in args):
        return None
    raise ValueError(f"give the name of a {what} right after `{args[0]}`; `keras-resnet list` shows them")


def list_(*, json: Flag = False) -> None:
    """Networks and recipes, with parameters, multiply-adds and the paper's error."""
    networks: list[dict[str, Any]] = []
    for name, spec in NETWORKS.items():
        size, classes = _usual(spec)
        summary = summarize(spec, size, classes)
        error, where = PAPER_ERRORS.get(name, (None, None))
        networks.append(
            {
                "name": name,
                "parameters": summary.parameters,
                "multiply_adds": summary.multiply_adds,
                "input_size": size,
                "classes": classes,
                "paper_error": error,
                "paper_source": where,
            }
        )
    recipes = [asdict(recipe) | {"network": recipe.spec.name} for recipe in RECIPES.values()]
    if json:
        return _print_json({"networks": networks, "recipes": recipes})
    _console().print(tables.networks(networks))
    _console().print(tables.recipes(list(RECIPES.values())))


def _show(default: ResNetSpec | None) -> Callable[..., None]:
    def show(
        network: tyro.conf.Positional[str],
        spec: Annotated[ResNetSpec, Inline] = default or NETWORKS["resnet34"],
        *,
        compare: str | None = None,
        input_size: int | None = None,
        classes: int | None = None,
        json: Flag = False,
    ) -> None:
        """A network as Table 1 prints it, stage by stage.

        Args:
            network: its name, as `list` prints it
            spec: what to change in it
            compare: another network, to show where the two differ
            input_size: side of the pictures in pixels; by default 32 for the CIFAR networks, 224 for the others
            classes: by default 10 for the CIFAR networks, 1000 for the others
            json: print JSON
        """
        specs = [spec] if compare is None else [spec, lookup("network", compare, NETWORKS)]
        summaries = []
        for one in specs:
            usual_size, usual_classes = _usual(one)
            size, count = (
                usual_size if input_size is None else input_size,
                usual_classes if classes is None else classes,
            )
            if size < 1 or count < 1:
                raise ValueError(f"input_size is {size} and classes is {count}; give positive numbers")
            summaries.append(summarize(one, size, count))
        if json:
            rows = [{"name": s.name, "spec": asdict(s)} | asdict(m) for s, m in zip(specs, summaries, strict=True)]
            return _print_json(rows[0] if compare is None else rows)
        for one, summary in zip(specs, summaries, strict=True):
            _console().print(tables.stages(one, summary))
        if compare is not None:
            _console().print(tables.differences(specs, summaries))

    return show


_ANY = next(iter(RECIPES.values()))
"""stands for the recipe where only help is asked for"""


def _recipe(name: str, args: list[str]) -> Recipe:
    """The recipe of that name or in that JSON file, open to what the other arguments change."""
    if name.endswith(".json"):
        try:
            recipe = Recipe.from_json(Path(name).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    else:
        recipe = lookup("recipe", name, RECIPES)
    # Whichever of the two is given on the command line takes the place of the other.
    for field in ("epochs", "steps"):
        if any(arg.split("=")[0] == f"--{field}" for arg in args):
            recipe = recipe.override(**{field: 1})
    return recipe


def _train(default: Recipe) -> Callable[..., None]:
    def train(
        name: tyro.conf.Positional[str],
        recipe: Annotated[Recipe, Inline] = default,
        *,
        run_dir: Path | None = None,
        devices: tuple[str, ...] = (),
        steps_per_execution: int = 1,
        checkpoint_seconds: float = 60.0,
    ) -> None:
        """Trains a recipe. The same command again resumes.

        Args:
            name: of the recipe, as `list` prints it, or a recipe's JSON file
            recipe: what to change in it
            run_dir: folder of the run; by default runs/NAME
            devices: such as GPU:0 GPU:1; by default all GPUs of this machine, or all workers that the environment names
            steps_per_execution: steps in one go; more of them save time where a step is short
            checkpoint_seconds: time from one checkpoint to the next
        """
        _import_tensorflow()
        from .distribution import worker
        from .train import train as run_training

        run = run_training(
            recipe,
            Path("runs") / recipe.name if run_dir is None else run_dir,
            devices=devices,
            steps_per_execution=steps_per_execution,
            checkpoint_seconds=checkpoint_seconds,
        )
        if worker() == 0:
            print(f"trained: {run.model_file}")
            print(f"next: keras-resnet evaluate {run.path}")

    return train


def evaluate(
    run: tyro.conf.Positional[Path],
    *,
    views: Literal["single", "ten-crop", "multi-scale"] = "single",
    scores: Literal["probabilities", "logits"] = "probabilities",
    batch_size: int = 256,
    json: Flag = False,
) -> None:
    """Top-1 and top-5 error over every picture of the test split; writes evaluation.json and confusion.csv.

    Args:
        run: folder of a trained run
        views: of each picture: its centre, the paper's ten crops (Table 3), or the whole at five scales (Table 4)
        scores: what is averaged over the views of a picture
        batch_size: views at a time; does not change the result
        json: print JSON
    """
    _import_tensorflow()
    from .evaluate import evaluate as run_evaluation
    from .run import Run

    result = run_evaluation(run, views=views, scores=scores, batch_size=batch_size)
    if json:
        return _print_json(result)
    print(
        f"{result['dataset']} {result['split']}, {result['images']} images, {views}: "
        f"top-1 error {result['top1_error']:.2f} %, top-5 error {result['top5_error']:.2f} %"
    )
    errors = result["class_errors"]
    if len(errors) > 2:
        worst = sorted(errors, key=errors.__getitem__, reverse=True)[:5]
        print(f"worst classes: {', '.join(f'{label} {errors[label]:.2f} %' for label in worst)}")
    print(f"confusion matrix: {Run(run).confusion_file(views)}")
    print(f"next: keras-resnet export {run}")


def export(run: tyro.conf.Positional[Path], *, to: Path = SAVED_MODELS, json: Flag = False) -> None:
    """A SavedModel for TF Serving, verified before it appears as TO/NAME/VERSION.

    Args:
        run: folder of a trained run
        to: folder of all exports
        json: print JSON
    """
    _import_tensorflow()
    from .export import export as run_export

    version = run_export(run, to=to)
    if json:
        return _print_json({"export": str(version)})
    print(f"exported: {version}")
    print(f"next: keras-resnet predict {version.parent} IMAGE, or serve it:")
    print(
        f"  docker run -p 8501:8501 -v {version.parent.resolve()}:/models/{version.parent.name} "
        f"-e MODEL_NAME={version.parent.name} tensorflow/serving"
    )


def check(saved_model: tyro.conf.Positional[Path], *, expected: Path | None = None, json: Flag = False) -> None:
    """Loads, audits and runs a SavedModel as TF Serving would, with no Python in it. Exit status 2 where it fails.

    Args:
        saved_model: a folder with saved_model.pb: an export's version, or anybody's
        expected: calls with the answers that they must have, as `export` writes them
        json: print JSON
    """
    _import_tensorflow()
    from .check import check as run_check

    report = run_check(saved_model, expected=expected)
    if json:
        _print_json(asdict(report))
    else:
        seconds = (report.first_seconds, report.later_seconds)
        _console().print(tables.signatures(str(saved_model), report.signatures, *seconds))
        print(
            f"loads in {report.load_seconds:.2f} s; {report.bytes_on_disk / 1e6:.1f} MB on disk, "
            f"{report.resident_bytes / 1e6:.0f} MB resident after the requests"
        )
        for finding in report.findings:
            print(f"{finding.severity}: {finding.text}")
    if report.errors:
        raise ValueError(f"{saved_model} does not pass: {len(report.errors)} of the above are errors")
    if not json:
        print("passed")


def predict(
    target: tyro.conf.Positional[Path],
    images: tyro.conf.Positional[tuple[Path, ...]],
    *,
    top: int = 5,
    json: Flag = False,
) -> None:
    """Labels and probabilities of picture files.

    Args:
        target: an export (a version, or the folder of its versions) or a run
        images: files of JPEG or PNG; a run takes GIF and BMP, too
        top: how many classes to print
        json: print JSON
    """
    if not images:
        raise ValueError("no image is given; give one file or more")
    _import_tensorflow()
    from .predict import predict as run_prediction

    answers = run_prediction(target, list(images), top=top)
    if json:
        return _print_json(answers)
    for answer in answers:
        best = "  ".join(f"{c} {s:.4f}" for c, s in zip(answer["classes"], answer["scores"], strict=True))
        print(f"{answer['image']}: {best}")


def _search(default: Recipe) -> Callable[..., None]:
    def search(
        name: tyro.conf.Positional[str],
        recipe: Annotated[Recipe, Inline] = default,
        *,
        trials: int,
        over: tuple[str, ...] = ("learning_rate", "weight_decay"),
        algorithm: Literal["random", "bayesian", "hyperband"] = "random",
        run_dir: Path | None = None,
        checkpoint_seconds: float = 60.0,
        json: Flag = False,
    ) -> None:
        """Tries variants of a recipe and keeps the best as a recipe file. The same command again resumes.

        Args:
            name: of the recipe, as `list` prints it, or a recipe's JSON file
            recipe: what to change in it
            trials: how many variants at most
            over: what varies: learning_rate, weight_decay, label_smoothing, warmup, momentum, batch_size, depth, width,
                shortcut
            algorithm: how the next variant is chosen; hyperband gives most of them a part of the epochs only
            run_dir: folder of the search; by default runs/NAME-search
            checkpoint_seconds: time from one checkpoint of a trial to the next
            json: print JSON
        """
        _import_tensorflow()
        from .search import search as run_search

        found = run_search(
            recipe,
            Path("runs") / f"{recipe.name}-search" if run_dir is None else run_dir,
            trials=trials,
            over=over,
            algorithm=algorithm,
            checkpoint_seconds=checkpoint_seconds,
        )
        rows = found.trials()
        if json:
            return _print_json(rows)
        if rows:
            _console().print(tables.trials(recipe.name, rows))
        if found.best_file.exists():
            print(f"next: keras-resnet train {found.best_file}")

    return search


def _usual(spec: ResNetSpec) -> tuple[int, int]:
    """Input size in pixels and classes that the paper uses the network with."""
    return (32, 10) if spec.stem == "cifar" else (224, 1000)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 120)


def _import_tensorflow() -> None:
    """Imports TensorFlow without the notes it writes about itself. Raises `ValueError` for another Keras backend."""
    require("KERAS_BACKEND", os.environ.setdefault("KERAS_BACKEND", "tensorflow"), ("tensorflow",))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with _held_back_stderr():
        import tensorflow as tf

        from .distribution import CLUSTER_VARIABLES

        # Finding out that there is no GPU is noisy too. But once something is computed no cluster can be joined.
        if not tf.config.list_physical_devices("GPU") and not os.environ.keys() & CLUSTER_VARIABLES:
            tf.constant(0)


@contextlib.contextmanager
def _held_back_stderr() -> Iterator[None]:
    """What C code writes to standard error meanwhile appears only where something fails."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
