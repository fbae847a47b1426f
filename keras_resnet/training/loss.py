"""Compute the losses and the accuracy of logits, against class numbers or shares of classes."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from ..runs.recipe import Recipe


class _ClassLoss(keras.losses.Loss):
    """A loss of logits `[N, classes]`, weighted by class.

    Labels are int `[N]`, or the share of each class in each image, `[N, classes]`. The weight of a
    mixed image is the mean of its classes' weights by their shares.
    """

    def __init__(
        self, class_weights: Sequence[float] | None = None, name: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.class_weights = class_weights

    def losses(self, targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Return the unweighted loss of each image, `[N]`."""
        raise NotImplementedError

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """Return the loss of each image, `[N]`."""
        if _are_shares(y_true, y_pred):
            targets = keras.ops.cast(y_true, y_pred.dtype)
        else:
            targets = keras.ops.one_hot(
                keras.ops.cast(y_true, "int32"), y_pred.shape[-1], dtype=y_pred.dtype
            )
        losses = self.losses(targets, y_pred)
        if self.class_weights is None:
            return losses
        weights = keras.ops.convert_to_tensor(self.class_weights, targets.dtype)
        return losses * tf.linalg.matvec(targets, weights)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that create an equal loss."""
        return super().get_config() | {"class_weights": self.class_weights}


@keras.saving.register_keras_serializable(package="keras_resnet")
class CrossEntropy(_ClassLoss):
    """Cross-entropy of logits, with label smoothing and class weights.

    Args:
        label_smoothing: the share of each label that is spread over all classes.
        class_weights: the weight of each class, `[classes]`; None for equal weights.
        name: the name of the loss.
        kwargs: other arguments of `keras.losses.Loss`.
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
        name: str = "cross_entropy",
        **kwargs: Any,
    ) -> None:
        super().__init__(class_weights, name, **kwargs)
        self.label_smoothing = label_smoothing

    def losses(self, targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Return the cross-entropy of each image, `[N]`."""
        return keras.losses.categorical_crossentropy(
            targets, logits, from_logits=True, label_smoothing=self.label_smoothing
        )

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that create an equal loss."""
        return super().get_config() | {"label_smoothing": self.label_smoothing}


@keras.saving.register_keras_serializable(package="keras_resnet")
class BinaryCrossEntropy(_ClassLoss):
    """Binary cross-entropy per class, averaged over classes (Wightman et al. 2021, section 3).

    A class is present if its share is at least `threshold`: both classes of a mixed image can be.

    Args:
        threshold: the smallest share of an image with which a class is present.
        class_weights: the weight of each class, `[classes]`; None for equal weights.
        name: the name of the loss.
        kwargs: other arguments of `keras.losses.Loss`.
    """

    def __init__(
        self,
        threshold: float = 0.2,
        class_weights: Sequence[float] | None = None,
        name: str = "binary_cross_entropy",
        **kwargs: Any,
    ) -> None:
        super().__init__(class_weights, name, **kwargs)
        self.threshold = threshold

    def losses(self, targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Return the mean over classes of each image, `[N]`."""
        present = keras.ops.cast(targets >= self.threshold, logits.dtype)
        return keras.losses.binary_crossentropy(present, logits, from_logits=True)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that create an equal loss."""
        return super().get_config() | {"threshold": self.threshold}


@keras.saving.register_keras_serializable(package="keras_resnet")
class Accuracy(keras.metrics.MeanMetricWrapper):
    """The share of images that are classified correctly.

    The class of a mixed image is the one with the largest share. Labels have one of the two forms
    that the losses take, and the form may change between calls: training can have mixed images when
    validation has none.

    Args:
        name: the name of the metric.
        dtype: the dtype of the sums.
    """

    def __init__(self, name: str = "accuracy", dtype: str | None = None) -> None:
        super().__init__(_is_correct, name=name, dtype=dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that create an equal metric."""
        return {"name": self.name, "dtype": self.dtype}


def _is_correct(y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
    """Return 1 for each image that is classified correctly, otherwise 0: float `[N]`."""
    y_true, y_pred = keras.ops.convert_to_tensor(y_true), keras.ops.convert_to_tensor(y_pred)
    labels = keras.ops.argmax(y_true, axis=-1) if _are_shares(y_true, y_pred) else y_true
    predicted = keras.ops.argmax(y_pred, axis=-1)
    correct = keras.ops.equal(keras.ops.cast(labels, predicted.dtype), predicted)
    return keras.ops.cast(correct, keras.config.floatx())


def _are_shares(labels: tf.Tensor, logits: tf.Tensor) -> bool:
    return len(labels.shape) == len(logits.shape)


def loss_of(recipe: Recipe, class_weights: Sequence[float] | None = None) -> keras.losses.Loss:
    """Return the loss of a recipe for logits `[N, classes]`.

    Args:
        recipe: the recipe.
        class_weights: the weight of each class, `[classes]`; None for equal weights.
    """
    if recipe.loss == "binary_cross_entropy":
        return BinaryCrossEntropy(class_weights=class_weights)
    return CrossEntropy(recipe.label_smoothing, class_weights)
