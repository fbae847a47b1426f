"""Read weight files of keras.applications, torchvision, timm and this package."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import safetensors.numpy

from ..data.preprocessing import PREPROCESSING, Preprocessing
from .backbone import backbone_of
from .hdf5 import damage_named, weights_of

BATCH_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
KERNEL = ("kernel", "bias")


@dataclass(frozen=True)
class Checkpoint:
    """The content of a weight file."""

    path: Path
    source: str
    """"keras.applications", "torchvision" (timm uses the same names) or "keras_resnet" """
    arrays: dict[str, np.ndarray]
    """float32 arrays by layer and variable of this package, such as `conv1_conv/kernel`"""
    layers: frozenset[str]
    """names of all layers, with or without weights; empty if the file does not hold them"""
    preprocessing: Preprocessing | None
    """preprocessing of the training images; None if unknown"""
    left_out: tuple[str, ...] = ()
    """names of layers with weights that do not belong to the network, such as a user's own head"""

    @property
    def classes(self) -> int | None:
        """Number of outputs of the classifier; None if the file has no classifier."""
        bias = self.arrays.get("predictions/bias")
        return None if bias is None else len(bias)


def read(path: str | Path) -> Checkpoint:
    """Read a weight file of any network.

    Raises:
        ValueError: the file does not exist, is damaged, or has an unsupported format.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give a weight file")
    if path.suffix == ".safetensors":
        return _torchvision(path)
    if path.suffix in (".keras", ".h5", ".hdf5"):
        return _keras(path)
    raise ValueError(
        f"{path} is not a .h5, .weights.h5, .keras or .safetensors file; a .pth, .pt or .bin file"
        " is a pickle, which can run any code when it is loaded: convert it to .safetensors with"
        " safetensors.torch.save_file"
    )


def stored_shapes(path: Path) -> dict[str, list[tuple[int, ...]]]:
    """Return the shapes of the weights in a Keras file by layer, in their order."""
    with weights_of(path) as root:
        return {
            layer: [dataset.shape for _, dataset in variables]
            for model, layer, variables in _keras_layers(root)
            if variables and not model
        }


def _keras(path: Path) -> Checkpoint:
    arrays: dict[str, np.ndarray] = {}
    left_out = []
    with damage_named(path), weights_of(path) as root:
        stored_layers = [
            (model, "predictions" if layer == "probs" else layer, variables)
            for model, layer, variables in _keras_layers(root)
        ]
        names: dict[str, set[str]] = {"": set()}
        for model, layer, _ in stored_layers:
            names.setdefault(model, set()).add(layer)
        networks = [model for model in names if backbone_of(names[model])]
        if len(networks) > 1:
            raise ValueError(f"it has {len(networks)} networks, {' and '.join(networks)}; save one")
        (network,) = networks or ("",)
        layers = names[network]
        if backbone := backbone_of(layers):
            layers &= backbone | {"predictions"}
        for model, layer, variables in stored_layers:
            if model == network and layer in layers:
                for name, dataset in variables:
                    arrays[f"{layer}/{name}"] = np.asarray(dataset, np.float32)
            elif variables:
                left_out.append(layer)
        legacy = "layers" not in root
    _require_vector(path, arrays)
    if not layers:
        raise ValueError(f"{path} has no layer names; save it again with Keras 3.15 or newer")
    checkpoint = Checkpoint(path, "keras_resnet", arrays, frozenset(layers), None, tuple(left_out))
    if any(name.endswith("_conv/bias") for name in arrays):
        return replace(
            checkpoint,
            source="keras.applications",
            arrays=_without_biases(path, arrays),
            preprocessing=PREPROCESSING["caffe"],
        )
    if legacy and network:
        raise ValueError(
            f"{path} has no names of the layers without weights in {network}, which tell the"
            " shortcuts; save the model as .keras or .weights.h5"
        )
    file = path.parent / "preprocessing.json"
    return replace(checkpoint, preprocessing=Preprocessing.read(file) if file.is_file() else None)


def _keras_layers(root: h5py.File) -> Iterator[tuple[str, str, list[tuple[str, h5py.Dataset]]]]:
    """Yield every layer of a file in either of Keras' two layouts.

    An item holds the path of the model that contains the layer ("" for the outermost model), the
    layer's name and its variables.
    """
    if "layers" in root:  # Keras 3: layers/conv2d_1/vars/0, and the layer's name as an attribute
        for group in _groups(root):
            if group.name != "/optimizer" and "vars" in group and "name" in group["vars"].attrs:
                layer = str(group["vars"].attrs["name"])
                names = BATCH_NORM if layer.endswith("_bn") else KERNEL
                datasets = sorted(_datasets(group["vars"]), key=lambda dataset: dataset.name)
                # Further variables, which no network has, are named by their number.
                yield (
                    group.parent.name.strip("/").removeprefix("layers").strip("/"),
                    layer,
                    [
                        (dict(enumerate(names)).get(i, str(i)), dataset)
                        for i, dataset in enumerate(datasets)
                    ],
                )
        return
    # Legacy: conv1_conv/conv1_conv/kernel:0, inside model_weights if the whole model was saved.
    # All layers of a nested model are in one group: resnet50/conv1_conv/kernel:0.
    top = root["model_weights"] if "model_weights" in root else root
    for group in (top[name] for name in top if isinstance(top[name], h5py.Group)):
        group_name = group.name.rpartition("/")[2]
        layers: dict[str, list[tuple[str, h5py.Dataset]]] = {}
        for dataset in _datasets(group):
            layer, name = dataset.name.split("/")[-2:]
            layers.setdefault(layer, []).append((name.partition(":")[0], dataset))
        for layer, variables in (layers or {group_name: []}).items():
            yield "" if layers.keys() <= {group_name} else group_name, layer, variables


def _groups(root: h5py.Group) -> list[h5py.Group]:
    """Return the groups in a group, at any depth."""
    groups: list[h5py.Group] = []
    root.visititems(lambda _, item: groups.append(item) if isinstance(item, h5py.Group) else None)
    return groups


def _datasets(group: h5py.Group) -> list[h5py.Dataset]:
    """Return the arrays in a group, at any depth."""
    arrays: list[h5py.Dataset] = []
    group.visititems(
        lambda _, item: arrays.append(item) if isinstance(item, h5py.Dataset) else None
    )
    return arrays


def _require_vector(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Raise `ValueError` unless the classifier's bias, which gives the class count, is a vector."""
    bias = arrays.get("predictions/bias", np.zeros(1))
    if bias.ndim != 1:
        raise ValueError(f"{path} cannot be read: predictions/bias has shape {bias.shape}")


