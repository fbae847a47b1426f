"""What the verbs print. Texts of other people's have no effect on the terminal."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TimeRemainingColumn,
)

from ..terminal import printable

Value = TypeVar("Value")


def print_line(text: str) -> None:
    """Print a text whose control characters are shown and have no effect."""
    print(printable(text))


def print_error(text: str) -> None:
    """Print a message to standard error, as `print_line` does."""
    print(f"keras-resnet: {printable(text)}", file=sys.stderr)


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    print(json.dumps(value, indent=2))


def print_json_line(value: Any) -> None:
    """Print a value as one line of JSON, at once."""
    print(json.dumps(value), flush=True)


def tracked(values: Iterable[Value], total: int) -> Iterator[Value]:
    """Yield values, with a progress bar on the terminal where they are not printed to one.

    Args:
        values: to yield.
        total: their number.
    """
    console = Console(stderr=True)
    hidden = not console.is_terminal or sys.stdout.isatty()
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
    with Progress(
        *columns, console=console, transient=True, disable=hidden, redirect_stdout=False
    ) as bar:
        yield from bar.track(values, total)


@contextlib.contextmanager
def measured(total: int) -> Iterator[Callable[[int, float], None]]:
    """Show a progress bar on the terminal, and yield the function that moves it.

    Args:
        total: the number of measurements; the function takes how many are done, and the fraction
            of the next.
    """
    console = Console(stderr=True)
    columns = (BarColumn(), TaskProgressColumn(), TimeRemainingColumn(compact=True))
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=total)
        yield lambda done, part: bar.update(task, completed=done + part)


def print_answers(answers: Iterable[Mapping[str, Any]], total: int, json: bool) -> None:
    """Print the classes of image files, one line per file, and errors to standard error.

    Args:
        answers: per file `{"image", "classes", "scores"}` or `{"image", "error"}`.
        total: the number of files.
        json: whether the lines are JSON.

    Raises:
        ValueError: a file has no answer. It is raised after the last file.
    """
    failed = 0
    for answer in tracked(answers, total):
        if json:
            print_json_line(answer)
        elif "error" not in answer:
            scores = zip(answer["classes"], answer["scores"], strict=True)
            print_line(f"{answer['image']}: {'  '.join(f'{c} {s:.4f}' for c, s in scores)}")
        if "error" in answer:
            if total == 1:
                raise ValueError(answer["error"])
            print_error(answer["error"])
            failed += 1
    if failed:
        raise ValueError(f"{failed:,} of {total:,} files have no answer")


def console() -> Console:
    """Return the console of tables, which has a fixed width where no terminal is."""
    return Console(width=None if sys.stdout.isatty() else 120)
