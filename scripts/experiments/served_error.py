"""Measure the error of an export over a test split as a client of TF Serving would.

Every image is sent as PNG to `serving_default` in TensorFlow's C++ loader. The result includes the
error that `evaluate` measured for the run.

    python scripts/experiments/served_error.py runs/NAME saved_models/NAME/VERSION
"""

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import tensorflow as tf  # noqa: E402

from keras_resnet.runs.dataset import load_dataset  # noqa: E402
from keras_resnet.runs.run import Run  # noqa: E402
from keras_resnet.serving.check import endpoints  # noqa: E402
from keras_resnet.serving.cpp_loader import Call, run_calls, strings  # noqa: E402

BATCH = 100


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("saved_model", type=Path)
    args = parser.parse_args()

    run = Run(args.run)
    dataset = load_dataset(run.recipe(), run)
    images, labels = [], []
    for image, label in dataset.test.in_order():
        images.append((image if image.dtype == tf.string else tf.io.encode_png(image)).numpy())
        labels.append(dataset.class_names[int(label)].encode())
    calls = [
        Call(signature="serving_default", inputs={"image_bytes": strings(images[i : i + BATCH])})
        for i in range(0, len(images), BATCH)
    ]
    answers = run_calls(args.saved_model, endpoints(args.saved_model), calls)
    predicted = [name for call in answers.calls for name in call.outputs["classes"][:, 0]]
    evaluation = json.loads(run.evaluation_file().read_text())
    result = {
        "export": args.saved_model.parent.name,
        "images": len(labels),
        "top1_error": 100
        * sum(a != b for a, b in zip(predicted, labels, strict=True))
        / len(labels),
        "top1_error_of_evaluate": evaluation["top1_error"],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
