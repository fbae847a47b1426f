"""Write a page of figures that explain what depth does in the networks of trained runs."""

import os
from collections.abc import Sequence
from pathlib import Path

from ..runs.run import Run, as_run
from .class_maps import read_images
from .depth import DEPTHS, IMAGES, measure
from .explain_figures import values
from .page import Album, file_of, require_packages, write_page


def explain(
    runs: Run | str | os.PathLike[str] | Sequence[Run | str | os.PathLike[str]],
    to: str | os.PathLike[str] | None = None,
    *,
    images: int = IMAGES,
    depths: Sequence[int] = DEPTHS,
    maps_of: Sequence[str | os.PathLike[str]] = (),
    landscape: bool = False,
    figures: str | os.PathLike[str] | None = None,
) -> Path:
    """Write one HTML file that shows why depth helps or hurts the networks of runs.

    It has the gradient at the input of every unit, at random initial weights with and without batch
    norm and at the trained ones, and in untrained networks of other depths; the parts of it that
    the shortcut and the branch carry; how fast it changes between two images (Balduzzi et al.
    2017); the responses of the layers (Figure 7 of the paper); the
    error without each single unit (Veit et al. 2016); where the networks see their answers; and, if
    asked for, the loss around their weights (Li et al. 2018).

    Give a plain and a residual network of the same depth to see the difference. The global seeds of
    Python, NumPy and Keras are set.

    Args:
        runs: a run, the path of its folder, or several.
        to: the file to write; None for `explained.html` in the folder of a single run.
        images: the largest number of test images to measure on. They are spread over the split.
        depths: the numbers of layers of untrained networks that are like those of CIFAR runs but
            for their depth; `()` for none.
        maps_of: image files whose class activation maps and Grad-CAM are shown; `()` for those of
            a few test images.
        landscape: whether to show the loss around the weights. It is computed at 441 points of at
            most 256 images: seconds for digits, a minute for ResNet-20 on CIFAR-10, and hours for
            networks of ImageNet on two cores.
        figures: a folder to write each figure into, as SVG, PNG or JPEG; None for none.

    Returns:
        The path of the file.

    Raises:
        ValueError: a run is not trained, its data is missing, `images` is below 2, a number of
            `depths` below 3, `to` is missing for several runs, a file of `maps_of` is not an image,
            or a package of the extra `report` is not installed.
        OSError: a file cannot be read or written.
    """
    require_packages("an explanation")
    if images < 2:
        raise ValueError(f"images is {images}; give a number of at least 2")
    for depth in depths:
        if depth < 3:
            raise ValueError(f"depths is {depth}; give numbers of layers of at least 3")
    if isinstance(runs, Run | str | os.PathLike):
        runs = [runs]
    opened = [as_run(run) for run in runs]
    file = file_of(opened, to, "explained.html")
    contents = read_images(maps_of)
    explained = [measure(run, images, depths, contents, landscape) for run in opened]
    album = Album()
    write_page(file, "explain.html.jinja", values(explained, album))
    if figures is not None:
        album.write(Path(figures))
    return file
