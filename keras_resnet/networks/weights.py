"""Load weights of this package and of other libraries into networks.

A file is read into one value, a `Checkpoint`: arrays under the names of our layers, and the
properties that its source fixes. Shapes cannot distinguish the paper's ResNet-50 from v1.5, or
option A from the plain network. So a checkpoint is loaded into a network only if shortcut, stride
placement, order and preprocessing agree. No pickle is read.
"""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import keras
import numpy as np

from ..data.preprocessing import Preprocessing
from .paper import NETWORKS
from .spec import ResNetSpec, Shortcut
from .weight_files import Checkpoint, read

__all__ = ["PUBLISHED", "PUBLISHED_AT", "SOURCES", "Checkpoint", "fetch", "load", "read"]

# Properties that are fixed by a source but not stored in its files.
SOURCES: dict[str, dict[str, str]] = {
    "keras.applications": {"shortcut": "B", "stride_on": "1x1", "order": "post"},
    "torchvision": {"shortcut": "B", "stride_on": "3x3", "order": "post"},
}

PUBLISHED_AT = "https://storage.googleapis.com/tensorflow/keras-applications/resnet/"
# MD5 of `..._tf_kernels.h5` and `..._tf_kernels_notop.h5` (keras/src/applications/resnet.py). The
# hash matters: an older file with the first name holds other layers.
PUBLISHED: dict[str, tuple[str, str]] = {
    "resnet50": ("2cb95161c43110f7111970584f804107", "4d473c1dd8becc155b73f8504c6f6626"),
    "resnet101": ("f1aeb4b969a6efcfb50fad2f0c20cfc5", "88cf7a10940856eca736dc7b7e228a21"),
    "resnet152": ("100835be76be38e30d865e96f2aaae62", "ee4c566cf9a93f14d82f913c2dc6dd0c"),
}


def fetch(spec: ResNetSpec, *, top: bool = True) -> Path:
    """Download the ImageNet weights of keras.applications, unless they are in Keras' cache.

    Args:
        spec: the network.
        top: whether the classifier is included.

    Returns:
        The path of the file.

    Raises:
        ValueError: no weights are published for this network, or the file has another hash.
        ConnectionError: the weights could not be downloaded.
    """
    name = next((name for name in PUBLISHED if NETWORKS[name] == spec), None)
    if name is None:
        raise ValueError(
            f"keras.applications publishes no ImageNet weights for {spec.name}, only for"
            f" {', '.join(PUBLISHED)} (shortcut 'B', stride_on '1x1', order 'post'); for resnet18,"
            " resnet34 and stride_on '3x3' give the path of a torchvision or timm .safetensors"
            " file, such as https://huggingface.co/timm/resnet18.tv_in1k has"
        )
    file = f"{name}_weights_tf_dim_ordering_tf_kernels{'' if top else '_notop'}.h5"
    md5 = PUBLISHED[name][0 if top else 1]
    try:
        return Path(
            keras.utils.get_file(file, PUBLISHED_AT + file, cache_subdir="models", file_hash=md5)
        )
    except ValueError:
        raise ValueError(
            f"{PUBLISHED_AT}{file} is not the published file: its MD5 is not {md5}"
        ) from None
    except Exception as error:  # Keras raises nothing narrower here
        raise ConnectionError(
            f"{error}; download it elsewhere and give its path as weights"
        ) from None


def load(
    model: keras.Model,
    spec: ResNetSpec,
    path: str | Path,
    *,
    preprocessing: Preprocessing | None = None,
) -> Checkpoint:
    """Load the weights of a file into a network.

    Three differences give a warning. A classifier of another shape keeps its own weights. Layers of
    the file that do not belong to the network are left out. If the network's images do not have
    three channels, the first convolution is adapted. Layers of the model that are not in `spec`,
    such as a user's own head, stay unchanged.

    Args:
        model: a network of `spec`, or a model with its layers.
        spec: the network.
        path: keras.applications' `.h5`, or `.weights.h5` saved from it; torchvision's or timm's
            `.safetensors`; this package's `.weights.h5` or `.keras`; or a file of a model that
            contains such a network.
        preprocessing: the preprocessing of the network's images; None if any is accepted.

    Returns:
        The content of the file.

    Raises:
        ValueError: the file cannot be read, or holds another network. The message names the
            shortcut, stride placement, order or preprocessing that differs, or the first name or
            shape. The model stays unchanged.
    """
    checkpoint = read(path)
    _refuse_other_networks(checkpoint, spec, preprocessing)
    names = {layer.name for layer in spec.layers(224, 1)}
    variables = {
        f"{layer.name}/{variable.name}": variable
        for layer in model.layers
        if layer.name in names
        for variable in layer.weights
    }
    arrays = dict(checkpoint.arrays)
    head = variables.get("predictions/kernel")
    other = "" if head is None else _other_classifier(checkpoint, *head.shape)
    if head is None or other:
        for name in ("predictions/kernel", "predictions/bias"):
            arrays.pop(name, None)
            variables.pop(name, None)
    first = "conv1_conv/kernel"
    if first in arrays and first in variables:
        arrays[first] = _for_channels(arrays[first], variables[first].shape[2])
    _refuse_other_shapes(
        checkpoint, arrays, {name: tuple(variable.shape) for name, variable in variables.items()}
    )

    if other:
        assert head is not None
        warnings.warn(
            f"{checkpoint.path} has {other}, {model.name} has {head.shape[1]} classes:"
            " the backbone is loaded, the classifier keeps its own weights",
            stacklevel=2,
        )
    if checkpoint.left_out:
        warnings.warn(
            f"{checkpoint.path} has layers that do not belong to the network and are left out:"
            f" {', '.join(checkpoint.left_out)}",
            stacklevel=2,
        )
    if arrays.get(first) is not checkpoint.arrays.get(first):
        warnings.warn(
            f"{checkpoint.path} is for images of 3 channels, {model.name} takes"
            f" {arrays[first].shape[2]}: the first convolution is adapted",
            stacklevel=2,
        )
    for name, variable in variables.items():
        variable.assign(arrays[name])
    return checkpoint


