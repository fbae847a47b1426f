"""The numbers of the READMEs' tables are those of the files in scripts/results."""

import json
import re
from pathlib import Path

import pytest

from keras_resnet.files import read_table
from keras_resnet.networks.paper import PAPER_ERRORS
from keras_resnet.runs.interval import wilson_interval

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "scripts" / "results"


def table_of(readme, above):
    """Return the cells of the first table below a line, such as a heading, by row."""
    text = (ROOT / readme).read_text(encoding="utf-8").split(f"\n{above}\n")[1]
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


TRAINED = [
    "resnet20, float32, {}",
    "resnet20, bfloat16, {}",
    "resnet20, float32, {}, 2 replicas",
    "resnet50, float32, {}",
    "resnet50, bfloat16, {}",
]
"""the rows of the table on training steps, by the contender's place in their names"""


def test_speed_of_training():
    lines = (RESULTS / "bench_training.txt").read_text().splitlines()[3:]
    measured = {}
    for line in lines:
        # A name, images/s, their quartiles and, but for stock Keras, the ratio to it.
        name, values = re.fullmatch(r"(\S.*?)  +(\S.*?) *", line).groups()
        measured[name] = values.split()
    above = (
        "medians (`scripts/benchmarks/bench_training.py`, `scripts/results/bench_training.txt` with"
        " the spread):"
    )
    rows = table_of("keras_resnet/training/README.md", above)
    for (_, stock, prepared, torch), name in zip(rows, TRAINED, strict=True):
        wanted = {one: measured.get(name.format(one)) for one in ("keras", "prepared", "pytorch")}
        assert float(stock) == pytest.approx(float(wanted["keras"][0]), abs=0.5)
        assert float(prepared.split()[0]) == pytest.approx(float(wanted["prepared"][0]), abs=0.5)
        assert prepared.split()[1] == f"({wanted['prepared'][-1]}"
        assert torch == "" or float(torch) == pytest.approx(float(wanted["pytorch"][0]), abs=0.5)


def test_ingredients_of_a_recipe():
    """Columns are numbers of epochs, and errors are by seed."""
    rows = read_table(RESULTS / "ablation" / "table.csv")
    table = table_of("scripts/README.md", "### Ingredients of a recipe")
    assert len(table) == len({row["variant"] for row in rows})
    for variant, *cells in table:
        for cell, epochs in zip(cells, ("15", "30"), strict=True):
            found = [row for row in rows if (row["variant"], row["epochs"]) == (variant, epochs)]
            found.sort(key=lambda row: int(row["seed"]))
            errors = ", ".join(f"{float(row['validation_error']):.2f}" for row in found)
            assert cell == errors, (variant, epochs)


def test_pairs_of_precisions():
    text = " ".join((ROOT / "scripts/README.md").read_text(encoding="utf-8").split())
    rows = read_table(RESULTS / "ablation" / "table.csv")
    errors = {
        precision: ", ".join(
            f"{float(row['validation_error']):.2f}"
            for row in rows
            if (row["precision"], row["epochs"]) == (precision, "5")
            and row["variant"] == "without MixUp and the average of the weights"
        )
        for precision in ("float32", "mixed_bfloat16")
    }
    wanted = f"{errors['float32']} in float32 and {errors['mixed_bfloat16']} in mixed_bfloat16"
    assert wanted in text


def test_gradients_of_untrained_networks():
    text = (ROOT / "keras_resnet/evaluation/README.md").read_text(encoding="utf-8")
    text = " ".join(text.split("### Before the first step")[1].split())
    rows = read_table(RESULTS / "initial" / "norms.csv")

    def ratio(network, column):
        first, *_, last = (float(row[column]) for row in rows if row["network"] == network)
        return first / last

    assert f"{ratio('plain110', 'norm_without_batch_norm'):.1e}".replace("e-0", "e-") in text
    assert f"{ratio('plain110', 'norm') / 1e6:.1f} million times" in text
    assert f"{ratio('resnet110', 'norm'):.0f} times in ResNet-110" in text
    cosines = read_table(RESULTS / "initial" / "cosines.csv")
    near = {row["network"]: row["cosine"] for row in cosines if row["distance"] == "0.03125"}
    assert "cosines of " + ", ".join(f"{float(near[f'resnet{n}']):.2f}" for n in (20, 56)) in text
    assert f"and {float(near['resnet110']):.2f} for the nearest images" in text
    assert all(abs(float(near[f"plain{depth}"])) < 0.05 for depth in (20, 56, 110))


def test_files_of_results_exist():
    readmes = [ROOT / "README.md", *(ROOT / "keras_resnet").glob("*/README.md")]
    for readme in (*readmes, *(ROOT / "scripts").glob("**/README.md")):
        text = readme.read_text(encoding="utf-8")
        for name in re.findall(r"scripts/results/[\w./-]*\w", text):
            assert (ROOT / name).exists(), f"{readme}: {name}"
