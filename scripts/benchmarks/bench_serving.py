"""Compare an export of ResNet-50 with other ways to serve it: latency, loading, memory and size.

One network with random weights at 224 px is served as our export and as
`keras.applications.ResNet50().export()` in TensorFlow's C++ loader, in OpenVINO and in ONNX
Runtime. Each contender runs in its own process. They alternate, and a ratio compares requests of
the same turn. Then the script measures the cost of decoding JPEG in the graph, the time of each
kernel, and the sizes of requests. Needs the extra `bench`. Run it on an idle machine:

    python scripts/benchmarks/bench_serving.py
"""

import argparse
import base64
import collections
import io
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
# Child processes import nothing from the working directory.
os.environ.setdefault("PYTHONSAFEPATH", "1")

import numpy as np  # noqa: E402

from keras_resnet.serving.cpp_loader import (  # noqa: E402
    SavedModel,
    read_calls,
    resident_bytes,
    strings,
)
from keras_resnet.serving.runtimes import open_network  # noqa: E402
from keras_resnet.serving.turns import in_turns  # noqa: E402

CORES, SIZE = 2, 224
OURS, KERAS, OPENVINO, ONNX = "ours", "keras.applications", "OpenVINO", "ONNX Runtime"
OURS_ALONE = "ours, decoded without a net"
"""the same export, except that a failing image makes its batch fail"""
LIGHT, LIGHT_ALONE = "ours, of a network of one layer", "the same, decoded without a net"
"""exports whose requests spend their time on decoding"""
TENSORS, JPEGS = {"batch 1": 6, "batch 8": 1}, {"JPEG, batch 1": 6, "JPEG, batch 8": 4}
"""the number of turns per round"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30, help="measured rounds")
    parser.add_argument("--profile", metavar="FOLDER", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        # Child processes and threads inherit it.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    if args.profile:
        return run_for_profile(Path(args.profile))

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # TensorFlow and Keras write the files in a separate process.
        context = multiprocessing.get_context("spawn")
        maker = context.Process(target=make, args=(folder,))
        maker.start()
        maker.join()
        if maker.exitcode:
            sys.exit(maker.exitcode)
        networks, decoding = (OURS, KERAS, OPENVINO, ONNX), (OURS, OURS_ALONE, LIGHT, LIGHT_ALONE)
        kinds = dict.fromkeys((*networks, *decoding))
        workers = {kind: Worker(context, kind, folder) for kind in kinds}
        agree({kind: workers[kind] for kind in (*networks, OURS_ALONE)})
        of_networks = rounds({kind: workers[kind] for kind in networks}, TENSORS, args.rounds)
        of_decoding = rounds({kind: workers[kind] for kind in decoding}, JPEGS, args.rounds)
        print_table({kind: workers[kind] for kind in networks}, of_networks)
        print_decoding(of_decoding)
        for worker in workers.values():
            worker.end()
        print_profile(folder)
        print_request_sizes(folder)


def make(folder: Path) -> None:
    """Write the network in all formats, and the requests."""
    import keras
    import openvino
    import tensorflow as tf
    from PIL import Image
    from sklearn.datasets import load_sample_images

    from keras_resnet import PREPROCESSING, ResNet50
    from keras_resnet.data.decoding import decode
    from keras_resnet.data.preprocessing import resize_and_crop
    from keras_resnet.networks.folding import fold_batch_norm
    from keras_resnet.networks.logits import features_and_logits
    from keras_resnet.serving import sidecars, signatures
    from keras_resnet.serving.check import endpoints
    from keras_resnet.serving.cpp_loader import Call, Calls, write_calls
    from keras_resnet.serving.export import export
    from keras_resnet.serving.lowering import in_float32

    keras.utils.set_random_seed(0)
    network = keras.applications.ResNet50(weights=None, classifier_activation=None)
    random = np.random.default_rng(0)
    bounds = {
        "gamma": (0.5, 1.5),
        "beta": (-0.3, 0.3),
        "moving_mean": (-0.3, 0.3),
        "moving_variance": (0.5, 2.0),
    }
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            for weight in layer.weights:
                weight.assign(random.uniform(*bounds[weight.name], weight.shape))
    network.export(folder / KERAS, verbose=False)
    network.export(folder / "network.onnx", format="onnx", verbose=False)
    openvino.save_model(
        openvino.convert_model(str(folder / KERAS)), folder / "network.xml", compress_to_fp16=False
    )

    network.save_weights(folder / "network.weights.h5")
    ours = ResNet50(weights=folder / "network.weights.h5", classifier_activation=None)
    class_names = tuple(f"class {number}" for number in range(1000))
    preprocessing = PREPROCESSING["caffe"]
    version = export(
        ours,
        folder / "saved_models" / "resnet50",
        class_names=class_names,
        preprocessing=preprocessing,
    )
    (folder / OURS).symlink_to(version)

    def decoded(preprocessing: Any, requests: Any, image_bytes_of: Callable = tf.identity) -> tuple:
        def view(request: Any) -> Any:
            return resize_and_crop(preprocessing, decode(image_bytes_of(request))[tf.newaxis])[0]

        views = tf.map_fn(
            view, requests, fn_output_signature=tf.TensorSpec([SIZE, SIZE, 3], tf.float32)
        )
        return views, tf.ones([tf.size(requests), 1], tf.bool)

    pixels = keras.Input((SIZE, SIZE, 3))
    logits = keras.layers.Dense(1000)(keras.layers.GlobalAveragePooling2D()(pixels))
    light = in_float32(keras.Model(pixels, {"logits": logits}))
    signatures.write_saved_model(light, preprocessing, class_names, folder / LIGHT)
    signatures.decoded = decoded
    signatures.write_saved_model(light, preprocessing, class_names, folder / LIGHT_ALONE)
    folded = in_float32(fold_batch_norm(features_and_logits(ours).model))
    signatures.write_saved_model(folded, preprocessing, class_names, folder / OURS_ALONE)

    photograph = Image.fromarray(load_sample_images().images[0]).resize(
        (500, 333), Image.Resampling.BICUBIC
    )
    jpeg = io.BytesIO()
    photograph.save(jpeg, "JPEG", quality=92)
    (folder / "photograph.jpg").write_bytes(jpeg.getvalue())
    inputs = random.normal(0, 50, (8, SIZE, SIZE, 3)).astype(np.float32)
    for kind in (OURS, KERAS, OURS_ALONE, LIGHT, LIGHT_ALONE):
        available = endpoints(folder / kind)
        signature = "tensor" if "tensor" in available else "serving_default"
        (name,) = available[signature].inputs
        calls = [Call(signature=signature, inputs={name: inputs})]
        if (folder / kind / sidecars.WARM_UP).is_file():
            calls += [Call(signature=s, inputs=i) for s, i in sidecars.read_warm_up(folder / kind)]
        write_calls(folder / f"{kind}.npz", Calls(endpoints=available, calls=calls))
    np.save(folder / "inputs.npy", inputs)


class Worker:
    """One way to serve the network, in its own process."""

    def __init__(self, context: Any, kind: str, folder: Path):
        self._pipe, end_of_worker = context.Pipe()
        self._process = context.Process(target=work, args=(kind, folder, end_of_worker))
        self._process.start()
        self.load, self.warm_up, self.first, self.disk = self._pipe.recv()

    def ask(self, what: str) -> Any:
        self._pipe.send(what)
        return self._pipe.recv()

    def end(self) -> None:
        self._pipe.send(None)
        self._process.join()


def work(kind: str, folder: Path, pipe: Any) -> None:
    inputs = np.load(folder / "inputs.npy")
    jpeg = (folder / "photograph.jpg").read_bytes()
    start = time.perf_counter()
    run, warm_up, files = load(kind, folder)
    loaded = time.perf_counter()
    warm_up()
    warm = time.perf_counter()
    run(inputs[:1])
    pipe.send((loaded - start, warm - loaded, time.perf_counter() - warm, size(files)))
    requests = {
        "batch 1": inputs[:1],
        "batch 8": inputs,
        "JPEG, batch 1": [jpeg],
        "JPEG, batch 8": [jpeg] * 8,
    }
    while (what := pipe.recv()) is not None:
        if what == "memory":
            pipe.send(resident_bytes())
        elif what == "logits":
            pipe.send(run(inputs))
        else:
            start = time.perf_counter()
            run(requests[what])
            pipe.send(time.perf_counter() - start)


def load(kind: str, folder: Path) -> tuple[Callable, Callable, list[Path]]:
    """Return functions that run a request and replay the warm-up, and the files on disk."""
    if kind in (OPENVINO, ONNX):
        format, names = {
            OPENVINO: ("openvino", ("network.xml", "network.bin")),
            ONNX: ("onnx", ("network.onnx",)),
        }[kind]
        files = [folder / one for one in names]
        return open_network(format, files[0], threads=CORES)(), lambda: None, files
    asked = read_calls(folder / f"{kind}.npz")
    first, *warm_up_calls = asked.calls
    (name,) = first.inputs
    model = SavedModel(folder / kind, asked.endpoints)

    def run(x: Any) -> np.ndarray:
        if isinstance(x, list):
            return model.run("serving_default", {"image_bytes": strings(x)})["probabilities"]
        return next(iter(model.run(first.signature, {name: x}).values()))

    def warm_up() -> None:
        for call in warm_up_calls:
            model.run(call.signature, call.inputs)

    return run, warm_up, [path for path in (folder / kind).resolve().rglob("*") if path.is_file()]


def size(files: list[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def agree(workers: dict[str, Worker]) -> None:
    """Require equal logits from all contenders."""
    logits = {kind: worker.ask("logits") for kind, worker in workers.items()}
    for kind, value in logits.items():
        difference = np.abs(value - logits[KERAS]).max() / np.abs(logits[KERAS]).max()
        assert difference < 1e-4, (
            f"{kind} is another network: its logits differ by {difference:.1e} of the largest"
        )


def rounds(
    workers: dict[str, Worker], repeats: dict[str, int], count: int
) -> dict[str, dict[str, np.ndarray]]:
    """Return the seconds of each turn's request, by kind of request and by contender."""
    return {
        what: {
            kind: np.array(seconds)
            for kind, seconds in in_turns(
                workers, times * count, lambda kind, what=what: workers[kind].ask(what)
            ).items()
        }
        for what, times in repeats.items()
    }


