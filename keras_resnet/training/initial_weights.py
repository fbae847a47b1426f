"""Find and load the weights a training starts from: random, public, or those of an earlier run."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import keras

from ..data.preprocessing import PREPROCESSING, Preprocessing
from ..networks import weights
from ..runs.recipe import Recipe
from ..runs.run import Run, is_run


@dataclass(frozen=True)
class InitialWeights:
    """The weights a training starts from."""

    file: Path | None = None
    """the file of weights; None for random weights"""
    preprocessing: Preprocessing | None = None
    """the preprocessing they were trained with; None if unknown"""
    class_names: tuple[str, ...] | None = None
    """the class names of their classifier; None if unknown"""

    def provenance(self) -> dict[str, str]:
        """Return the path and the SHA-256 of the file; empty for random weights."""
        return {} if self.file is None else fingerprint(self.file)


def fingerprint(file: Path) -> dict[str, str]:
    """Return the absolute path and the SHA-256 of a file.

    Args:
        file: a file of weights.
    """
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return {"file": str(file.resolve()), "sha256": digest}


def find(recipe: Recipe, run: Run) -> InitialWeights:
    """Find the recipe's initial weights.

    Args:
        recipe: the recipe, which names the weights.
        run: the run that starts from them. It resolves their path from any working directory.

    Raises:
        ValueError: the weights are missing, or were trained on images of another size.
    """
    if recipe.weights is None:
        return InitialWeights()
    class_names, preprocessing = None, None
    if recipe.weights == "imagenet":
        path = weights.fetch(recipe.spec)
    else:
        path = run.locate(recipe.weights) or Path(recipe.weights)
    if is_run(path):
        earlier = Run(path)
        earlier.require_trained()
        path, class_names = earlier.model_file, earlier.class_names()
        preprocessing = Preprocessing.read(earlier.preprocessing_file)
    else:
        preprocessing = weights.read(path).preprocessing
        if preprocessing is not None and preprocessing in PREPROCESSING.values():
            # Their authors ignored the orientation of photographs; one's own are upright all the
            # same, and nearly all of ImageNet was.
            preprocessing = replace(preprocessing, exif_orientation=True)
    if preprocessing is not None and recipe.image_size not in (None, preprocessing.crop):
        assert recipe.image_size is not None
        try:
            preprocessing = preprocessing.for_size(recipe.image_size)
        except ValueError:
            raise ValueError(
                f"image_size is {recipe.image_size}; {path} was trained on a mean image of"
                f" {preprocessing.crop} px"
            ) from None
    return InitialWeights(path, preprocessing, class_names)


def load_into(
    initial: InitialWeights, model: keras.Model, recipe: Recipe, class_names: tuple[str, ...]
) -> None:
    """Load initial weights into a network, except for a classifier of other classes.

    Args:
        initial: the initial weights, not random ones.
        model: a network of the recipe.
        recipe: the recipe.
        class_names: the class names of the network's outputs.

    Raises:
        ValueError: the weights belong to another network.
    """
    assert initial.file is not None
    classifier = model.get_layer("predictions")
    new = classifier.get_weights()
    weights.load(model, recipe.spec, initial.file)
    if initial.class_names is not None and initial.class_names != class_names:
        classifier.set_weights(new)
