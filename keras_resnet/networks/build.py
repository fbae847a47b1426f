"""Build a `keras.Model` from a `ResNetSpec`, with the Functional API and built-in layers only.

Shapes are `[N, H, W, C]`. For the 34-layer network of Table 1 on 224 px images:

    conv1    [N, 112, 112, 64]     7x7, stride 2
    conv2_x  [N, 56, 56, 64]       3x3 max pool, stride 2, then 3 units
    conv3_x  [N, 28, 28, 128]      4 units, the first strides
    conv4_x  [N, 14, 14, 256]      6 units
    conv5_x  [N, 7, 7, 512]        3 units
    head     [N, 1000]             average over the image, then one dense layer
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from keras import layers

from ..choices import require
from .graph import deep_recursion
from .hdf5 import damage_named
from .model_files import require_network
from .paper import NETWORKS
from .spec import Block, Convolution, ResNetSpec

Maker = Callable[..., Any]

# The paper's reference [13] (He et al., 2015, equation 10): a Gaussian. Keras' own "he_normal"
# truncates its tails, and sampling it takes about as long as the rest of building a deep network.
HE_NORMAL = {
    "class_name": "VarianceScaling",
    "config": {"scale": 2.0, "mode": "fan_in", "distribution": "untruncated_normal"},
}

_SOFTMAX = (keras.activations.softmax, keras.activations.log_softmax)


def build(
    spec: ResNetSpec,
    *,
    include_top: bool = True,
    input_tensor: Any = None,
    input_shape: tuple[int | None, int | None, int] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: str | None = "softmax",
    weight_decay: float = 0.0,
    stochastic_depth: float = 0.0,
    dropout: float = 0.0,
    zero_gamma: bool = False,
    synchronized: bool | None = None,
    name: str | None = None,
) -> keras.Model:
    """Build the network of a spec, with He initialization and random weights.

    Args:
        spec: the network.
        include_top: whether the network ends in average pooling and the classifier.
        input_tensor: a Keras tensor `[N, H, W, C]` to build on, instead of a new input.
        input_shape: `(H, W, C)` of one image; H and W may be None. Default: `(None, None, 3)`.
        pooling: without top, "avg" or "max" pools over the image to `[N, C]`; None returns
            `[N, H, W, C]`.
        classes: number of outputs of the classifier.
        classifier_activation: "softmax", "sigmoid" (for one class), or None for logits.
        weight_decay: the paper's weight decay (section 3.4): an L2 penalty of half this strength on
            every kernel, whose gradient is `weight_decay * kernel`.
        stochastic_depth: share of images for which training drops the last residual unit. Unit l of
            L is dropped for l/L of this share (Huang et al. 2016). Training divides each kept
            branch by its survival probability, so inference needs no scaling.
        dropout: share of the features before the classifier that training sets to 0
            (Srivastava et al. 2014).
        zero_gamma: whether the last batch norm of each residual branch starts with gamma 0, so
            that each unit starts as its shortcut (Goyal et al. 2017, section 5.1). Order "pre" has
            no batch norm there.
        synchronized: whether batch statistics are computed over all replicas. None: only if there
            are several.
        name: name of the model. Default: the spec's name.

    Raises:
        ValueError: an argument is invalid or does not fit the spec, the Keras backend is not
            TensorFlow, or the Keras image format is not channels_last.
    """
    require("the Keras backend", keras.backend.backend(), ("tensorflow",))
    require("the Keras image_data_format", keras.config.image_data_format(), ("channels_last",))
    require("pooling", pooling, (None, "avg", "max"))
    if input_shape is not None and len(input_shape) != 3:
        raise ValueError(f"input_shape is {input_shape!r}; give (height, width, channels)")
    if (
        input_tensor is not None
        and input_shape is not None
        and tuple(input_shape) != tuple(input_tensor.shape[1:])
    ):
        raise ValueError(
            f"input_shape is {input_shape!r}, but input_tensor has shape"
            f" {tuple(input_tensor.shape)}"
        )
    if include_top and classes < 1:
        raise ValueError(f"classes is {classes!r}; give a positive number")
    if include_top and classes == 1 and keras.activations.get(classifier_activation) in _SOFTMAX:
        raise ValueError(
            f"classes is 1 and classifier_activation is {classifier_activation!r}, which gives the"
            " same output for every image; give 'sigmoid' or None, or two classes"
        )
    for argument, rate in (("stochastic_depth", stochastic_depth), ("dropout", dropout)):
        if not 0 <= rate < 1:
            raise ValueError(f"{argument} is {rate!r}; give a number of at least 0 and below 1")
    if spec.shortcut is None and stochastic_depth:
        raise ValueError(
            f"stochastic_depth is {stochastic_depth!r}, and {spec.name} has no shortcuts;"
            " give 0, or a residual network"
        )
    if zero_gamma and (spec.shortcut is None or spec.order == "pre"):
        raise ValueError(
            f"zero_gamma is True, shortcut is {spec.shortcut!r} and order is {spec.order!r};"
            " only a residual branch of order 'post' ends in a batch norm"
        )
    if synchronized is None:
        synchronized = tf.distribute.get_strategy().num_replicas_in_sync > 1

    # The settings shared by all convolutions, and by all batch norms.
    penalty = keras.regularizers.L2(weight_decay / 2) if weight_decay else None
    conv = partial(
        convolution,
        make=partial(
            layers.Conv2D, use_bias=False, kernel_initializer=HE_NORMAL, kernel_regularizer=penalty
        ),
    )
    norm = partial(layers.BatchNormalization, momentum=0.9, epsilon=1e-5, synchronized=synchronized)

    inputs = layers.Input(input_shape or (None, None, 3)) if input_tensor is None else input_tensor
    x = stem(inputs, spec, conv, norm)
    last_norm = partial(norm, gamma_initializer="zeros") if zero_gamma else norm
    blocks = [block for stage in spec.stages() for block in stage]
    for number, block in enumerate(blocks, start=1):
        rate = stochastic_depth * number / len(blocks)
        x = residual_unit(x, block, spec.order, conv, norm, last_norm, rate)
    if spec.order == "pre":
        x = layers.ReLU(name="post_relu")(norm(name="post_bn")(x))

    if include_top:
        x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
        if dropout:
            x = layers.Dropout(dropout, name="dropout")(x)
        # At least float32: a softmax over half-precision logits loses the small probabilities.
        x = layers.Dense(
            classes,
            activation=classifier_activation,
            kernel_initializer=HE_NORMAL,
            kernel_regularizer=penalty,
            dtype=(
                "float64" if keras.config.dtype_policy().compute_dtype == "float64" else "float32"
            ),
            name="predictions",
        )(x)
    elif pooling is not None:
        pool = layers.GlobalAveragePooling2D if pooling == "avg" else layers.GlobalMaxPooling2D
        x = pool(name=f"{pooling}_pool")(x)

    if input_tensor is not None:
        sources = keras.utils.get_source_inputs(input_tensor)
        inputs = sources[0] if len(sources) == 1 else sources
    with deep_recursion(spec.depth):
        return keras.Model(inputs, x, name=name or spec.name)


def load(path: str | os.PathLike[str]) -> keras.Model:
    """Load a network of any depth from a `.keras` file.

    `keras.models.load_model` alone fails on ResNet-1202, and imports any class that a file names.

    Raises:
        ValueError: the file is damaged or does not hold a network.
    """
    path = Path(path)
    require_network(path)
    deepest = max(spec.depth for spec in NETWORKS.values())
    with deep_recursion(deepest), damage_named(path):
        return keras.models.load_model(path, compile=False)


def stem(x: Any, spec: ResNetSpec, conv: Maker, norm: Maker) -> Any:
    """Add the layers before the first stage.

    CIFAR: a 3x3 convolution, `[N, H, W, C]`. ImageNet: a 7x7 convolution of stride 2 and a 3x3 max
    pool of stride 2, `[N, H/4, W/4, C]`.
    """
    x = conv(x, spec.stem_convolution)
    if spec.order == "post":
        x = layers.ReLU(name="conv1_relu")(norm(name="conv1_bn")(x))
    if spec.stem == "imagenet" and spec.order == "post":
        x = layers.ZeroPadding2D(1, name="pool1_pad")(x)
        x = layers.MaxPooling2D(3, strides=2, name="pool1_pool")(x)
    elif spec.stem == "imagenet":
        # Without a ReLU before the pool, a padded zero could be the maximum, so use "same", which
        # ignores the padding. At stride 2 it would pad unequally, so pool at stride 1 first.
        x = layers.MaxPooling2D(3, strides=1, padding="same", name="pool1_max")(x)
        x = layers.MaxPooling2D(1, strides=2, name="pool1_pool")(x)
    return x


def residual_unit(
    x: Any, block: Block, order: str, conv: Maker, norm: Maker, last_norm: Maker, drop_rate: float
) -> Any:
    """Add a residual unit: Fig. 2 and 5, or with order "pre" Fig. 1(b) of He et al. 2016.

    `[N, H, W, block.inputs]` to `[N, H/stride, W/stride, block.outputs]`. With order "post",
    `last_norm` makes the batch norm that ends the branch. `drop_rate` is the share of images for
    which training drops the branch.
    """
    if order == "post":
        y = x
        *convolutions, last = block.convolutions
        for c in convolutions:
            y = layers.ReLU(name=f"{c.name}_relu")(norm(name=f"{c.name}_bn")(conv(y, c)))
        y = last_norm(name=f"{last.name}_bn")(conv(y, last))
        if block.shortcut is not None:
            y = dropped(y, block, drop_rate)
            y = layers.Add(name=f"{block.name}_add")([shortcut(x, block, conv, norm), y])
        return layers.ReLU(name=f"{block.name}_out")(y)

    y = layers.ReLU(name=f"{block.name}_preact_relu")(norm(name=f"{block.name}_preact_bn")(x))
    if block.shortcut == "projection":
        x = y  # a projection reads the activation; identity and zero padding carry x itself
    for c in block.convolutions:
        y = conv(y, c)
        if c is not block.convolutions[-1]:
            y = layers.ReLU(name=f"{c.name}_relu")(norm(name=f"{c.name}_bn")(y))
    if block.shortcut is not None:
        y = dropped(y, block, drop_rate)
        y = layers.Add(name=f"{block.name}_out")([shortcut(x, block, conv, norm=None), y])
    return y


def dropped(x: Any, block: Block, rate: float) -> Any:
    """Drop the residual branch `[N, ...]` of some images in training (Huang et al. 2016)."""
    if not rate:
        return x
    return layers.Dropout(rate, noise_shape=(None, 1, 1, 1), name=f"{block.name}_drop")(x)


def shortcut(x: Any, block: Block, conv: Maker, norm: Maker | None) -> Any:
    """Add one of the three shortcuts of section 3.3.

    Identity, zero padding (option A) or projection (options B and C):
    `[N, H, W, block.inputs]` to `[N, H/stride, W/stride, block.outputs]`.
    """
    if block.shortcut == "identity":
        return x
    if block.shortcut == "zero padding":
        if block.stride > 1:
            x = layers.AveragePooling2D(1, strides=block.stride, name=f"{block.name}_0_subsample")(
                x
            )
        # "channels_first" pads the last two axes, here W and C. Keras has no layer that pads C.
        return layers.ZeroPadding2D(
            ((0, 0), (0, block.outputs - block.inputs)),
            data_format="channels_first",
            name=f"{block.name}_0_pad",
        )(x)
    assert block.shortcut == "projection"
    x = conv(x, block.projection)
    return x if norm is None else norm(name=f"{block.name}_0_bn")(x)


def convolution(x: Any, c: Convolution, make: Maker) -> Any:
    """Add a convolution with equal padding on all sides, as in Caffe and PyTorch.

    TensorFlow's own "same" pads unequally at stride 2, which would shift every feature by half a
    pixel relative to weights trained elsewhere.
    """
    padding = "same"
    if c.stride > 1:
        padding = "valid"
        if c.padding:
            x = layers.ZeroPadding2D(c.padding, name=f"{c.name}_pad")(x)
    return make(c.outputs, c.kernel, strides=c.stride, padding=padding, name=f"{c.name}_conv")(x)