def print_table(workers: dict[str, Worker], seconds: dict[str, dict[str, np.ndarray]]) -> None:
    count = len(next(iter(seconds["batch 1"].values())))
    print(
        f"ResNet-50, {SIZE} px, float32, {CORES} cores. Median milliseconds (quartiles) per request"
    )
    print(f"of {count} turns at batch 1, {len(seconds['batch 8'][OURS])} at batch 8.")
    print("Ratios: how many times as long as ours, of the same turn: median (quartiles).\n")
    head = (
        "",
        "batch 1",
        "ratio",
        "batch 8",
        "ratio",
        "load",
        "warm-up",
        "first request",
        "memory",
        "disk",
    )
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for kind, worker in workers.items():
        cells = [kind]
        for what in ("batch 1", "batch 8"):
            mine, ours = seconds[what][kind], seconds[what][OURS]
            cells += [spread(1000 * mine, 1), spread(mine / ours, 2)]
        cells += [
            f"{worker.load:.2f} s",
            f"{worker.warm_up:.2f} s",
            f"{1000 * worker.first:.0f} ms",
        ]
        cells += [f"{worker.ask('memory') / 1e6:.0f} MB", f"{worker.disk / 1e6:.1f} MB"]
        print("| " + " | ".join(cells) + " |")
    print(
        "\nMemory is the process's after all its requests. Only ours has warm-up: 5 signatures, 4"
        " sizes."
    )


