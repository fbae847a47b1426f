"""From a `ResNetSpec` to a `keras.Model`, with the Functional API and stock Keras layers only.

Shapes are `[N, H, W, C]`. For the 34-layer network of Table 1 on 224 px pictures:

    conv1    [N, 112, 112, 64]     7x7, stride 2
    conv2_x  [N, 56, 56, 64]       3x3 max pool, stride 2, then 3 units
    conv3_x  [N, 28, 28, 128]      4 units, the first strides
    conv4_x  [N, 14, 14, 256]      6 units
    conv5_x  [N, 7, 7, 512]        3 units
    head     [N, 1000]             average over the picture, then one dense layer
"""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import keras
import tensorflow as tf
from keras import layers, ops

from .spec import NETWORKS, Block, Convolution, ResNetSpec, require

Maker = Callable[..., Any]

# The paper's [13], He et al., 2015, equation 10: a Gaussian. Keras' own "he_normal" cuts off its tails, and drawing
# that takes about as long as all the rest of building a deep network.
HE_NORMAL = {
    "class_name": "VarianceScaling",
    "config": {"scale": 2.0, "mode": "fan_in", "distribution": "untruncated_normal"},
}


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
    synchronized: bool | None = None,
    name: str | None = None,
) -> keras.Model:
    """The network of `spec`, with He initialisation.

    Args:
        include_top: whether the average pool and the classifier end the network.
        input_tensor: a Keras tensor `[N, H, W, C]` to build on, instead of a new input.
        input_shape: `(H, W, C)` of one picture; H and W may be None. Default: `(None, None, 3)`.
        pooling: without top, "avg" or "max" over the picture gives `[N, C]`; None leaves `[N, H, W, C]`.
        classes: outputs of the classifier.
        classifier_activation: "softmax", or None for logits.
        weight_decay: the paper's; an L2 penalty of half of it on every kernel, so that its gradient is
            `weight_decay * kernel` (section 3.4).
        synchronized: whether batch statistics are taken over all replicas. None: yes where there are several.
        name: of the model; by default the spec's.

    Raises:
        ValueError: an argument is not one of its choices, or Keras runs on another backend than TensorFlow
            or with another image format than channels_last.
    """
    require("the Keras backend", keras.backend.backend(), ("tensorflow",))
    require("the Keras image_data_format", keras.config.image_data_format(), ("channels_last",))
    require("pooling", pooling, (None, "avg", "max"))
    if input_shape is not None and len(input_shape) != 3:
        raise ValueError(f"input_shape is {input_shape!r}; give (height, width, channels)")
    if input_tensor is not None and input_shape is not None and tuple(input_shape) != tuple(input_tensor.shape[1:]):
        raise ValueError(f"input_shape is {input_shape!r}, but input_tensor has shape {tuple(input_tensor.shape)}")
    if include_top and classes < 1:
        raise ValueError(f"classes is {classes!r}; give a positive number")
    if synchronized is None:
        synchronized = tf.distribute.get_strategy().num_replicas_in_sync > 1

    # What every convolution and every batch norm has in common is said here, once.
    penalty = keras.regularizers.L2(weight_decay / 2) if weight_decay else None
    conv = partial(
        convolution,
        make=partial(layers.Conv2D, use_bias=False, kernel_initializer=HE_NORMAL, kernel_regularizer=penalty),
    )
    norm = partial(layers.BatchNormalization, momentum=0.9, epsilon=1e-5, synchronized=synchronized)

    inputs = layers.Input(input_shape or (None, None, 3)) if input_tensor is None else input_tensor
    x = stem(inputs, spec, conv, norm)
    for stage in spec.stages():
        for block in stage:
            x = residual_unit(x, block, spec.order, conv, norm)
    if spec.order == "pre":
        x = layers.ReLU(name="post_relu")(norm(name="post_bn")(x))

    if include_top:
        x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
        # float32 at least: a softmax over half-precision logits loses the small probabilities.
        x = layers.Dense(
            classes,
            activation=classifier_activation,
            kernel_initializer=HE_NORMAL,
            kernel_regularizer=penalty,
            dtype="float64" if keras.config.dtype_policy().compute_dtype == "float64" else "float32",
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
    """The network in a `.keras` file, up to ResNet-1202, on which plain `keras.models.load_model` fails."""
    with deep_recursion(max(spec.depth for spec in NETWORKS.values())):
        return keras.models.load_model(path)


@contextlib.contextmanager
def deep_recursion(depth: int) -> Iterator[None]:
    """Keras walks a new model's graph by recursion, one call a layer: 1,202 layers need more than Python allows."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, 1000 + 10 * depth))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def stem(x: Any, spec: ResNetSpec, conv: Maker, norm: Maker) -> Any:
    """CIFAR: a 3x3 convolution. ImageNet: 7x7 of stride 2 and a 3x3 max pool of stride 2: H/4, W/4."""
    x = conv(x, spec.stem_convolution)
    if spec.order == "post":
        x = layers.ReLU(name="conv1_relu")(norm(name="conv1_bn")(x))
    if spec.stem == "imagenet":
        if spec.order == "post":
            x = layers.ZeroPadding2D(1, name="pool1_pad")(x)
        else:
            # Without a ReLU before it, zero is a value that could win; minus infinity never does.
            x = ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-float("inf"))
        x = layers.MaxPooling2D(3, strides=2, name="pool1_pool")(x)
    return x


def residual_unit(x: Any, block: Block, order: str, conv: Maker, norm: Maker) -> Any:
    """Fig. 2 and 5 (order "post"), and Fig. 1(b) of He et al. 2016 (order "pre").

    `[N, H, W, block.inputs]` to `[N, H/stride, W/stride, block.outputs]`.
    """
    if order == "post":
        y = x
        for c in block.convolutions:
            y = norm(name=f"{c.name}_bn")(conv(y, c))
            if c is not block.convolutions[-1]:
                y = layers.ReLU(name=f"{c.name}_relu")(y)
        if block.shortcut is not None:
            y = layers.Add(name=f"{block.name}_add")([shortcut(x, block, conv, norm), y])
        return layers.ReLU(name=f"{block.name}_out")(y)

    y = layers.ReLU(name=f"{block.name}_preact_relu")(norm(name=f"{block.name}_preact_bn")(x))
    if block.shortcut == "projection":
        x = y  # a shortcut that computes shares the activation; one that does not carries x itself
    for c in block.convolutions:
        y = conv(y, c)
        if c is not block.convolutions[-1]:
            y = layers.ReLU(name=f"{c.name}_relu")(norm(name=f"{c.name}_bn")(y))
    if block.shortcut is not None:
        y = layers.Add(name=f"{block.name}_out")([shortcut(x, block, conv, norm=None), y])
    return y


def shortcut(x: Any, block: Block, conv: Maker, norm: Maker | None) -> Any:
    """The three shortcuts of section 3.3: identity, zero padding (option A), projection (options B and C)."""
    if block.shortcut == "identity":
        return x
    if block.shortcut == "zero padding":
        if block.stride > 1:
            x = layers.AveragePooling2D(1, strides=block.stride, name=f"{block.name}_0_subsample")(x)
        return ops.pad(x, ((0, 0), (0, 0), (0, 0), (0, block.outputs - block.inputs)))
    assert block.shortcut == "projection"
    x = conv(x, block.projection)
    return x if norm is None else norm(name=f"{block.name}_0_bn")(x)


def convolution(x: Any, c: Convolution, make: Maker) -> Any:
    """A convolution padded alike on all sides, as Caffe and PyTorch do.

    TensorFlow's own "same" is lopsided at stride 2, which would move every feature by half a pixel
    against weights trained elsewhere.
    """
    padding = "same"
    if c.stride > 1:
        padding = "valid"
        if c.padding:
            x = layers.ZeroPadding2D(c.padding, name=f"{c.name}_pad")(x)
    return make(c.outputs, c.kernel, strides=c.stride, padding=padding, name=f"{c.name}_conv")(x)


def feature_pyramid(model: keras.Model) -> keras.Model:
    """The outputs of the stages by name, for detectors and segmenters; layers and weights are those of `model`.

    On pictures `[N, H, W, 3]` an ImageNet network gives

        C2  [N, H/4, W/4, C]      C = 64 (18 and 34 layers) or 256 (bottlenecks)
        C3  [N, H/8, W/8, 2C]
        C4  [N, H/16, W/16, 4C]
        C5  [N, H/32, W/32, 8C]

    (sides rounded up), and a CIFAR network C2, C3 and C4 with strides 1, 2 and 4. In order "pre" these are the sums
    before the next batch norm. Any model with these layers will do: with or without top, new or reopened.

    Raises `ValueError` where the model has no such stages.
    """
    # Layers are sorted from input to output, so that the last of a stage is where the stage ends.
    ends = {f"C{stage[1]}": layer.output for layer in model.layers if (stage := _STAGE.match(layer.name))}
    if not ends:
        raise ValueError(f"{model.name} has no stages: its layers are not those of a network of this package")
    with deep_recursion(len(model.layers)):
        return keras.Model(model.input, ends, name=f"{model.name}_pyramid")


def freeze(model: keras.Model, what: str) -> None:
    """Keeps the batch norms of `model`, or its whole backbone, as they are while the rest is trained.

    A frozen batch norm runs in inference mode: it normalises by its moving statistics, in training too, and leaves
    them alone. It takes effect when the model is compiled after it, and is undone by `layer.trainable = True` for every
    layer in `model.layers` (on a model that is itself trainable, `model.trainable = True` changes nothing).

    Args:
        model: a network of this package, or a model around one.
        what: "batch_norm" for every batch norm, "backbone" for everything before the classifier or a user's own head.

    Raises:
        ValueError: `what` is not one of these, or the model has nothing of the kind.
    """
    require("what to freeze", what, ("batch_norm", "backbone"))
    frozen = [
        layer
        for layer in _layers(model)
        if (isinstance(layer, layers.BatchNormalization) if what == "batch_norm" else _BACKBONE.match(layer.name))
    ]
    if not frozen:
        raise ValueError(f"{model.name} has no {what.replace('_', ' ')} to freeze")
    for layer in frozen:
        layer.trainable = False


_STAGE = re.compile(r"conv(\d+)_block\d+_")
_BACKBONE = re.compile(r"(conv\d+|pool1|post)_")


def _layers(model: keras.Model) -> Iterator[Any]:
    """The layers of a model and of the models in it."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer
