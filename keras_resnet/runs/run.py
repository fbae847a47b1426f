"""The folder of one training: its files, its lock and its checks."""

import contextlib
import json
import os
import re
import reprlib
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..files import UNFINISHED, read_json, read_table, read_text, write_text
from .interval import wilson_interval
from .provenance import origin
from .recipe import Recipe


@dataclass(frozen=True)
class Run:
    """One training in the folder `path`."""

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))  # may be given as text

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    @property
    def recipe_file(self) -> Path:
        """The complete recipe, as JSON."""
        return self.path / "recipe.json"

    @property
    def provenance_file(self) -> Path:
        """The origin of the run: command, directory, versions, initial weights, teacher."""
        return self.path / "provenance.json"

    @property
    def data_file(self) -> Path:
        """The data set at the start of the run, as JSON: images per class and split, and notes."""
        return self.path / "data.json"

    @property
    def class_names_file(self) -> Path:
        """One class name per line, in the order of the network's outputs."""
        return self.path / "labels.txt"

    @property
    def preprocessing_file(self) -> Path:
        """The preprocessing of the network's images, as JSON."""
        return self.path / "preprocessing.json"

    @property
    def history_file(self) -> Path:
        """The metrics, with one row per epoch."""
        return self.path / "history.csv"

    @property
    def gradients_file(self) -> Path:
        """The gradients of `GradientHistory`, with one row per epoch and unit."""
        return self.path / "gradients.csv"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoint"

    @property
    def augmentation_figure(self) -> Path:
        """A figure of the first training images, augmented."""
        return self.path / "figures" / "augmentation.png"

    @property
    def tensorboard(self) -> Path:
        """The folder of the TensorBoard logs."""
        return self.path / "tensorboard"

    @property
    def model_file(self) -> Path:
        """The trained network, which returns logits; written when training ends."""
        return self.path / "model.keras"

    def evaluation_file(self, views: str = "single", on: str = "") -> Path:
        """Return the path of an evaluation's errors, as JSON.

        Args:
            views: the views of each image whose outputs were averaged.
            on: the name of other tested images; "" for the run's own test split.
        """
        return self._evaluation_path("evaluation", ".json", views, on)

    def confusion_file(self, views: str = "single", on: str = "") -> Path:
        """Return the path of an evaluation's confusion matrix, with one row per true class.

        Args:
            views: as in `evaluation_file`.
            on: as in `evaluation_file`.
        """
        return self._evaluation_path("confusion", ".csv", views, on)

    def predictions_file(self, views: str = "single", on: str = "") -> Path:
        """Return the path of an evaluation's logits, labels and content hashes, one row per image.

        Args:
            views: as in `evaluation_file`.
            on: as in `evaluation_file`.
        """
        return self._evaluation_path("predictions", ".npz", views, on)

    def _evaluation_path(self, stem: str, suffix: str, views: str, on: str) -> Path:
        # `on` can be a path, so replace characters that may not be in a file's name.
        parts = [stem, re.sub(r"[^\w.]+", "-", on).strip("-."), "" if views == "single" else views]
        return self.path / ("-".join(filter(None, parts)) + suffix)

    @property
    def resume_command(self) -> str:
        """The command that resumes the run."""
        return f"keras-resnet train {shlex.quote(str(self.path))}"

    def recipe(self) -> Recipe:
        """Read the run's recipe.

        Raises:
            ValueError: the folder is not a run, or its recipe is damaged.
        """
        if not self.recipe_file.is_file():
            raise ValueError(
                f"{self.path} is not a run: it has no {self.recipe_file.name};"
                f" {_runs_near(self.path)}"
            )
        text = read_text(self.recipe_file)
        try:
            return Recipe.from_json(text)
        except ValueError as error:
            raise ValueError(f"{self.recipe_file}: {error}") from None

    def class_names(self) -> tuple[str, ...]:
        """Read the class names, in the order of the network's outputs.

        Raises:
            ValueError: the file is damaged: a name is empty.
        """
        # `str.splitlines` would also split at characters that a name can contain.
        lines = read_text(self.class_names_file).replace("\r\n", "\n").removesuffix("\n")
        names = tuple(lines.split("\n"))
        if "" in names:
            raise ValueError(f"{self.class_names_file} is damaged: a name is empty")
        return names

    def provenance(self) -> dict[str, Any]:
        """Read the origin of the run; empty if the file does not exist.

        Raises:
            ValueError: the file is damaged.
        """
        if not self.provenance_file.exists():
            return {}
        provenance = read_json(self.provenance_file)
        paths = [provenance.get("directory", "."), provenance.get("directory_from_run", ".")]
        environment = provenance.get("environment", {})
        if not isinstance(environment, dict):
            raise ValueError(f"{self.provenance_file} is damaged: environment is not an object")
        if not all(isinstance(path, str) for path in (*paths, *environment.values())):
            raise ValueError(f"{self.provenance_file} is damaged: a directory is not a string")
        return provenance

    def history(self) -> list[dict[str, float]]:
        """Read the rows of the history, one per epoch, without the values that an epoch lacks.

        Raises:
            ValueError: the file is damaged or has no rows.
        """
        table = read_table(self.history_file)
        try:
            rows = [{name: float(value) for name, value in row.items() if value} for row in table]
        except ValueError as error:
            raise ValueError(f"{self.history_file} is damaged: {error}") from None
        if not rows:
            raise ValueError(f"{self.history_file} is damaged: it has no rows")
        return rows

    def evaluation(self, views: str = "single") -> dict[str, Any]:
        """Read an evaluation of the run's own test split.

        Args:
            views: as in `evaluation_file`.

        Returns:
            The content of the file, with the intervals of the top-1 and top-5 errors. They are
            computed from the number of images, because files of earlier versions lack them.

        Raises:
            ValueError: the file is damaged.
        """
        file = self.evaluation_file(views)
        result = read_json(file)
        errors = ["top1", "top5"] if "top5_error" in result else ["top1"]
        kinds: dict[str, tuple[type, ...]] = {f"{k}_error": (int, float) for k in errors}
        for name, kind in (kinds | {"images": (int,), "dataset": (str,), "split": (str,)}).items():
            value = result.get(name)
            # Reject integers beyond 64 bits, which may not fit a float.
            if type(value) not in kind or (type(value) is int and not -(2**63) <= value < 2**63):
                raise ValueError(f"{file} is damaged: {name} is {reprlib.repr(value)}")
        if result["images"] < 1:
            raise ValueError(f"{file} is damaged: images is {result['images']}")
        for k in errors:
            error = result[f"{k}_error"]
            if not 0 <= error <= 100:
                raise ValueError(f"{file} is damaged: {k}_error is {error}")
            result[f"{k}_interval"] = wilson_interval(error, result["images"])
        return result

    def locate(self, path: str) -> Path | None:
        """Find a file or folder that the recipe names, from any working directory.

        A relative path is searched in three directories: where the run was started; the same
        directory relative to the run, for a project that was moved as a whole; and the working
        directory.

        Args:
            path: the path in the recipe.

        Returns:
            The path of the existing file or folder, or None.
        """
        provenance = self.provenance()
        bases = [
            Path(provenance.get("directory", ".")),
            self.path / provenance.get("directory_from_run", "."),
            Path(),
        ]
        return next((base / path for base in bases if (base / path).exists()), None)

    def require_same(self, recipe: Recipe) -> None:
        """Raise `ValueError` if the folder holds another recipe, and name the first difference.

        Args:
            recipe: the recipe to be trained in the folder.
        """
        if not self.recipe_file.exists():
            return
        earlier = self.recipe()
        for name in recipe.__dataclass_fields__:
            old, new = getattr(earlier, name), getattr(recipe, name)
            if old != new:
                raise ValueError(
                    f"{self.path} holds a run with {name}={old!r}, not {new!r};"
                    f" `{self.resume_command}` resumes it, another `run_dir` starts a new one"
                )

    def begin(
        self,
        recipe: Recipe,
        started_from: dict[str, str] | None = None,
        teacher: dict[str, str] | None = None,
    ) -> None:
        """Create the folder of the run, or accept a folder created by the same recipe.

        Args:
            recipe: the recipe to be trained in the folder.
            started_from: the file of the initial weights and its hash, if there is one.
            teacher: the file of the teacher's network and its hash, if there is one.

        Raises:
            ValueError: as `require_same`.
        """
        self.require_same(recipe)
        if self.recipe_file.exists():
            return
        self.path.mkdir(parents=True, exist_ok=True)
        provenance = origin(self.path)
        if started_from:
            provenance["started_from"] = started_from
        if teacher:
            provenance["teacher"] = teacher
        write_text(self.provenance_file, json.dumps(provenance, indent=2) + "\n")
        write_text(self.recipe_file, recipe.to_json())

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Lock the folder against other trainings, and remove unfinished files of a killed one.

        The lock ends with the process, however it ends. Other folders inside this one, such as
        those of other runs, are not touched.

        Raises:
            ValueError: another process is training in the folder.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise ValueError(
                f"another process is training in {self.path}; give another `run_dir`"
            ) from None
        try:
            for folder in (self.path, self.checkpoints, self.augmentation_figure.parent):
                for unfinished in folder.glob(f"{UNFINISHED}*"):
                    if not unfinished.is_dir():
                        unfinished.unlink(missing_ok=True)
            yield
        finally:
            lock.release()

    def require_begun(self) -> None:
        """Raise `OSError` if the folder has been removed since its training began."""
        if not self.recipe_file.is_file():
            raise OSError(
                f"{self.recipe_file} has been removed since the training in {self.path} began;"
                " the folder is not a run anymore"
            )

    def is_busy(self) -> bool:
        """Return whether another process is training in the folder."""
        if not self.path.is_dir():
            return False
        try:
            with self.alone():
                return False
        except ValueError:
            return True

    def require_trained(self) -> None:
        """Raise `ValueError` unless the run exists and its training is complete."""
        self.recipe()
        if not self.model_file.is_file():
            raise ValueError(
                f"{self.path} is not fully trained: it has no {self.model_file.name};"
                f" `{self.resume_command}` resumes it"
            )


def is_run(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is the folder of a run."""
    return Run(Path(path)).recipe_file.is_file()


def as_run(run: Run | str | os.PathLike[str]) -> Run:
    """Return the run, or the run in the folder of the given path."""
    return run if isinstance(run, Run) else Run(Path(run))


def _runs_near(path: Path) -> str:
    folder = path.parent
    names = sorted(str(f.parent) for f in folder.glob("*/recipe.json")) if folder.is_dir() else []
    return f"the runs beside it are {', '.join(names)}" if names else f"{folder} has no runs"
