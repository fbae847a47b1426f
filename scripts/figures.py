"""Draw the figures of the READMEs from the tables in scripts/results.

    python scripts/figures.py

Writes scripts/results/figures/*.svg. It needs the extra `report`.
"""

import statistics
from pathlib import Path

from keras_resnet.evaluation.explain_figures import Line, line_figure
from keras_resnet.evaluation.report_figures import Curve, training_curves
from keras_resnet.files import read_table

RESULTS = Path(__file__).parent / "results"
SEEDS = (1, 2, 3)
NAMES = {"plain20": "Plain-20", "resnet20": "ResNet-20", "plain56": "Plain-56",
         "resnet56": "ResNet-56"}  # fmt: skip


def main() -> None:
    folder = RESULTS / "figures"
    folder.mkdir(exist_ok=True)
    for name, content in (
        ("degradation-digits", degradation_of_digits()),
        ("initial-norms", initial_norms()),
        ("initial-cosines", initial_cosines()),
    ):
        (folder / f"{name}.svg").write_bytes(content)


def degradation_of_digits() -> bytes:
    """Draw the errors on digits as Figure 6 of the paper does: medians over the seeds."""
    curves = []
    for network, name in NAMES.items():
        runs = [read_table(RESULTS / f"digits-{network}-seed{seed}" / "history.csv")
                for seed in SEEDS]  # fmt: skip
        epochs = list(zip(*runs, strict=True))
        training, test = (
            [
                (number, statistics.median(100 * (1 - float(row[key])) for row in rows))
                for number, rows in enumerate(epochs, 1)
            ]
            for key in ("accuracy", "val_accuracy")
        )
        plain = network.startswith("plain")
        curves.append(Curve(name=name, plain=plain, training=training, test=test))
    return training_curves(curves, "epoch")


def initial_norms() -> bytes:
    """Draw the gradient at every unit of untrained networks with batch norm."""
    rows = read_table(RESULTS / "initial" / "norms.csv")
    return line_figure(
        _lines(rows, "unit", "norm"),
        "unit, from the image to the classifier",
        "norm of the gradient",
        log=True,
    )


def initial_cosines() -> bytes:
    """Draw how similar the gradients at neighboring images are, in untrained networks."""
    rows = read_table(RESULTS / "initial" / "cosines.csv")
    near = [row for row in rows if 0 < float(row["distance"]) <= 0.5]
    return line_figure(
        _lines(near, "distance", "cosine"),
        "distance of two images, as a share of the line between them",
        "cosine of their gradients",
    )


def _lines(rows: list[dict[str, str]], x: str, y: str) -> list[Line]:
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        found.setdefault(row["network"], []).append((float(row[x]), float(row[y])))
    return [
        Line(
            int(network.startswith("resnet")),
            "plain" if network.startswith("plain") else "residual",
            network.startswith("plain"),
            points,
            label=network.removeprefix("plain").removeprefix("resnet"),
        )
        for network, points in found.items()
    ]


if __name__ == "__main__":
    main()