def print_decoding(seconds: dict[str, dict[str, np.ndarray]]) -> None:
    print(
        "\nJPEG of 500 x 333 to class names (serving_default), where an image that fails leaves the"
        " batch alone,"
    )
    print(
        "against tf.map_fn, where it makes the batch fail; milliseconds per request, ratio of the"
        " same turn\n"
    )
    for what, by_kind in seconds.items():
        ours, alone = by_kind[OURS], by_kind[OURS_ALONE]
        print(
            f"{what:<14} {spread(1000 * ours, 1)}; {spread(1000 * alone, 1)}; ratio"
            f" {spread(ours / alone, 3)}"
        )
    print(
        "\nThe same for a network of one layer, whose processes differ little otherwise:"
        " milliseconds per request,"
    )
    print("difference of the same turn, and its median relative to the request above\n")
    for what, by_kind in seconds.items():
        ours, alone = by_kind[LIGHT], by_kind[LIGHT_ALONE]
        share = 100 * np.median(ours - alone) / np.median(by_kind[OURS_ALONE])
        print(
            f"{what:<14} {spread(1000 * ours, 1)}; {spread(1000 * alone, 1)}; "
            f"difference {spread(1000 * (ours - alone), 2)}, {share:.1f} %"
        )


def run_for_profile(folder: Path) -> None:
    """Run requests, while oneDNN prints their kernels."""
    run, _, _ = load(OURS, folder)
    inputs = np.load(folder / "inputs.npy")[:1]
    for _ in range(23):
        start = time.perf_counter()
        run(inputs)
        print(f"request,{1000 * (time.perf_counter() - start)}", flush=True)


