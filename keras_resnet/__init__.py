"""Deep Residual Learning for Image Recognition (He et al., 2015) for Keras and TensorFlow.

The names below are imported when they are first used, so that `import keras_resnet` is light.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "build": "model",
    "feature_pyramid": "model",
    "freeze": "model",
    "prepare": "replicas",
    "Preprocessing": "data",
    "PREPROCESSING": "data",
    "ResNetSpec": "spec",
    "NETWORKS": "spec",
    "Recipe": "recipe",
    "RECIPES": "recipe",
    **dict.fromkeys(
        (
            "ResNet",
            "preprocess_input",
            "decode_predictions",
            *(f"ResNet{depth}" for depth in (18, 34, 50, 101, 152, 20, 32, 44, 56, 110, 1202)),
            *(f"Plain{depth}" for depth in (18, 34, 20, 32, 44, 56, 110)),
        ),
        "factories",
    ),
}

__all__ = ["__version__", *_HOME]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
