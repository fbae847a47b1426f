"""Export a trained run, or any Keras image classifier: for TF Serving, or another runtime."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from ..choices import require
from ..data.preprocessing import Preprocessing
from ..networks.class_activation import with_maps
from ..networks.folding import fold_batch_norm
from ..runs.classifier import Classifier, of_model, open_run
from ..runs.run import Run
from . import formats, sidecars
from .agreement import Agreement, agreement
from .check import verify
from .gate import expected_calls
from .labeled_images import Images, images_of
from .lowering import (
    PRECISIONS,
    Precision,
    in_bfloat16,
    in_float32,
    in_int8,
    with_temperature,
)
from .model_card import write_card
from .probabilities import temperature_of
from .runtimes import FORMATS, Format, require_packages
from .signatures import write_saved_model
from .version_folders import os_errors, rename_to_next_version, temporary_folder, to_disk

SAVED_MODELS = Path("saved_models")


def export(
    target: Run | str | os.PathLike[str] | keras.Model,
    directory: str | os.PathLike[str] | None = None,
    *,
    class_names: Sequence[str] | None = None,
    preprocessing: Preprocessing | str | None = None,
    precision: Precision = "float32",
    format: Format = "saved_model",
    calibrate: bool = False,
    heat_map: bool = False,
    data: Any = None,
    tolerance: float = 0.5,
) -> Path:
    """Export a run or a Keras model: as a SavedModel for TF Serving, or for another runtime.

    The SavedModel is written to a temporary folder, where it must pass `check`, and its answers
    must equal those of the model. Then the folder is renamed, so a version is complete or absent.

    In low precision, the error of the export on test images is measured in the C++ loader, and
    compared with the error in float32. The model card states both.

    In another format, the network is written as one file for another runtime, in float32, with
    all that its user needs to know in `model.json`. Its answers in that runtime must equal those of
    the model.

    Args:
        target: a trained run, the path of its folder, or a Keras image classifier: a Functional or
            Sequential model with one image input and one output of class scores. These are logits,
            a softmax, or one sigmoid unit for two classes.
        directory: the folder of the versions, such as "saved_models/flowers". For a run the default
            is "saved_models/<name of the run>". Low precision is a model of its own, in the folder
            beside it: "saved_models/flowers-bfloat16". So is another format.
        class_names: the class names of a Keras model in the order of its outputs. A run has its
            own.
        preprocessing: the preprocessing of a Keras model: a `Preprocessing`, or a name of
            `PREPROCESSING`. It cannot be read from the model. A run has its own.
        precision: "float32", "bfloat16" or "int8", of weights and arithmetic. int8 takes networks
            whose layers with weights are `Conv2D`, `Dense` and `BatchNormalization`.
        format: "saved_model", or "litert", "onnx" or "openvino", each of which needs the extra of
            this name.
        calibrate: whether to divide the logits by a temperature, so that probabilities say how
            often an answer is right (Guo et al. 2017). It is fitted on the validation split, or
            on training images if there is none. The most probable class stays the same.
        heat_map: whether to add the signature `heat_map`: the class activation map of the most
            probable class (Zhou et al. 2016), of networks that end in global average pooling and
            one dense layer.
        data: labeled images of a Keras model in low precision or with `calibrate`. The name of a
            data set or the path of a folder, whose training and validation splits calibrate and
            whose test split measures; or a split, arrays `(images, labels)` or a `tf.data.Dataset`
            of `(image, label)`, of which every second image measures and the others calibrate. A
            run has its own.
        tolerance: by how many percentage points the error in low precision may exceed that in
            float32.

    Returns:
        The new version, `directory/VERSION`.

    Raises:
        ValueError: the run is not fully trained, the model is not such a classifier, an argument is
            missing or does not fit, the SavedModel does not pass, or its error in low precision
            exceeds the tolerance.
        OSError: the folder is not writable.
    """
    require("precision", precision, PRECISIONS)
    require("format", format, FORMATS)
    if format != "saved_model":
        for argument, value, plain in (
            ("precision", precision, "float32"),
            ("calibrate", calibrate, False),
            ("heat_map", heat_map, False),
        ):
            if value != plain:
                raise ValueError(
                    f"{argument} is {value!r} and format is {format!r}; only the format"
                    " 'saved_model' takes it"
                )
    require_packages(format)
    if not tolerance >= 0:
        raise ValueError(f"tolerance is {tolerance}; give percentage points of at least 0")
    classifier, base = _open(target, directory, class_names, preprocessing)
    images = temperature = None
    if calibrate or precision != "float32":
        images = images_of(classifier, data)
    if data is not None and (classifier.run is not None or images is None):
        raise ValueError(
            "data is given; only a Keras model in low precision or with `calibrate` takes it"
        )
    network, notes = _served_network(classifier)
    if format != "saved_model":
        return _export_file(classifier, network, format, _beside(base, format))
    if heat_map:
        network = with_maps(network)
    if precision != "float32":
        base = _beside(base, precision)
    match precision:
        case "float32":
            lowered = in_float32(network)
        case "bfloat16":
            lowered = in_bfloat16(network)
        case "int8":
            assert images is not None
            lowered = in_int8(network, images.training, classifier.preprocessing)
    if calibrate:
        assert images is not None
        temperature = temperature_of(network, classifier.preprocessing, images)
        lowered = with_temperature(lowered, temperature.value)
        if temperature.trained_on:
            warnings.warn(
                f"the temperature is fitted on {temperature.fitted_on}, on which the network was"
                " trained, so it is too small, and probabilities can get worse; train with"
                " `holdout` for one that fits",
                stacklevel=2,
            )
    expected = expected_calls(classifier, lowered)
    with temporary_folder(base) as temporary, os_errors(base):
        folder = temporary / "version"
        preprocessing, class_names = classifier.preprocessing, classifier.class_names
        signatures = write_saved_model(lowered, preprocessing, class_names, folder)
        sidecars.write_labels(folder, class_names)
        sidecars.write_preprocessing(folder, preprocessing)
        sidecars.write_warm_up(folder, preprocessing.crop, signatures)
        sidecars.write_batching(folder)
        report = verify(folder, expected)
        if report.errors:
            raise ValueError(
                f"the SavedModel does not pass, nothing is exported: {'; '.join(report.errors)}"
            )
        notes += [finding.text for finding in report.findings]
        found = None
        if images is not None and precision != "float32":
            found = _measured(folder, network, classifier, images.test, tolerance)
        write_card(folder, classifier, lowered, signatures, notes, found, temperature)
        to_disk(folder)
        return rename_to_next_version(folder, base)


def _export_file(classifier: Classifier, network: keras.Model, format: Format, base: Path) -> Path:
    """Export a network as a file for another runtime, and return the new version."""
    inputs = formats.compared_inputs(classifier)
    with temporary_folder(base) as temporary, os_errors(base):
        folder = temporary / "version"
        formats.write(folder, classifier, network, format)
        formats.verify(folder, classifier, inputs)
        to_disk(folder)
        return rename_to_next_version(folder, base)


def _open(
    target: Run | str | os.PathLike[str] | keras.Model,
    directory: str | os.PathLike[str] | None,
    class_names: Sequence[str] | None,
    preprocessing: Preprocessing | str | None,
) -> tuple[Classifier, Path]:
    """Return the classifier of `target` and the folder of its versions."""
    if isinstance(target, keras.Model):
        if directory is None:
            raise ValueError(
                f"directory is None; give the folder of the versions: {SAVED_MODELS}/NAME"
            )
        base = Path(directory)
        name = base.resolve().name
        return of_model(
            target, preprocessing=preprocessing, class_names=class_names, name=name
        ), base
    for argument, value in (("class_names", class_names), ("preprocessing", preprocessing)):
        if value is not None:
            raise ValueError(f"{argument} is given; a run has its own, so leave it out")
    classifier = open_run(target)
    return classifier, SAVED_MODELS / classifier.name if directory is None else Path(directory)


def _served_network(classifier: Classifier) -> tuple[keras.Model, list[str]]:
    """Return the network to serve, and notes for the model card on missing features."""
    split = classifier.split
    notes = [f"There is no signature `features`: {split.note}"] if split.note else []
    try:
        return fold_batch_norm(split.model), notes
    except ValueError as error:
        return split.model, [*notes, f"Batch norm is not folded: {error}"]


def _beside(base: Path, kind: str) -> Path:
    """Return the folder of a model's versions in a precision or format, given the usual one."""
    suffix = f"-{kind}"
    return base if base.name.endswith(suffix) else base.with_name(base.name + suffix)


def _measured(
    folder: Path, network: keras.Model, classifier: Classifier, images: Images, tolerance: float
) -> Agreement:
    """Measure an export, and raise `ValueError` if its error exceeds the tolerance."""
    found = agreement(folder, network, classifier.preprocessing, images)
    comparison = found.comparison
    if comparison.difference > tolerance:
        raise ValueError(
            f"tolerance is {tolerance:g} percentage points; the error rises by"
            f" {comparison.difference:.2f}, from {comparison.first_error:.2f} % in float32 to"
            f" {comparison.second_error:.2f} % ({images.name}), so nothing is exported"
        )
    return found
