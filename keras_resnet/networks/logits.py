"""Find the logits and features of image classifiers."""

from dataclasses import dataclass
from typing import Any, Literal

import keras
import tensorflow as tf
from keras import layers, ops

from .float32 import UncopiedLayer, in_float32
from .graph import deep_recursion, graph_of, input_of, is_layer, operation_of, rebuild, unused_name

Scores = Literal["logits", "softmax", "sigmoid"]


@dataclass(frozen=True)
class FeaturesAndLogits:
    """An image classifier in float32 that returns its logits and, if identified, its features."""

    model: keras.Model
    """maps images `[N, H, W, 3]` to {"logits": `[N, classes]`, "features": `[N, C]`}; it consists
    of copied layers, without nested models"""
    scores: Scores
    """the kind of output of the original model"""
    note: str
    """the reason if there are no features, otherwise empty"""


def features_and_logits(model: keras.Model) -> FeaturesAndLogits:
    """Find the features and the logits of an image classifier.

    A final softmax is removed. One sigmoid unit z becomes the logits `[0, z]`, whose softmax is
    `[1 - sigmoid(z), sigmoid(z)]`. Features are the input of the last dense layer, or of the last
    1x1 convolution on `[N, 1, 1, C]`.

    Args:
        model: a Functional or Sequential model with one input `[N, H, W, 3]` and one output
            `[N, classes]`: the logits of a dense or convolutional layer, a softmax, or one sigmoid
            unit.

    Raises:
        ValueError: the model, its input or its output is of another kind.
    """
    _require_image_classifier(model)
    flat = rebuild(model, in_float32)
    scores = flat.outputs[0]
    classes = scores.shape[-1]
    logits = before_reshaping(scores)
    last = operation_of(logits)
    activation = _activation(last)
    if activation in ("softmax", "sigmoid"):
        if not is_layer(last, *_LINEAR_LAYERS):
            logits = input_of(logits)
        elif len(last._inbound_nodes) == 1:
            # The layer is our own copy, and calling the new model runs it without an activation.
            last.activation = keras.activations.linear
        else:
            raise _unknown_output(model, last, "called more than once")
    elif activation != "log_softmax":
        linear = last
        if is_layer(last, layers.GlobalAveragePooling2D):
            linear = operation_of(before_reshaping(input_of(logits)))
        if not is_layer(linear, *_LINEAR_LAYERS) or _activation(linear) != "linear":
            raise _unknown_output(model, linear, _activation(linear))
    if activation == "sigmoid" and classes > 1:
        raise ValueError(
            f"{model.name} ends in {classes} sigmoid units, which score labels independently; give"
            " a model of one class per image, which ends in logits, softmax or one sigmoid unit"
        )
    if activation != "sigmoid" and classes == 1:
        raise ValueError(
            f"{model.name} ends in one unit without a sigmoid; for two classes end in one sigmoid"
            " unit or in two units"
        )
    features, note = _features(logits)
    names = {operation.name for operation in flat.operations}
    outputs = {"logits": _as_rows(logits, unused_name("logits", names))}
    if features is not None:
        outputs["features"] = _as_rows(features, unused_name("features", names))
    if activation == "sigmoid":
        outputs["logits"] = ops.pad(outputs["logits"], ((0, 0), (1, 0)))
        operation_of(outputs["logits"]).name = unused_name("two_logits", names)
    with deep_recursion(len(flat.layers)):
        split = keras.Model(flat.inputs[0], outputs, name=model.name)
    kinds: dict[str, Scores] = {"softmax": "softmax", "sigmoid": "sigmoid"}
    return FeaturesAndLogits(model=split, scores=kinds.get(activation, "logits"), note=note)


def _require_image_classifier(model: Any) -> None:
    """Raise `ValueError` unless a model maps one batch of images to one row of scores per image."""
    if not isinstance(model, keras.Model):
        raise ValueError(f"model is a {type(model).__name__}; give a keras.Model")
    graph = graph_of(model)
    if graph is None and type(model).call is keras.Sequential.call:
        raise ValueError(f"{model.name} is not built; begin it with a keras.Input")
    if graph is None:
        raise ValueError(
            f"{model.name} is a {type(model).__name__} with a `call` of its own, whose last layer"
            " cannot be found; give a Functional or Sequential model"
        )
    for kind, tensors, structure in (
        ("inputs", graph.inputs, graph.input),
        ("outputs", graph.outputs, graph.output),
    ):
        if len(tensors) != 1:
            raise ValueError(f"{model.name} has {len(tensors)} {kind}; give a model with one")
        if isinstance(structure, dict):
            raise ValueError(f"{model.name} has a dict of {kind}; give a model with one tensor")
    images, scores = graph.inputs[0].shape, graph.outputs[0].shape
    if len(images) != 4 or images[-1] != 3:
        raise ValueError(
            f"{model.name} takes inputs of shape {images}; give a model of images (N, H, W, 3)"
        )
    if len(scores) != 2 or scores[-1] is None:
        raise ValueError(
            f"{model.name} has outputs of shape {scores}; give a model with one score per class,"
            " (N, classes)"
        )


