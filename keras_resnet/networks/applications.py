"""The paper's networks with the interface of `keras.applications`."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ..choices import require
from ..data.preprocessing import PREPROCESSING, Preprocessing
from .build import build
from .paper import NETWORKS, PAPER_ERRORS
from .pretrained_weights import DATA_SETS, weights_of
from .spec import Order, ResNetSpec, Shortcut, StrideOn
from .summary import summarize
from .weights import fetch
from .weights import load as load_weights


def ResNet(
    spec: ResNetSpec,
    *,
    include_top: bool = True,
    weights: str | Path | None = None,
    input_tensor: Any = None,
    input_shape: tuple[int | None, int | None, int] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: str | None = "softmax",
    weight_decay: float = 0.0,
    stochastic_depth: float = 0.0,
    dropout: float = 0.0,
    zero_gamma: bool = False,
    preprocessing: Preprocessing | None = None,
    synchronized: bool | None = None,
    name: str | None = None,
) -> keras.Model:
    """Build any network that a `ResNetSpec` describes.

    Args:
        spec: the network.
        include_top: whether the network ends in average pooling and the classifier.
        weights: None for random weights; "cifar10" for trained weights that come with this package,
            of some networks; "imagenet" for those that keras.applications publishes; or the path
            of a file: keras.applications' `.h5` or a `.weights.h5` saved
            from it, torchvision's or timm's `.safetensors`, this package's `.weights.h5` or
            `.keras`, or a file of a model that contains such a network. With another number of
            classes the classifier is new, with a warning. With other than three input channels
            the first convolution is adapted, with a warning.
        input_tensor: a Keras tensor `[N, H, W, C]` to build on, instead of a new input.
        input_shape: `(H, W, C)` of one image; H and W may be None. Default: `(None, None, 3)`.
        pooling: without top, "avg" or "max" pools over the image to `[N, C]`; None returns
            `[N, H, W, C]`.
        classes: number of outputs of the classifier.
        classifier_activation: "softmax", "sigmoid" (for one class), or None for logits.
        weight_decay: the paper's weight decay, 0.0001 in section 3.4: an L2 penalty of half this
            strength on every kernel, whose gradient is `weight_decay * kernel`.
        stochastic_depth: share of images for which training drops the last residual unit. Unit l of
            L is dropped for l/L of this share (Huang et al. 2016). Training divides each kept
            branch by its survival probability, so inference needs no scaling.
        dropout: share of the features before the classifier that training sets to 0
            (Srivastava et al. 2014).
        zero_gamma: whether the last batch norm of each residual branch starts with gamma 0, so
            that each unit starts as its shortcut (Goyal et al. 2017, section 5.1). Order "pre" has
            no batch norm there.
        preprocessing: the preprocessing of the images. If given, weights trained with another one
            are refused.
        synchronized: whether batch statistics are computed over all replicas. None: only if there
            are several.
        name: name of the model. Default: the spec's name.

    Returns:
        A model of built-in Keras layers: images `[N, H, W, C]` to `[N, classes]` or features.

    Raises:
        ValueError: an argument is invalid or does not fit the network, or the weights belong to
            another network.
        ConnectionError: the "imagenet" weights could not be downloaded.
    """
    if not isinstance(spec, ResNetSpec):
        raise ValueError(
            f"spec is {spec!r}; give a ResNetSpec, such as keras_resnet.NETWORKS['resnet34']"
        )
    if weights in DATA_SETS:
        weights = weights_of(str(weights), spec)
    elif weights == "imagenet":
        weights = fetch(spec, top=include_top and classes == 1000)
    elif weights is not None and not Path(weights).is_file():
        names = ", ".join(map(repr, ("imagenet", *DATA_SETS)))
        raise ValueError(
            f"weights is {str(weights)!r}; give None, {names} or the path of a file that exists"
        )
    model = build(
        spec,
        include_top=include_top,
        input_tensor=input_tensor,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        weight_decay=weight_decay,
        stochastic_depth=stochastic_depth,
        dropout=dropout,
        zero_gamma=zero_gamma,
        synchronized=synchronized,
        name=name,
    )
    if weights is not None:
        load_weights(model, spec, weights, preprocessing=preprocessing)
    return model


_AXES = ("shortcut", "stride_on", "order")


def _factory(network: str) -> Callable[..., keras.Model]:
    """Return a function that builds a network: `ResNet` with that network's defaults."""
    spec = NETWORKS[network]
    title = network.replace("resnet", "ResNet").replace("plain", "Plain")
    classes = 10 if spec.stem == "cifar" else 1000
    signature = _signature(spec, classes)

    def factory(*args: Any, **kwargs: Any) -> keras.Model:
        if args:
            raise TypeError(
                f"{title}() has keyword-only arguments, such as include_top=True and"
                f" classes={classes}, but got {len(args)} positional"
            )
        try:
            arguments = signature.bind(**kwargs)
        except TypeError as error:
            raise TypeError(f"{title}() {error}") from None
        arguments.apply_defaults()
        axes = {axis: arguments.arguments.pop(axis) for axis in _AXES}
        if (spec.shortcut is None) != (axes["shortcut"] is None):
            choices = "none" if spec.shortcut is None else "A, B or C"
            raise ValueError(f"shortcut is {axes['shortcut']!r}; {network} has {choices}")
        return ResNet(replace(spec, **axes), **arguments.arguments)

    factory.__name__ = factory.__qualname__ = title
    factory.__signature__ = signature  # type: ignore[attr-defined]
    factory.__annotations__ = {
        parameter.name: parameter.annotation for parameter in signature.parameters.values()
    } | {"return": keras.Model}
    factory.__doc__ = _documentation(spec, classes)
    return factory


