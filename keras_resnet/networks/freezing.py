"""Freeze and unfreeze the batch norms or the backbone of a model."""

from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import keras
from keras import layers

from ..choices import require
from .backbone import backbone_of


class _Trainable(NamedTuple):
    """Flags of a layer and of each of its variables: is it trainable?"""

    layer: bool
    variables: tuple[tuple[keras.Variable, bool], ...]


_TRAINABLE_BEFORE: WeakKeyDictionary[layers.Layer, _Trainable] = WeakKeyDictionary()
"""the frozen layers with their flags from before"""


def freeze(model: keras.Model, what: str) -> None:
    """Exclude the batch norms of a model, or its whole backbone, from training.

    A frozen batch norm runs in inference mode, even in training: it normalizes by its moving
    statistics and does not update them. Compile the model after this call. `unfreeze` is the
    inverse.

    Args:
        model: a network of this package, or a model that contains one at any depth: in another
            model, in a wrapper such as `TimeDistributed`, or in a user's own layer.
        what: "batch_norm" for every batch norm, including the user's own; "backbone" for all layers
            before the network's classifier or the user's own head.

    Raises:
        ValueError: `what` is neither of these, or the model has no such layers.
    """
    require("what to freeze", what, ("batch_norm", "backbone"))
    if what == "backbone":
        frozen = [layer for part in model._flatten_layers() for layer in _backbone(part)]
    else:
        frozen = [
            layer
            for layer in model._flatten_layers()
            if isinstance(layer, layers.BatchNormalization)
        ]
    if not frozen:
        raise ValueError(f"{model.name} has no {what.replace('_', ' ')} to freeze")
    for layer in frozen:
        # A layer that is already frozen keeps its flags from before the first call.
        if layer.trainable or layer not in _TRAINABLE_BEFORE:
            _TRAINABLE_BEFORE[layer] = _Trainable(
                layer.trainable, tuple((v, v.trainable) for v in layer.weights)
            )
        layer.trainable = False


def unfreeze(model: keras.Model) -> None:
    """Undo `freeze`: make its layers as trainable as they were before.

    Layers and variables that were not trainable before `freeze` stay so. Compile the model after
    this call.

    Args:
        model: the frozen model, or a model that shares its layers.

    Raises:
        ValueError: layers are not trainable, and `freeze` froze none of them. A model that was
            loaded or copied has no record of `freeze`.
    """
    parts = model._flatten_layers()
    frozen = [layer for layer in parts if layer in _TRAINABLE_BEFORE]
    untrainable = next((layer for layer in parts if not layer.trainable), None)
    if not frozen and untrainable is not None:
        raise ValueError(
            f"{untrainable.name} of {model.name} is not trainable, but `freeze` froze nothing of"
            " this model; set model.trainable = False and then True, which makes every layer"
            " trainable"
        )
    for layer in frozen:
        before = _TRAINABLE_BEFORE.pop(layer)
        layer.trainable = before.layer
        for variable, trainable in before.variables:  # with adapters (LoRA), they differ
            variable.trainable = trainable


def _backbone(part: Any) -> list[Any]:
    """Return the layers before the head if `part` is a model with a network's layers."""
    if not isinstance(part, keras.Model):
        return []
    names = backbone_of([layer.name for layer in part.layers])
    return [layer for layer in part.layers if layer.name in names]
