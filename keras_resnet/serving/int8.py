"""Run the steps of a network in int8, with ReLU and residual sums inside of convolutions."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from ..networks.steps import (
    Convolution,
    Dense,
    GlobalAverage,
    MaxPool,
    Pad,
    ReLU,
    Steps,
    Subsample,
    Sum,
    in_float32,
)
from . import int8_operations as int8
from .int8_operations import Quantized
from .quantization import quantized_kernel


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """A convolution that computes the ReLU after it too, with or without a sum between them."""

    convolution: str
    summand: str | None = None
    shifted: str | None = None
    """the convolution that gives the summand, if it is computed for this sum alone"""
    copied: bool = False
    """whether the summand has other readers, which may come after it is written over"""


def fusions(network: Steps, float32: frozenset[str] = frozenset()) -> dict[str, Fusion]:
    """Find the convolutions that can be fused, by the name of the ReLU.

    The kernels of a sum exist with a ReLU only, so that networks of order "pre" have none.

    Args:
        network: the network.
        float32: the names of the steps that are not computed in int8.
    """
    steps = {step.name: step for step in network.steps}
    users, before = network.users(), network.before()

    def alone(name: str, kind: type) -> bool:
        """Return whether a step is of a kind in int8, and has one reader."""
        return (
            isinstance(steps.get(name), kind)
            and len(users[name]) == 1
            and name not in network.outputs.values()
            and name not in float32
        )

    found = {}
    for step in network.steps:
        if not isinstance(step, ReLU) or step.name in float32:
            continue
        (source,) = step.sources
        if alone(source, Convolution):
            found[step.name] = Fusion(convolution=source)
        elif alone(source, Sum) and len(set(steps[source].sources)) == 2:
            one, other = sorted(steps[source].sources, key=lambda name: len(before.get(name, ())))
            if not alone(other, Convolution):
                one, other = other, one
            if alone(other, Convolution):
                readers = {user.name for user in users[one]} - {source}
                found[step.name] = Fusion(
                    convolution=other,
                    summand=one,
                    shifted=one if alone(one, Convolution) else None,
                    copied=not readers <= before[other] or one in network.outputs.values(),
                )
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Int8Network:
    """A network as a function that computes convolutions and dense layers in int8.

    All else is computed on integers where these are at hand, and otherwise in float32. Kernels are
    variables, each stored once.
    """

    network: Steps
    bounds: Mapping[str, float]
    """the largest magnitude of every activation, by the name of its step"""
    weights: Mapping[str, "_Weights"]
    fused: Mapping[str, Fusion]

    def __call__(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Compute the outputs of the network."""
        graph = _Graph(self.network, self.bounds, self.weights, self.fused)
        graph.real[self.network.input] = images
        for step in self.network.steps:
            graph.add(step.name)
        return {output: graph.as_real(name) for output, name in self.network.outputs.items()}

    def columns(self, name: str, indices: tf.Tensor) -> tf.Tensor:
        """Return columns of the kernel of a dense layer.

        Args:
            name: the name of the layer.
            indices: the numbers of its outputs, `[N]`.

        Returns:
            float32 `[N, in]`.
        """
        weights = self.weights[name]
        found = tf.transpose(tf.gather(weights.kernel, indices, axis=1))
        if weights.scale is None:
            return found
        return tf.cast(found, tf.float32) * tf.gather(weights.scale, indices)[:, tf.newaxis]


def int8_network(
    network: Steps, bounds: Mapping[str, float], float32: frozenset[str] = frozenset()
) -> Int8Network:
    """Return a network that computes convolutions and dense layers in int8.

    Args:
        network: the network.
        bounds: the largest magnitude of every activation, by the name of its step.
        float32: the names of the steps that are not computed in int8.
    """
    weights = {
        step.name: _Weights.of(step, step.name not in float32)
        for step in network.steps
        if isinstance(step, Convolution | Dense)
    }
    fused = fusions(network, float32)
    return Int8Network(network=network, bounds=bounds, weights=weights, fused=fused)


@dataclass(frozen=True)
class _Weights:
    """The stored weights of a convolution or dense layer."""

    kernel: tf.Variable
    """int8 or float32 `[h, w, in, out]`, or `[in, out]` of a dense layer"""
    bias: tf.Variable
    """float32 `[out]`"""
    scale: np.ndarray | None
    """the real number that 1 in the kernel stands for, `[out]`; None in float32"""

    @classmethod
    def of(cls, step: Convolution | Dense, int8: bool) -> "_Weights":
        """Store the weights of a step."""
        kernel, scale = quantized_kernel(step.kernel) if int8 else (step.kernel, None)
        return cls(tf.Variable(kernel), tf.Variable(step.bias), scale)


