"""Parameters, multiply-adds, output sizes and receptive fields, computed from a `ResNetSpec`."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from .spec import Layer, ResNetSpec


@dataclass(frozen=True)
class Stage:
    """One row of Table 1."""

    name: str
    output_size: tuple[int, int]
    """height and width in pixels"""
    channels: int
    blocks: int
    """residual units; 0 for the stem and the head"""
    parameters: int
    """trainable parameters"""
    multiply_adds: int
    """multiply-adds of convolutions and the classifier, as in Table 1"""
    receptive_field: int
    """side, in input pixels, of the region that one output value depends on through the residual
    branches"""


@dataclass(frozen=True)
class Summary:
    """The costs of a network for one input size and number of classes."""

    parameters: int
    """trainable parameters, as torchvision and timm count"""
    total_parameters: int
    """parameters and moving statistics of batch norm, as Keras' `count_params()` counts"""
    multiply_adds: int
    stages: tuple[Stage, ...]


def parameters(layer: Layer) -> int:
    """Count the trainable parameters of one layer."""
    if layer.kind == "convolution":
        return layer.kernel**2 * layer.inputs * layer.outputs
    if layer.kind == "batch norm":
        return 2 * layer.outputs
    if layer.kind == "dense":
        return (layer.inputs + 1) * layer.outputs
    return 0


def multiply_adds(layer: Layer) -> int:
    """Count the multiply-adds of one layer per image.

    Batch norm and pooling are not counted, as in the paper.
    """
    if layer.kind in ("convolution", "dense"):
        return layer.kernel**2 * layer.inputs * layer.outputs * layer.size[0] * layer.size[1]
    return 0


def receptive_field(layers: Iterable[Layer]) -> int:
    """Return the side, in pixels, of the receptive field of the last layer on the main path."""
    field, step = 1, 1
    for layer in layers:
        if not layer.on_shortcut:
            field += (layer.kernel - 1) * step
            step *= layer.stride
    return field


def summarize(spec: ResNetSpec, input_size: int | tuple[int, int], classes: int) -> Summary:
    """Compute the costs of a network, stage by stage.

    Args:
        spec: the network.
        input_size: side of a square image, or height and width, in pixels.
        classes: number of outputs of the classifier.
    """
    layers = spec.layers(input_size, classes)
    units = {f"conv{index + 2}_x": len(stage) for index, stage in enumerate(spec.stages())}
    stages, preceding = [], []
    for name, group in groupby(layers, key=lambda layer: layer.stage):
        members = list(group)
        preceding += [layer for layer in members if layer.kind != "dense"]
        stages.append(
            Stage(
                name=name,
                output_size=members[-1].size,
                channels=members[-1].outputs,
                blocks=units.get(name, 0),
                parameters=sum(map(parameters, members)),
                multiply_adds=sum(map(multiply_adds, members)),
                receptive_field=receptive_field(preceding),
            )
        )
    moving = sum(2 * layer.outputs for layer in layers if layer.kind == "batch norm")
    trainable = sum(stage.parameters for stage in stages)
    return Summary(
        trainable, trainable + moving, sum(stage.multiply_adds for stage in stages), tuple(stages)
    )
