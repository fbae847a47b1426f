"""Compare training steps of stock Keras, a prepared model and PyTorch in float32 and bfloat16.

Each contender runs in its own process, which stays alive. They alternate after a few steps, for
many rounds. The result is images per second (median and quartiles over the rounds) and the median
ratio to stock Keras in the same round. Batches are random and in memory, so only the step is
measured. PyTorch, if installed (`pip install torch`), runs eagerly with channels_last. Run it on an
idle machine:

    python scripts/benchmarks/bench_training.py

Writes scripts/results/bench_training.txt.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parents[1] / "results" / "bench_training.txt"
SETS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")

# network, side in pixels, classes, batch size, steps per turn
CASES = {
    "resnet20": (32, 10, 128, 4),
    "resnet50": (224, 1000, 16, 2),
}
CONTENDERS = ("keras", "prepared", "pytorch")
PRECISIONS = ("float32", "bfloat16")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--networks", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return work(*args.worker)

    contenders = [name for name in CONTENDERS if name != "pytorch" or find_spec("torch")]
    lines = [f"{processor()}; {args.rounds} rounds", ""]
    lines.append(f"{'':34}{'images/s':>10}{'quartiles':>18}{'of stock Keras':>18}")
    for network in args.networks:
        for precision in PRECISIONS:
            lines += compare(network, precision, "1", contenders, args.rounds)
    lines += compare("resnet20", "float32", "2", ["keras", "prepared"], args.rounds)
    text = "\n".join(lines) + "\n"
    RESULTS.write_text(text)


def processor() -> str:
    """Return the processor's name and those of its instruction sets that are in `SETS`."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    facts = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    facts = {name.strip(): value.strip() for name, value in facts.items()}
    sets = [name for name in SETS if name in facts.get("flags", "").split()]
    cores = sum(line.startswith("processor") for line in lines)
    return f"{facts.get('model name')}, {cores} cores, {' '.join(sets)}"


def compare(
    network: str, precision: str, replicas: str, contenders: list[str], rounds: int
) -> list[str]:
    """Let the contenders alternate, and return one row per contender."""
    _, _, batch, steps = CASES[network]
    command = [sys.executable, __file__, "--worker", network, precision, replicas]
    workers = {
        name: subprocess.Popen(
            [*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in contenders
    }
    for name, worker in workers.items():
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n", f"{name} did not start"
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, worker in workers.items():
            assert worker.stdin is not None and worker.stdout is not None
            print(steps, file=worker.stdin, flush=True)
            speeds[name].append(batch * steps / float(worker.stdout.readline()))
    rows = []
    for name, worker in workers.items():
        worker.communicate("")
        low, middle, high = np.percentile(speeds[name], [25, 50, 75])
        ratios = np.divide(speeds[name], speeds["keras"])
        label = f"{network}, {precision}, {name}" + (", 2 replicas" if replicas == "2" else "")
        quartiles = f"{low:.1f} to {high:.1f}"
        ratio = "" if name == "keras" else f"{np.median(ratios):.2f}"
        rows.append(f"{label:34}{middle:10.1f}{quartiles:>18}{ratio:>18}")
        print(rows[-1], flush=True)
    return rows


def work(network: str, precision: str, replicas: str, contender: str) -> None:
    """Read numbers of steps from standard input, and print the seconds that the steps take."""
    side, classes, batch, _ = CASES[network]
    random = np.random.default_rng(0)
    images = random.normal(size=(batch, side, side, 3)).astype(np.float32)
    labels = random.integers(0, classes, batch)
    if contender == "pytorch":
        step = pytorch(network, precision, images, labels)
    else:
        step = keras_step(
            network, precision, int(replicas), contender == "prepared", images, labels
        )
    for _ in range(3):
        step()
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            step()
        print(time.perf_counter() - start, flush=True)


def keras_step(
    network: str,
    precision: str,
    replicas: int,
    prepared: bool,
    images: np.ndarray,
    labels: np.ndarray,
) -> Callable[[], Any]:
    import os

    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras
    import tensorflow as tf

    from keras_resnet import NETWORKS, ResNet, prepare

    if replicas > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        devices = [tf.config.LogicalDeviceConfiguration()] * replicas
        tf.config.set_logical_device_configuration(cpu, devices)
        strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])
    else:
        strategy = tf.distribute.get_strategy()
    if precision == "bfloat16":
        keras.config.set_dtype_policy("mixed_bfloat16")
    with strategy.scope():
        model = ResNet(
            NETWORKS[network],
            input_shape=images.shape[1:],
            classes=CASES[network][1],
            classifier_activation=None,
            weight_decay=1e-4,
        )
        if prepared:
            prepare(model)
        model.compile(
            keras.optimizers.SGD(0.1, momentum=0.9),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
    pairs = (tf.constant(images), tf.constant(labels))
    return lambda: model.train_on_batch(*pairs)


def pytorch(
    network: str, precision: str, images: np.ndarray, labels: np.ndarray
) -> Callable[[], Any]:
    import torch
    from torch import nn

    from keras_resnet import NETWORKS

    spec = NETWORKS[network]

    def conv_bn(c: Any) -> nn.Sequential:
        conv = nn.Conv2d(c.inputs, c.outputs, c.kernel, c.stride, c.padding, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(c.outputs, eps=1e-5, momentum=0.1))

    class Unit(nn.Module):
        def __init__(self, block: Any) -> None:
            super().__init__()
            self.block = block
            self.branch = nn.ModuleList(conv_bn(c) for c in block.convolutions)
            self.projection = conv_bn(block.projection) if block.shortcut == "projection" else None

        def forward(self, x: Any) -> Any:
            y = x
            for i, part in enumerate(self.branch):
                y = part(y)
                if i < len(self.branch) - 1:
                    y = torch.relu(y)
            if self.projection is not None:
                x = self.projection(x)
            elif self.block.shortcut == "zero padding":
                s = self.block.stride
                x = nn.functional.pad(
                    x[:, :, ::s, ::s], (0, 0, 0, 0, 0, self.block.outputs - self.block.inputs)
                )
            return torch.relu(x + y)

    stem: list[nn.Module] = [conv_bn(spec.stem_convolution), nn.ReLU()]
    if spec.stem == "imagenet":
        stem.append(nn.MaxPool2d(3, 2, 1))
    units = [Unit(block) for stage in spec.stages() for block in stage]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(spec.features, CASES[network][1])]
    model = nn.Sequential(*stem, *units, *head).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    y = torch.from_numpy(labels)

    def step() -> float:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = nn.functional.cross_entropy(model(x).float(), y)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


if __name__ == "__main__":
    main()
