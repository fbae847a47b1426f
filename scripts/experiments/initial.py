"""Compare the gradients of untrained plain and residual networks of 20, 56 and 110 layers.

    python scripts/experiments/initial.py

At random initial weights, on 32 digits, over three seeds: the norm of the gradient at the input of
every unit, with and without batch norm, and how similar the gradients at neighboring images are
(Balduzzi et al. 2017), with batch norm. A minute on two cores. Writes
scripts/results/initial/norms.csv and cosines.csv, the medians over the seeds, and prints the ends.
`scripts/figures.py` draws them.
"""

from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from keras_resnet import NETWORKS, ResNet, data
from keras_resnet.data.pipeline import evaluation_batches
from keras_resnet.data.preprocessing import preprocessing_for
from keras_resnet.evaluation.gradients import unit_gradients
from keras_resnet.evaluation.shattering import gradient_correlations
from keras_resnet.files import write_table

RESULTS = Path(__file__).parents[1] / "results" / "initial"
DEPTHS = (20, 56, 110)
SEEDS = (1, 2, 3)
IMAGES = 32
PAIRS = 4


def main() -> None:
    dataset = data.load("digits")
    preprocessing = preprocessing_for(dataset, None)
    batches = evaluation_batches(dataset.test, preprocessing, IMAGES)
    images, labels = next(batches.as_numpy_iterator())
    pairs = list(zip(images[::2], images[1::2], strict=True))[:PAIRS]
    norms: list[dict[str, Any]] = []
    cosines: list[dict[str, Any]] = []
    for kind in ("plain", "resnet"):
        for depth in DEPTHS:
            name = f"{kind}{depth}"
            spec = NETWORKS[name]
            with_norm, without, similar = [], [], []
            for seed in SEEDS:
                keras.utils.set_random_seed(seed)
                model = ResNet(
                    spec, input_shape=images.shape[1:], classes=10, classifier_activation=None
                )
                for found, batch_norm in ((with_norm, True), (without, False)):
                    rows = unit_gradients(model, spec, images, labels, batch_norm=batch_norm)
                    found.append([row.total for row in rows])
                similar.append(gradient_correlations(model, pairs))
            norms += [
                {"network": name, "unit": unit, "norm": value, "norm_without_batch_norm": bare}
                for unit, (value, bare) in enumerate(
                    zip(np.median(with_norm, axis=0), np.median(without, axis=0), strict=True), 1
                )
            ]
            cosines += [
                {"network": name, "distance": distance, "cosine": value}
                for distance, value in np.median(similar, axis=0)
            ]
    RESULTS.mkdir(exist_ok=True)
    write_table(RESULTS / "norms.csv", norms)
    write_table(RESULTS / "cosines.csv", cosines)
    show(norms, cosines)


def show(norms: list[dict[str, Any]], cosines: list[dict[str, Any]]) -> None:
    """Print the norm at the first unit as a multiple of the last unit's, and the first cosine."""
    table = Table("network", "first : last norm", "without batch norm", "cosine of neighbors")
    for name in dict.fromkeys(row["network"] for row in norms):
        first, *_, last = (row for row in norms if row["network"] == name)
        _, near, *_ = (row for row in cosines if row["network"] == name)
        ratios = [first[key] / last[key] for key in ("norm", "norm_without_batch_norm")]
        table.add_row(name, *(f"{ratio:.3g}" for ratio in ratios), f"{near['cosine']:.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
