"""Show where a run's network sees its answers: class activation maps and Grad-CAM of images."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import tensorflow as tf

from ..data.dataset import Shard
from ..data.decoding import decode, refusal
from ..data.preprocessing import denormalize
from ..networks.spec import ResNetSpec
from ..runs.classifier import Classifier
from ..runs.dataset import load_dataset
from ..runs.run import Run
from . import report_images
from .grad_cam import grad_cam

TEST_IMAGES = 4
"""the number of test images that are shown where no image is given"""


@dataclass(frozen=True)
class ClassMaps:
    """An image, and where the network sees the class that it predicts."""

    image: str
    """the name of its file, or its number in the test split"""
    seen: np.ndarray
    """the part that the network sees, uint8 `[crop, crop, 3]`"""
    predicted: str
    probability: float
    class_activation_map: np.ndarray
    """`[h, w]` of the last features"""
    grad_cam: np.ndarray
    """`[h, w]` of the features of the stage before the last, which are finer"""


def read_images(files: Sequence[str | os.PathLike[str]]) -> dict[str, bytes]:
    """Return the contents of image files by their paths.

    Args:
        files: JPEG, PNG, GIF or BMP.

    Raises:
        ValueError: a file is not an image that can be read.
        OSError: a file cannot be read.
    """
    found = {}
    for file in map(Path, files):
        content = file.read_bytes()
        try:
            decode(tf.constant(content))
        except tf.errors.OpError:
            raise ValueError(
                f"{file} is not an image that can be read: {refusal(content)}"
            ) from None
        found[str(file)] = content
    return found


def class_maps(
    classifier: Classifier, spec: ResNetSpec, run: Run, images: dict[str, bytes]
) -> list[ClassMaps]:
    """Return the maps of images, for the class that the network predicts.

    Args:
        classifier: the network of the run.
        spec: its spec.
        run: the run, whose data gives the images where there are none.
        images: encoded images by name; `{}` for a few test images.
    """
    contents: dict[str, report_images.Content] = dict(images)
    if not contents:
        split = load_dataset(run.recipe(), run).test
        every = max(1, len(split) // TEST_IMAGES)
        spread = split.in_order(Shard(0, every)).as_numpy_iterator()
        contents = {
            f"test image {number * every}": image
            for number, (image, _) in enumerate(islice(spread, TEST_IMAGES))
        }
    inputs = report_images.views_of(list(contents.values()), classifier.preprocessing)
    probabilities = classifier.own_probabilities(inputs)
    classes = probabilities.argmax(axis=1)
    # That of the last stage would be the class activation map again (section 3.1).
    before = list(spec.stages())[-2:][0][-1].name
    return [
        ClassMaps(name, image, classifier.class_names[best], float(row[best]), activation, gradient)
        for name, image, best, row, activation, gradient in zip(
            contents,
            denormalize(classifier.preprocessing, inputs).numpy(),
            classes,
            probabilities,
            report_images.heat_maps(classifier, inputs, classes),
            grad_cam(classifier.model, inputs, classes, f"{before}_out"),
            strict=True,
        )
    ]