def _other_classifier(checkpoint: Checkpoint, features: int, classes: int) -> str:
    """Describe the file's classifier if it does not fit the network's; otherwise return ""."""
    kernel = checkpoint.arrays.get("predictions/kernel")
    if checkpoint.classes is None:
        return "no classifier"
    if checkpoint.classes != classes:
        return f"{checkpoint.classes} classes"
    if kernel is not None and kernel.shape != (features, classes):
        return f"a classifier of shape {kernel.shape}"
    return ""


def _for_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Adapt a kernel `[k, k, 3, C]` to another number of channels, like timm's `adapt_input_conv`.

    With one channel or a multiple of three, an image whose channels are equal gives the same
    features as the same gray image in RGB.
    """
    if kernel.ndim != 4 or kernel.shape[2] != 3 or channels == 3:
        return kernel
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    return kernel[:, :, np.arange(channels) % 3] * np.float32(3 / channels)


def _refuse_other_networks(
    checkpoint: Checkpoint, spec: ResNetSpec, preprocessing: Preprocessing | None
) -> None:
    for axis, values in _axes(checkpoint, spec).items():
        if getattr(spec, axis) not in values:
            raise ValueError(
                f"{checkpoint.path}: the network in this file ({checkpoint.source}) has {axis} "
                f"{' or '.join(map(repr, values))}, this one has {getattr(spec, axis)!r}"
            )
    stored = checkpoint.preprocessing
    if (
        preprocessing is not None
        and stored is not None
        and preprocessing.normalization != stored.normalization
    ):
        raise ValueError(
            f"{checkpoint.path}: the network in this file ({checkpoint.source}) was trained on"
            f" images with {stored.describe()}, not {preprocessing.describe()}"
        )


def _axes(checkpoint: Checkpoint, spec: ResNetSpec) -> dict[str, tuple[Any, ...]]:
    """Return the values that the file's network may have on each axis that matters for `spec`."""
    if checkpoint.source in SOURCES:
        axes: dict[str, tuple[Any, ...]] = {
            axis: (value,) for axis, value in SOURCES[checkpoint.source].items()
        }
    else:
        layers = checkpoint.layers
        pre = any(name.endswith("_preact_bn") for name in layers)
        joined = {
            name.rpartition("_")[0] for name in layers if name.endswith("_out" if pre else "_add")
        }
        projected = {name.removesuffix("_0_conv") for name in layers if name.endswith("_0_conv")}
        axes = {
            "order": ("pre" if pre else "post",),
            # Only a 3x3 convolution with a stride is padded by a separate layer.
            "stride_on": ("3x3" if any(name.endswith("_2_pad") for name in layers) else "1x1",),
            "shortcut": tuple(
                choice
                for choice in (*get_args(Shortcut), None)
                if _shortcuts(replace(spec, shortcut=choice)) == (joined, projected)
            ),
        }
        if not axes["shortcut"]:
            del axes["shortcut"]  # the units differ: a message about names is clearer
    if spec.block == "basic":
        del axes["stride_on"]
    return axes


def _shortcuts(spec: ResNetSpec) -> tuple[set[str], set[str]]:
    """Return the names of the units with a shortcut, and of the units with a projection."""
    blocks = [block for stage in spec.stages() for block in stage]
    return (
        {block.name for block in blocks if block.shortcut is not None},
        {block.name for block in blocks if block.shortcut == "projection"},
    )


def _refuse_other_shapes(
    checkpoint: Checkpoint, arrays: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]
) -> None:
    unknown = next((name for name in arrays if name not in shapes), None)
    for name, shape in shapes.items():
        if name not in arrays:
            has = f", but has {unknown}" if unknown else ""
            raise ValueError(f"{checkpoint.path} has no {name}{has}")
        if arrays[name].shape != shape:
            raise ValueError(
                f"{checkpoint.path}: {name} has shape {arrays[name].shape}, in the network {shape}"
            )
    if unknown:
        raise ValueError(f"{checkpoint.path} has {unknown}, but the network has no such variable")
