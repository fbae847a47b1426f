"""Trained image classifiers, of runs or of other origin, with their preprocessing and classes."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import keras
import numpy as np

from ..choices import lookup
from ..data.preprocessing import PREPROCESSING, Preprocessing
from ..networks.build import load
from ..networks.float32 import float32_copy
from ..networks.logits import FeaturesAndLogits, features_and_logits
from .run import Run


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A Keras model with its preprocessing and class names."""

    model: keras.Model
    """maps preprocessed images `[N, crop, crop, 3]` to logits, softmax or one sigmoid unit"""
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    name: str
    run: Run | None = None
    """the run that trained the model, if this package did"""

    @cached_property
    def split(self) -> FeaturesAndLogits:
        """The network in float32, with features and logits as outputs."""
        return features_and_logits(self.model)

    @cached_property
    def _in_float32(self) -> keras.Model:
        return float32_copy(self.model)

    def own_probabilities(self, images: np.ndarray) -> np.ndarray:
        """Return the probabilities that the unsplit model computes in float32.

        They come from the model's own last layer, so they can serve to check `split`.

        Args:
            images: preprocessed images, float32 `[N, crop, crop, 3]`.

        Returns:
            Probabilities, float64 `[N, classes]`.
        """
        outputs = np.asarray(self._in_float32.predict(images, verbose=0), np.float64)
        if self.split.scores == "sigmoid":
            return np.concatenate([1 - outputs, outputs], axis=1)
        if self.split.scores == "softmax":
            return outputs
        powers = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)


def open_run(run: Run | str | os.PathLike[str]) -> Classifier:
    """Open the trained network of a run.

    Args:
        run: a run, or the path of its folder.

    Raises:
        ValueError: the folder is not a run, its training is not complete, or a file is damaged or
            belongs to another run.
    """
    run = run if isinstance(run, Run) else Run(Path(run))
    run.require_trained()
    preprocessing, class_names = Preprocessing.read(run.preprocessing_file), run.class_names()
    model = load(run.model_file)
    crop = preprocessing.crop
    shapes = (None, crop, crop, 3), (None, len(class_names))
    if (model.input_shape, model.output_shape) != shapes:
        raise ValueError(
            f"{run.path} holds files of different runs: {run.class_names_file.name} has"
            f" {len(class_names)} names and {run.preprocessing_file.name} images of {crop} px;"
            f" the network in {run.model_file.name} maps {model.input_shape} to"
            f" {model.output_shape}"
        )
    return Classifier(
        model=model,
        preprocessing=preprocessing,
        class_names=class_names,
        name=run.name,
        run=run,
    )


def of_model(
    model: keras.Model,
    *,
    preprocessing: Preprocessing | str | None,
    class_names: Sequence[str] | None,
    name: str | None = None,
) -> Classifier:
    """Describe a Keras image classifier of any origin.

    Args:
        model: a Functional or Sequential model with one image input and one output of class scores.
        preprocessing: the preprocessing of the model's images: a value, or a name in
            `PREPROCESSING`. It is never guessed.
        class_names: class names in the order of the model's outputs. One sigmoid unit has two; its
            output is the probability of the second.
        name: name of the export; None: the model's name.

    Raises:
        ValueError: an argument is missing or does not fit the model, or the model is not an image
            classifier.
    """
    if preprocessing is None:
        raise ValueError(
            "preprocessing is None; give a Preprocessing or one of"
            f" {', '.join(map(repr, PREPROCESSING))}: it cannot be read from a model"
        )
    if isinstance(preprocessing, str):
        preprocessing = lookup("preprocessing", preprocessing, PREPROCESSING)
    if class_names is None or isinstance(class_names, str):
        raise ValueError(f"class_names is {class_names!r}; give one name per class")
    names = tuple(map(str, class_names))
    classifier = Classifier(
        model=model, preprocessing=preprocessing, class_names=names, name=name or model.name
    )
    classes = classifier.split.model.output["logits"].shape[-1]
    if len(names) != classes:
        raise ValueError(f"class_names has {len(names)} names; {model.name} has {classes} classes")
    unusable = {name for name in names if names.count(name) > 1 or name.splitlines() != [name]}
    if unusable:
        raise ValueError(
            f"class_names has {min(unusable)!r}; give every class a unique name of one line"
        )
    sides, crop = tuple(model.inputs[0].shape[1:3]), preprocessing.crop
    if any(side not in (None, crop) for side in sides):
        raise ValueError(
            f"preprocessing gives images of {crop} x {crop} px; {model.name} takes"
            f" {' x '.join(map(str, sides))}: give one with this crop, such as from `for_size`"
        )
    return classifier
