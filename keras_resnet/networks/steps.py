"""List the operations of a folded network, with their weights, for other arithmetic than Keras'."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from .graph import deep_recursion, graph_of, is_layer

Padding = str | list[list[int]]
""""SAME", "VALID", or the zeros before and after each axis of `[N, H, W, C]`"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """One operation, named as its output; `sources` are the names of its inputs."""

    name: str
    sources: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Convolution(Step):
    """A convolution `[N, H, W, in]` to `[N, H', W', out]`."""

    kernel: np.ndarray
    """`[h, w, in, out]`"""
    bias: np.ndarray
    """`[out]`"""
    strides: tuple[int, int] = (1, 1)
    padding: Padding = "VALID"


@dataclass(frozen=True, kw_only=True, eq=False)
class Dense(Step):
    """A matrix product of rows, `[N, in]` to `[N, out]`."""

    kernel: np.ndarray
    """`[in, out]`"""
    bias: np.ndarray
    """`[out]`"""


class Sum(Step):
    """A sum of two tensors of the same shape."""


class ReLU(Step):
    """The positive part."""


class GlobalAverage(Step):
    """The mean over the image, `[N, H, W, C]` to `[N, C]`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pad(Step):
    """Zeros around a tensor `[N, H, W, C]`."""

    paddings: list[list[int]]
    """the zeros before and after each axis"""


@dataclass(frozen=True, kw_only=True, eq=False)
class MaxPool(Step):
    """A maximum over windows."""

    size: tuple[int, int]
    strides: tuple[int, int]
    padding: str
    """"SAME" or "VALID\""""


