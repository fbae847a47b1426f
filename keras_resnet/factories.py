"""The paper's networks in the manner of `keras.applications`."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras

from .model import build
from .spec import NETWORKS, ResNetSpec


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
    synchronized: bool | None = None,
    name: str | None = None,
) -> keras.Model:
    """Any network that a `ResNetSpec` describes; arguments as in `keras_resnet.model.build`.

    Args:
        weights: None for random weights, or the path of a `.weights.h5` file saved from the same network.

    Raises:
        ValueError: an argument is not one of its choices.
    """
    if weights is not None and not Path(weights).is_file():
        raise ValueError(f"weights is {str(weights)!r}; give None or the path of a .weights.h5 file")
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
        model.load_weights(str(weights))
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
