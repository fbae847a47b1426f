"""Measure what a request costs beside the network: decoding, kernels, and its size.

An export of ResNet-50 with random weights at 224 px, in TensorFlow's C++ loader, is asked for JPEG
images; beside it are exports that are decoded by a plain `tf.map_fn`, where an image that fails
makes its batch fail, and exports of a network of one layer, whose requests spend their time on
decoding. Each runs in a process of its own. They take turns. Then follow the time of each kernel,
and the sizes of requests over REST. Run it on an idle machine:

    python scripts/benchmarks/bench_request.py

Its output is kept in scripts/results/bench_request.txt.
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

from keras_resnet.serving.cpp_loader import SavedModel, read_calls  # noqa: E402
from keras_resnet.serving.turns import in_turns  # noqa: E402

OURS, OURS_ALONE = "ours", "ours, decoded without a net"
LIGHT, LIGHT_ALONE = "ours, of a network of one layer", "the same, decoded without a net"
TURNS = {1: 6, 8: 4}
"""the number of turns per round, by the images of a request"""


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
        context = multiprocessing.get_context("spawn")
        # TensorFlow and Keras write the files in a process of their own.
        maker = context.Process(target=make, args=(folder,))
        maker.start()
        maker.join()
        if maker.exitcode:
            sys.exit(maker.exitcode)
        workers = {
            kind: Worker(
                context,
                Contender(name=kind, path=str(folder / kind), calls=str(folder / f"{kind}.npz")),
                folder / "inputs.npy",
                folder / "photograph.jpg",
            )
            for kind in (OURS, OURS_ALONE, LIGHT, LIGHT_ALONE)
        }
        seconds = {
            batch: in_turns(
                workers,
                turns * args.rounds,
                lambda kind, batch=batch: workers[kind].ask("time_of_jpeg", batch),
            )
            for batch, turns in TURNS.items()
        }
        for worker in workers.values():
            worker.end()
        # It imports TensorFlow, which the workers, who import this module, must not.
        from keras_resnet.serving.needs import processor

        print(f"ResNet-50, {SIZE} px, float32, {processor()}, {CORES} cores")
        print_decoding(seconds)
        print_profile(folder)
        print_request_sizes(folder)


def make(folder: Path) -> None:
    """Write the exports and the requests."""
    import keras
    import tensorflow as tf
    from PIL import Image

    from keras_resnet import PREPROCESSING, ResNet50
    from keras_resnet.data.decoding import decode
    from keras_resnet.data.preprocessing import resize_and_crop
    from keras_resnet.networks.folding import fold_batch_norm
    from keras_resnet.networks.logits import features_and_logits
    from keras_resnet.serving import signatures
    from keras_resnet.serving.export import export
    from keras_resnet.serving.lowering import in_float32

    random_resnet50().save_weights(folder / "network.weights.h5")
    ours = ResNet50(weights=folder / "network.weights.h5", classifier_activation=None)
    class_names = tuple(f"class {number}" for number in range(CLASSES))
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
    logits = keras.layers.Dense(CLASSES)(keras.layers.GlobalAveragePooling2D()(pixels))
    light = in_float32(keras.Model(pixels, {"logits": logits}))
    signatures.write_saved_model(light, preprocessing, class_names, folder / LIGHT)
    signatures.decoded = decoded
    signatures.write_saved_model(light, preprocessing, class_names, folder / LIGHT_ALONE)
    folded = in_float32(fold_batch_norm(features_and_logits(ours).model))
    signatures.write_saved_model(folded, preprocessing, class_names, folder / OURS_ALONE)

    photograph = Image.fromarray(photographs()[0]).resize((500, 333), Image.Resampling.BICUBIC)
    photograph.save(folder / "photograph.jpg", "JPEG", quality=92)
    inputs = np.random.default_rng(0).normal(0, 50, (8, SIZE, SIZE, 3)).astype(np.float32)
    np.save(folder / "inputs.npy", inputs)
    for kind in (OURS, OURS_ALONE, LIGHT, LIGHT_ALONE):
        write_requests(folder / kind, inputs, folder / f"{kind}.npz")


def print_decoding(seconds: dict[int, dict[str, list[float]]]) -> None:
    found = {
        batch: {kind: np.array(values) for kind, values in by_kind.items()}
        for batch, by_kind in seconds.items()
    }
    print(
        "\nJPEG of 500 x 333 to class names (serving_default), where an image that fails leaves the"
        " batch alone,"
    )
    print(
        "against tf.map_fn, where it makes the batch fail; milliseconds per request, ratio of the"
        " same turn\n"
    )
    for batch, by_kind in found.items():
        ours, alone = by_kind[OURS], by_kind[OURS_ALONE]
        print(
            f"batch {batch}  {spread(1000 * ours, 1)}; {spread(1000 * alone, 1)}; ratio"
            f" {spread(ours / alone, 3)}"
        )
    print(
        "\nThe same for a network of one layer, whose processes differ little otherwise:"
        " milliseconds per request,"
    )
    print("difference of the same turn, and its median relative to the request above\n")
    for batch, by_kind in found.items():
        ours, alone = by_kind[LIGHT], by_kind[LIGHT_ALONE]
        share = 100 * np.median(ours - alone) / np.median(by_kind[OURS_ALONE])
        print(
            f"batch {batch}  {spread(1000 * ours, 1)}; {spread(1000 * alone, 1)}; "
            f"difference {spread(1000 * (ours - alone), 2)}, {share:.1f} %"
        )


def run_for_profile(folder: Path) -> None:
    """Run requests, while oneDNN prints their kernels."""
    asked = read_calls(folder / f"{OURS}.npz")
    call, model = asked.calls[0], SavedModel(folder / OURS, asked.endpoints)
    inputs = {name: value[:1] for name, value in call.inputs.items()}
    for _ in range(23):
        start = time.perf_counter()
        model.run(call.signature, inputs)
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


if __name__ == "__main__":
    main()
