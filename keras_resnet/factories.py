"""The paper's networks in the manner of `keras.applications`."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from .data import PREPROCESSING, Preprocessing
from .model import build
from .spec import NETWORKS, ResNetSpec, require
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
    preprocessing: Preprocessing | None = None,
    synchronized: bool | None = None,
    name: str | None = None,
) -> keras.Model:
    """Any network that a `ResNetSpec` describes; arguments as in `keras_resnet.model.build`.

    Args:
        weights: None for random weights; "imagenet" for those that keras.applications publishes; or the path of a
            file: keras.applications' `.h5` or a `.weights.h5` saved from it, torchvision's or timm's `.safetensors`,
            this package's `.weights.h5` or `.keras`. With another number of classes the backbone is loaded, and a
            warning says that the classifier is new.
        preprocessing: how the pictures will be prepared; given, weights that were trained otherwise are refused.

    Raises:
        ValueError: an argument is not one of its choices, or the weights are of another network.
        ConnectionError: "imagenet" weights could not be downloaded.
    """
    if weights is not None and weights != "imagenet" and not Path(weights).is_file():
        raise ValueError(f"weights is {str(weights)!r}; give None, 'imagenet' or the path of a file that exists")
    if weights == "imagenet":
        weights = fetch(spec, top=include_top and classes == 1000)
    model = build(
        spec,
        include_top=include_top,
        input_tensor=input_tensor,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        synchronized=synchronized,
        name=name,
    )
    if weights is not None:
        load_weights(model, spec, weights, preprocessing=preprocessing)
    return model


def _factory(network: str) -> Callable[..., keras.Model]:
    spec = NETWORKS[network]
    default_classes = 10 if spec.stem == "cifar" else 1000

    def factory(
        *,
        include_top: bool = True,
        weights: str | Path | None = None,
        input_tensor: Any = None,
        input_shape: tuple[int | None, int | None, int] | None = None,
        pooling: str | None = None,
        classes: int = default_classes,
        classifier_activation: str | None = "softmax",
        shortcut: str | None = spec.shortcut,
        stride_on: str = spec.stride_on,
        order: str = spec.order,
        preprocessing: Preprocessing | None = None,
        synchronized: bool | None = None,
        name: str | None = None,
    ) -> keras.Model:
        if (spec.shortcut is None) != (shortcut is None):
            raise ValueError(
                f"shortcut is {shortcut!r}; {network} has {'none' if spec.shortcut is None else 'A, B or C'}"
            )
        return ResNet(
            replace(spec, shortcut=shortcut, stride_on=stride_on, order=order),  # type: ignore[arg-type]
            include_top=include_top,
            weights=weights,
            input_tensor=input_tensor,
            input_shape=input_shape,
            pooling=pooling,
            classes=classes,
            classifier_activation=classifier_activation,
            preprocessing=preprocessing,
            synchronized=synchronized,
            name=name,
        )

    kind = "plain network" if spec.shortcut is None else "residual network"
    where = "section 4.2" if spec.stem == "cifar" else "Table 1"
    factory.__name__ = factory.__qualname__ = network.replace("resnet", "ResNet").replace("plain", "Plain")
    factory.__doc__ = (
        f"The {spec.depth}-layer {kind} of {where}: pictures `[N, H, W, 3]` to class probabilities `[N, classes]`.\n\n"
        'Arguments as in `ResNet`, and the paper\'s own axes: `shortcut` "A", "B" or "C", `stride_on` "1x1" or\n'
        '"3x3", `order` "post" or "pre". Raises `ValueError` where one is not among its choices.'
    )
    return factory


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
    """Pictures `[..., H, W, 3]` in RGB with values 0 to 255 to what weights of one origin expect, as a new array.

    Takes NumPy arrays, tensors and the symbolic inputs of a model.

    Args:
        mode: "caffe" for `weights="imagenet"` and keras.applications' files (BGR, the mean of ImageNet subtracted);
            "torch" for torchvision's and timm's; "tf" for -1 to 1.

    Raises `ValueError` where `mode` is none of these.
    """
    require("mode", mode, tuple(PREPROCESSING))
    if isinstance(x, np.ndarray):
        x = np.array(x)  # Keras writes into an array of floats
    return keras.applications.imagenet_utils.preprocess_input(x, data_format="channels_last", mode=mode)


def decode_predictions(predictions: Any, *, top: int = 5) -> list[list[tuple[str, str, float]]]:
    """The `top` most probable ImageNet classes of `[N, 1000]` predictions, as (WordNet id, name, score), best first.

    Keras downloads the names once. Raises `ValueError` where there are other than 1,000 classes.
    """
    return keras.applications.imagenet_utils.decode_predictions(predictions, top=top)
