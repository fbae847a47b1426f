"""Choose the test images that a report shows, and draw them with their heat maps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ..data.dataset import Dataset
from ..data.preprocessing import Preprocessing, denormalize
from ..runs.classifier import open_run
from ..runs.dataset import load_dataset
from . import report_images
from .diagnostics import LabelErrors, copies, label_errors, worst_mistakes
from .errors import predicted_classes
from .page import Album
from .report_images import Content
from .report_sections import Evaluated

_EXAMPLES = 12
"""the largest number of mistakes, likely label errors and duplicates that are shown"""
_SIDE = 160
"""the longest side of a test image in pixels"""
_AUGMENTED_SIDE = 640
"""the longest side of the augmented images in pixels"""


@dataclass(frozen=True)
class Choice:
    """Positions of images in a test split."""

    mistakes: np.ndarray
    """the worst mistakes, int `[<= count]`"""
    suspects: LabelErrors
    """all images whose labels may be wrong"""
    groups: list[np.ndarray]
    """the copies of each image that occurs more than once, those with different labels first"""
    count: int
    """the number of each that is shown"""

    def shown(self) -> list[int]:
        """Return the mistakes and suspects that are shown, each once."""
        return sorted({*self.mistakes.tolist(), *self.suspects.rows[: self.count].tolist()})

    def copied(self) -> list[int]:
        """Return the first copy of each group that is shown."""
        return [int(group[0]) for group in self.groups[: self.count]]


@dataclass(frozen=True)
class Found:
    """The data of the runs, as far as it is at hand."""

    run: str
    """the name of the run whose data it is"""
    dataset: Dataset | None
    contents: Mapping[bytes, Content]
    """the images that are shown, by hash"""
    missing: str
    """the reason if images are missing, otherwise empty"""


def choose(run: Evaluated, runs: int) -> Choice:
    """Choose the images of a run that are shown.

    Args:
        run: the run.
        runs: the number of runs in the report; many runs show fewer images each.
    """
    count = max(1, min(_EXAMPLES, 2 * _EXAMPLES // runs))
    groups = copies(run.predictions.hashes)
    return Choice(
        mistakes=worst_mistakes(run.probabilities, run.labels, count),
        suspects=label_errors(run.probabilities, run.labels),
        groups=sorted(groups, key=lambda group: len(set(run.labels[group])) == 1),
        count=count,
    )


def find(runs: Sequence[Evaluated], choices: Sequence[Choice]) -> Found:
    """Find the images that are shown, in the data of the first run whose data is at hand.

    Args:
        runs: runs that were tested on the same images.
        choices: of each run.
    """
    hashes = {
        run.predictions.hashes[row].tobytes()
        for run, choice in zip(runs, choices, strict=True)
        for row in (*choice.shown(), *choice.copied())
    }
    failures: list[str] = []
    for run in runs:
        try:
            dataset = load_dataset(run.recipe, run.run)
        except (ValueError, OSError) as error:
            failures.append(str(error).rstrip("."))
            continue
        contents = report_images.contents_of(dataset.test, hashes)
        absent = len(hashes) - len(contents)
        missing = f"{absent} of them are not in the test split of {dataset.name} anymore"
        return Found(run.name, dataset, contents, missing if absent else "")
    return Found("", None, {}, failures[0])


def panel(run: Evaluated, choice: Choice, found: Found, album: Album, stem: str) -> dict[str, Any]:
    """Return the mistakes and the likely label errors of a run, with images and heat maps.

    Args:
        run: the run.
        choice: its images.
        found: the data.
        album: takes the images.
        stem: what the names of their files begin with.
    """
    names, labels = run.predictions.class_names, run.labels
    predicted = predicted_classes(run.probabilities, labels)
    inputs, images = _seen(run, choice.shown(), found)
    maps, no_heat_maps = _heat_maps(run, inputs, predicted)
    shown = {
        row: album.add_image(f"{stem}-image{row}", image, _SIDE) for row, image in images.items()
    }
    heat = {
        row: album.add_image(
            f"{stem}-heat{row}", report_images.overlay(images[row], maps[row]), _SIDE
        )
        for row in choice.mistakes.tolist()
        if row in maps
    }
    suspects = choice.suspects
    first = slice(choice.count)
    return {
        "wrong": int(np.sum(predicted != labels)),
        "mistakes": [
            {
                "row": row,
                "image": shown.get(row),
                "heat_map": heat.get(row),
                "label": names[labels[row]],
                "predicted": names[predicted[row]],
                "of_label": run.probabilities[row, labels[row]],
                "of_predicted": run.probabilities[row, predicted[row]],
            }
            for row in choice.mistakes.tolist()
        ],
        "no_heat_maps": no_heat_maps,
        "suspects": len(suspects.rows),
        "suspects_shown": [
            {
                "row": row,
                "image": shown.get(row),
                "label": names[labels[row]],
                "likely": names[likely],
                "of_label": run.probabilities[row, labels[row]],
                "of_likely": run.probabilities[row, likely],
            }
            for row, likely in zip(
                suspects.rows[first].tolist(), suspects.likely[first].tolist(), strict=True
            )
        ],
    }


def duplicates(run: Evaluated, choice: Choice, found: Found, album: Album) -> dict[str, Any]:
    """Return the test images that occur again, in the test split or in the training split.

    Args:
        run: the run.
        choice: its images.
        found: the data.
        album: takes the images.
    """
    names, labels = run.predictions.class_names, run.labels
    trained = None
    if found.dataset is not None:
        trained = report_images.training_copies(found.dataset, run.predictions.hashes)
    _, images = _seen(run, choice.copied(), found)
    return {
        "groups": len(choice.groups),
        "conflicts": sum(len(set(labels[group])) > 1 for group in choice.groups),
        "at_hand": found.dataset is not None,
        "run": found.run,
        "trained": None if trained is None else int(trained.sum()),
        "trained_rows": [] if trained is None else np.flatnonzero(trained)[:20].tolist(),
        "searched": report_images.SEARCHED,
        "shown": [
            {
                "image": album.add_image(f"duplicate{group[0]}", images[group[0]], _SIDE)
                if group[0] in images
                else None,
                "rows": group.tolist(),
                "labels": [names[label] for label in labels[group]],
            }
            for group in choice.groups[: choice.count]
        ],
    }


def augmentation(run: Evaluated, album: Album, stem: str) -> str | None:
    """Return the run's figure of augmented images, or None if there is none.

    Args:
        run: the run.
        album: takes the image.
        stem: what the name of its file begins with.

    Raises:
        ValueError: the figure is damaged.
    """
    file = run.run.augmentation_figure
    if not file.is_file():
        return None
    try:
        with Image.open(file, formats=["PNG"]) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file} is damaged ({error})") from None
    return album.add_image(f"{stem}-augmentation", pixels, _AUGMENTED_SIDE)


def _seen(
    run: Evaluated, rows: Sequence[int], found: Found
) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Return the network's inputs, and the same as uint8, of the images that are found."""
    hashes = {row: run.predictions.hashes[row].tobytes() for row in rows}
    here = [row for row in rows if hashes[row] in found.contents]
    if not here:
        return {}, {}
    preprocessing = Preprocessing.read(run.run.preprocessing_file)
    inputs = report_images.views_of([found.contents[hashes[row]] for row in here], preprocessing)
    images = denormalize(preprocessing, inputs).numpy()
    return dict(zip(here, inputs, strict=True)), dict(zip(here, images, strict=True))


def _heat_maps(
    run: Evaluated, inputs: Mapping[int, np.ndarray], predicted: np.ndarray
) -> tuple[dict[int, np.ndarray], str]:
    """Return the heat maps of the predicted classes, or the reason if there are none."""
    if not inputs:
        return {}, ""
    rows = list(inputs)
    try:
        maps = report_images.heat_maps(
            open_run(run.run), np.stack(list(inputs.values())), predicted[rows]
        )
    except (ValueError, OSError) as error:
        return {}, str(error).removeprefix("heat_map is True; ").rstrip(".")
    return dict(zip(rows, maps, strict=True)), ""
