"""The verbs that write pages about runs: `report` and `explain`."""

from pathlib import Path
from typing import Annotated

import tyro

from .flags import Flag, optional
from .output import print_json, print_line
from .startup import import_tensorflow

IMAGES = 1000
"""the number of test images that `explain` measures on by default"""
DEPTHS = (20, 56, 110)
"""the numbers of layers of the untrained networks of `explain` by default"""


def report(
    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN ...")],
    *,
    to: Annotated[Path | None, optional("FILE")] = None,
    figures: Annotated[Path | None, optional("FOLDER")] = None,
    json: Flag = False,
) -> None:
    """Write an HTML page on evaluated runs: errors, curves, mistakes, calibration, comparison.

    It is one file below 2 MB that opens offline. `evaluate` must have tested each run. Several runs
    stand side by side, with McNemar's test; they must have been tested on the same images.

    Example: keras-resnet report runs/digits-resnet20

    Args:
        runs: folders of evaluated runs
        to: the file to write; by default report.html in the folder of a single run
        figures: also write each figure of the page into this folder, as SVG, PNG or JPEG
        json: print JSON
    """
    if not runs:
        raise ValueError("no run is given; give one or more")
    import_tensorflow()
    from ..evaluation.report import report as write_report

    file = write_report(runs, to, figures=figures)
    if json:
        return print_json({"report": str(file)})
    print_line(f"report: {file} ({file.stat().st_size / 1e6:.2f} MB)")


def explain(
    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN ...")],
    *,
    to: Annotated[Path | None, optional("FILE")] = None,
    images: int = IMAGES,
    depths: tuple[int, ...] = DEPTHS,
    maps_of: Annotated[tuple[Path, ...], optional("FILE ...")] = (),
    landscape: Flag = False,
    figures: Annotated[Path | None, optional("FOLDER")] = None,
    json: Flag = False,
) -> None:
    """Write an HTML page on what depth does: gradients, shortcut and branch, responses, lesions.

    Give a plain and a residual network of the same depth to see the difference.

    Example: keras-resnet explain runs/digits-plain56 runs/digits-resnet56 --to depth.html

    Args:
        runs: folders of trained runs
        to: the file to write; by default explained.html in the folder of a single run
        images: the largest number of test images to measure on
        depths: numbers of layers of untrained networks, otherwise like those of CIFAR runs
        maps_of: image files to show class activation maps of; by default some test images
        landscape: show the loss around the weights, too: a minute for ResNet-20 on CIFAR-10
        figures: also write each figure into this folder, as SVG, PNG or JPEG
        json: print JSON
    """
    import_tensorflow()
    from ..evaluation.explain import explain as write_explanation

    file = write_explanation(
        runs,
        to,
        images=images,
        depths=depths,
        maps_of=maps_of,
        landscape=landscape,
        figures=figures,
    )
    if json:
        return print_json({"explanation": str(file)})
    print_line(f"explanation: {file} ({file.stat().st_size / 1e6:.2f} MB)")
