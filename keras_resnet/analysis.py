"""Parameters, multiply-adds, output sizes and receptive fields, walked from `ResNetSpec.layers`."""

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
    """trainable"""
    multiply_adds: int
    """convolutions and the classifier, as the paper counts them (Table 1)"""
    receptive_field: int
    """side in input pixels of what one output value sees, along the residual branches"""


@dataclass(frozen=True)
class Summary:
    """What a network costs at one input size and class count."""

    parameters: int
    """trainable, as torchvision and timm count them"""
    total_parameters: int
    """with the moving statistics of batch normalisation, as Keras' `count_params()` counts them"""
    multiply_adds: int
    stages: tuple[Stage, ...]


def parameters(layer: Layer) -> int:
    """Trainable parameters of one layer."""
    if layer.kind == "convolution":
        return layer.kernel**2 * layer.inputs * layer.outputs
    if layer.kind == "batch norm":
        return 2 * layer.outputs
    if layer.kind == "dense":
        return (layer.inputs + 1) * layer.outputs
    return 0


def multiply_adds(layer: Layer) -> int:
    """Multiply-adds of one layer for one picture; batch norm and pooling count nothing, as in the paper."""
    if layer.kind in ("convolution", "dense"):
        return layer.kernel**2 * layer.inputs * layer.outputs * layer.size[0] * layer.size[1]
    return 0


def receptive_field(layers: Iterable[Layer]) -> int:
    """Side in pixels of what the last of `layers` sees, along the main path."""
    field, step = 1, 1
    for layer in layers:
        if not layer.on_shortcut:
            field += (layer.kernel - 1) * step
            step *= layer.stride
    return field


def summarize(spec: ResNetSpec, input_size: int | tuple[int, int], classes: int) -> Summary:
    """The costs of `spec` on pictures of `input_size` pixels (a side, or height and width)."""
    layers = spec.layers(input_size, classes)
    units = {f"conv{index + 2}_x": len(stage) for index, stage in enumerate(spec.stages())}
    stages, before = [], []
    for name, group in groupby(layers, key=lambda layer: layer.stage):
        members = list(group)
        before += [layer for layer in members if layer.kind != "dense"]
        stages.append(
            Stage(
                name=name,
                output_size=members[-1].size,
                channels=members[-1].outputs,
                blocks=units.get(name, 0),
                parameters=sum(map(parameters, members)),
                multiply_adds=sum(map(multiply_adds, members)),
                receptive_field=receptive_field(before),
            )
        )
    moving = sum(2 * layer.outputs for layer in layers if layer.kind == "batch norm")
    trainable = sum(stage.parameters for stage in stages)
    return Summary(trainable, trainable + moving, sum(stage.multiply_adds for stage in stages), tuple(stages))