def _unknown_output(model: keras.Model, last: Any, detail: str) -> ValueError:
    last = last.layer if isinstance(last, UncopiedLayer) else last
    end = f"{type(last).__name__} {last.name!r}" + f" ({detail})" * bool(detail)
    return ValueError(
        f"{model.name} ends in {end}, from which logits cannot be derived; end it in a dense layer"
        " or a convolution without activation, softmax over the classes, or one sigmoid unit"
    )


_LINEAR_LAYERS = (layers.Dense, layers.Conv2D)


_WITHOUT_EFFECT = (
    layers.ActivityRegularization,
    layers.AlphaDropout,
    layers.Dropout,
    layers.Flatten,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.Identity,
    layers.Reshape,
    layers.SpatialDropout2D,
)


_ACTIVATIONS = {
    "linear": (keras.activations.linear,),
    "log_softmax": (keras.activations.log_softmax, ops.log_softmax, tf.nn.log_softmax),
    "sigmoid": (keras.activations.sigmoid, ops.sigmoid, tf.nn.sigmoid),
    "softmax": (keras.activations.softmax, ops.softmax, tf.nn.softmax),
}


def _activation(operation: Any) -> str:
    """Return the name of an operation's activation, such as "softmax", or "" if it has none."""
    if is_layer(operation, layers.Activation, *_LINEAR_LAYERS):
        function = operation.activation
        for name, functions in _ACTIVATIONS.items():
            if function in functions:
                return name
        return getattr(function, "__name__", type(function).__name__)
    # The classes of keras.ops' operations are not public.
    kind = type(operation).__name__
    if is_layer(operation, layers.Softmax) or (
        kind in ("Softmax", "LogSoftmax") and not isinstance(operation, layers.Layer)
    ):
        rank = len(operation.input.shape)
        axes = operation.axis if isinstance(operation.axis, (list, tuple)) else [operation.axis]
        if [axis if axis is None else axis % rank for axis in axes] != [rank - 1]:
            return f"axis {operation.axis}"
        return "log_softmax" if kind == "LogSoftmax" else "softmax"
    return "sigmoid" if kind == "Sigmoid" and not isinstance(operation, layers.Layer) else ""


def before_reshaping(tensor: Any) -> Any:
    """Skip back over operations that do not change a tensor's values at inference.

    Args:
        tensor: a tensor in the graph of a model.

    Returns:
        The tensor that they read, which has the same values, perhaps in another shape of rows.
    """
    while True:
        operation = operation_of(tensor)
        if not (
            is_layer(operation, *_WITHOUT_EFFECT)
            or (is_layer(operation, layers.Activation) and _activation(operation) == "linear")
            or type(operation).__name__ in ("Cast", "Identity", "Reshape", "Squeeze")
            and not isinstance(operation, layers.Layer)
        ):
            return tensor
        before = input_of(tensor)
        if before.shape != tensor.shape and not (_is_rows(before) and _is_rows(tensor)):
            return tensor
        if not all(keras.backend.is_float_dtype(t.dtype) for t in (before, tensor)):
            return tensor
        tensor = before


def _features(logits: Any) -> tuple[Any, str]:
    """Return the classifier's input, `[N, C]` or `[N, 1, 1, C]`; None and the reason if unclear."""
    logits = before_reshaping(logits)
    classifier = operation_of(logits)
    if not is_layer(classifier, *_LINEAR_LAYERS) or _activation(classifier) != "linear":
        kind = type(classifier).__name__
        return None, f"the logits come from a {kind}, not from a dense layer on features"
    features = input_of(logits)
    if not _is_rows(features):
        return None, "the classifier is a convolution over several positions of the image"
    return features, ""


def _is_rows(tensor: Any) -> bool:
    """Return whether a tensor has the shape `[N, C]`, `[N, 1, C]`, `[N, 1, 1, C]`, ..."""
    return tensor.shape[-1] is not None and all(side == 1 for side in tensor.shape[1:-1])


def _as_rows(tensor: Any, name: str) -> Any:
    """Reshape `[N, 1, 1, C]` to `[N, C]`, if needed, by a layer of the given name."""
    if len(tensor.shape) == 2:
        return tensor
    return layers.Reshape((tensor.shape[-1],), dtype="float32", name=name)(tensor)
