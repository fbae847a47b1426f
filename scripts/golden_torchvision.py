"""Write tests/golden/torchvision.json: logits of torchvision's ResNets, computed by PyTorch.

The networks are implemented a second time here, in PyTorch with torchvision's names, so that the
reference shares no code with the package. Weights are random with a seed from the tensor's name:
the golden file needs no checkpoint, and swapping two tensors of equal shape changes the logits.

Only `main` and `module` need PyTorch; the tests use the other functions. To regenerate the file:

    pip install torch numpy
    python scripts/golden_torchvision.py
"""

import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "torchvision.json"
UNITS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}  # in layer1 to layer4
BOTTLENECK = {"resnet18": False, "resnet50": True}
SIZES = ((224, 224), (160, 192))  # (height, width); the second detects swapped height and width
CLASSES = range(0, 1000, 32)  # a sample keeps the file small; each logit depends on all layers


def convolutions(network: str, width: int, stride: int) -> list[tuple[int, int, int]]:
    """Return (kernel, stride, outputs) per convolution; a bottleneck's 3x3 strides (v1.5)."""
    if BOTTLENECK[network]:
        return [(1, 1, width), (3, stride, width), (1, 1, 4 * width)]
    return [(3, stride, width), (3, 1, width)]


def shapes(network: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor by name, in torchvision's order."""
    table: dict[str, tuple[int, ...]] = {}

    def conv_and_norm(conv: str, bn: str, outputs: int, inputs: int, kernel: int) -> None:
        table[f"{conv}.weight"] = (outputs, inputs, kernel, kernel)
        for part in ("weight", "bias", "running_mean", "running_var"):
            table[f"{bn}.{part}"] = (outputs,)
        table[f"{bn}.num_batches_tracked"] = ()

    conv_and_norm("conv1", "bn1", 64, 3, 7)
    channels = 64
    for stage, units in enumerate(UNITS[network]):
        for unit in range(units):
            name = f"layer{stage + 1}.{unit}"
            stride = 2 if stage > 0 and unit == 0 else 1
            inputs = channels
            for k, (kernel, _, outputs) in enumerate(
                convolutions(network, 64 * 2**stage, stride), start=1
            ):
                conv_and_norm(f"{name}.conv{k}", f"{name}.bn{k}", outputs, channels, kernel)
                channels = outputs
            if stride > 1 or inputs != channels:
                conv_and_norm(f"{name}.downsample.0", f"{name}.downsample.1", channels, inputs, 1)
    return table | {"fc.weight": (1000, channels), "fc.bias": (1000,)}


def tensor(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the tensor with a name: float32, as in a checkpoint, or the int64 count of batches."""
    if key.endswith("num_batches_tracked"):
        return np.array(1, np.int64)
    # NumPy may change the stream of default_rng in any version, but has frozen RandomState's.
    z = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)
    if len(shape) > 1:
        z *= math.sqrt(2 / math.prod(shape[1:]))
        # Values after a ReLU are positive. Kernels with a sum of zero remove their mean, which is
        # larger than the difference between two images and would dominate the logits.
        if key != "conv1.weight":
            z -= z.mean(axis=tuple(range(1, z.ndim)), keepdims=True)
    elif key.endswith("running_var"):
        z = np.exp(0.5 * z)
    elif key.endswith("weight"):
        z = np.maximum(1 + 0.2 * z, 0.1)
        # A residual branch ends in bn2 or bn3. Halving it keeps the sums from growing with every
        # unit.
        if key.endswith(("bn2.weight", "bn3.weight")):
            z *= 0.5
    else:
        z *= 0.2
    return z.astype(np.float32)


def images(height: int, width: int) -> np.ndarray:
    """Return two normalized images of tinted noise, float32 `[2, 3, height, width]`."""
    random = np.random.RandomState(0)
    # Without a tint, a network that averages over the image could hardly distinguish noise.
    tint = random.standard_normal((2, 3, 1, 1))
    return ((tint + random.standard_normal((2, 3, height, width))) / math.sqrt(2)).astype(
        np.float32
    )


def checksum(network: str) -> float:
    """Return the sum of all absolute weights, to detect changes of the random numbers."""
    return float(
        sum(
            np.abs(tensor(key, shape)).sum(dtype=np.float64)
            for key, shape in shapes(network).items()
        )
    )


def module(network: str) -> Any:
    """Return the `torch.nn.Module`, in evaluation mode and float64."""
    import torch
    from torch import nn

    class Unit(nn.Module):
        def __init__(self, inputs: int, width: int, stride: int) -> None:
            super().__init__()
            channels = inputs
            self.branch = []
            for k, (kernel, step, outputs) in enumerate(
                convolutions(network, width, stride), start=1
            ):
                conv = nn.Conv2d(channels, outputs, kernel, step, padding=kernel // 2, bias=False)
                bn = nn.BatchNorm2d(outputs, eps=1e-5)
                self.add_module(f"conv{k}", conv)
                self.add_module(f"bn{k}", bn)
                self.branch.append((conv, bn))
                channels = outputs
            self.downsample = None
            if stride > 1 or inputs != channels:
                self.downsample = nn.Sequential(
                    nn.Conv2d(inputs, channels, 1, stride, bias=False),
                    nn.BatchNorm2d(channels, eps=1e-5),
                )

        def forward(self, x: Any) -> Any:
            y = x
            for conv, bn in self.branch[:-1]:
                y = torch.relu(bn(conv(y)))
            conv, bn = self.branch[-1]
            return torch.relu(bn(conv(y)) + (x if self.downsample is None else self.downsample(x)))

    class ResNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
            self.bn1 = nn.BatchNorm2d(64, eps=1e-5)
            self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
            channels = 64
            for stage, units in enumerate(UNITS[network]):
                layer = nn.Sequential()
                for unit in range(units):
                    width = 64 * 2**stage
                    layer.append(Unit(channels, width, stride=2 if stage > 0 and unit == 0 else 1))
                    channels = 4 * width if BOTTLENECK[network] else width
                self.add_module(f"layer{stage + 1}", layer)
            self.fc = nn.Linear(channels, 1000)

        def forward(self, x: Any) -> Any:
            x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
            x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
            return self.fc(x.mean(dim=(2, 3)))

    return ResNet().double().eval()


def rounded(value: float) -> float:
    """Round to the nine digits of a float32."""
    return float(f"{value:.9g}")


def main() -> None:
    import torch

    networks = {}
    for network in UNITS:
        net = module(network)
        expected = [(key, tuple(value.shape)) for key, value in net.state_dict().items()]
        assert list(shapes(network).items()) == expected, (
            f"shapes({network!r}) differ from PyTorch's"
        )
        net.load_state_dict(
            {key: torch.from_numpy(tensor(key, shape)) for key, shape in shapes(network).items()}
        )
        cases = []
        for height, width in SIZES:
            with torch.inference_mode():
                logits = net(torch.from_numpy(images(height, width)).double()).numpy()
            # For the reader: images with almost equal logits would test little.
            apart = (logits[0] - logits[1]).std()
            print(
                f"{network} {height}x{width}: logits of std {logits.std():.3f}, their difference of"
                f" {apart:.3f}"
            )
            cases.append(
                {
                    "height": height,
                    "width": width,
                    "logits": [[rounded(value) for value in row[CLASSES]] for row in logits],
                    "largest": [rounded(value) for value in np.abs(logits).max(axis=1)],
                    "sum": [rounded(value) for value in logits.sum(axis=1)],
                }
            )
        networks[network] = {"checksum": checksum(network), "cases": cases}
    golden = {
        "about": [
            "Numbers from outside this package: never regenerate them from its own output.",
            (
                "Weights and images are those of tensor() and images() in the script; a network"
                " computes in float64."
            ),
            (
                "logits: of both images, at 'classes' of the 1000; largest (absolute) and sum:"
                " over all 1000."
            ),
            "checksum: the sum of the absolute values of all tensors.",
        ],
        "source": (
            f"scripts/golden_torchvision.py with PyTorch {torch.__version__.partition('+')[0]}"
        ),
        "classes": list(CLASSES),
        "networks": networks,
    }
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
