"""Test a classifier on every image of a split, each exactly once, in the views of the paper."""

import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from .. import data as datasets
from ..choices import require
from ..data.crops import VIEWS
from ..data.dataset import Dataset, Split
from ..data.own_data import as_split, content_hashes
from ..data.pipeline import view_batches
from ..data.preprocessing import Preprocessing
from ..files import write_text
from ..networks.build import build
from ..runs.classifier import Classifier, of_model, open_run
from ..runs.dataset import load_dataset, require_recorded
from ..runs.interval import wilson_interval
from ..runs.run import Run, as_run
from ..training.keras_patches import prepare
from .errors import class_errors, class_intervals, confusion_matrix, softmax, top_k_error
from .prediction_files import Predictions, suffix, write_predictions
from .temperature import calibration_error

SCORES = ("probabilities", "logits")
SPLITS = ("test", "validation", "train")
TOP_K = (1, 5)
"""the numbers of most probable classes among which a label is looked for, as in the paper"""


def evaluate(
    target: Run | str | os.PathLike[str] | keras.Model,
    data: Any = None,
    *,
    split: str = "test",
    preprocessing: Preprocessing | str | None = None,
    class_names: Sequence[str] | None = None,
    views: str = "single",
    scores: str = "probabilities",
    batch_size: int = 256,
    directory: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Test a run or any Keras classifier, and return its errors in percent with their intervals.

    A run's results are written into its folder: `evaluation.json`, `confusion.csv` and
    `predictions.npz`. Other views and other data have files of their own, such as
    `evaluation-ten-crop.json`. `predictions.npz` holds, per image, the logits (float32
    `[N, classes]`, whose softmax are the probabilities), the label (int32 `[N]`) and the SHA-256 of
    its content (uint8 `[N, 32]`), beside the `class_names`.

    Args:
        target: a run, the path of its folder, or a Keras model: Functional or Sequential, with one
            image input and one output of class scores.
        data: what to test on: the name of a data set, the path of a folder of images, arrays
            `(images, labels)`, a `tf.data.Dataset` of `(image, label)`, or a split. A run has its
            own by default. The classes must be the same.
        split: "test", "validation" or "train", where `data` has splits.
        preprocessing: of a model: how an image becomes its input. It is never guessed.
        class_names: of a model, in the order of its outputs.
        views: "single", the center crop; "ten-crop", section 3.4 and Table 3; "multi-scale",
            Table 4: the whole image at five scales through the network as a fully convolutional
            one. `keras_resnet.data.crops` defines each.
        scores: what is averaged over the views of an image: "probabilities", as the paper's authors
            do, or "logits".
        batch_size: views at a time; it does not change the result.
        directory: where the files go; by default the run's folder. Without it a model's results are
            only returned.

    Returns:
        `top1_error`, `top5_error`, `calibration_error`, `images`, `views`, `scores`, `dataset`,
        `split` and `class_errors`: percent per class name, of the classes that have images.
        `calibration_error` is the expected calibration error in percent, of 15 bins. Every other
        error has its 95 % Wilson interval beside it, `[low, high]` in percent: `top1_interval`,
        `top5_interval`, `class_intervals`. The intervals measure the sampling of the test images,
        not the spread over seeds. Five classes or fewer have no top-5 error.

    Raises:
        ValueError: an argument is not one of its choices, the run is not fully trained, or the
            data is missing, has other classes, or has changed where its test split was held out.
    """
    tested = _test(target, data, split, preprocessing, class_names, views, scores, batch_size)
    probabilities, labels = tested.probabilities, tested.labels
    names = tested.classifier.class_names
    confusion = confusion_matrix(probabilities, labels)
    result: dict[str, Any] = {}
    for k in TOP_K:
        if len(names) > k:  # otherwise no label can be missing
            error = top_k_error(probabilities, labels, k)
            result[f"top{k}_error"] = error
            result[f"top{k}_interval"] = wilson_interval(error, len(labels))
    result |= {
        "calibration_error": calibration_error(probabilities, labels),
        "images": len(labels),
        "views": views,
        "scores": scores,
        "dataset": tested.dataset,
        "split": tested.split,
        "class_errors": class_errors(confusion, names),
        "class_intervals": class_intervals(confusion, names),
    }
    if directory is not None:
        place = Run(Path(directory))
    elif tested.classifier.run is not None:
        place = tested.classifier.run
    else:
        return result
    on = tested.on if place == tested.classifier.run else ""
    write_predictions(
        place.predictions_file(views, on),
        Predictions(
            logits=tested.logits,
            labels=labels.astype(np.int32),
            hashes=tested.hashes,
            class_names=names,
        ),
    )
    write_text(place.confusion_file(views, on), _table(confusion, names))
    write_text(place.evaluation_file(views, on), json.dumps(result, indent=2) + "\n")
    return result


def predictions(
    target: Run | str | os.PathLike[str] | keras.Model,
    data: Any = None,
    *,
    split: str = "test",
    preprocessing: Preprocessing | str | None = None,
    class_names: Sequence[str] | None = None,
    views: str = "single",
    scores: str = "probabilities",
    batch_size: int = 256,
) -> tuple[np.ndarray, np.ndarray]:
    """Return what a classifier answers on a split, in order; nothing is written.

    Args:
        target: as in `evaluate`, like all the others.
        data: as there.
        split: as there.
        preprocessing: as there.
        class_names: as there.
        views: as there.
        scores: as there.
        batch_size: as there.

    Returns:
        Probabilities, float64 `[N, classes]`, and labels, int32 `[N]`.
    """
    tested = _test(target, data, split, preprocessing, class_names, views, scores, batch_size)
    return tested.probabilities, tested.labels


@dataclass(frozen=True, kw_only=True)
class _Tested:
    """What was tested, and what came out."""

    classifier: Classifier
    dataset: str
    split: str
    on: str
    """the data for names of files; "" for a run's own test split"""
    logits: np.ndarray
    """float32 `[N, classes]`, whose softmax are the probabilities"""
    probabilities: np.ndarray
    """float64 `[N, classes]`"""
    labels: np.ndarray
    """int32 `[N]`"""
    hashes: np.ndarray
    """uint8 `[N, 32]`"""


def _test(
    target: Any,
    data: Any,
    split: str,
    preprocessing: Any,
    class_names: Any,
    views: str,
    scores: str,
    batch_size: int,
) -> _Tested:
    require("views", views, tuple(VIEWS))
    require("scores", scores, SCORES)
    require("split", split, SPLITS)
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; give a positive number")
    if isinstance(target, keras.Model):
        classifier = of_model(target, preprocessing=preprocessing, class_names=class_names)
        if data is None:
            raise ValueError("data is None; give what to test the model on")
        chosen, name, said = _chosen(data, split, classifier)
        on = name
    else:
        for argument, value in (("preprocessing", preprocessing), ("class_names", class_names)):
            if value is not None:
                raise ValueError(f"{argument} is {value!r}; a run has its own: leave it out")
        classifier = open_run(as_run(target))
        assert classifier.run is not None
        if data is None:
            chosen, name, said = _own(classifier.run, split, classifier)
            on = suffix(None, split)
        else:
            chosen, name, said = _chosen(data, split, classifier)
            on = suffix(name, split)
    logits, labels = _answers(classifier, chosen, views, scores, batch_size)
    return _Tested(
        classifier=classifier,
        dataset=name,
        split=said,
        on=on,
        logits=logits,
        probabilities=softmax(logits),
        labels=labels,
        hashes=content_hashes(chosen, labels),
    )


def _own(run: Run, split: str, classifier: Classifier) -> tuple[Split, str, str]:
    """Return a split of the run's data set, the name of the data set and that of the split."""
    recipe = run.recipe()
    dataset = load_dataset(recipe, run)
    chosen = split_of(dataset, split, classifier)
    held_out = dataset.test_held_out and split != "train"
    if dataset.test_held_out and run.data_file.exists():
        # Of other images another part is held out, and some of those were trained on.
        require_recorded(run, dataset)
    return chosen, recipe.dataset, "held out of train" if held_out and split == "test" else split


def _chosen(data: Any, split: str, classifier: Classifier) -> tuple[Split, str, str]:
    """Return the split that the arguments of `evaluate` mean, and the two names."""
    if not isinstance(data, str | os.PathLike):
        return as_split(data), "data", split
    dataset = datasets.load(os.fspath(data))
    said = "held out of train" if dataset.test_held_out and split == "test" else split
    return split_of(dataset, split, classifier), dataset.name, said


def split_of(dataset: Dataset, split: str, classifier: Classifier) -> Split:
    """Return a split of a data set that has the classes of a classifier.

    Args:
        dataset: the data set.
        split: one of `SPLITS`.
        classifier: the classifier.

    Raises:
        ValueError: the classes differ, or the data set has no such split.
    """
    if dataset.class_names != classifier.class_names:
        where = f" {classifier.run.path}" if classifier.run else ""
        raise ValueError(
            f"{dataset.name} has other classes than those that {classifier.name}{where} was trained"
            f" on: {_differing(dataset.class_names, classifier.class_names)}"
        )
    found: Split | None = getattr(dataset, split)
    if found is None:
        splits = [name for name in SPLITS if getattr(dataset, name) is not None]
        raise ValueError(f"split is {split!r}; {dataset.name} has {', '.join(splits)}")
    return found


def _differing(ours: tuple[str, ...], theirs: tuple[str, ...]) -> str:
    """Name the first difference between two lists of class names."""
    if extra := [name for name in ours if name not in theirs]:
        return f"it has {extra[0]!r} too"
    if missing := [name for name in theirs if name not in ours]:
        return f"it has no {missing[0]!r}"
    return "their order differs"


def _answers(
    classifier: Classifier, split: Split, views: str, scores: str, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return logits whose softmax are the probabilities, float32 `[N, classes]`, and labels."""
    model = classifier.split.model if classifier.run is None else classifier.model
    if views == "multi-scale":
        model = _fully_convolutional(classifier)
    if classifier.run is not None:  # others can hold layers of the user's model
        prepare(model)
    rows, labels = [], []
    for inputs, numbers in view_batches(split, classifier.preprocessing, views, batch_size):
        answers = [model.predict_on_batch(view) for view in inputs]
        logits = np.stack([a["logits"] if isinstance(a, dict) else a for a in answers])
        logits = logits.astype(np.float64)
        if len(logits) == 1:
            rows.append(logits[0])
        elif scores == "probabilities":
            rows.append(np.log(softmax(logits).mean(axis=0)))
        else:
            rows.append(logits.mean(axis=0))
        labels.append(numbers.numpy())
    assert sum(map(len, labels)) == len(split)
    found = np.concatenate(labels)
    if not 0 <= found.min() <= found.max() < len(classifier.class_names):
        raise ValueError(
            f"labels go from {found.min()} to {found.max()}; {classifier.name} has"
            f" {len(classifier.class_names)} classes, numbered from 0"
        )
    # Rounded as they are stored, so that the stored ones give the same errors.
    return np.concatenate(rows).astype(np.float32), found


def _fully_convolutional(classifier: Classifier) -> keras.Model:
    """Return the same network for images of any size."""
    model = classifier.split.model if classifier.run is None else classifier.model
    if classifier.run is None:
        if model.inputs[0].shape[1:3] != (None, None):
            raise ValueError(
                f"views is 'multi-scale'; {classifier.name} takes images of one size: build it for"
                " (None, None, 3)"
            )
        return model
    network = build(
        classifier.run.recipe().spec,
        input_shape=(None, None, 3),
        classes=model.output_shape[-1],
        classifier_activation=None,
    )
    network.set_weights(model.get_weights())
    # XLA, which Keras chooses on a GPU, would compile again for each size of image.
    network.jit_compile = False
    return network


def _table(confusion: np.ndarray, names: tuple[str, ...]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["true", *names])
    writer.writerows([name, *row] for name, row in zip(names, confusion.tolist(), strict=True))
    return text.getvalue()