class _Graph:
    """A graph in the making: the tensors so far, real and quantized, by the names of steps."""

    def __init__(
        self,
        network: Steps,
        bounds: Mapping[str, float],
        weights: Mapping[str, _Weights],
        fused: Mapping[str, Fusion],
    ) -> None:
        self.steps = {step.name: step for step in network.steps}
        self.bounds, self.weights, self.fused = bounds, weights, fused
        self.real: dict[str, tf.Tensor] = {}
        self.quantized: dict[str, Quantized] = {}
        self.not_negative: set[str] = set()
        # These are computed together with the ReLU after them.
        self.deferred: set[str] = set()
        for name, fusion in fused.items():
            self.deferred |= {fusion.convolution, *self.steps[name].sources}
            self.deferred |= {fusion.shifted} if fusion.shifted else set()

    def as_real(self, name: str) -> tf.Tensor:
        """Return a tensor in float32."""
        if name not in self.real:
            self.real[name] = int8.dequantize(self.quantized[name])
        return self.real[name]

    def as_quantized(self, name: str) -> Quantized:
        """Return a tensor as integers."""
        if name not in self.quantized:
            signed = name not in self.not_negative
            self.quantized[name] = int8.quantize(self.real[name], self.bounds[name], signed)
        return self.quantized[name]

    def add(self, name: str) -> None:
        """Add a step, whose sources are there."""
        step = self.steps[name]
        if name in self.deferred:
            return
        if isinstance(step, ReLU) or (
            isinstance(step, GlobalAverage | Pad | MaxPool | Subsample)
            and step.sources[0] in self.not_negative
        ):
            self.not_negative.add(name)
        source = self.quantized.get(step.sources[0])
        match step:
            case ReLU() if name in self.fused:
                self.quantized[name] = self._fused(self.fused[name], self.bounds[name])
            case Convolution() | Dense():
                self.real[name] = self._linear(step)
            case Pad() if source:
                self.quantized[name] = int8.pad(source, step.paddings)
            case Subsample() if source:
                self.quantized[name] = int8.subsample(source, step.strides)
            case MaxPool() if source and not source.signed:
                self.quantized[name] = int8.max_pool(source, step.size, step.strides, step.padding)
            case _:
                self.real[name] = in_float32(step, *map(self.as_real, step.sources))

    def _linear(self, step: Convolution | Dense) -> tf.Tensor:
        """Return a convolution or matrix product in float32, of integers or of real numbers."""
        weights, (source,) = self.weights[step.name], step.sources
        if weights.scale is None:
            return in_float32(step, self.as_real(source), weights.kernel, weights.bias)
        tensor = self.as_quantized(source)
        if isinstance(step, Convolution):
            return int8.convolve_to_float32(
                tensor, weights.kernel, weights.scale, weights.bias, step.strides, step.padding
            )
        rows = int8.reshape(tensor, [-1, 1, 1, step.kernel.shape[0]])
        kernel = tf.reshape(weights.kernel, [1, 1, *step.kernel.shape])
        result = int8.convolve_to_float32(
            rows, kernel, weights.scale, weights.bias, (1, 1), "VALID"
        )
        return tf.squeeze(result, axis=[1, 2])

    def _fused(self, fusion: Fusion, bound: float, shift: float = 0.0) -> Quantized:
        """Return `relu(convolution + summand + shift)`."""
        step, weights = self.steps[fusion.convolution], self.weights[fusion.convolution]
        assert isinstance(step, Convolution) and weights.scale is not None
        summand = None
        if fusion.summand is not None:
            summand, offset = self._summand(fusion)
            shift = -offset
        return int8.convolve(
            self.as_quantized(step.sources[0]),
            weights.kernel,
            weights.scale,
            weights.bias + shift if shift else weights.bias,
            step.strides,
            step.padding,
            bound=bound,
            summand=summand,
        )

    def _summand(self, fusion: Fusion) -> tuple[Quantized, float]:
        """Return a summand as uint8, and the real number by which it is too large.

        The kernel takes an int8 summand for uint8, so one that can be negative is shifted by its
        bound. The bias of the sum makes up for that.
        """
        assert fusion.summand is not None
        name, bound = fusion.summand, self.bounds[fusion.summand]
        if fusion.shifted is not None:
            return self._fused(Fusion(convolution=fusion.shifted), 2 * bound, shift=bound), bound
        if name in self.not_negative:
            summand = self.as_quantized(name)
            return (int8.copy(summand) if fusion.copied else summand), 0.0
        return int8.quantize(self.as_real(name) + bound, 2 * bound, signed=False), bound
