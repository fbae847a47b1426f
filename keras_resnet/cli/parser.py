"""Parse the arguments, run one verb, and report errors in one line."""

import inspect
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Union

import tyro

from .. import __version__
from ..choices import lookup
from ..networks.paper import NETWORKS
from ..runs.recipes import RECIPES, recipe_of
from ..runs.run import Run
from ..terminal import printable
from . import mistakes
from .catalog import list_, showing
from .client import client
from .demo import demo
from .evaluations import evaluate
from .exports import benchmark, check, export, predict
from .flags import flags_of, with_flags
from .output import print_error
from .reports import explain, report
from .trainings import reproduce, searching, training

DESCRIPTION = """Deep residual networks (He et al., 2015): train, test, export to TF Serving.

Example: keras-resnet train digits-resnet20"""


def run(args: list[str]) -> int:
    """Run one verb and return the exit status.

    Args:
        args: the arguments.

    Returns:
        0 for success, 1 if `reproduce` does not, 2 for an error that the user can correct.
    """
    if args == ["--version"]:
        print(f"keras_resnet {__version__}")
        return 0
    flags: dict[str, str] = {}
    warnings.formatwarning = lambda message, *_, **__: (
        f"keras-resnet: {printable(with_flags(str(message), flags))}\n"
    )
    try:
        _parse_and_run(args, flags)
    except SystemExit as end:  # after the help
        return int(end.code or 0)
    except BrokenPipeError:
        raise
    except (ValueError, OSError, FloatingPointError) as error:
        if sys.flags.dev_mode:
            raise
        message = str(error)
        if isinstance(error, OSError) and error.filename and error.strerror:
            # Without the number that Python puts before it.
            message = f"{error.filename}: {error.strerror}"
        print_error(with_flags(message, flags))
        return 2
    return 0


def _parse_and_run(args: list[str], flags: dict[str, str]) -> None:
    """Run a verb; `flags` become those that the arguments of the library have in it."""
    found = commands()
    verb, *rest = args or [""]
    if not verb:
        raise ValueError(
            f"no verb is given; choose one of {', '.join(found)}: `keras-resnet --help` says more"
        )
    known = ["--help", "--version"]
    if verb.startswith("-"):
        verb = ""
    else:
        # Read from the verb as it is without a name, so that a wrong name can be reported too.
        flags |= flags_of(verb, lookup("verb", verb, found))
        known = ["--help", *flags.values()]
        found = commands(args)
    for function in found.values():
        function.__doc__ = _unwrapped(function)
    subcommands = [
        Annotated[
            Any,
            tyro.conf.subcommand(
                name, constructor=function, description=None if name == verb else _first(function)
            ),
        ]
        for name, function in found.items()
    ]
    one_of_them: Any = Union[tuple(subcommands)]
    with mistakes.raised(verb, rest, known):
        tyro.cli(one_of_them, prog="keras-resnet", description=DESCRIPTION, args=args)


def commands(args: list[str] | None = None) -> dict[str, Callable[..., None]]:
    """Return the function of each verb.

    Args:
        args: the command line. Where its verb takes the name of a recipe or a network, that value
            is what the flags of its fields default to. None: any value stands for it.

    Raises:
        ValueError: no name follows such a verb, or nothing is called that.
    """
    verb, *rest = args or [""]
    found: dict[str, Callable[..., None]] = {
        "list": list_,
        "show": showing(NETWORKS["resnet34"]),
        "train": training("", next(iter(RECIPES.values())), rest),
        "evaluate": evaluate,
        "report": report,
        "explain": explain,
        "reproduce": reproduce,
        "export": export,
        "check": check,
        "benchmark": benchmark,
        "predict": predict,
        "demo": demo,
        "client": client,
        "search": searching(next(iter(RECIPES.values())), rest),
    }
    if verb in ("show", "train", "search") and (name := _name(verb, rest)):
        if verb == "show":
            found[verb] = showing(lookup("network", name, NETWORKS))
        elif verb == "train":
            started = _started(name)
            recipe = recipe_of(name) if started is None else started.recipe()
            found[verb] = training(name if started is None else started, recipe, rest)
        else:
            found[verb] = searching(recipe_of(name), rest)
    return found


def _unwrapped(function: Callable[..., None]) -> str:
    """Return the documentation with each argument's on one line: the help keeps ends of lines."""
    return re.sub(r"\n {8}", " ", inspect.getdoc(function) or "")


def _first(function: Callable[..., None]) -> str:
    """Return the first line of a function's documentation."""
    return (inspect.getdoc(function) or "").partition("\n")[0]


def _name(verb: str, rest: list[str]) -> str | None:
    """Return the name after a verb, or None where only help is asked for."""
    if rest and not rest[0].startswith("-"):
        return rest[0]
    if any(arg in ("-h", "--help") for arg in rest):
        return None
    what = "network" if verb == "show" else "recipe"
    raise ValueError(
        f"give the name of a {what} right after `{verb}`; `keras-resnet list` shows them"
    )


def _started(name: str) -> Run | None:
    """Return the run in the folder `name`, or None where it is a recipe's name or file."""
    if name in RECIPES or name.endswith(".json") or not Path(name).is_dir():
        return None
    return Run(Path(name))
