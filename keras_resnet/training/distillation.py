"""Distill: train a network on the logits of a trained teacher as well as on the labels.

Hinton, Vinyals and Dean 2015, *Distilling the Knowledge in a Neural Network*, section 2.
"""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ..data.preprocessing import Preprocessing
from ..networks.build import build, load
from ..networks.graph import deep_recursion
from ..runs.recipe import Recipe
from ..runs.run import Run, is_run
from .initial_weights import fingerprint
from .keras_patches import prepare

Answers = Callable[[tf.Tensor], tf.Tensor]
"""a function from preprocessed images `[N, H, W, 3]` to logits `[N, classes]`"""


def find(
    recipe: Recipe, run: Run, class_names: tuple[str, ...], preprocessing: Preprocessing
) -> Run | None:
    """Find the recipe's teacher, and verify that it fits the run.

    Args:
        recipe: the recipe, which names the teacher.
        run: the student's run. It resolves the teacher's path from any working directory.
        class_names: the class names of the run.
        preprocessing: the preprocessing of the run.

    Returns:
        The teacher's run, or None if the recipe names no teacher.

    Raises:
        ValueError: the teacher is missing or not fully trained, has other classes or another
            preprocessing, or has changed since the run began.
    """
    if recipe.teacher is None:
        return None
    path = run.locate(recipe.teacher) or Path(recipe.teacher)
    if not is_run(path):
        raise ValueError(f"teacher is {recipe.teacher!r}; give the folder of a finished run")
    teacher = Run(path)
    teacher.require_trained()
    its_preprocessing = Preprocessing.read(teacher.preprocessing_file)
    difference = _difference_of_names(teacher.class_names(), class_names) or (
        _difference_of_preprocessing(its_preprocessing, preprocessing)
    )
    if difference:
        raise ValueError(
            f"teacher is {recipe.teacher!r}, which differs from this run in {difference};"
            " give a teacher of the same classes and preprocessing"
        )
    begun = run.provenance().get("teacher", {})
    if begun and begun.get("sha256") != fingerprint(teacher.model_file)["sha256"]:
        raise ValueError(
            f"{teacher.model_file} has changed since {run.path} began; restore it, or start a new"
            " run"
        )
    return teacher


def _difference_of_names(teacher: tuple[str, ...], student: tuple[str, ...]) -> str:
    """Describe the first difference; "" if there is none."""
    if len(teacher) != len(student):
        return f"the number of classes ({len(teacher)}, not {len(student)})"
    for number, (name, expected) in enumerate(zip(teacher, student, strict=True)):
        if name != expected:
            return f"the name of class {number} ({name!r}, not {expected!r})"
    return ""


def _difference_of_preprocessing(teacher: Preprocessing, student: Preprocessing) -> str:
    """Describe the first difference; "" if there is none."""
    names = [field.name for field in fields(Preprocessing)]
    # A teacher from before this field can see upright images too.
    names.remove("exif_orientation")
    # The crop comes first, because it changes the mean image and the resize too.
    for name in ("crop", *names):
        value, expected = getattr(teacher, name), getattr(student, name)
        if value != expected:
            is_image = max(np.ndim(value), np.ndim(expected)) > 1
            return f"the {name} of images{'' if is_image else f' ({value!r}, not {expected!r})'}"
    return ""


def answers_of(teacher: Run) -> Answers:
    """Return the teacher's function from images to logits, whose weights are never trained.

    It computes in `keras.config.floatx()`, independent of the student's precision. Call
    `answers_of` in the scope of the strategy.

    Args:
        teacher: a finished run.
    """
    trained = load(teacher.model_file)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(keras.config.floatx())
    try:
        network = build(
            teacher.recipe().spec,
            input_shape=trained.input_shape[1:],
            classes=trained.output_shape[-1],
            classifier_activation=None,
        )
    finally:
        keras.config.set_dtype_policy(before)
    network.set_weights(trained.get_weights())
    network.trainable = False
    prepare(network)
    return lambda images: network(images, training=False)


class Student(keras.Model):
    """A network whose training loss mixes the loss of the labels and that of a teacher's logits.

    With the share d and the temperature T the loss is the mean over the batch of

        (1 - d) * (loss of the labels) + d * T^2 * KL(softmax(teacher / T), softmax(student / T))

    Weight penalties and losses of layers are unchanged. The Kullback-Leibler divergence differs
    from the paper's cross-entropy by the entropy of the teacher's distribution: the gradient is the
    same, and a perfect student has a loss of 0. In validation the loss is the loss of the labels.

    The model shares the network's layers. The teacher and its weights are not part of the model.

    Args:
        network: a model with logits `[N, classes]` as output.
        answers: a function from the images to the teacher's logits.
        distillation: the share d.
        temperature: the temperature T.
    """

    def __init__(
        self, network: keras.Model, answers: Answers, distillation: float, temperature: float
    ) -> None:
        with deep_recursion(len(network.layers)):
            super().__init__(network.input, network.output, name=network.name)
        self.dtype_policy = network.dtype_policy
        self._answers = answers
        self._distillation = distillation
        self._temperature = temperature

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Return the loss, a scalar."""
        if not training:
            return super().compute_loss(x, y, y_pred, sample_weight, training=training)
        # Weights per image, so that weight penalties are not scaled.
        weights = tf.fill(
            [tf.shape(y_pred)[0]], tf.constant(1 - self._distillation, keras.config.floatx())
        )
        if sample_weight is not None:
            weights *= tf.cast(sample_weight, weights.dtype)
        of_labels = super().compute_loss(x, y, y_pred, weights, training=training)
        answers = tf.stop_gradient(self._answers(x))
        of_answers = tf.reduce_mean(divergence(answers, y_pred, self._temperature))
        # The optimizer sums the gradients of the replicas.
        share = self._distillation / self.distribute_strategy.num_replicas_in_sync
        return of_labels + tf.cast(share * of_answers, of_labels.dtype)


def divergence(teacher: tf.Tensor, student: tf.Tensor, temperature: float) -> tf.Tensor:
    """Return T^2 * KL(softmax(teacher / T), softmax(student / T)) of each image, `[N]`.

    The factor T^2 keeps the size of the gradients independent of the temperature (section 2).

    Args:
        teacher: logits `[N, classes]`. The result has their dtype.
        student: logits `[N, classes]`.
        temperature: the temperature T.
    """
    wanted = tf.nn.log_softmax(teacher / temperature)
    found = tf.nn.log_softmax(tf.cast(student, teacher.dtype) / temperature)
    return temperature**2 * tf.reduce_sum(tf.exp(wanted) * (wanted - found), axis=-1)
