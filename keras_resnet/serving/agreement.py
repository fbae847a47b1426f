"""Measure how a low-precision export agrees with its network in float32."""

from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from ..data.preprocessing import Preprocessing
from ..evaluation.compare import Comparison, compared
from ..evaluation.errors import softmax, top_k_wrong
from .check import endpoints
from .cpp_loader import Call, run_calls
from .labeled_images import Images

_BATCH = 100
"""the number of images per request"""
_PROCESS_BYTES = 2**27
"""the bytes of images that one process of the C++ loader answers, because they are in memory"""
_PROCESS_SECONDS = 3600.0


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """The answers of a low-precision export and of its network in float32 to the same images."""

    comparison: Comparison
    """of float32, the first, with low precision, the second"""
    changed: int
    """the number of images whose most probable class changes"""
    images: str
    """such as "test of digits\""""


def agreement(
    folder: Path, network: keras.Model, preprocessing: Preprocessing, images: Images
) -> Agreement:
    """Compare an export, in TensorFlow's C++ loader, with a network in float32.

    Args:
        folder: the folder of `saved_model.pb`, whose signature `tensor` is asked.
        network: the network in float32, with a dict of outputs.
        preprocessing: the preprocessing of the network.
        images: the images to compare on.

    Raises:
        ValueError: a request fails, or a label is not the number of a class.
    """
    signatures = endpoints(folder)
    bytes_each = 4 * 3 * preprocessing.crop**2
    rights, changed = [], 0
    for inputs, labels in images.batches(
        preprocessing, _BATCH * max(1, _PROCESS_BYTES // (_BATCH * bytes_each))
    ):
        calls = [
            Call(signature="tensor", inputs={"inputs": inputs[start : start + _BATCH]})
            for start in range(0, len(inputs), _BATCH)
        ]
        answers = run_calls(folder, signatures, calls, _PROCESS_SECONDS).calls
        if failed := [call.error for call in answers if call.error]:
            raise ValueError(f"tensor: fails: {failed[0]}")
        low = np.concatenate([call.outputs["logits"] for call in answers])
        full = np.concatenate(
            [network.predict_on_batch(call.inputs["inputs"])["logits"] for call in calls]
        )
        rights.append([~top_k_wrong(softmax(logits), labels, 1) for logits in (full, low)])
        changed += int(np.sum(full.argmax(axis=1) != low.argmax(axis=1)))
    right, low_right = np.concatenate(rights, axis=1)
    comparison = compared(
        both_right=int(np.sum(right & low_right)),
        only_first_right=int(np.sum(right & ~low_right)),
        only_second_right=int(np.sum(~right & low_right)),
        both_wrong=int(np.sum(~right & ~low_right)),
    )
    return Agreement(comparison=comparison, changed=changed, images=images.name)
