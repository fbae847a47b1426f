"""The folder of one training: the names of its files, and how they are written whole or not at all."""

import contextlib
import csv
import importlib.metadata
import io
import json
import os
import platform
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .recipe import Recipe

_UNFINISHED = ".writing-"

PACKAGES = ("keras-residual", "tensorflow", "keras", "tensorflow-datasets", "numpy")


@dataclass(frozen=True)
class Run:
    """One training in the folder `path`."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def recipe_file(self) -> Path:
        """The complete recipe, as JSON."""
        return self.path / "recipe.json"

    @property
    def provenance_file(self) -> Path:
        """The command, Python and package versions that started the run."""
        return self.path / "provenance.json"

    @property
    def data_file(self) -> Path:
        """The data set that the run began with, as JSON: pictures of each class in each split, what was left out, and
        where its test split comes from."""
        return self.path / "data.json"

    @property
    def labels_file(self) -> Path:
        """One class name a line, in the order of the network's outputs."""
        return self.path / "labels.txt"

    @property
    def preprocessing_file(self) -> Path:
        """How a picture becomes the network's input."""
        return self.path / "preprocessing.json"

    @property
    def history_file(self) -> Path:
        """One row an epoch."""
        return self.path / "history.csv"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoint"

    @property
    def augmentation_figure(self) -> Path:
        """the first pictures that the network was trained on, as it saw them"""
        return self.path / "figures" / "augmentation.png"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def model_file(self) -> Path:
        """The trained network, of stock Keras layers, giving logits. There only when training is complete."""
        return self.path / "model.keras"

    def evaluation_file(self, views: str = "single") -> Path:
        """Errors of the test split in those views of its pictures, as JSON."""
        return self.path / f"evaluation{'' if views == 'single' else f'-{views}'}.json"

    def confusion_file(self, views: str = "single") -> Path:
        """Beside it, how often each class was taken for each: a row a true class, a column a predicted one."""
        return self.path / f"confusion{'' if views == 'single' else f'-{views}'}.csv"

    def recipe(self) -> Recipe:
        """The run's recipe. Raises `ValueError` where the folder is not a run."""
        if not self.recipe_file.is_file():
            raise ValueError(f"{self.path} is not a run: it has no {self.recipe_file.name}; {_runs_near(self.path)}")
        try:
            return Recipe.from_json(self.recipe_file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{self.recipe_file}: {error}") from None

    def labels(self) -> tuple[str, ...]:
        return tuple(self.labels_file.read_text(encoding="utf-8").splitlines())

    def require_same(self, recipe: Recipe) -> None:
        """Raises `ValueError` naming the first field in which an earlier run in the folder differs."""
        if not self.recipe_file.exists():
            return
        earlier = self.recipe()
        for name in recipe.__dataclass_fields__:
            was, now = getattr(earlier, name), getattr(recipe, name)
            if was != now:
                raise ValueError(
                    f"{self.path} holds a run with {name}={was!r}, not {now!r}; "
                    "give the recipe it was started with, or another --run-dir"
                )

    def begin(self, recipe: Recipe) -> None:
        """Makes the folder, or finds it made by the same recipe; errors are those of `require_same`."""
        self.require_same(recipe)
        if self.recipe_file.exists():
            return
        self.path.mkdir(parents=True, exist_ok=True)
        provenance = {
            # Where the program lies says nothing of the run.
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "packages": {name: _version(name) for name in PACKAGES},
        }
        write_text(self.provenance_file, json.dumps(provenance, indent=2) + "\n")
        write_text(self.recipe_file, recipe.to_json())

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps other trainings out of the folder, and clears away what a killed one was writing.

        Raises `ValueError` where another process is training there. The lock goes with the process, however it ends.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise ValueError(f"another process is training in {self.path}; give another --run-dir") from None
        try:
            for unfinished in self.path.rglob(f"{_UNFINISHED}*"):
                unfinished.unlink()
            yield
        finally:
            lock.release()

    def is_busy(self) -> bool:
        """Whether another process is training in the folder."""
        try:
            with self.alone():
                return False
        except ValueError:
            return True

    def require_trained(self) -> None:
        """Raises `ValueError` unless the run is there and its training is complete."""
        self.recipe()
        if not self.model_file.is_file():
            raise ValueError(
                f"{self.path} is not trained to its end: it has no {self.model_file.name}; "
                "give the command that started it again, and it goes on"
            )


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary sibling to write; on success it takes the place of `path` at once, on failure it is removed.

    The sibling keeps the ending of `path`, which some writers look at.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=_UNFINISHED, suffix=path.suffix, dir=path.parent)
    os.close(handle)
    sibling = Path(name)
    try:
        yield sibling
        with open(sibling, "rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        sibling.chmod(0o666 & ~umask)  # mkstemp makes files that only their owner reads
        os.replace(sibling, path)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk does not say which file
    finally:
        sibling.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    with whole_file(path) as sibling:
        sibling.write_text(text, encoding="utf-8")


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes a CSV file whole or not at all; a name that some rows lack is empty in them."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _runs_near(path: Path) -> str:
    folder = path.parent
    names = sorted(str(f.parent) for f in folder.glob("*/recipe.json")) if folder.is_dir() else []
    return f"the runs beside it are {', '.join(names)}" if names else f"no run is in {folder}"
