"""Weights that others trained, and our own, in these networks.

A file is read to one value, a `Checkpoint`: arrays under the names of our layers, and what its source fixes.
Shapes alone cannot tell the paper's ResNet-50 from v1.5, nor option A from the plain network, so a checkpoint
goes into a network only where shortcut, stride placement, order and preprocessing agree. No pickle is read.
"""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import keras
import numpy as np

from ..data import Preprocessing
from ..spec import NETWORKS, ResNetSpec, Shortcut
from .files import Checkpoint, read

__all__ = ["PUBLISHED", "PUBLISHED_AT", "SOURCES", "Checkpoint", "fetch", "load", "read"]

# What a source fixes and its files do not say: shortcut, stride placement, order.
SOURCES: dict[str, dict[str, str]] = {
    "keras.applications": {"shortcut": "B", "stride_on": "1x1", "order": "post"},
    "torchvision": {"shortcut": "B", "stride_on": "3x3", "order": "post"},
}

PUBLISHED_AT = "https://storage.googleapis.com/tensorflow/keras-applications/resnet/"
# MD5 of `..._tf_kernels.h5` and `..._tf_kernels_notop.h5` (keras/src/applications/resnet.py). The hash matters: an
# older file with the same name as the first holds other layers.
PUBLISHED: dict[str, tuple[str, str]] = {
    "resnet50": ("2cb95161c43110f7111970584f804107", "4d473c1dd8becc155b73f8504c6f6626"),
    "resnet101": ("f1aeb4b969a6efcfb50fad2f0c20cfc5", "88cf7a10940856eca736dc7b7e228a21"),
    "resnet152": ("100835be76be38e30d865e96f2aaae62", "ee4c566cf9a93f14d82f913c2dc6dd0c"),
}


def fetch(spec: ResNetSpec, *, top: bool = True) -> Path:
    """The ImageNet weights that keras.applications publishes for `spec`, downloaded once to Keras' cache.

    Raises:
        ValueError: none are published for this network, or what came has another hash.
        ConnectionError: they could not be downloaded.
    """
    name = next((name for name in PUBLISHED if NETWORKS[name] == spec), None)
    if name is None:
        raise ValueError(
            f"keras.applications publishes no ImageNet weights for {spec.name}, only for {', '.join(PUBLISHED)} "
            "(shortcut 'B', stride_on '1x1', order 'post'); for resnet18, resnet34 and stride_on '3x3' give the path "
            "of a torchvision or timm .safetensors file, such as https://huggingface.co/timm/resnet18.tv_in1k has"
        )
    file = f"{name}_weights_tf_dim_ordering_tf_kernels{'' if top else '_notop'}.h5"
    md5 = PUBLISHED[name][0 if top else 1]
    try:
        return Path(keras.utils.get_file(file, PUBLISHED_AT + file, cache_subdir="models", file_hash=md5))
    except ValueError:
        raise ValueError(f"{PUBLISHED_AT}{file} is not the published file: its MD5 is not {md5}") from None
    except Exception as error:  # what Keras raises here is an Exception and nothing narrower
        raise ConnectionError(f"{error}; download it elsewhere and give its path as weights") from None


