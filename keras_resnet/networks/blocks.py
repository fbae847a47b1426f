"""Find the residual units of a network in its graph, and run it with some of them switched off."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from .graph import deep_recursion, graph_of
from .spec import Block, ResNetSpec


@dataclass(frozen=True)
class Unit:
    """A unit in the graph of a network: the names of its first and its last layer."""

    block: Block
    first: str
    """reads the input of the unit"""
    sum: str | None
    """adds shortcut and branch, in this order; None in a plain network"""
    last: str
    """gives the output of the unit"""

    @property
    def name(self) -> str:
        """Return the name of the unit in the paper's terms, such as "conv2_block1"."""
        return self.block.name

    @property
    def removable(self) -> bool:
        """Return whether the network still fits together without the unit's convolutions.

        A plain unit can be left out where it changes no shape; of a residual one the shortcut
        remains.
        """
        block = self.block
        return self.sum is not None or (block.stride == 1 and block.inputs == block.outputs)


def units(spec: ResNetSpec) -> list[Unit]:
    """Return the units of a network that `build` has built, in their order.

    Args:
        spec: the network's spec.
    """
    found = []
    for block in (block for stage in spec.stages() for block in stage):
        if spec.order == "pre":
            first, added = f"{block.name}_preact_bn", f"{block.name}_out"
            last = f"{block.convolutions[-1].name}_conv" if block.shortcut is None else added
        else:
            convolution = block.convolutions[0]
            pads = convolution.stride > 1 and convolution.padding
            first = f"{convolution.name}_{'pad' if pads else 'conv'}"
            added, last = f"{block.name}_add", f"{block.name}_out"
        found.append(Unit(block, first, None if block.shortcut is None else added, last))
    return found


def switchable(model: keras.Model, spec: ResNetSpec) -> Callable[..., tf.Tensor]:
    """Return the network as a function that multiplies the branch of each unit by a number.

    Args:
        model: a network that `build` has built, without nested models.
        spec: its spec.

    Returns:
        A function of images `[N, H, W, 3]` and switches `[units]`, 1 to keep a unit and 0 to leave
        it out, that returns the network's outputs at inference. A plain unit is either kept or
        left out.
    """
    graph = graph_of(model)
    assert graph is not None, "build returns a Functional model"
    found = units(spec)
    firsts = {unit.first: number for number, unit in enumerate(found) if unit.sum is None}
    sums = {unit.sum: number for number, unit in enumerate(found) if unit.sum is not None}
    lasts = {unit.last: number for number, unit in enumerate(found) if unit.sum is None}

    def run(images: tf.Tensor, switches: tf.Tensor) -> tf.Tensor:
        inputs: dict[int, tf.Tensor] = {}

        def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
            if "training" in kwargs:
                kwargs["training"] = False
            name = operation.name
            if name in sums:
                shortcut, branch = args[0]
                return shortcut + tf.cast(switches[sums[name]], branch.dtype) * branch
            if name in firsts:
                inputs[firsts[name]] = args[0]
            result = operation(*args, **kwargs)
            if name in lasts and found[lasts[name]].removable:
                kept = switches[lasts[name]] > 0
                return tf.where(kept, result, inputs[lasts[name]])
            return result

        return graph._run_through_graph(
            images, operation_fn=lambda operation: operation, call_fn=call
        )

    def checked(images: tf.Tensor, switches: tf.Tensor) -> tf.Tensor:
        with deep_recursion(spec.depth):
            return run(images, switches)

    return checked