def _signature(spec: ResNetSpec, classes: int) -> inspect.Signature:
    """Return the signature of `ResNet` with the paper's axes instead of the spec."""
    signature = inspect.signature(ResNet)
    parameters = [
        parameter.replace(default=classes) if name == "classes" else parameter
        for name, parameter in signature.parameters.items()
        if name != "spec"
    ]
    kinds = (Shortcut | None, StrideOn, Order)
    axes = [
        inspect.Parameter(axis, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for axis, kind in zip(_AXES, kinds, strict=True)
        for default in (getattr(spec, axis),)
    ]
    return signature.replace(parameters=[*parameters, *axes])


def _documentation(spec: ResNetSpec, classes: int) -> str:
    """Return the docstring of a factory: its network, and the arguments of `ResNet`."""
    side = 32 if spec.stem == "cifar" else 224
    residual = spec.shortcut is not None
    costs = summarize(spec, side, classes)
    if spec.block == "bottleneck":
        unit = "1x1, 3x3 and 1x1 convolutions"
    else:
        unit = "two 3x3 convolutions"
    rows = []
    for stage in costs.stages:
        height, width = stage.output_size
        content = f"{stage.blocks} units of {unit}"
        if stage.name == "conv1":
            content = "3x3 convolution" if spec.stem == "cifar" else "7x7 convolution, stride 2"
        if stage.name == "conv2_x" and spec.stem == "imagenet":
            content = f"3x3 max pool, stride 2; {content}"
        shape = f"[N, {height}, {width}, {stage.channels}]"
        if stage.name == "head":
            content, shape = "average over the image, dense layer, softmax", f"[N, {classes}]"
        rows.append(f"    {stage.name:<8} {shape:<20} {content}")
    kind = "residual" if residual else "plain"
    section = "section 4.2" if spec.stem == "cifar" else "Table 1"
    lines = [
        f"Build the {spec.depth}-layer {kind} network of {section}.",
        "",
        f"On images `[N, {side}, {side}, 3]`:",
        "",
        *rows,
        "",
        f"{costs.parameters:,} trainable parameters and {costs.multiply_adds:,} multiply-adds per"
        " image.",
    ]
    if spec.name in PAPER_ERRORS:
        error, benchmark = PAPER_ERRORS[spec.name]
        lines.append(f"Error in the paper: {error} % on {benchmark}.")
    if residual:
        shortcut = '"A", "B" or "C" as in section 4.1: zero padding; projection where the shape\n'
        shortcut += "        changes; projection in every unit."
    else:
        shortcut = "None, the only choice: a plain network has no shortcuts."
    stride = '"1x1" (the paper) or "3x3" (torchvision\'s v1.5): the convolution of a bottleneck\n'
    stride += "        that has stride 2."
    if spec.block == "basic":
        stride += " It has no effect on basic units."
    axes = {
        "shortcut": shortcut,
        "stride_on": stride,
        "order": '"post": convolution, batch norm, ReLU (the paper); "pre": batch norm, ReLU,\n'
        "        convolution (He et al. 2016).",
    }
    described = inspect.getdoc(ResNet) or ""  # python -OO strips docstrings
    _, _, described = described.partition("    spec: the network.\n")
    arguments, _, rest = described.partition("\n\nReturns:")
    return "\n".join(
        [
            *lines,
            "",
            "Args:",
            arguments,
            *(f"    {axis}: {text}" for axis, text in axes.items()),
            "",
            f"Returns:{rest}",
        ]
    )


ResNet18 = _factory("resnet18")
ResNet34 = _factory("resnet34")
ResNet50 = _factory("resnet50")
ResNet101 = _factory("resnet101")
ResNet152 = _factory("resnet152")
Plain18 = _factory("plain18")
Plain34 = _factory("plain34")
ResNet20 = _factory("resnet20")
ResNet32 = _factory("resnet32")
ResNet44 = _factory("resnet44")
ResNet56 = _factory("resnet56")
ResNet110 = _factory("resnet110")
ResNet1202 = _factory("resnet1202")
Plain20 = _factory("plain20")
Plain32 = _factory("plain32")
Plain44 = _factory("plain44")
Plain56 = _factory("plain56")
Plain110 = _factory("plain110")


def preprocess_input(x: Any, *, mode: str = "caffe") -> Any:
    """Preprocess images as pretrained weights expect.

    Args:
        x: RGB images `[..., H, W, 3]` with values 0 to 255, integers or floats: an array, nested
            lists, a tensor or a symbolic input of a model. An array is not changed.
        mode: "caffe" for `weights="imagenet"` and keras.applications' files (BGR, ImageNet's mean
            subtracted); "torch" for torchvision's and timm's files; "tf" for values from -1 to 1;
            "cifar10" for `weights="cifar10"` (the mean image of 32 x 32 pixels subtracted).

    Returns:
        The preprocessed images, in the shape of `x`. They are floats, of the type
        `keras.config.floatx()` if `x` holds integers.

    Raises:
        ValueError: `mode` is none of these, or the images do not have three channels, or not the
            size of `mode`.
    """
    require("mode", mode, tuple(PREPROCESSING))
    if not (tf.is_tensor(x) or keras.utils.is_keras_tensor(x)):
        x = np.array(x)  # a copy, because Keras writes into an array of floats
    elif not keras.backend.is_float_dtype(x.dtype):
        # Keras computes in the tensor's own type. In uint8, 0 minus the mean would wrap around.
        x = keras.ops.cast(x, keras.config.floatx())
    if tuple(x.shape[-1:]) not in ((3,), (None,)):
        raise ValueError(f"the images have shape {tuple(x.shape)}; give RGB images [..., H, W, 3]")
    if mode in DATA_SETS:
        return _normalized(x, mode)  # Keras does not know it
    return keras.applications.imagenet_utils.preprocess_input(
        x, data_format="channels_last", mode=mode
    )


def _normalized(x: Any, mode: str) -> Any:
    """Return images of the size of a data set as its networks expect them."""
    preprocessing = PREPROCESSING[mode]
    side = preprocessing.crop
    sizes = tuple(x.shape[-3:-1])
    if len(sizes) != 2 or any(size not in (side, None) for size in sizes):
        raise ValueError(
            f"the images have shape {tuple(x.shape)}; mode {mode!r} takes [..., {side}, {side}, 3]"
        )
    dtype = keras.backend.standardize_dtype(x.dtype)
    if not keras.backend.is_float_dtype(dtype):
        dtype, x = keras.config.floatx(), x.astype(keras.config.floatx())
    mean, scale = (np.asarray(v, dtype) for v in (preprocessing.mean, preprocessing.scale))
    return (x - mean) / scale


def decode_predictions(predictions: Any, *, top: int = 5) -> list[list[tuple[str, str, float]]]:
    """Return the most probable ImageNet classes of each image, best first.

    Keras downloads the class names once.

    Args:
        predictions: probabilities `[N, 1000]`.
        top: number of classes per image.

    Returns:
        One list per image of (WordNet id, class name, score).

    Raises:
        ValueError: `predictions` does not have 1,000 classes.
    """
    return keras.applications.imagenet_utils.decode_predictions(predictions, top=top)
