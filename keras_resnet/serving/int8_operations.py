"""Create the int8 operations of TensorFlow, whose kernels are those of oneDNN.

A quantized tensor is zero-based uint8 if it cannot be negative, and symmetric int8 otherwise, so
that zero is exact in both, and padding with zeros too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from ..networks.steps import Padding

CONVOLUTION = "_FusedQuantizedConv2D"
OPERATORS = (CONVOLUTION, "QuantizeV2", "QuantizedMaxPool")
"""the operators that builds of TensorFlow without oneDNN lack, or that are slow in them"""
LARGEST = {tf.qint8: 127, tf.quint8: 255}


@dataclass(frozen=True)
class Quantized:
    """A tensor of integers that stand for multiples of `step`."""

    values: tf.Tensor
    """qint8 or quint8"""
    bound: float
    """the real number that the largest integer stands for"""

    @property
    def signed(self) -> bool:
        """Whether the tensor can be negative."""
        return self.values.dtype == tf.qint8

    @property
    def limits(self) -> tuple[float, float]:
        """The real numbers that the lowest and the largest integer stand for."""
        return (-self.bound if self.signed else 0.0), self.bound

    @property
    def step(self) -> float:
        """The real number that the integer 1 stands for."""
        return self.bound / LARGEST[self.values.dtype]


def quantize(values: tf.Tensor, bound: float, signed: bool) -> Quantized:
    """Round real numbers to the nearest integers; larger ones than the bound become the bound."""
    result = tf.raw_ops.QuantizeV2(
        input=values,
        min_range=-bound if signed else 0.0,
        max_range=bound,
        T=tf.qint8 if signed else tf.quint8,
        mode="SCALED",
        round_mode="HALF_TO_EVEN",
        narrow_range=signed,  # -127 to 127
    )
    return Quantized(result.output, bound)


def dequantize(tensor: Quantized) -> tf.Tensor:
    """Return the real numbers, float32."""
    return tf.cast(_bytes(tensor), tf.float32) * np.float32(tensor.step)


def convolve(
    tensor: Quantized,
    kernel: tf.Tensor,
    scale: np.ndarray,
    bias: tf.Tensor,
    strides: Sequence[int],
    padding: Padding,
    *,
    bound: float,
    summand: Quantized | None = None,
) -> Quantized:
    """Convolve, add the bias and a summand, take the positive part, and round to uint8.

    Args:
        tensor: `[N, H, W, in]`.
        kernel: int8 `[h, w, in, out]`; it must never change, because kernels of oneDNN keep it.
        scale: the real number that 1 in the kernel stands for, per output channel, `[out]`.
        bias: float32 `[out]`, in real numbers.
        strides: of height and width.
        padding: of the convolution.
        bound: of the output.
        summand: uint8 `[N, H', W', out]`. The result is written over it, so that nothing may read
            it afterwards.
    """
    fused = ["BiasAdd", *(["Sum"] if summand else []), "Relu", "Requantize"]
    limits = [127 * -scale, 127 * scale, *(summand.limits if summand else ()), 0.0, bound]
    values = _convolution(
        [tensor.values, kernel, bias, *([summand.values] if summand else [])],
        [*tensor.limits, *limits],
        tf.quint8,
        fused,
        strides,
        padding,
    )
    return Quantized(values, bound)


def convolve_to_float32(
    tensor: Quantized,
    kernel: tf.Tensor,
    scale: np.ndarray,
    bias: tf.Tensor,
    strides: Sequence[int],
    padding: Padding,
) -> tf.Tensor:
    """Convolve, and return real numbers, float32: of exact sums of integers.

    Args:
        tensor: as in `convolve`.
        kernel: as in `convolve`.
        scale: as in `convolve`.
        bias: as in `convolve`.
        strides: as in `convolve`.
        padding: as in `convolve`.
    """
    # Of channels with different limits the operation would scale the sums by itself.
    equal = np.full(scale.shape, 127.0)
    limits = [*tensor.limits, -equal, equal]
    sums = _convolution([tensor.values, kernel], limits, tf.qint32, [], strides, padding)
    sums = tf.cast(tf.bitcast(sums, tf.int32), tf.float32)
    return tf.nn.bias_add(sums * tf.constant(tensor.step * scale, tf.float32), bias)


def max_pool(
    tensor: Quantized, size: Sequence[int], strides: Sequence[int], padding: str
) -> Quantized:
    """Take the maximum over windows, of uint8 `[N, H, W, C]`."""
    low, high = tensor.limits
    result = tf.raw_ops.QuantizedMaxPool(
        input=tensor.values,
        min_input=low,
        max_input=high,
        ksize=[1, *size, 1],
        strides=[1, *strides, 1],
        padding=padding,
    )
    return Quantized(result.output, tensor.bound)


def reshape(tensor: Quantized, shape: Sequence[int]) -> Quantized:
    """Return the same numbers in another shape."""
    return _of_bytes(tf.reshape(_bytes(tensor), shape), tensor)


def pad(tensor: Quantized, paddings: Sequence[Sequence[int]]) -> Quantized:
    """Pad with zeros."""
    return _of_bytes(tf.pad(_bytes(tensor), paddings), tensor)


def subsample(tensor: Quantized, strides: Sequence[int]) -> Quantized:
    """Take every n-th row and column of `[N, H, W, C]`."""
    return _of_bytes(_bytes(tensor)[:, :: strides[0], :: strides[1]], tensor)


def copy(tensor: Quantized) -> Quantized:
    """Return the same numbers in memory of their own."""
    return _of_bytes(tf.raw_ops.DeepCopy(x=_bytes(tensor)), tensor)


def _bytes(tensor: Quantized) -> tf.Tensor:
    """Return the integers as int8 or uint8, which more operations take."""
    return tf.bitcast(tensor.values, tf.int8 if tensor.signed else tf.uint8)


def _of_bytes(values: tf.Tensor, like: Quantized) -> Quantized:
    return Quantized(tf.bitcast(values, like.values.dtype), like.bound)


def _convolution(
    tensors: list[tf.Tensor],
    limits: list[Any],
    dtype: tf.DType,
    fused: list[str],
    strides: Sequence[int],
    padding: Padding,
) -> tf.Tensor:
    """Add a convolution to the graph.

    Its name begins with "_", so that Python has no function for it. Limits are constants: kernels
    of oneDNN are cached by the address of their limits.
    """
    source, kernel, *others = map(tf.convert_to_tensor, tensors)
    tensors = [source, tf.bitcast(kernel, tf.qint8), *others]
    constants = [tf.constant(limit, tf.float32) for limit in limits]
    explicit = [] if isinstance(padding, str) else [n for pair in padding for n in pair]
    summand = tensors[3].dtype if "Sum" in fused else dtype
    attributes = {
        "Tinput": _type(tensors[0].dtype),
        "Tfilter": _type(tf.qint8),
        "Tbias": _type(tf.float32),
        "Tsummand": _type(summand),
        "out_type": _type(dtype),
        "Tdevice_inputs": _types([tensor.dtype for tensor in tensors]),
        "Thost_inputs": _types([tf.float32] * len(constants)),
        "Tdevice_outputs": _types([dtype]),
        "Thost_outputs": _types([tf.float32] * 2),
        "data_format": _Attribute(s=b"NHWC"),
        "strides": _integers([1, *strides, 1]),
        "dilations": _integers([1, 1, 1, 1]),
        "padding": _Attribute(s=padding.encode() if isinstance(padding, str) else b"EXPLICIT"),
        "explicit_paddings": _integers(explicit),
        "is_filter_const": _Attribute(b=True),
        "is_bias_const": _Attribute(b=True),
        "fused_ops": _Attribute(list=_Attribute.ListValue(s=[name.encode() for name in fused])),
        "alpha": _Attribute(f=0.0),
    }
    operation = tf.compat.v1.get_default_graph().create_op(
        CONVOLUTION,
        [*tensors, *constants],
        [dtype, tf.float32, tf.float32],
        name="int8_convolution",
        attrs=attributes,
    )
    output = operation.outputs[0]
    # It has no shape function either; Conv2D's knows the same arguments.
    output.set_shape([None, None, None, tensors[1].shape[-1]])
    return output


_Attribute = tf.compat.v1.AttrValue


def _type(dtype: tf.DType) -> Any:
    return _Attribute(type=dtype.as_datatype_enum)


def _types(dtypes: Sequence[tf.DType]) -> Any:
    values = [dtype.as_datatype_enum for dtype in dtypes]
    return _Attribute(list=_Attribute.ListValue(type=values))


def _integers(values: Sequence[int]) -> Any:
    return _Attribute(list=_Attribute.ListValue(i=values))
