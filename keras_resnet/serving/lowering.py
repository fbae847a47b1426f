"""Lower a network to the precision of an export: the graph that all signatures call."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import keras
import tensorflow as tf

from ..data.preprocessing import Preprocessing
from ..networks.bfloat16 import bfloat16_copy, stored_in_bfloat16
from ..networks.class_activation import MAPS, classifier_of
from ..networks.steps import steps_of
from .calibration import calibrate
from .labeled_images import Images

Precision = Literal["float32", "bfloat16", "int8"]
PRECISIONS = get_args(Precision)
Answer = dict[str, tf.Tensor]


@dataclass(frozen=True, kw_only=True)
class Lowered:
    """A network in one precision, as a function of TensorFlow."""

    precision: Precision
    run: Callable[[tf.Tensor], Answer]
    """maps images, float32 `[N, H, W, 3]`, to the outputs, float32"""
    outputs: tuple[str, ...]
    """"logits" and, if available, "features", and "maps" if the heat map is asked for"""
    types: str
    """the types of weights and arithmetic, as a sentence for the model card"""
    class_weights: Callable[[tf.Tensor], tf.Tensor] | None = None
    """with "maps": maps classes `[N]` to their weights in the dense layer, float32 `[N, C]`"""
    temperature: float = 1.0
    """the number by which `run` divides the logits that the network was trained to give"""


def in_float32(network: keras.Model) -> Lowered:
    """Lower a network to float32.

    Args:
        network: a model with a dict of outputs.
    """
    return Lowered(
        precision="float32",
        run=partial(network, training=False),
        outputs=tuple(network.output),
        types="Weights are float32.",
        class_weights=partial(_columns, classifier_of(network).kernel)
        if _has_maps(network)
        else None,
    )


def in_bfloat16(network: keras.Model) -> Lowered:
    """Lower a network to bfloat16, with weights in bfloat16 and logits in float32.

    Args:
        network: a model with a dict of outputs, batch norm folded.

    Raises:
        ValueError: a layer cannot be copied.
    """
    copy = bfloat16_copy(network)
    run, stored = stored_in_bfloat16(copy)
    class_weights = None
    if _has_maps(network):
        class_weights = partial(_columns, stored[classifier_of(copy).kernel.path])

    def to_float32(images: tf.Tensor) -> Answer:
        return {name: tf.cast(value, tf.float32) for name, value in run(images).items()}

    return Lowered(
        precision="bfloat16",
        run=to_float32,
        outputs=tuple(network.output),
        types="Weights are bfloat16. Images are computed in bfloat16, features and logits in"
        " float32.",
        class_weights=class_weights,
    )


def in_int8(network: keras.Model, images: Images, preprocessing: Preprocessing) -> Lowered:
    """Lower a network to int8, calibrated on images.

    Args:
        network: a model with a dict of outputs, batch norm folded.
        images: training images.
        preprocessing: the preprocessing of the network.

    Raises:
        ValueError: a layer has no int8 kernel, or there are too few images.
    """
    found = calibrate(steps_of(network), images, preprocessing)
    float32 = " and ".join(f"the {part}" for part in found.in_float32)
    class_weights = None
    if _has_maps(network):
        class_weights = partial(found.network.columns, classifier_of(network).name)
    errors = "; ".join(f"{name} {error:.2f} %" for name, error in found.errors.items())
    distances = "; ".join(f"{name} {value:.3g}" for name, value in found.distances.items())
    return Lowered(
        precision="int8",
        run=tf.autograph.experimental.do_not_convert(found.network),
        outputs=tuple(network.output),
        types="Kernels are int8, symmetric per output channel. Convolutions and dense layers"
        f" multiply int8{f', except {float32} in float32' if float32 else ''}. Activations are"
        f" bounded by their {found.method} over {found.calibrated:,} images of {images.name}."
        f" This was chosen on {found.judged:,} other images, by the error ({errors}) and, where"
        " errors do not differ (exact McNemar test), by the mean distance of the logits from"
        f" those in float32 ({distances}).",
        class_weights=class_weights,
    )


def with_temperature(network: Lowered, temperature: float) -> Lowered:
    """Divide the logits of a network by a temperature.

    This happens after the last layer and in float32. A division by one number never reverses the
    order of two logits. Divided weights would be rounded again, most of all in bfloat16, and that
    could change the most probable class.

    Args:
        network: the network, whose temperature is 1.
        temperature: the temperature.
    """
    assert network.temperature == 1
    before = network.class_weights

    @tf.autograph.experimental.do_not_convert
    def run(images: tf.Tensor) -> Answer:
        answer = network.run(images)
        return answer | {"logits": answer["logits"] / temperature}

    return replace(
        network,
        run=run,
        class_weights=before and (lambda classes: before(classes) / temperature),
        temperature=temperature,
    )


def _has_maps(network: keras.Model) -> bool:
    return MAPS in network.output


def _columns(kernel: tf.Tensor, indices: tf.Tensor) -> tf.Tensor:
    """Return columns of a kernel `[in, out]`, float32 `[N, in]`."""
    return tf.cast(tf.transpose(tf.gather(kernel, indices, axis=1)), tf.float32)
