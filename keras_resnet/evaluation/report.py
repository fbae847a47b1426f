"""Write a report of evaluated runs: one HTML file that opens anywhere, without a network."""

import os
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..runs.run import Run, as_run
from . import report_gallery, report_sections
from .page import Album, file_of, require_packages, write_page
from .prediction_files import read_predictions
from .report_figures import PIXELS, confusion_image, reliability_diagram, training_curves
from .report_sections import Evaluated
from .temperature import BINS, reliability

FOLDED = 20
"""the largest number of classes whose table is open from the beginning"""


def report(
    runs: Run | str | os.PathLike[str] | Sequence[Run | str | os.PathLike[str]],
    to: str | os.PathLike[str] | None = None,
    *,
    figures: str | os.PathLike[str] | None = None,
) -> Path:
    """Write one HTML file on a run, or on several side by side, from what `evaluate` has stored.

    It has errors with intervals, training curves, precision, recall and F1 per class, confusion
    matrix, calibration, the worst mistakes with heat maps, likely label errors, exact duplicates,
    augmented images, recipe and provenance; of several runs also McNemar's test of each pair. It
    needs no other file, no script and no network. Images that are not at hand are left out, and
    the page says so.

    Args:
        runs: a run, the path of its folder, or several of them that were tested on the same images.
        to: the file to write; None for `report.html` in the folder of a single run.
        figures: a folder to write each figure of the page into, as SVG, PNG or JPEG; None for
            none.

    Returns:
        The path of the file.

    Raises:
        ValueError: a run has not been evaluated, its files are damaged, several runs were tested on
            different images, `to` is missing, the page would be larger than 2 MB, or a package of
            the extra `report` is not installed.
        OSError: a file cannot be read or written.
    """
    require_packages("a report")
    if isinstance(runs, Run | str | os.PathLike):
        runs = [runs]
    opened = [as_run(run) for run in runs]
    file = file_of(opened, to, "report.html")
    album = Album()
    write_page(file, "report.html.jinja", _values(_evaluated(opened), album))
    if figures is not None:
        album.write(Path(figures))
    return file


def _evaluated(runs: Sequence[Run]) -> list[Evaluated]:
    """Read what is stored of the runs."""
    named = Counter(run.name for run in runs)
    found = []
    for run in runs:
        recipe = run.recipe()
        for file in (run.predictions_file(), run.evaluation_file()):
            if not file.is_file():
                raise ValueError(
                    f"{run.path} has no {file.name}; `keras-resnet evaluate"
                    f" {shlex.quote(str(run.path))}` writes it"
                )
        name = run.name if named[run.name] == 1 else str(run.path)
        predictions, evaluation = read_predictions(run.predictions_file()), run.evaluation()
        if len(predictions.labels) != evaluation["images"]:
            raise ValueError(
                f"{run.predictions_file()} has {len(predictions.labels)} images and"
                f" {run.evaluation_file().name} {evaluation['images']}; evaluate again"
            )
        found.append(Evaluated(run, name, recipe, evaluation, predictions))
    return found


def _values(runs: list[Evaluated], album: Album) -> dict[str, Any]:
    """Compute the values of the template, first those that a damaged file or a mistake can end."""
    curves, unit = report_sections.curves(runs)
    tables = {
        "comparisons": report_sections.comparisons(runs),
        "summary": report_sections.summary(runs),
        "classes": report_sections.per_class(runs),
        "recipes": report_sections.recipes(runs),
        "provenance": report_sections.provenance(runs),
    }
    choices = [report_gallery.choose(run, len(runs)) for run in runs]
    found = report_gallery.find(runs, choices)
    panels = []
    for number, (run, choice) in enumerate(zip(runs, choices, strict=True), start=1):
        stem, names = f"run{number}", run.predictions.class_names
        bins = reliability(run.probabilities, run.labels)
        panels.append(
            report_gallery.panel(run, choice, found, album, stem)
            | {
                "name": run.name,
                "confusion": album.add(
                    f"{stem}-confusion.svg", confusion_image(run.confusion, names)
                ),
                "confusions": report_sections.confusions(run),
                "reliability": album.add(f"{stem}-reliability.svg", reliability_diagram(bins)),
                "calibration_error": run.calibration_error,
                "suspicions": report_sections.suspicions(run, choice.suspects),
                "augmentation": report_gallery.augmentation(run, album, stem),
            }
        )
    return tables | {
        "version": __version__,
        "names": [run.name for run in runs],
        "images": len(runs[0].labels),
        "curves": album.add("curves.svg", training_curves(curves, unit)) if curves else "",
        "unit": unit,
        "not_validated": [curve.name for curve in curves if not curve.test],
        "panels": panels,
        "missing": found.missing,
        "duplicates": report_gallery.duplicates(runs[0], choices[0], found, album),
        "folded": FOLDED,
        "pooled": PIXELS,
        "bins": BINS,
    }
