"""Test a trained run on every picture of its test split, each exactly once."""

import json
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np

from . import data
from .run import Run, write_text


def evaluate(run_dir: str | os.PathLike[str], *, batch_size: int = 256) -> dict[str, Any]:
    """Top-1 and top-5 error in percent, written to the run's `evaluation.json` and returned.

    Raises `ValueError` where the run is not there, not trained to its end, or its data is missing.
    """
    run = Run(Path(run_dir))
    probabilities, labels = test_probabilities(run, batch_size=batch_size)
    result = {
        "top1_error": top_k_error(probabilities, labels, 1),
        "top5_error": top_k_error(probabilities, labels, 5),
        "images": len(labels),
        "views": "single",
        "dataset": run.recipe().dataset,
        "split": "test",
    }
    write_text(run.evaluation_file, json.dumps(result, indent=2) + "\n")
    return result


def test_probabilities(run: Run, *, batch_size: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """What the run's network says of its test split, in order: probabilities `[images, classes]`, labels `[images]`."""
    run.require_trained()
    recipe = run.recipe()
    preprocessing = data.Preprocessing.read(run.preprocessing_file)
    test = data.load(recipe.dataset, data_dir=recipe.data_dir, image_size=recipe.image_size).test
    model = keras.models.load_model(run.model_file)
    logits = model.predict(data.test_batches(test, preprocessing, batch_size), verbose=0)
    assert len(logits) == len(test)
    return softmax(logits), test.labels


def softmax(logits: np.ndarray) -> np.ndarray:
    """Along the last axis, in float64."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def top_k_error(probabilities: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Percent of the rows of `[images, classes]` whose label is not among the `k` most probable classes.

    A class that ties with the label counts as before it: a network that says nothing gets nothing.
    """
    mine = probabilities[np.arange(len(labels)), labels][:, np.newaxis]
    before = (~(probabilities < mine)).sum(axis=1) - 1  # so written that NaN counts as before the label too
    return 100.0 * float(np.mean(before >= k))
