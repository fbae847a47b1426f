"""Files of weights, of every kind that is read: keras.applications', torchvision's and timm's, and our own."""

import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import safetensors
import safetensors.numpy

from ..data import PREPROCESSING, Preprocessing

BATCH_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
KERNEL = ("kernel", "bias")


@dataclass(frozen=True)
class Checkpoint:
    """What a file of weights holds."""

    path: Path
    source: str
    """"keras.applications", "torchvision" (timm names its tensors alike) or "keras_resnet" """
    arrays: dict[str, np.ndarray]
    """`conv1_conv/kernel` and so on: the names of our layers and of their variables, float32"""
    layers: frozenset[str]
    """names of all layers, with weights or without; empty where the source does not say"""
    preprocessing: Preprocessing | None
    """what the pictures went through in training; None where nothing says so"""

    @property
    def classes(self) -> int | None:
        """Outputs of the classifier; None where the file has none."""
        bias = self.arrays.get("predictions/bias")
        return None if bias is None else len(bias)


def read(path: str | Path) -> Checkpoint:
    """What a file of weights holds, whatever network it is meant for.

    Raises `ValueError` where the file is of a kind that is not read, or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file of weights at {path}")
    try:
        if path.suffix == ".safetensors":
            return _torchvision(path)
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                return _keras(path, io.BytesIO(archive.read("model.weights.h5")))
        if path.suffix in (".h5", ".hdf5"):
            return _keras(path, path)
    except (OSError, KeyError, zipfile.BadZipFile, safetensors.SafetensorError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    raise ValueError(
        f"{path} is no .h5, .weights.h5, .keras or .safetensors file; a .pth, .pt or .bin file is a pickle, which "
        "can run any code when it is read: convert it to .safetensors with safetensors.torch.save_file"
    )


def _keras(path: Path, file: Path | io.BytesIO) -> Checkpoint:
    with h5py.File(file) as root:
        arrays: dict[str, np.ndarray] = {}
        layers = set()
        for layer, variables in _keras_layers(root):
            layer = "predictions" if layer == "probs" else layer
            layers.add(layer)
            for name, dataset in variables:
                arrays[f"{layer}/{name}"] = np.asarray(dataset, np.float32)
    if not layers:
        raise ValueError(f"{path} names no layers; save it again with Keras 3.15 or newer")
    beside = path.parent / "preprocessing.json"
    if any(name.endswith("_conv/bias") for name in arrays):
        return Checkpoint(
            path, "keras.applications", _without_biases(path, arrays), frozenset(layers), PREPROCESSING["caffe"]
        )
    preprocessing = Preprocessing.read(beside) if beside.is_file() else None
    return Checkpoint(path, "keras_resnet", arrays, frozenset(layers), preprocessing)


def _keras_layers(root: h5py.File) -> Iterator[tuple[str, list[tuple[str, h5py.Dataset]]]]:
    """Every layer with its variables, from the two layouts of Keras."""
    if "layers" in root:  # Keras 3: layers/conv2d_1/vars/0, and the layer's name beside the numbers
        for group in _groups(root["layers"]):
            if "vars" in group and "name" in group["vars"].attrs:
                layer = str(group["vars"].attrs["name"])
                names = BATCH_NORM if layer.endswith("_bn") else KERNEL
                datasets = sorted(_datasets(group["vars"]), key=lambda dataset: dataset.name)
                # A fifth variable has no name here; whatever it is, the network will not have it.
                yield layer, [(dict(enumerate(names)).get(i, str(i)), dataset) for i, dataset in enumerate(datasets)]
        return
    # Legacy: conv1_conv/conv1_conv/kernel:0, in model_weights where the whole model was saved
    for group in _groups(root["model_weights"] if "model_weights" in root else root):
        datasets = _datasets(group)
        yield (
            group.name.rpartition("/")[2],
            [(dataset.name.rpartition("/")[2].partition(":")[0], dataset) for dataset in datasets],
        )


def _groups(group: h5py.Group) -> list[h5py.Group]:
    """Groups in the file itself: a link could lead to another file."""
    return [
        group[name]
        for name in group
        if isinstance(group.get(name, getlink=True), h5py.HardLink) and isinstance(group[name], h5py.Group)
    ]


def _datasets(group: h5py.Group) -> list[h5py.Dataset]:
    """Arrays in the group, however deep, that the file itself holds."""
    found: list[h5py.Dataset] = []
    group.visititems(lambda _, item: found.append(item) if isinstance(item, h5py.Dataset) else None)  # follows no link
    for dataset in found:
        if dataset.external or dataset.is_virtual:
            raise OSError(f"{dataset.name} lies in another file")
    return found


def _without_biases(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same function without biases, and with our epsilon instead of keras.applications' 1.001e-5.

    Every convolution is followed by a batch norm: (x + b - mean) / sqrt(variance + e) is
    (x - (mean - b)) / sqrt((variance + e - 1e-5) + 1e-5).
    """
    folded = {}
    for name, array in arrays.items():
        layer, _, variable = name.partition("/")
        if layer.endswith("_conv") and variable == "bias":
            norm = f"{layer.removesuffix('_conv')}_bn/moving_mean"
            if norm not in arrays or arrays[norm].shape != array.shape:
                raise ValueError(f"{path}: {name} has no {norm} of its shape to go into")
        elif variable == "moving_mean":
            bias = arrays.get(f"{layer.removesuffix('_bn')}_conv/bias", np.zeros_like(array))
            folded[name] = np.asarray(array.astype(np.float64) - bias, np.float32)
        elif variable == "moving_variance":
            folded[name] = np.asarray(array.astype(np.float64) + (1.001e-5 - 1e-5), np.float32)
        else:
            folded[name] = array
    return folded


def _torchvision(path: Path) -> Checkpoint:
    arrays = {}
    for key, array in safetensors.numpy.load_file(path).items():
        if key.endswith("num_batches_tracked"):
            continue
        array = np.asarray(array, np.float32)
        name = _torchvision_name(key)
        if name.endswith("/kernel"):
            array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T  # OIHW to HWIO, OI to IO
        arrays[name] = array
    return Checkpoint(path, "torchvision", arrays, frozenset(), PREPROCESSING["torch"])


def _torchvision_name(key: str) -> str:
    """Ours for `layer3.0.conv2.weight` and the like; the key itself where it is none of those."""
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
        {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
        if layer.endswith("_bn")
        else {"weight": "kernel", "bias": "bias"}
    )
    return f"{layer}/{variables[variable]}" if variable in variables else key
