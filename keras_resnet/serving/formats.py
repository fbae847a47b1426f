"""Write a network as a file for another runtime, with one JSON that says how to use it."""

import hashlib
import importlib.metadata
import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ..data.crops import VIEWS
from ..data.preprocessing import normalize
from ..runs.classifier import Classifier
from ..runs.provenance import PACKAGES
from .gate import expected_probabilities
from .labeled_images import images_of
from .model_card import view_in_words
from .runtimes import FILES, Format
from .worker import worker

JSON = "model.json"
INPUT, OUTPUT = "inputs", "probabilities"
"""the names of the input and the output of a network's file"""
COMPARED = 64
"""the number of images on which a file is compared with its network"""


def write(folder: Path, classifier: Classifier, network: keras.Model, format: Format) -> None:
    """Write a network's file in a format, and `model.json`, which describes it.

    The network maps `inputs`, float32 `[N, crop, crop, 3]`, preprocessed, to `probabilities`,
    float32 `[N, classes]`. N is any number.

    Args:
        folder: the folder to create.
        classifier: the exported model.
        network: its network in float32, whose outputs include `logits`.
        format: a key of `FILES`.

    Raises:
        ValueError: the network cannot be converted.
    """
    folder.mkdir()
    size = classifier.preprocessing.crop
    inputs = keras.Input((size, size, 3), name=INPUT)
    softmax = keras.layers.Softmax(dtype="float32")
    # The name of an output is kept in all formats only where outputs are a dict.
    model = keras.Model(inputs, {OUTPUT: softmax(network(inputs)["logits"])})
    model(np.zeros((1, size, size, 3), np.float32))  # Keras exports only models that were called
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TensorFlow's converter, and of `np.object` in Keras
        try:
            model.export(str(folder / FILES[format]), format=format, verbose=False)
        except OSError:
            raise
        except Exception as error:  # every converter has classes of its own
            line = " ".join(str(error).split())[:300]
            raise ValueError(
                f"format is {format!r}, to which {classifier.name} cannot be converted: {line}"
            ) from None
    # One line per entry, because a per-pixel mean has thousands of numbers.
    entries = [
        f"  {json.dumps(key)}: {json.dumps(value)}"
        for key, value in _description(folder, classifier, format).items()
    ]
    (folder / JSON).write_text("{\n" + ",\n".join(entries) + "\n}\n", encoding="utf-8")


def compared_inputs(classifier: Classifier) -> np.ndarray:
    """Return the inputs on which a file is compared with its network.

    They are test images of a run, evenly spread, or for a Keras model noise: it has no images.

    Args:
        classifier: the exported model.

    Raises:
        ValueError: the data of the run is missing or has changed.
    """
    preprocessing = classifier.preprocessing
    if classifier.run is None:
        shape = (COMPARED // 8, preprocessing.crop, preprocessing.crop, 3)
        noise = np.random.default_rng(0).integers(0, 256, shape)
        return normalize(preprocessing, noise.astype(np.uint8)).numpy()
    test = images_of(classifier, None).test
    images, _ = next(test.at_most(COMPARED).batches(preprocessing, COMPARED))
    return images


def verify(folder: Path, classifier: Classifier, inputs: np.ndarray) -> None:
    """Compare a network's file, in its own runtime, with the model itself.

    The runtime has a process of its own, without Python TensorFlow or Keras. It is asked for all
    images together and for one, as both must be possible.

    Args:
        folder: the folder of `model.json`.
        classifier: the exported model.
        inputs: the network's input, float32 `[N, crop, crop, 3]`.

    Raises:
        ValueError: the file cannot be loaded, or its answers differ from the model's.
    """
    format, path = file_in(folder)
    expected, tolerance = expected_probabilities(classifier, inputs)
    try:
        with worker(format, path) as runtime:
            answers = [runtime.answer(inputs), runtime.answer(inputs[:1])]
    except (TimeoutError, ValueError) as error:
        raise ValueError(f"the {format} file does not run, nothing is exported: {error}") from None
    for answer in answers:
        wanted = expected[: len(answer)]
        difference = np.abs(answer - wanted).max() if answer.shape == wanted.shape else np.inf
        if not difference <= tolerance:  # true for NaN too
            raise ValueError(
                f"the probabilities of the {format} file differ from the model's by"
                f" {difference:.1e}, more than {tolerance:.1e}, so nothing is exported"
            )


def file_in(folder: Path) -> tuple[Format, Path]:
    """Return the format and the file of the network in a folder that `write` has filled.

    Raises:
        ValueError: there is none.
    """
    for format, name in FILES.items():
        if (folder / name).is_file():
            return format, folder / name
    raise ValueError(f"{folder} has none of {', '.join(FILES.values())}")


def _description(folder: Path, classifier: Classifier, format: Format) -> dict[str, Any]:
    """Return all that the user of a file needs to know, as JSON has it."""
    preprocessing, names = classifier.preprocessing, classifier.class_names
    size = preprocessing.crop
    return {
        "name": classifier.name,
        "format": format,
        "files": {
            path.name: {
                "bytes": path.stat().st_size,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            for path in sorted(folder.iterdir())
        },
        "input": {"name": INPUT, "dtype": "float32", "shape": [None, size, size, 3]},
        "output": {
            "name": OUTPUT,
            "dtype": "float32",
            "shape": [None, len(names)],
            "scores": "probabilities",
        },
        "classes": len(names),
        "labels": names,
        "preprocessing": asdict(preprocessing)
        | {"description": view_in_words(preprocessing).replace("\n", " ")},
        "errors": _errors(classifier),
        "made_with": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _errors(classifier: Classifier) -> dict[str, Any]:
    """Return the errors in percent that a run's evaluations measured, by views of an image."""
    run = classifier.run
    if run is None:
        return {}
    evaluated = {
        views: run.evaluation(views) for views in VIEWS if run.evaluation_file(views).is_file()
    }
    return {
        views: {
            key: result[key]
            for key in (
                *(f"top{k}_{what}" for k in (1, 5) for what in ("error", "interval")),
                "images",
                "dataset",
                "split",
            )
            if key in result
        }
        for views, result in evaluated.items()
    }
