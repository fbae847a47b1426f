"""Compare ways to serve ResNet-50: latency, throughput, loading, memory and size.

One network with random weights at 224 px, asked for images that are preprocessed already:

- our exports in float32, bfloat16 and int8, in TensorFlow's C++ loader, as they are and with the
  settings of a server that `keras-resnet check --speed` tries;
- `keras.applications.ResNet50().export()` in the same loader;
- OpenVINO in float32, bfloat16 and int8 (by NNCF), with its hints for latency and for throughput;
- ONNX Runtime in float32.

Each contender runs in a process of its own. They take turns, and a ratio compares requests of the
same turn. Needs the extra `bench`. Run it on an idle machine:

    python scripts/benchmarks/bench_serving.py

Writes scripts/results/bench_serving.txt.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
# Child processes import nothing from the working directory.
os.environ.setdefault("PYTHONSAFEPATH", "1")

import numpy as np  # noqa: E402
from contenders import (  # noqa: E402
    CLASSES,
    CORES,
    SIZE,
    Contender,
    Worker,
    photographs,
    random_resnet50,
    spread,
    write_requests,
)

from keras_resnet.serving.turns import in_turns  # noqa: E402

RESULTS = Path(__file__).parents[1] / "results" / "bench_serving.txt"
TODAY = "ours, float32"
"""the contender that the others are compared with"""
SETTING_NAMES = ("", ", frozen", ", frozen, one thread", ", frozen, one thread, server's bfloat16")
"""the settings of a server that `keras_resnet.serving.speed` tries, in its order"""
CLIENTS = (1, 2, 4)
IMAGES = 48
"""the number of images that calibrate int8"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30, help="turns of latency at batch 1")
    parser.add_argument("--seconds", type=float, default=1.5, help="length of a turn of clients")
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        # Child processes and threads inherit it.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        context = multiprocessing.get_context("spawn")
        # TensorFlow and Keras write the files in a process of their own.
        maker = context.Process(target=make, args=(folder,))
        maker.start()
        maker.join()
        if maker.exitcode:
            sys.exit(maker.exitcode)
        found = json.loads((folder / "contenders.json").read_text())
        workers = {
            one["name"]: Worker(
                context, Contender(**one), folder / "inputs.npy", folder / "inputs.npy"
            )
            for one in found
        }
        agree(workers)
        text = table(workers, args.rounds, args.seconds)
        for worker in workers.values():
            worker.end()
    print(text, end="")
    RESULTS.write_text(text, encoding="utf-8")


def make(folder: Path) -> None:
    """Write the network in all formats, the requests, and the list of the contenders."""
    import nncf
    import openvino

    from keras_resnet import PREPROCESSING, ResNet50
    from keras_resnet.serving.export import export
    from keras_resnet.serving.speed import SETTINGS

    network = random_resnet50()
    images, tensors = crops()
    inputs = tensors[:8]
    np.save(folder / "inputs.npy", inputs)
    network.export(folder / "keras", verbose=False)
    network.export(folder / "network.onnx", format="onnx", verbose=False)
    plain = openvino.convert_model(str(folder / "keras"))
    openvino.save_model(plain, folder / "network.xml", compress_to_fp16=False)
    calibrating = nncf.Dataset([one[np.newaxis] for one in tensors])
    quantized = nncf.quantize(plain, calibrating, subset_size=len(tensors))
    openvino.save_model(quantized, folder / "quantized.xml", compress_to_fp16=False)

    network.save_weights(folder / "network.weights.h5")
    ours = ResNet50(weights=folder / "network.weights.h5", classifier_activation=None)
    paths = {}
    labels = np.arange(len(images), dtype=np.int32) % CLASSES
    for precision in ("float32", "bfloat16", "int8"):
        low: dict[str, Any] = {} if precision == "float32" else {"data": (images, labels)}
        paths[f"ours, {precision}"] = export(
            ours,
            folder / "saved_models" / "resnet50",
            class_names=[f"class {number}" for number in range(CLASSES)],
            preprocessing=PREPROCESSING["caffe"],
            precision=precision,
            tolerance=100,  # of random weights
            **low,
        )
    paths["keras.applications"] = folder / "keras"
    contenders = []
    for name, path in paths.items():
        calls = folder / f"{name}.npz"
        write_requests(path, inputs, calls)
        settings = SETTINGS if name == TODAY else SETTINGS[:3] if "ours" in name else SETTINGS[:1]
        for setting, words in zip(settings, SETTING_NAMES, strict=False):
            contenders.append(
                Contender(
                    name=f"{name}{words}",
                    path=str(path),
                    environment=dict(setting.environment),
                    config=setting.config().hex(),
                    calls=str(calls),
                )
            )
    for precision, file, kind in (
        ("float32", "network.xml", {"INFERENCE_PRECISION_HINT": "f32"}),
        ("bfloat16", "network.xml", {"INFERENCE_PRECISION_HINT": "bf16"}),
        ("int8", "quantized.xml", {}),
    ):
        for hint in ("LATENCY", "THROUGHPUT"):
            contenders.append(
                Contender(
                    name=f"OpenVINO, {precision}, {hint.lower()}",
                    path=str(folder / file),
                    runtime="openvino",
                    settings={"PERFORMANCE_HINT": hint, **kind},
                )
            )
    contenders.append(
        Contender(name="ONNX Runtime, float32", path=str(folder / "network.onnx"), runtime="onnx")
    )
    (folder / "contenders.json").write_text(json.dumps([asdict(one) for one in contenders]))


