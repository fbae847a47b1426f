"""Verify `.keras` files before Keras loads them.

Keras imports the classes that a file names and allocates the weights that it declares. So the
classes are compared with a short list, and the declared weights with the stored ones.
"""

import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ..files import MAX_TEXT, parse_json
from .hdf5 import damage_named, member
from .weight_files import stored_shapes

_MODELS = {("keras.src.models.functional", "Functional")}
# The layers of networks that `build` makes now or made in earlier versions.
_LAYERS = {
    *(
        ("keras.layers", name)
        for name in (
            "InputLayer",
            "Conv2D",
            "BatchNormalization",
            "ReLU",
            "Add",
            "ZeroPadding2D",
            "MaxPooling2D",
            "AveragePooling2D",
            "GlobalAveragePooling2D",
            "GlobalMaxPooling2D",
            "Dropout",
            "Dense",
        )
    ),
    ("keras.src.ops.numpy", "Pad"),
}
# The objects in the configs of layers.
_PARTS = {
    (None, "__keras_tensor__"),
    ("keras", "DTypePolicy"),
    ("keras.regularizers", "L2"),
    *(
        ("keras.initializers", name)
        for name in ("VarianceScaling", "HeNormal", "GlorotUniform", "Zeros", "Ones")
    ),
}


def require_network(path: Path) -> None:
    """Raise `ValueError` unless a `.keras` file holds a network and weights that fit it.

    Args:
        path: the file.
    """
    with damage_named(path):
        with zipfile.ZipFile(path) as archive:
            text = member(archive, "config.json", path.stat().st_size)
        if len(text) > MAX_TEXT:
            raise ValueError(f"config.json has more than {MAX_TEXT:,} bytes")
        model = parse_json(text.decode("utf-8"))
        _require_one_of(model, _MODELS)
        layers = model["config"]["layers"]
        declared = {}
        for layer in layers:
            _require_one_of(layer, _LAYERS)
            for part in _objects([layer["config"], layer["inbound_nodes"]]):
                _require_one_of(part, _PARTS)
            if shapes := _declared_shapes(layer):
                declared[layer["config"]["name"]] = shapes
        for part in _objects([value for name, value in model.items() if name != "config"]):
            _require_one_of(part, _PARTS)
        stored = stored_shapes(path)
        for name, shapes in declared.items():
            if stored.get(name) != shapes:
                raise ValueError(
                    f"{name} declares weights of shapes {shapes}, and the file has"
                    f" {stored.get(name)}"
                )


def _require_one_of(item: dict[str, Any], known: Collection[tuple[str | None, str]]) -> None:
    module, name = item.get("module"), item["class_name"]
    registered = item.get("registered_name")
    if (module, name) not in known or registered not in (None, name):
        raise ValueError(f"it uses {registered or name!r} of {module!r}, which no network uses")


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Yield all objects in a JSON value that name a class."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if "class_name" in value:
                yield value
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _declared_shapes(layer: dict[str, Any]) -> list[tuple[int, ...]]:
    """Return the shapes of the weights that Keras would allocate for a layer, in order."""
    kind, config = layer["class_name"], layer["config"]
    if kind not in ("Conv2D", "Dense", "BatchNormalization"):
        return []
    if layer["build_config"].keys() != {"input_shape"}:
        raise ValueError(f"{config['name']} is not built from its input_shape alone")
    channels = layer["build_config"]["input_shape"][-1]
    if kind == "BatchNormalization":
        if config["axis"] != -1:
            raise ValueError(f"{config['name']} is along axis {config['axis']!r}")
        return [(channels,)] * (2 + bool(config["center"]) + bool(config["scale"]))
    if kind == "Dense":
        outputs, kernel = config["units"], (channels, config["units"])
    else:
        if config["data_format"] != "channels_last" or config["groups"] != 1:
            raise ValueError(f"{config['name']} has a data_format or groups that no network has")
        outputs, kernel = config["filters"], (*config["kernel_size"], channels, config["filters"])
    return [kernel, *([(outputs,)] if config["use_bias"] else [])]
