#!/usr/bin/env bash
# Shows the degradation problem on handwritten digits: 20 and 56 layers, with and without shortcuts, three seeds each.
# Prints a table, and copies the evidence to scripts/results/. If interrupted, the same command resumes.
set -euo pipefail
cd "$(dirname "$0")/../.."

. scripts/venv.sh
for network in resnet20 plain20 resnet56 plain56; do
    for seed in 1 2 3; do
        name=digits-$network-seed$seed
        "$VENV/bin/keras-resnet" train "digits-$network" --seed "$seed" --run-dir "runs/$name" >/dev/null
        "$VENV/bin/keras-resnet" evaluate "runs/$name" >/dev/null
        mkdir -p "scripts/results/$name"
        cp "runs/$name"/{recipe.json,history.csv,evaluation.json} "scripts/results/$name/"
    done
done

"$VENV/bin/python" - <<'PYTHON'
import csv
import json
import statistics
from pathlib import Path

print("| network | test error, seeds 1, 2, 3 | median | training error, median | seconds of training, median |")
print("|---|---|---|---|---|")
for network in ("resnet20", "plain20", "resnet56", "plain56"):
    runs = [Path(f"scripts/results/digits-{network}-seed{seed}") for seed in (1, 2, 3)]
    errors = [json.loads((run / "evaluation.json").read_text())["top1_error"] for run in runs]
    histories = [list(csv.DictReader((run / "history.csv").open())) for run in runs]
    training = statistics.median(100 * (1 - float(rows[-1]["accuracy"])) for rows in histories)
    seconds = statistics.median(sum(float(row["seconds"]) for row in rows) for rows in histories)
    listed = ", ".join(f"{error:.2f} %" for error in errors)
    print(f"| {network} | {listed} | {statistics.median(errors):.2f} % | {training:.2f} % | {seconds:.0f} |")
PYTHON
