"""Read the capabilities of the processor and the GPUs from the system, never by timing."""

import functools
import os
from pathlib import Path

import tensorflow as tf

CPU_FLAGS = Path("/proc/cpuinfo")

BFLOAT16_SETS = ("amx_bf16", "avx512_bf16")
"""the instruction sets that multiply bfloat16"""

FROZEN_WEIGHTS = "TF_ONEDNN_ASSUME_FROZEN_WEIGHTS"
"""the environment variable that makes oneDNN cache the first weights it sees"""


def refuse_frozen_weights() -> None:
    """Raise `ValueError` if the environment tells oneDNN that weights never change.

    The setting is meant for servers. In training every step would compute with the first weights.
    """
    value = os.environ.get(FROZEN_WEIGHTS, "")
    if value.lower() not in ("", "0", "false"):
        raise ValueError(
            f"{FROZEN_WEIGHTS} is {value!r}; unset it: with it oneDNN computes with the first"
            " weights forever, so training has no effect"
        )


@functools.cache
def instruction_sets() -> frozenset[str]:
    """Return the processor's flags from `/proc/cpuinfo`; empty if it cannot be read."""
    try:
        lines = CPU_FLAGS.read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())


def has_avx512() -> bool:
    """Return whether the processor has AVX-512 (`avx512f`); False if unknown.

    False is safe: batch norm then computes half precision in float32, and the input gradient of
    convolutions is a forward convolution.
    """
    return "avx512f" in instruction_sets()


def has_gpu() -> bool:
    """Return whether TensorFlow sees a GPU."""
    return bool(tf.config.get_visible_devices("GPU"))


def fast_half_precision() -> tuple[str, str] | None:
    """Return the mixed precision that is fast on this machine and the reason, or None.

    GPUs have fast float16 from compute capability 7.0 and fast bfloat16 from 8.0 (NVIDIA, CUDA C
    Programming Guide, arithmetic throughput).
    """
    gpus = tf.config.get_visible_devices("GPU")
    if gpus:
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        lowest = min(detail.get("compute_capability", (0, 0)) for detail in details)
        if lowest < (7, 0):
            return None
        precision = "mixed_bfloat16" if lowest >= (8, 0) else "mixed_float16"
        return precision, f"the GPU has compute capability {'.'.join(map(str, lowest))}"
    for name in BFLOAT16_SETS:
        if name in instruction_sets():
            return "mixed_bfloat16", f"the processor has {name}"
    return None
