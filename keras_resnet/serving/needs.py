"""Say what a low-precision graph needs: operators of TensorFlow, and a processor that is fast."""

import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.python.framework import kernels

from . import int8_operations as int8
from .audit import Finding

FAST = {
    "bfloat16": ("amx_bf16", "avx512_bf16"),
    "int8": ("amx_int8", "avx512_vnni", "avx_vnni"),
}
"""instruction sets of x86 processors, by precision; with any of them it is faster than float32"""
INSTRUCTION_SETS = (
    "avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16",
)  # fmt: skip
"""those on which the speed of convolutions depends, as Linux names them"""
_PRODUCTS = ("Conv2D", "DepthwiseConv2dNative", "MatMul", "BatchMatMulV2")
_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Needs:
    """What a low-precision graph needs."""

    precision: str
    """a key of `FAST`"""
    operators: tuple[str, ...]
    """operators that a build of TensorFlow can lack, such as one without oneDNN"""


@dataclass(frozen=True)
class Processor:
    """The processor of this machine."""

    name: str
    instruction_sets: frozenset[str] | None
    """as Linux names them; None if unknown"""

    def is_fast(self, needs: Needs) -> bool:
        """Return whether low precision can be faster than float32; True if unknown."""
        known = self.instruction_sets
        return known is None or not known.isdisjoint(FAST[needs.precision])

    @property
    def fast_sets(self) -> list[str] | None:
        """Those of `INSTRUCTION_SETS` that the processor has; None if unknown."""
        known = self.instruction_sets
        return None if known is None else [name for name in INSTRUCTION_SETS if name in known]

    def __str__(self) -> str:
        sets = "unknown" if self.fast_sets is None else " ".join(self.fast_sets)
        return f"{self.name} ({sets or 'no AVX2'})"


def needs_of(graph: meta_graph_pb2.MetaGraphDef) -> Needs | None:
    """Return what a SavedModel needs, or None if it computes in float32 only.

    Args:
        graph: the result of `audit.read_graph`.
    """
    nodes = [
        *graph.graph_def.node,
        *(n for f in graph.graph_def.library.function for n in f.node_def),
    ]
    found = {node.op for node in nodes}
    if int8.CONVOLUTION in found:
        return Needs("int8", tuple(name for name in int8.OPERATORS if name in found))
    products = {node.op for node in nodes if node.op in _PRODUCTS and _is_bfloat16(node)}
    return Needs("bfloat16", tuple(sorted(products))) if products else None


def _is_bfloat16(node: Any) -> bool:
    return node.attr["T"].type == tf.bfloat16.as_datatype_enum


def missing_operators(needs: Needs) -> tuple[str, ...]:
    """Return the operators that this build of TensorFlow cannot run on a CPU."""
    return tuple(name for name in needs.operators if not _is_available(name, needs.precision))


def _is_available(operator: str, precision: str) -> bool:
    for kernel in kernels.get_registered_kernels_for_op(operator).kernel:
        allowed = [one.allowed_values.list.type for one in kernel.constraint if one.name == "T"]
        if kernel.device_type == "CPU" and (
            precision != "bfloat16"
            or any(tf.bfloat16.as_datatype_enum in types for types in allowed)
        ):
            return True
    return False


def processor(cpuinfo: Path = _CPUINFO) -> Processor:
    """Read the name and the instruction sets of the processor.

    Args:
        cpuinfo: Linux' description of the processors. Other systems have none.
    """
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return Processor(platform.processor() or platform.machine(), None)
    fields = [line.partition(":") for line in lines if ":" in line]
    found = {key.strip(): value.strip() for key, _, value in reversed(fields)}
    sets = found.get("flags")  # "Features" of Arm are named otherwise
    return Processor(
        found.get("model name", platform.machine()),
        None if sets is None else frozenset(sets.split()),
    )


def judge_needs(needs: Needs, missing: Sequence[str], processor: Processor) -> Iterator[Finding]:
    """Yield an error for missing operators, and a warning for a slow processor.

    Args:
        needs: what a graph needs.
        missing: the `missing_operators`.
        processor: the processor that would run it.
    """
    if missing:
        yield Finding(
            "error",
            f"it is not run: it computes in {needs.precision} by {', '.join(missing)}, which this"
            " build of TensorFlow lacks; serve the export in float32",
        )
    elif not processor.is_fast(needs):
        yield Finding(
            "warning",
            f"it computes in {needs.precision}, for which {processor.name} has no instructions"
            f" ({', '.join(FAST[needs.precision])}): float32 is faster there",
        )
