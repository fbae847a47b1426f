"""Load exports in the C++ loaders of earlier TensorFlow versions, and compare their answers.

The server of an operator is often older than the TensorFlow that exports. Exports a run in every
precision, installs each version into its own environment, and sends the same test images to
`serving_default` in its C++ loader.

    python scripts/experiments/tensorflow_versions.py [RUN] [--versions 2.19 2.20]

Writes scripts/results/tensorflow_versions.md.
"""

import argparse
import os
import subprocess
import tempfile
import venv
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from keras_resnet.runs.dataset import load_dataset  # noqa: E402
from keras_resnet.runs.run import Run  # noqa: E402
from keras_resnet.serving import cpp_loader  # noqa: E402
from keras_resnet.serving.check import endpoints  # noqa: E402
from keras_resnet.serving.cpp_loader import Call, Calls, read_calls, run_calls, strings  # noqa: E402
from keras_resnet.serving.export import export  # noqa: E402
from keras_resnet.serving.lowering import PRECISIONS  # noqa: E402

RESULTS = Path(__file__).parents[1] / "results"
BATCH = 100


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, nargs="?", default=RESULTS / "cifar10-resnet20")
    parser.add_argument("--versions", nargs="+", default=["2.19", "2.20"])
    parser.add_argument("--images", type=int, default=1000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        calls = requests(args.run, args.images)
        exports = {
            precision: export(args.run, folder / "exports" / args.run.name, precision=precision)
            for precision in PRECISIONS
        }
        answers = {
            (precision, tf.__version__): run_calls(path, endpoints(path), calls)
            for precision, path in exports.items()
        }
        for version in args.versions:
            python = installed(version, folder / version)
            for precision, path in exports.items():
                found = answers_of(python, path, calls, folder)
                answers[precision, version_of(python)] = found
    text = report(args, answers)
    print(text, end="")
    (RESULTS / "tensorflow_versions.md").write_text(text, encoding="utf-8")


def requests(path: Path, count: int) -> list[Call]:
    """Return requests with the first test images of a run, as PNG."""
    run = Run(path)
    images = load_dataset(run.recipe(), run).test.take(np.arange(count)).in_order()
    encoded = [
        (image if image.dtype == tf.string else tf.io.encode_png(image)).numpy()
        for image, _ in images
    ]
    return [
        Call(signature="serving_default", inputs={"image_bytes": strings(encoded[i : i + BATCH])})
        for i in range(0, count, BATCH)
    ]


def installed(version: str, folder: Path) -> Path:
    """Install a version of TensorFlow into a new environment, and return its Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, f"tensorflow=={version}.*"], check=True)
    return python


def version_of(python: Path) -> str:
    code = "from importlib.metadata import version; print(version('tensorflow'))"
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def answers_of(python: Path, saved_model: Path, calls: list[Call], folder: Path) -> Calls:
    """Run the calls in the C++ loader of the TensorFlow that `python` has."""
    asked, answered = folder / "asked.npz", folder / "answered.npz"
    cpp_loader.write_calls(asked, Calls(endpoints=endpoints(saved_model), calls=calls))
    command = [python, "-P", cpp_loader.__file__, saved_model, asked, answered]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        if process.wait():  # the loader ends when its standard input closes
            raise RuntimeError(f"the loader of {version_of(python)} ended with an error")
    return read_calls(answered)


def report(args: argparse.Namespace, answers: dict[tuple[str, str], Calls]) -> str:
    lines = [
        "# Exports in earlier versions of TensorFlow",
        "",
        f"Exports of {args.run.name}, made with TensorFlow {tf.__version__} and asked for the first"
        f" {args.images:,} test images",
        "in the C++ loader of each version (`scripts/experiments/tensorflow_versions.py`). The last"
        " columns compare with",
        f"the answers in {tf.__version__}.",
        "",
        "| precision | TensorFlow | failed requests | most probable class changes"
        " | largest difference of a probability |",
        "|---|---|---|---|---|",
    ]
    for (precision, version), found in answers.items():
        failed = sum(bool(call.error) for call in found.calls)
        row = f"| {precision} | {version} | {failed} |"
        if not failed and version != tf.__version__:
            now, then = (
                np.concatenate([call.outputs["probabilities"] for call in one.calls])
                for one in (answers[precision, tf.__version__], found)
            )
            changed = int((now.argmax(axis=1) != then.argmax(axis=1)).sum())
            row += f" {changed} | {np.abs(now - then).max():.1e} |"
        else:
            row += "  |  |"
        lines.append(row)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