def load(
    model: keras.Model, spec: ResNetSpec, path: str | Path, *, preprocessing: Preprocessing | None = None
) -> Checkpoint:
    """Puts the weights in a file into `model`, a network of `spec`. Returns what the file held.

    A classifier with another number of classes keeps its own weights, with a warning that says so. Layers that are
    not of `spec`, such as a user's own head, are left alone.

    Args:
        path: keras.applications' `.h5`, or `.weights.h5` saved from it; torchvision's or timm's `.safetensors`;
            this package's `.weights.h5` or `.keras`.
        preprocessing: how the network's pictures are prepared; None where the caller leaves that to the file.

    Raises:
        ValueError: the file cannot be read, or holds another network: its shortcut, stride placement, order,
            preprocessing, or the first name or shape that differs is named. The model is left as it was.
    """
    checkpoint = read(path)
    _refuse_other_networks(checkpoint, spec, preprocessing)
    ours = {layer.name for layer in spec.layers(224, 1)}
    variables = {
        f"{layer.name}/{variable.name}": variable
        for layer in model.layers
        if layer.name in ours
        for variable in layer.weights
    }
    arrays = dict(checkpoint.arrays)
    head = variables.get("predictions/bias")
    if head is None or checkpoint.classes != head.shape[0]:
        for name in ("predictions/kernel", "predictions/bias"):
            arrays.pop(name, None)
            variables.pop(name, None)
    _refuse_other_shapes(checkpoint, arrays, {name: tuple(variable.shape) for name, variable in variables.items()})

    if head is not None and checkpoint.classes != head.shape[0]:
        held = "no classifier" if checkpoint.classes is None else f"{checkpoint.classes} classes"
        warnings.warn(
            f"{checkpoint.path} has {held}, {model.name} {head.shape[0]} classes: "
            "the backbone is loaded, the classifier keeps its own weights",
            stacklevel=2,
        )
    for name, variable in variables.items():
        variable.assign(arrays[name])
    return checkpoint


def _refuse_other_networks(checkpoint: Checkpoint, spec: ResNetSpec, preprocessing: Preprocessing | None) -> None:
    for axis, values in _axes(checkpoint, spec).items():
        if getattr(spec, axis) not in values:
            raise ValueError(
                f"{checkpoint.path}: the network in this file ({checkpoint.source}) has {axis} "
                f"{' or '.join(map(repr, values))}, this one has {getattr(spec, axis)!r}"
            )
    theirs = checkpoint.preprocessing
    if preprocessing is not None and theirs is not None and preprocessing.normalization != theirs.normalization:
        raise ValueError(
            f"{checkpoint.path}: the network in this file ({checkpoint.source}) was trained on pictures with "
            f"{theirs.describe()}, not {preprocessing.describe()}"
        )


def _axes(checkpoint: Checkpoint, spec: ResNetSpec) -> dict[str, tuple[Any, ...]]:
    """Which values of the paper's axes the network in the file can have, for those that matter in `spec`."""
    if checkpoint.source in SOURCES:
        axes: dict[str, tuple[Any, ...]] = {axis: (value,) for axis, value in SOURCES[checkpoint.source].items()}
    else:
        layers = checkpoint.layers
        pre = any(name.endswith("_preact_bn") for name in layers)
        joined = {name.rpartition("_")[0] for name in layers if name.endswith("_out" if pre else "_add")}
        projected = {name.removesuffix("_0_conv") for name in layers if name.endswith("_0_conv")}
        axes = {
            "order": ("pre" if pre else "post",),
            # Only a 3x3 convolution that strides is padded by a layer of its own.
            "stride_on": ("3x3" if any(name.endswith("_2_pad") for name in layers) else "1x1",),
            "shortcut": tuple(
                choice
                for choice in (*get_args(Shortcut), None)
                if _shortcuts(replace(spec, shortcut=choice)) == (joined, projected)
            ),
        }
        if not axes["shortcut"]:
            del axes["shortcut"]  # other units altogether: their names tell more
    if spec.block == "basic":
        del axes["stride_on"]
    return axes


def _shortcuts(spec: ResNetSpec) -> tuple[set[str], set[str]]:
    """Names of the units with a shortcut, and of those where it projects."""
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
            has = f", and has {unknown}, which the network has not" if unknown else ""
            raise ValueError(f"{checkpoint.path} has no {name}{has}")
        if arrays[name].shape != shape:
            raise ValueError(f"{checkpoint.path}: {name} has shape {arrays[name].shape}, in the network {shape}")
    if unknown:
        raise ValueError(f"{checkpoint.path} has {unknown}, which the network has not")
