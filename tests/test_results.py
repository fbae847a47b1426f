"""The numbers of the READMEs' tables are those of the files in scripts/results."""

import json
import re
from pathlib import Path

import pytest

from keras_resnet.networks.paper import PAPER_ERRORS
from keras_resnet.runs.interval import wilson_interval

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "scripts" / "results"


def table_of(readme, heading):
    """Return the cells of the first table below a heading, by row."""
    text = (ROOT / readme).read_text(encoding="utf-8").split(f"\n{heading}\n")[1]
    lines = text[text.index("\n|") :].strip().split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def error_of(run):
    found = json.loads((RESULTS / run / "evaluation.json").read_text())
    return found["top1_error"], found["images"]


def with_interval(run):
    error, images = error_of(run)
    low, high = wilson_interval(error, images)
    return f"{error:.2f}", f"{low:.2f} to {high:.2f}"


def test_errors_on_cifar10():
    first, short, *_ = table_of("README.md", "## Results")
    assert first[2] == f"{PAPER_ERRORS['resnet20'][0]} (Table 6)"
    for row, run in ((first, "cifar10-resnet20"), (short, "cifar10-resnet20-short")):
        error, interval = with_interval(run)
        assert row[3].replace("95 % interval ", "") == f"{error} ({interval})"
        assert row[4] == f"`keras-resnet train {run}`"


def test_errors_on_digits():
    rows = [row for row in table_of("README.md", "## Results") if row[1][:5] in ("ResNe", "Plain")]
    found = {row[1].split(",")[0].replace("-", "").lower(): row[3] for row in rows[1:]}
    assert set(found) == {"resnet20", "plain20", "resnet56", "plain56"}
    for network, cell in found.items():
        errors = [error_of(f"digits-{network}-seed{seed}")[0] for seed in (1, 2, 3)]
        assert cell == ", ".join(f"{error:.2f}" for error in errors), network


ROWS = {
    "this package, float32": "ours, float32",
    "with the variable": "ours, float32, frozen",
    "with the variable and one thread per request": "ours, float32, frozen, one thread",
    "and the server's bfloat16": "ours, float32, frozen, one thread, server's bfloat16",
    "bfloat16, with the variable": "ours, bfloat16, frozen",
    "bfloat16, with the variable and one thread": "ours, bfloat16, frozen, one thread",
    "int8, with the variable": "ours, int8, frozen",
    "int8, with the variable and one thread": "ours, int8, frozen, one thread",
    "`keras.applications.ResNet50().export()`": "keras.applications",
    "OpenVINO, float32": "OpenVINO, float32, latency",
    "OpenVINO, bfloat16": "OpenVINO, bfloat16, latency",
    "OpenVINO, int8 (NNCF)": "OpenVINO, int8, latency",
    "ONNX Runtime, float32": "ONNX Runtime, float32",
}


def test_speed_of_serving():
    """OpenVINO's throughput is by its hint for throughput."""
    measured: dict[str, list[float]] = {}
    for line in (RESULTS / "bench_serving.txt").read_text().splitlines():
        if line.startswith("| ") and "(" in line:
            name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            measured[name] = [*measured.get(name, []), *(float(one.split()[0]) for one in cells)]
    for label, *cells in table_of("keras_resnet/serving/README.md", "## Speed"):
        latency = measured[ROWS[label]]
        throughput = measured[ROWS[label].replace("latency", "throughput")]
        wanted = [*latency[:4], throughput[5], throughput[7]]
        for cell, value in zip(map(float, cells), wanted, strict=True):
            digits = len(str(cell).partition(".")[2]) if cell < 100 and cell % 1 else 0
            assert cell == pytest.approx(value, abs=0.5 * 10**-digits + 1e-9), label


def test_files_of_results_exist():
    readmes = [ROOT / "README.md", *(ROOT / "keras_resnet").glob("*/README.md")]
    for readme in (*readmes, *(ROOT / "scripts").glob("**/README.md")):
        text = readme.read_text(encoding="utf-8")
        for name in re.findall(r"scripts/results/[\w./-]*\w", text):
            assert (ROOT / name).exists(), f"{readme}: {name}"