def print_profile(folder: Path) -> None:
    """Print the time of our export at batch 1 by oneDNN kernel."""
    done = subprocess.run(
        [sys.executable, __file__, "--profile", str(folder)],
        env=os.environ | {"ONEDNN_VERBOSE": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    requests, kernels, operations = [], collections.defaultdict(list), {}
    for line in done.stdout.splitlines():
        parts = line.split(",")
        if parts[0] == "request":
            requests.append(float(parts[1]))
        elif line.startswith("onednn_verbose") and parts[3] == "exec" and len(requests) >= 3:
            kernels[parts[5], parts[-2]].append(float(parts[-1]))
            if parts[5] == "convolution":
                shape = {
                    name: int(n) for name, n in re.findall(r"(ic|oc|oh|kh|ow|kw)(\d+)", parts[-2])
                }
                operations[parts[5], parts[-2]] = 2 * np.prod(list(shape.values()), dtype=float)
    requests = requests[3:]
    each = {key: (len(v) / len(requests), float(np.median(v))) for key, v in kernels.items()}
    by_kind = collections.Counter()
    for (kind, _), (count, milliseconds) in each.items():
        by_kind[kind] += count * milliseconds
    total = float(np.median(requests))
    print(
        f"\nOf our {total:.1f} ms at batch 1 (median of {len(requests)} requests), in the kernels"
        " of oneDNN:"
    )
    for kind, milliseconds in by_kind.most_common():
        print(f"  {kind:<16}{milliseconds:6.1f} ms")
    print(f"  {'the rest':<16}{total - sum(by_kind.values()):6.1f} ms")
    work = sum(each[key][0] * flop for key, flop in operations.items()) / 1e9
    best = max(flop / min(kernels[key]) / 1e6 for key, flop in operations.items())
    speed = 1000 * work / by_kind["convolution"]
    print(
        f"The convolutions are {work:.2f} GFLOP, so they run at {speed:.0f} GFLOP/s; the fastest"
        f" ran at {best:.0f}.\nAt that speed all of them would take {1000 * work / best:.1f} ms."
    )


def print_request_sizes(folder: Path) -> None:
    from PIL import Image

    with Image.open(folder / "photograph.jpg") as photograph:
        image = photograph.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=92)
    floats = ((pixels - np.float32(127.5)) / np.float32(58.4)).tolist()
    instances = {
        "float list": {"inputs": floats},
        "uint8 list": {"images": pixels.tolist()},
        "base64 JPEG": {"b64": base64.b64encode(jpeg.getvalue()).decode()},
        "base64 JPEG, 500 x 333": {
            "b64": base64.b64encode((folder / "photograph.jpg").read_bytes()).decode()
        },
    }
    print(f"\nBytes of a REST request with one photograph of {SIZE} x {SIZE}")
    for name, instance in instances.items():
        print(f"  {name:<24}{len(json.dumps({'instances': [instance]})):>10,}")


def spread(values: np.ndarray, digits: int) -> str:
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


if __name__ == "__main__":
    main()
