"""Test a trained run on every picture of its test split, each exactly once, in the views that the paper tests in."""

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np

from . import data, start
from .model import build, load
from .run import Run, write_text
from .spec import require

SCORES = ("probabilities", "logits")


def evaluate(
    run_dir: str | os.PathLike[str], *, views: str = "single", scores: str = "probabilities", batch_size: int = 256
) -> dict[str, Any]:
    """Top-1 and top-5 error in percent, and the top-1 error of each class, written to the run's `evaluation.json`.

    Returned are `top1_error`, `top5_error`, `images`, `views`, `scores`, `dataset`, `split` and `class_errors`, percent
    by label of the classes that the split has pictures of. Beside it `confusion.csv`: a row a true class, a column a
    predicted one, in pictures. Other views than the single one have files of their own, `evaluation-ten-crop.json`.

    Args:
        views: "single", the centre crop; "ten-crop", section 3.4's and Table 3's; "multi-scale", Table 4's: the whole
            picture at five scales, through the network as a fully convolutional one, with its average pool over
            whatever map results. `keras_resnet.data.test_views` defines each.
        scores: what is averaged over the views of a picture: "probabilities", as the paper's authors do, or "logits".
        batch_size: views at a time; does not change the result.

    Raises:
        ValueError: an argument is not one of its choices, the run is not there or not trained to its end, or its data
            is missing, has other classes by now, or other pictures where the test split was held out of them.
    """
    run = Run(Path(run_dir))
    dataset, probabilities, labels = _tested(run, views, scores, batch_size)
    names = run.labels()
    confusion = confusion_matrix(probabilities, labels)
    result = {
        "top1_error": top_k_error(probabilities, labels, 1),
        "top5_error": top_k_error(probabilities, labels, 5),
        "images": len(labels),
        "views": views,
        "scores": scores,
        "dataset": run.recipe().dataset,
        "split": "held out of train" if dataset.test_held_out else "test",
        "class_errors": class_errors(confusion, names),
    }
    write_text(run.confusion_file(views), _table(confusion, names))
    write_text(run.evaluation_file(views), json.dumps(result, indent=2) + "\n")
    return result


def test_probabilities(
    run: Run, *, views: str = "single", scores: str = "probabilities", batch_size: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """What the run's network says of its test split, in order: probabilities `[images, classes]`, labels `[images]`.

    Arguments and errors are those of `evaluate`.
    """
    return _tested(run, views, scores, batch_size)[1:]


def _tested(run: Run, views: str, scores: str, batch_size: int) -> tuple[data.Dataset, np.ndarray, np.ndarray]:
    require("views", views, tuple(data.VIEWS))
    require("scores", scores, SCORES)
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; give a positive number")
    run.require_trained()
    recipe = run.recipe()
    preprocessing = data.Preprocessing.read(run.preprocessing_file)
    dataset = start.dataset(recipe)
    if dataset.labels != run.labels():
        raise ValueError(f"{recipe.dataset} has other classes than those {run.path} was trained on; see its labels.txt")
    if dataset.test_held_out and run.data_file.exists():
        start.require_same(run, dataset)  # with other pictures another part is held out: some were trained on
    model = load(run.model_file)
    if views == "multi-scale":
        model = _fully_convolutional(run, model)

    probabilities, labels = [], []
    for inputs, numbers in data.view_batches(dataset.test, preprocessing, views, batch_size):
        logits = np.stack([model.predict_on_batch(view) for view in inputs]).astype(np.float64)
        if scores == "probabilities":
            probabilities.append(softmax(logits).mean(axis=0))
        else:
            probabilities.append(softmax(logits.mean(axis=0)))
        labels.append(numbers.numpy())
    assert sum(map(len, labels)) == len(dataset.test)
    return dataset, np.concatenate(probabilities), np.concatenate(labels)


def _fully_convolutional(run: Run, model: keras.Model) -> keras.Model:
    """The same network for pictures of any size."""
    network = build(
        run.recipe().spec,
        input_shape=(None, None, 3),
        classes=model.output_shape[-1],
        classifier_activation=None,
    )
    network.set_weights(model.get_weights())
    network.jit_compile = False  # XLA, which Keras chooses on a GPU, would compile anew for each size of picture
    return network


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


def confusion_matrix(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Pictures by true class (rows) and most probable class (columns): int `[classes, classes]`.

    A class that ties with the label comes before it, as in `top_k_error`, so that the two agree.
    """
    from sklearn import metrics

    rows = np.arange(len(labels))
    rivals = probabilities.copy()
    rivals[rows, labels] = -np.inf
    rival = rivals.argmax(axis=1)
    won = probabilities[rows, rival] < probabilities[rows, labels]  # not where either is NaN
    predicted = np.where(won, labels, rival)
    return metrics.confusion_matrix(labels, predicted, labels=np.arange(probabilities.shape[1]))


def class_errors(confusion: np.ndarray, names: tuple[str, ...]) -> dict[str, float]:
    """Percent of each class's pictures that were taken for another; classes without pictures are left out."""
    pictures = confusion.sum(axis=1)
    wrong = pictures - confusion.diagonal()
    return {name: 100.0 * int(w) / int(n) for name, w, n in zip(names, wrong, pictures, strict=True) if n}


def _table(confusion: np.ndarray, names: tuple[str, ...]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["true", *names])
    writer.writerows([name, *row] for name, row in zip(names, confusion.tolist(), strict=True))
    return text.getvalue()
