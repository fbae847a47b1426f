"""What an export costs in the server: latency, loading, memory and size, against others that serve ResNet-50.

One network of random weights, 224 px, as our export, as `keras.applications.ResNet50().export()`, both through
TensorFlow's C++ loader, and in OpenVINO and ONNX Runtime. Each has a process of its own; they take turns, in one run,
and a ratio is of the same turn. Then what reading JPEG in the graph costs, where the time of a request goes, and how
large a request is. Needs the extra `bench`. Run it with nothing else running:

    python scripts/bench_serving.py
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

import numpy as np  # noqa: E402

from keras_resnet.cpp_loader import SavedModel, read_calls, resident_bytes, strings  # noqa: E402

CORES, SIZE = 2, 224
OURS, KERAS, OPENVINO, ONNX = "ours", "keras.applications", "OpenVINO", "ONNX Runtime"
OURS_ALONE = "ours, decoded without a net"
"""the same export, but for a picture that fails in a batch: it fails the batch"""
LIGHT, LIGHT_ALONE = "ours, of a network of one layer", "the same, decoded without a net"
"""whose requests are decoding and little else"""
TENSORS, JPEGS = {"batch 1": 6, "batch 8": 1}, {"JPEG, batch 1": 6, "JPEG, batch 8": 4}
"""turns a round"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="rounds that count")
    parser.add_argument("--profile", metavar="FOLDER", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        # Also holds for the processes and threads to come.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    if args.profile:
        return run_for_profile(Path(args.profile))

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # TensorFlow and Keras make the files and are gone.
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
    """The network in all its forms, and what is asked of it."""
    import keras
    import openvino
    import tensorflow as tf
    from PIL import Image
    from sklearn.datasets import load_sample_images

    from keras_resnet import PREPROCESSING, RECIPES, ResNet50, serving, serving_files
    from keras_resnet.check import endpoints
    from keras_resnet.cpp_loader import Call, Calls, write_calls
    from keras_resnet.export import export
    from keras_resnet.fold import fold
    from keras_resnet.run import Run, write_text

    keras.utils.set_random_seed(0)
    network = keras.applications.ResNet50(weights=None, classifier_activation=None)
    random = np.random.default_rng(0)
    bounds = {"gamma": (0.5, 1.5), "beta": (-0.3, 0.3), "moving_mean": (-0.3, 0.3), "moving_variance": (0.5, 2.0)}
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            for weight in layer.weights:
                weight.assign(random.uniform(*bounds[weight.name], weight.shape))
    network.export(folder / KERAS, verbose=False)
    network.export(folder / "network.onnx", format="onnx", verbose=False)
    openvino.save_model(openvino.convert_model(str(folder / KERAS)), folder / "network.xml", compress_to_fp16=False)

    network.save_weights(folder / "network.weights.h5")
    run = Run(folder / "resnet50")
    run.begin(RECIPES["imagenet-resnet50"])
    write_text(run.labels_file, "".join(f"class {number}\n" for number in range(1000)))
    write_text(run.preprocessing_file, PREPROCESSING["caffe"].to_json())
    ResNet50(weights=folder / "network.weights.h5", classifier_activation=None).save(run.model_file)
    (folder / OURS).symlink_to(export(run.path, to=folder / "saved_models"))

    def decoded(preprocessing: Any, requests: Any, image_bytes_of: Callable = tf.identity) -> tuple:
        def view(request: Any) -> Any:
            return serving.data.test_view(preprocessing, serving.data.decode(image_bytes_of(request))[tf.newaxis])[0]

        views = tf.map_fn(view, requests, fn_output_signature=tf.TensorSpec([SIZE, SIZE, 3], tf.float32))
        return views, tf.ones([tf.size(requests), 1], tf.bool)

    pixels = keras.Input((SIZE, SIZE, 3))
    light = keras.Model(pixels, keras.layers.Dense(1000)(keras.layers.GlobalAveragePooling2D()(pixels)))
    serving.write_saved_model(light, PREPROCESSING["caffe"], run.labels(), folder / LIGHT)
    serving.decoded = decoded
    serving.write_saved_model(light, PREPROCESSING["caffe"], run.labels(), folder / LIGHT_ALONE)
    folded = fold(keras.models.load_model(run.model_file))
    serving.write_saved_model(folded, PREPROCESSING["caffe"], run.labels(), folder / OURS_ALONE)

    photograph = Image.fromarray(load_sample_images().images[0]).resize((500, 333), Image.Resampling.BICUBIC)
    jpeg = io.BytesIO()
    photograph.save(jpeg, "JPEG", quality=92)
    (folder / "photograph.jpg").write_bytes(jpeg.getvalue())
    inputs = random.normal(0, 50, (8, SIZE, SIZE, 3)).astype(np.float32)
    for kind in (OURS, KERAS, OURS_ALONE, LIGHT, LIGHT_ALONE):
        places = endpoints(folder / kind)
        signature = "tensor" if "tensor" in places else "serving_default"
        (name,) = places[signature].inputs
        calls = [Call(signature=signature, inputs={name: inputs})]
        if (folder / kind / serving_files.WARM_UP).is_file():
            calls += [Call(signature=s, inputs=i) for s, i in serving_files.read_warm_up(folder / kind)]
        write_calls(folder / f"{kind}.npz", Calls(endpoints=places, calls=calls))
    np.save(folder / "inputs.npy", inputs)


class Worker:
    """A contender in a process of its own."""

    def __init__(self, context: Any, kind: str, folder: Path):
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=work, args=(kind, folder, there))
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
    requests = {"batch 1": inputs[:1], "batch 8": inputs, "JPEG, batch 1": [jpeg], "JPEG, batch 8": [jpeg] * 8}
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
    """What runs a request, what replays the warm-up, and its files."""
    if kind == OPENVINO:
        import openvino

        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": CORES}
        # Half precision, which it takes where the processor has it, would be another network.
        settings["INFERENCE_PRECISION_HINT"] = "f32"
        compiled = openvino.Core().compile_model(folder / "network.xml", "CPU", settings)
        return lambda x: compiled(x)[0], lambda: None, [folder / "network.xml", folder / "network.bin"]
    if kind == ONNX:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = CORES
        # Else its threads wait busily when it is no longer its turn.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(folder / "network.onnx", options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda x: session.run(None, {name: x})[0], lambda: None, [folder / "network.onnx"]
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
    """It is one network that they run."""
    logits = {kind: worker.ask("logits") for kind, worker in workers.items()}
    for kind, value in logits.items():
        difference = np.abs(value - logits[KERAS]).max() / np.abs(logits[KERAS]).max()
        assert difference < 1e-4, f"{kind} is another network: its logits differ by {difference:.1e} of the largest"


