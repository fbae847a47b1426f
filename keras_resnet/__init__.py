"""Deep Residual Learning for Image Recognition (He et al., 2015) for Keras and TensorFlow.

Names are imported on first use, so `import keras_resnet` alone does not load TensorFlow.

Build: `ResNet18` to `ResNet1202`, `Plain18` to `Plain110`, `ResNet`, `build`, `ResNetSpec`,
`NETWORKS`, `preprocess_input`, `decode_predictions`, `feature_pyramid`, `freeze`, `unfreeze`,
`prepare`.

Train, test, deploy: `train`, `evaluate`, `compare`, `report`, `explain`, `export`, `check`,
`benchmark`, `predict`, `search`, `reproduce`, with `GradientHistory`, `Recipe`, `RECIPES`, `Run`,
`Schedule`, `Preprocessing`, `PREPROCESSING`, and the package `data` for data sets and pipelines.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "build": "networks.build",
    "feature_pyramid": "networks.pyramid",
    "freeze": "networks.freezing",
    "unfreeze": "networks.freezing",
    "ResNetSpec": "networks.spec",
    "NETWORKS": "networks.paper",
    "Preprocessing": "data.preprocessing",
    "PREPROCESSING": "data.preprocessing",
    "Recipe": "runs.recipe",
    "RECIPES": "runs.recipes",
    "Run": "runs.run",
    "Schedule": "training.schedule",
    "prepare": "training.keras_patches",
    "train": "training.train",
    "evaluate": "evaluation.evaluate",
    "compare": "evaluation.compare",
    "report": "evaluation.report",
    "explain": "evaluation.explain",
    "reproduce": "evaluation.reproduce",
    "GradientHistory": "evaluation.gradient_history",
    "export": "serving.export",
    "check": "serving.check",
    "benchmark": "serving.benchmark",
    "predict": "serving.predict",
    "search": "tuning.tuner",
    **dict.fromkeys(
        (
            "ResNet",
            "preprocess_input",
            "decode_predictions",
            *(f"ResNet{depth}" for depth in (18, 34, 50, 101, 152, 20, 32, 44, 56, 110, 1202)),
            *(f"Plain{depth}" for depth in (18, 34, 20, 32, 44, 56, 110)),
        ),
        "networks.applications",
    ),
}

__all__ = ["__version__", "data", *_HOME]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name == "data":  # a package, not a name in a module
        return importlib.import_module(".data", __name__)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
