"""The error of an export over a test split, as a client of TF Serving would find it: pictures in, labels out.

Every picture goes as PNG through `serving_default` in TensorFlow's C++ loader; the run's evaluation stands beside it.

    python scripts/served_error.py runs/NAME saved_models/NAME/VERSION
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import tensorflow as tf  # noqa: E402

from keras_resnet import start  # noqa: E402
from keras_resnet.check import endpoints  # noqa: E402
from keras_resnet.cpp_loader import Call, Calls, read_calls, strings, write_calls  # noqa: E402
from keras_resnet.run import Run  # noqa: E402

BATCH = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("saved_model", type=Path)
    args = parser.parse_args()

    run = Run(args.run)
    dataset = start.dataset(run.recipe())
    pictures, wanted = [], []
    for picture, label in dataset.test.in_order():
        pictures.append((picture if picture.dtype == tf.string else tf.io.encode_png(picture)).numpy())
        wanted.append(dataset.labels[int(label)].encode())
    calls = [
        Call(signature="serving_default", inputs={"image_bytes": strings(pictures[i : i + BATCH])})
        for i in range(0, len(pictures), BATCH)
    ]
    with tempfile.TemporaryDirectory() as scratch:
        asked, answered = Path(scratch) / "asked.npz", Path(scratch) / "answered.npz"
        write_calls(asked, Calls(endpoints=endpoints(args.saved_model), calls=calls))
        command = [sys.executable, "-m", "keras_resnet.cpp_loader", str(args.saved_model), str(asked), str(answered)]
        subprocess.run(command, check=True)
        first = [label for call in read_calls(answered).calls for label in call.outputs["classes"][:, 0]]
    evaluation = json.loads(run.evaluation_file().read_text())
    result = {
        "export": args.saved_model.parent.name,
        "images": len(wanted),
        "top1_error": 100 * sum(a != b for a, b in zip(first, wanted, strict=True)) / len(wanted),
        "top1_error_of_evaluate": evaluation["top1_error"],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