def rounds(workers: dict[str, Worker], repeats: dict[str, int], count: int) -> dict[str, dict[str, np.ndarray]]:
    """Seconds of each turn's request, by what is asked and who answers."""
    seconds: dict[str, dict[str, list[float]]] = collections.defaultdict(lambda: collections.defaultdict(list))
    for number in range(count + 1):
        for what, times in repeats.items():
            for turn in range(times):
                # Who goes first changes, and each is asked once a turn, so that the machine's drift favours nobody.
                first = (number + turn) % len(workers)
                for kind in [*workers][first:] + [*workers][:first]:
                    taken = workers[kind].ask(what)
                    if number:  # the first round warms everybody up
                        seconds[what][kind].append(taken)
    return {what: {kind: np.array(taken) for kind, taken in those.items()} for what, those in seconds.items()}


def print_table(workers: dict[str, Worker], seconds: dict[str, dict[str, np.ndarray]]) -> None:
    count = len(next(iter(seconds["batch 1"].values())))
    print(f"ResNet-50, {SIZE} px, float32, {CORES} cores. Milliseconds a request: median (quartiles),")
    print(f"of {count} turns at batch 1, {len(seconds['batch 8'][OURS])} at batch 8.")
    print("Ratios: how many times as long as ours, of the same turn: median (quartiles).\n")
    head = ("", "batch 1", "ratio", "batch 8", "ratio", "load", "warm-up", "first request", "memory", "disk")
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for kind, worker in workers.items():
        cells = [kind]
        for what in ("batch 1", "batch 8"):
            mine, ours = seconds[what][kind], seconds[what][OURS]
            cells += [spread(1000 * mine, 1), spread(mine / ours, 2)]
        cells += [f"{worker.load:.2f} s", f"{worker.warm_up:.2f} s", f"{1000 * worker.first:.0f} ms"]
        cells += [f"{worker.ask('memory') / 1e6:.0f} MB", f"{worker.disk / 1e6:.1f} MB"]
        print("| " + " | ".join(cells) + " |")
    print("\nMemory is that of the process after all its requests. Only ours has warm-up: 5 signatures, 4 sizes.")


