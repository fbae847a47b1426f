"""Make requests for the signatures of any SavedModel."""

import math
from typing import Any

import numpy as np
import tensorflow as tf

from . import sidecars
from .cpp_loader import TYPES, strings

_UNKNOWN_SIDE = 64
"""the side in pixels of probe images for signatures that take any size"""
ROWS = 3
"""the batch size of probe requests for signatures that take any batch size"""
_MOST_VALUES = 2**25
"""the largest number of values in a probe request; more could exhaust memory"""


def probe(signature: str, name: str, info: Any) -> np.ndarray:
    """Return a value for an input, with a different image in each row.

    Args:
        signature: the name of the signature.
        name: the name of the input.
        info: its dtype and shape, a `TensorInfo`.

    Raises:
        ValueError: the dtype or shape of the input is unknown, or a value could exhaust memory.
    """
    random = np.random.default_rng(0)
    dtype = tf.dtypes.as_dtype(info.dtype)
    if info.tensor_shape.unknown_rank and dtype != tf.string:
        raise ValueError(f"{name} is {kind(info)}")
    # The first dimension is the batch.
    dims = [-1] if info.tensor_shape.unknown_rank else [d.size for d in info.tensor_shape.dim]
    shape = [_UNKNOWN_SIDE if size < 0 else size for size in dims]
    if dims and dims[0] < 0:
        shape[0] = ROWS
    count = math.prod(shape)
    if count > (2**10 if dtype == tf.string else _MOST_VALUES):
        raise ValueError(f"{name} is {kind(info)}, which makes a request of {count:,} values")
    if dtype == tf.string:
        images = [
            tf.io.encode_png(random.integers(0, 256, (48 + i, 64, 3), np.uint8)).numpy()
            for i in range(count)
        ]
        if signature == "classify" or "example" in name:
            images = list(map(sidecars.example, images))
        return strings(images).reshape(shape)
    if dtype.is_floating:
        values: np.ndarray = random.normal(size=shape)
    elif dtype.is_integer or dtype.is_bool:
        values = random.integers(0, 2 if dtype.is_bool else 127, shape)
    else:
        raise ValueError(f"{name} is {kind(info)}")
    if np.dtype(dtype.as_numpy_dtype) not in TYPES:
        raise ValueError(f"{name} is {kind(info)}")
    return np.asarray(values, dtype.as_numpy_dtype)


def takes_batches(signature: Any) -> bool:
    """Return whether every input has a batch dimension of any size.

    Args:
        signature: a `SignatureDef`.
    """
    shapes = [info.tensor_shape for info in signature.inputs.values()]
    return all(shape.unknown_rank or (shape.dim and shape.dim[0].size < 0) for shape in shapes)


def kind(info: Any) -> str:
    """Return the dtype and shape of a tensor, such as "float32 [?, 10]".

    Args:
        info: its `TensorInfo`.
    """
    name = tf.dtypes.as_dtype(info.dtype).name
    if info.tensor_shape.unknown_rank:
        return f"{name} of any shape"
    return (
        f"{name}"
        f" [{', '.join('?' if dim.size < 0 else str(dim.size) for dim in info.tensor_shape.dim)}]"
    )