def crops() -> tuple[np.ndarray, np.ndarray]:
    """Return parts of photographs, uint8 `[N, H, W, 3]`, and the network's input of each."""
    from keras_resnet import preprocess_input

    random, found = np.random.default_rng(0), []
    for number in range(IMAGES):
        photograph = photographs()[number % 2]
        top, left = (int(random.integers(0, side - SIZE + 1)) for side in photograph.shape[:2])
        found.append(photograph[top : top + SIZE, left : left + SIZE])
    images = np.stack(found)
    return images, np.asarray(preprocess_input(images.astype(np.float32), mode="caffe"))


def agree(workers: dict[str, Worker]) -> None:
    """Require that all contenders serve the same network."""
    logits = {name: worker.ask("logits").ravel() for name, worker in workers.items()}
    for name, found in logits.items():
        correlation = np.corrcoef(found, logits[TODAY])[0, 1]
        least = 0.9999999 if "float32" in name and "bfloat16" not in name else 0.98
        assert correlation > least, f"{name} answers otherwise: its correlation is {correlation}"


def table(workers: dict[str, Worker], rounds: int, seconds: float) -> str:
    """Measure the contenders, and return the tables."""
    # It imports TensorFlow, which the workers, who import this module, must not.
    from keras_resnet.serving.needs import processor

    latency = {
        batch: in_turns(workers, count, lambda name, batch=batch: workers[name].ask("time", batch))
        for batch, count in ((1, rounds), (8, max(5, rounds // 3)))
    }
    turns = max(3, rounds // 6)
    rates = {
        clients: in_turns(
            workers,
            turns,
            lambda name, clients=clients: workers[name].ask("rate", clients, seconds),
        )
        for clients in CLIENTS
    }
    lines = [
        f"ResNet-50, {SIZE} px, {processor()}, {CORES} cores",
        "Median (quartiles). Ratios are to the first row, of the same turn. Frozen:",
        "TF_ONEDNN_ASSUME_FROZEN_WEIGHTS=1. One thread: --tensorflow_intra_op_parallelism=1. The",
        "server's bfloat16: --mixed_precision=bfloat16.",
        "",
        f"Milliseconds per request, one at a time, {rounds} turns at batch 1 and"
        f" {len(latency[8][TODAY])} at batch 8",
        "",
    ]
    rows = [["", "batch 1", "ratio", "batch 8", "ratio"]]
    for name in workers:
        row = [name]
        for found in latency.values():
            mine, first = np.array(found[name]), np.array(found[TODAY])
            row += [spread(1000 * mine, 1), spread(mine / first, 2)]
        rows.append(row)
    lines += [*markdown(rows), "", f"Images per second, batch 1, {turns} turns", ""]
    rows = [["", *(f"{count} clients" for count in CLIENTS), f"ratio at {CLIENTS[1]}"]]
    for name in workers:
        ratio = np.array(rates[CLIENTS[1]][name]) / np.array(rates[CLIENTS[1]][TODAY])
        rows.append(
            [
                name,
                *(spread(np.array(found[name]), 1) for found in rates.values()),
                spread(ratio, 2),
            ]
        )
    lines += [*markdown(rows), "", "Loading, and memory after all requests", ""]
    rows = [["", "load, s", "warm-up, s", "first request, ms", "memory, MB", "disk, MB"]]
    for name, worker in workers.items():
        rows.append(
            [
                name,
                *(f"{worker.load:.2f}", f"{worker.warm_up:.2f}", f"{1000 * worker.first:.0f}"),
                *(f"{worker.ask('memory') / 1e6:.0f}", f"{worker.contender.size() / 1e6:.1f}"),
            ]
        )
    lines += [*markdown(rows), "", "Only our exports have warm-up: 5 signatures, 4 sizes."]
    return "\n".join(lines) + "\n"


def markdown(rows: list[list[str]]) -> list[str]:
    """Return the lines of a table whose first row is its head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]


if __name__ == "__main__":
    main()