def print_decoding(seconds: dict[str, dict[str, np.ndarray]]) -> None:
    print("\nJPEG of 500 x 333 in, labels out (serving_default), in which a picture that fails costs only itself,")
    print("against the same by tf.map_fn, where it fails the batch; milliseconds a request, ratio of the same turn\n")
    for what, those in seconds.items():
        ours, alone = those[OURS], those[OURS_ALONE]
        print(f"{what:<14} {spread(1000 * ours, 1)}; {spread(1000 * alone, 1)}; ratio {spread(ours / alone, 3)}")
    print("\nThe same of a network of one layer, where processes' other differences are small: milliseconds a request,")
    print("difference of the same turn, and what its median is of the request above\n")
    for what, those in seconds.items():
        ours, alone = those[LIGHT], those[LIGHT_ALONE]
        share = 100 * np.median(ours - alone) / np.median(those[OURS_ALONE])
        print(
            f"{what:<14} {spread(1000 * ours, 1)}; {spread(1000 * alone, 1)}; "
            f"difference {spread(1000 * (ours - alone), 2)}, {share:.1f} %"
        )


def run_for_profile(folder: Path) -> None:
    """Twenty requests, which oneDNN prints the parts of."""
    run, _, _ = load(OURS, folder)
    inputs = np.load(folder / "inputs.npy")[:1]
    for _ in range(23):
        start = time.perf_counter()
        run(inputs)
        print(f"request,{1000 * (time.perf_counter() - start)}", flush=True)


def print_profile(folder: Path) -> None:
    """Of our export at batch 1, by the kernels of oneDNN, which runs everything but copies."""
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
                shape = {name: int(n) for name, n in re.findall(r"(ic|oc|oh|kh|ow|kw)(\d+)", parts[-2])}
                operations[parts[5], parts[-2]] = 2 * np.prod(list(shape.values()), dtype=float)
    requests = requests[3:]
    each = {key: (len(v) / len(requests), float(np.median(v))) for key, v in kernels.items()}
    by_kind = collections.Counter()
    for (kind, _), (count, milliseconds) in each.items():
        by_kind[kind] += count * milliseconds
    total = float(np.median(requests))
    print(f"\nOf our {total:.1f} ms at batch 1 (median of {len(requests)} requests), in the kernels of oneDNN:")
    for kind, milliseconds in by_kind.most_common():
        print(f"  {kind:<16}{milliseconds:6.1f} ms")
    print(f"  {'the rest':<16}{total - sum(by_kind.values()):6.1f} ms")
    work = sum(each[key][0] * flop for key, flop in operations.items()) / 1e9
    best = max(flop / min(kernels[key]) / 1e6 for key, flop in operations.items())
    speed = 1000 * work / by_kind["convolution"]
    print(f"The convolutions are {work:.2f} GFLOP, so they run at {speed:.0f} GFLOP/s; the best of them, at its best,")
    print(f"ran at {best:.0f}. At that speed all of them would take {1000 * work / best:.1f} ms.")


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
        "base64 JPEG, 500 x 333": {"b64": base64.b64encode((folder / "photograph.jpg").read_bytes()).decode()},
    }
    print(f"\nBytes of a REST request with one photograph of {SIZE} x {SIZE}")
    for name, instance in instances.items():
        print(f"  {name:<24}{len(json.dumps({'instances': [instance]})):>10,}")


def spread(values: np.ndarray, digits: int) -> str:
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


if __name__ == "__main__":
    main()