def _without_biases(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Fold the biases and the epsilon of keras.applications into the moving statistics.

    Its networks have biases b and an epsilon e of 1.001e-5; ours have no biases and 1e-5. Every
    convolution is followed by a batch norm, and (x + b - mean) / sqrt(variance + e) equals
    (x - (mean - b)) / sqrt((variance + e - 1e-5) + 1e-5).
    """
    folded = {}
    for name, array in arrays.items():
        layer, _, variable = name.partition("/")
        if layer.endswith("_conv") and variable == "bias":
            norm = f"{layer.removesuffix('_conv')}_bn/moving_mean"
            if norm not in arrays or arrays[norm].shape != array.shape:
                raise ValueError(f"{path}: {name} has no {norm} of the same shape")
        elif variable == "moving_mean":
            bias = arrays.get(f"{layer.removesuffix('_bn')}_conv/bias", np.zeros_like(array))
            if bias.shape != array.shape:
                raise ValueError(f"{path}: {name} and the convolution's bias have different shapes")
            folded[name] = np.asarray(array.astype(np.float64) - bias, np.float32)
        elif variable == "moving_variance":
            folded[name] = np.asarray(array.astype(np.float64) + (1.001e-5 - 1e-5), np.float32)
        else:
            folded[name] = array
    return folded


def _torchvision(path: Path) -> Checkpoint:
    arrays, left_out = {}, {}
    with damage_named(path):
        tensors = safetensors.numpy.load_file(path)
        # A user's own module may contain the network, as `backbone` or `module`.
        first = re.compile(r"(|.+\.)layer1\.0\.conv1\.weight")
        prefixes = [match[1] for match in map(first.fullmatch, tensors) if match]
        if len(prefixes) > 1:
            raise ValueError(f"it has {len(prefixes)} networks, {' and '.join(prefixes)}; save one")
    (prefix,) = prefixes or ("",)
    for key, array in tensors.items():
        if key.endswith("num_batches_tracked"):
            continue
        suffix = key.removeprefix(prefix)
        # The classifier is fc.weight and fc.bias; fc.0.weight belongs to a user's own head.
        if not key.startswith(prefix) or re.match(r"fc\..+\.", suffix):
            left_out[key.rpartition(".")[0]] = True
            continue
        array = np.asarray(array, np.float32)
        name = _torchvision_name(suffix)
        if name.endswith("/kernel"):
            array = (
                array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
            )  # OIHW to HWIO, OI to IO
        arrays[name] = array
    _require_vector(path, arrays)
    return Checkpoint(
        path, "torchvision", arrays, frozenset(), PREPROCESSING["torch"], tuple(left_out)
    )


def _torchvision_name(key: str) -> str:
    """Translate names such as `layer3.0.conv2.weight` into ours; keep any other name."""
    layer, _, variable = key.rpartition(".")
    if unit := re.fullmatch(r"layer(\d+)\.(\d+)\.(conv|bn)(\d)", layer):
        stage, block, kind, number = unit.groups()
        layer = f"conv{int(stage) + 1}_block{int(block) + 1}_{number}_{kind}"
    elif unit := re.fullmatch(r"layer(\d+)\.(\d+)\.downsample\.([01])", layer):
        stage, block, number = unit.groups()
        layer = f"conv{int(stage) + 1}_block{int(block) + 1}_0_{'bn' if number == '1' else 'conv'}"
    elif layer in ("conv1", "bn1", "fc"):
        layer = {"conv1": "conv1_conv", "bn1": "conv1_bn", "fc": "predictions"}[layer]
    else:
        return key
    variables = (
        {
            "weight": "gamma",
            "bias": "beta",
            "running_mean": "moving_mean",
            "running_var": "moving_variance",
        }
        if layer.endswith("_bn")
        else {"weight": "kernel", "bias": "bias"}
    )
    return f"{layer}/{variables[variable]}" if variable in variables else key