@dataclass(frozen=True, kw_only=True, eq=False)
class Subsample(Step):
    """Every n-th row and column of an image."""

    strides: tuple[int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Other(Step):
    """Any operation without weights."""

    call: Callable[[Mapping[str, tf.Tensor]], tf.Tensor]
    """maps tensors by the names of `sources` to the output"""


@dataclass(frozen=True, kw_only=True)
class Steps:
    """A network as a list of steps, each after its sources."""

    input: str
    steps: tuple[Step, ...]
    outputs: dict[str, str]
    """the name of the step that gives each output of the network"""

    def users(self) -> dict[str, list[Step]]:
        """Map the name of the input and of every step to the steps that read it."""
        users: dict[str, list[Step]] = {name: [] for name in self.before()}
        for step in self.steps:
            for source in step.sources:
                users[source].append(step)
        return users

    def before(self) -> dict[str, set[str]]:
        """Map the name of the input and of every step to all that it is computed from."""
        before: dict[str, set[str]] = {self.input: set()}
        for step in self.steps:
            before[step.name] = set(step.sources).union(*(before[name] for name in step.sources))
        return before

    def values(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Compute the input and every step in float32, by name."""
        values = {self.input: images}
        for step in self.steps:
            values[step.name] = in_float32(step, *(values[name] for name in step.sources))
        return values


def steps_of(network: keras.Model) -> Steps:
    """List the steps of a network.

    Dropout is left out. A pad that only convolutions read becomes their padding.

    Args:
        network: a model with one input and a dict of outputs, batch norm folded.

    Raises:
        ValueError: a layer with weights is neither a `Conv2D` nor a `Dense`, or has an option that
            networks of this package do not use.
    """
    graph = graph_of(network)
    assert graph is not None and len(graph.inputs) == 1
    found: list[Step] = []
    names: dict[str, int] = {}

    def call(operation: Any, *args: Any, **kwargs: Any) -> str:
        if is_layer(operation, *_IDENTITIES):
            return args[0]
        names[operation.name] = number = names.get(operation.name, -1) + 1
        name = _Name(f"{operation.name}_{number}" if number else operation.name)
        steps = _steps(network, operation, name, args, kwargs)
        found.extend(steps)
        return _Name(steps[-1].name)

    with deep_recursion(len(network.layers)):
        start = _Name(graph.inputs[0].name)
        outputs = graph._run_through_graph(start, operation_fn=lambda one: one, call_fn=call)
    steps = Steps(input=str(start), steps=tuple(found), outputs=outputs)
    return _with_padding_in_convolutions(steps)


class _Name(str):
    """The name of a step where Keras expects a tensor."""


def _steps(
    network: keras.Model, operation: Any, name: str, args: Sequence[Any], kwargs: dict[str, Any]
) -> list[Step]:
    """Return the steps of one call of an operation: itself, and its activation if it has one."""
    inputs = [x for x in keras.tree.flatten((args, kwargs)) if isinstance(x, _Name)]
    common: Any = {"name": name, "sources": tuple(map(str, inputs))}
    if is_layer(operation, layers.Conv2D, layers.Dense):
        _require_plain(network, operation)
        if operation.activation is keras.activations.linear:
            return [_linear(operation, **common)]
        before = f"{name}/linear"
        return [
            _linear(operation, **common | {"name": before}),
            _activation(operation.activation, name, before),
        ]
    if isinstance(operation, layers.Layer) and operation.weights:
        raise ValueError(
            f"layer {operation.name} of {network.name} is a {type(operation).__name__}, whose"
            " weights cannot be int8; export it in float32 or bfloat16, or build it of Conv2D,"
            " Dense, BatchNormalization and layers without weights"
        )
    if is_layer(operation, layers.Activation):
        return [_activation(operation.activation, name, common["sources"][0])]
    if is_layer(operation, layers.ReLU) and (
        operation.max_value is None and not operation.negative_slope and not operation.threshold
    ):
        return [ReLU(**common)]
    if is_layer(operation, layers.Add) and len(inputs) == 2:
        return [Sum(**common)]
    if is_layer(operation, layers.ZeroPadding2D):
        rows, columns = map(list, operation.padding)
        channels_last = operation.data_format == "channels_last"
        # "channels_first" pads the last two axes, whatever they are.
        sides = [[0, 0], rows, columns, [0, 0]] if channels_last else [[0, 0]] * 2 + [rows, columns]
        return [Pad(**common, paddings=sides)]
    if getattr(operation, "data_format", None) == "channels_last":
        if is_layer(operation, layers.GlobalAveragePooling2D) and not operation.keepdims:
            return [GlobalAverage(**common)]
        if is_layer(operation, layers.MaxPooling2D):
            size, strides = tuple(operation.pool_size), tuple(operation.strides)
            padding = operation.padding.upper()
            return [MaxPool(**common, size=size, strides=strides, padding=padding)]
        if is_layer(operation, layers.AveragePooling2D) and tuple(operation.pool_size) == (1, 1):
            return [Subsample(**common, strides=tuple(operation.strides))]

    def call(tensors: Mapping[str, tf.Tensor]) -> tf.Tensor:
        filled = keras.tree.map_structure(
            lambda x: tensors[x] if isinstance(x, _Name) else x, (list(args), kwargs)
        )
        return operation(*filled[0], **filled[1])

    return [Other(**common, call=call)]


_IDENTITIES = (layers.Dropout, layers.SpatialDropout2D, layers.GaussianNoise, layers.Identity)


def _activation(function: Any, name: str, source: str) -> Step:
    if function is keras.activations.relu:
        return ReLU(name=name, sources=(source,))
    return Other(name=name, sources=(source,), call=lambda tensors: function(tensors[source]))


def _require_plain(network: keras.Model, layer: Any) -> None:
    """Raise `ValueError` if a layer has options that a `Convolution` or `Dense` step lacks."""
    options = {"data_format": "channels_last", "groups": 1, "dilation_rate": (1, 1)}
    for option, value in options.items():
        if (own := getattr(layer, option, value)) != value:
            raise ValueError(
                f"layer {layer.name} of {network.name} has {option} {own!r}; int8 takes only"
                f" {value!r}: export it in float32 or bfloat16"
            )
    # More weights would belong to an adapter (LoRA) or a quantized kernel.
    of_rows = not is_layer(layer, layers.Dense) or len(layer.input.shape) == 2
    if not of_rows or len(layer.weights) != 1 + layer.use_bias:
        raise ValueError(
            f"layer {layer.name} of {network.name} is not a plain product with a kernel; export it"
            " in float32 or bfloat16"
        )


def _linear(layer: Any, **common: Any) -> Convolution | Dense:
    kernel, *others = (np.asarray(weight, np.float32) for weight in layer.get_weights())
    bias = others[0] if others else np.zeros(kernel.shape[-1], np.float32)
    if is_layer(layer, layers.Dense):
        return Dense(**common, kernel=kernel, bias=bias)
    strides, padding = tuple(layer.strides), layer.padding.upper()
    return Convolution(**common, kernel=kernel, bias=bias, strides=strides, padding=padding)


def _with_padding_in_convolutions(network: Steps) -> Steps:
    users = network.users()
    pads = {
        step.name: step
        for step in network.steps
        if isinstance(step, Pad)
        and step.paddings[3] == [0, 0]
        and step.name not in network.outputs.values()
        and all(isinstance(u, Convolution) and u.padding == "VALID" for u in users[step.name])
    }
    steps = [
        replace(step, sources=pad.sources, padding=pad.paddings)
        if isinstance(step, Convolution) and (pad := pads.get(step.sources[0]))
        else step
        for step in network.steps
        if step.name not in pads
    ]
    return replace(network, steps=tuple(steps))


def in_float32(step: Step, *tensors: tf.Tensor) -> tf.Tensor:
    """Compute a step in float32.

    Args:
        step: the step.
        tensors: its inputs, in the order of its sources; then a kernel and a bias, if those of a
            convolution or dense layer are stored elsewhere.
    """
    match step:
        case Convolution() | Dense():
            x, kernel, bias = tensors if len(tensors) > 1 else (*tensors, step.kernel, step.bias)
            if isinstance(step, Convolution):
                return tf.nn.bias_add(tf.nn.conv2d(x, kernel, step.strides, step.padding), bias)
            return tf.nn.bias_add(tf.matmul(x, kernel), bias)
        case Sum():
            return tf.add(*tensors)
        case ReLU():
            return tf.nn.relu(tensors[0])
        case GlobalAverage():
            return tf.reduce_mean(tensors[0], axis=[1, 2])
        case Pad():
            return tf.pad(tensors[0], step.paddings)
        case MaxPool():
            return tf.nn.max_pool2d(tensors[0], step.size, step.strides, step.padding)
        case Subsample():
            return tensors[0][:, :: step.strides[0], :: step.strides[1]]
        case Other():
            return step.call(dict(zip(step.sources, tensors, strict=True)))
    raise AssertionError(step)
