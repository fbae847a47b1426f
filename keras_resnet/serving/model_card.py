"""Write the model card of an export: the model, measured errors, signatures and file hashes."""

import hashlib
import importlib.metadata
import textwrap
from collections.abc import Sequence
from pathlib import Path

from ..data.crops import VIEWS
from ..data.decoding import MAX_ASPECT, MAX_PIXELS
from ..data.preprocessing import Preprocessing
from ..runs.classifier import Classifier
from ..runs.interval import with_interval
from ..runs.provenance import PACKAGES
from .agreement import Agreement
from .audit import read_graph
from .lowering import Lowered
from .needs import FAST, needs_of
from .probabilities import Temperature
from .sidecars import BATCH_SIZES, LABELS, PREPROCESSING

CARD = "README.md"
INTERVALS = (
    "In brackets are 95 % intervals (Wilson 1927). They measure the sampling of the test images,\n"
    "not the spread over seeds."
)


def write_card(
    folder: Path,
    classifier: Classifier,
    network: Lowered,
    signatures: Sequence[str],
    notes: Sequence[str],
    agreement: Agreement | None = None,
    temperature: Temperature | None = None,
) -> None:
    """Write `README.md` to the folder of a SavedModel.

    The errors are those measured by the run's evaluations so far.

    Args:
        folder: the folder of the SavedModel, with all its other files.
        classifier: the exported model.
        network: its network in the precision of the export.
        signatures: the names of the signatures of the SavedModel.
        notes: sentences on missing features of this export.
        agreement: of low precision with float32.
        temperature: the temperature by which logits are divided.
    """
    preprocessing, size = classifier.preprocessing, classifier.preprocessing.crop
    rows = {
        "serving_default": (
            "`image_bytes`: JPEG, PNG, GIF or BMP, string `[batch]`",
            "`probabilities`, `classes`, `scores`",
        ),
        "image_tensor": ("`images`: uint8 `[batch, height, width, 3]`, RGB", "the same"),
        "features": ("`images`: the same", "`features`"),
        "tensor": (f"`inputs`: float32 `[batch, {size}, {size}, 3]`, preprocessed", "`logits`"),
        "classify": ("`inputs`: tf.Example with `image/encoded`", "`classes`, `scores`"),
        "heat_map": (
            "`image_bytes`: as `serving_default`",
            "`classes`, `scores`: of the best class; `maps`",
        ),
    }
    table = "\n".join(f"| `{name}` | {' | '.join(rows[name])} |" for name in signatures)
    text = f"""# {classifier.name}

{_origin(classifier)}
The names of its {len(classifier.class_names)} classes are in `{LABELS}`.
{textwrap.fill(network.types, 100)}

{_notes(notes)}{_needs(network, folder)}{_agreement(network, agreement)}\
{_calibration(temperature)}## Measured error

{_errors(classifier, network)}

## Input

{view_in_words(preprocessing)}
The graph does all this, except for `tensor`, which takes the result as input.
`{PREPROCESSING}` has the same as JSON.

| signature | input | outputs |
|---|---|---|
{table}

{_heat_map(preprocessing, signatures)}\
Bytes that are not an image, images of more than {MAX_PIXELS:,} pixels, and images with one side
more than {MAX_ASPECT} times the other get numbers of zero and empty class names. The other images
of the batch are answered. A JPEG may lack the two bytes of its end marker, but no more.
Batches of {", ".join(map(str, BATCH_SIZES))} are warmed up.

## Speed

| set for the server | effect with oneDNN |
|---|---|
| `TF_ONEDNN_ASSUME_FROZEN_WEIGHTS=1` in its environment | kernels are rearranged only once |
| `--tensorflow_intra_op_parallelism=1` | one thread per request: faster for many clients |
{_mixed_precision(network)}
The variable is for servers only: a training under it silently keeps its first weights.
On request, `keras-resnet check` measures what these change on a machine.

## Files

| file | bytes | SHA-256 |
|---|---|---|
{_files(folder)}

Made with {", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)}.
"""
    (folder / CARD).write_text(text, encoding="utf-8")


def _notes(notes: Sequence[str]) -> str:
    return "".join(f"- {note}\n" for note in notes) + ("\n" if notes else "")


def _needs(network: Lowered, folder: Path) -> str:
    """Return the section on what low precision needs; "" in float32."""
    if network.precision == "float32" or (needs := needs_of(read_graph(folder))) is None:
        return ""
    operators = ", ".join(f"`{name}`" for name in needs.operators)
    return f"""## Needs

A build of TensorFlow with oneDNN for x86-64 has its operators: {operators}
({needs.precision}). A processor with one of {", ".join(FAST[needs.precision])} is fast.
On any other, float32 is faster. `keras-resnet check` tests both.

"""


def _agreement(network: Lowered, agreement: Agreement | None) -> str:
    """Return the section on low precision; "" in float32."""
    if agreement is None:
        return ""
    found = agreement.comparison
    low, high = found.difference_interval
    share = 100 * agreement.changed / found.images
    return f"""## Agreement with float32

| | error of {found.images:,} images, {agreement.images} |
|---|---|
| float32 | {with_interval(found.first_error, found.first_interval)} |
| {network.precision} | {with_interval(found.second_error, found.second_interval)} |
| difference | {found.difference:+.2f} points ({low:+.2f} to {high:+.2f}) |

The most probable class changes for {agreement.changed:,} images ({share:.2f} %). The answers of
this export are those of TensorFlow's C++ loader. In brackets are 95 % intervals (Wilson 1927;
of the paired difference: Newcombe 1998, method 10).

"""


def _calibration(temperature: Temperature | None) -> str:
    """Return the section on calibrated probabilities; "" if they are not calibrated."""
    if temperature is None:
        return ""
    known = {
        True: " The network was trained on these images, where it is right more often than on"
        " others: the temperature is too small. Train with `holdout` for one that fits.",
        False: "",
        None: " If the network was trained on these images, the temperature is too small.",
    }
    text = (
        f"The logits are divided by the temperature {temperature.value:.4f}, which minimizes the"
        f" negative log-likelihood of {temperature.fitted:,} images, {temperature.fitted_on}"
        f" (Guo et al. 2017).{known[temperature.trained_on]} The most probable class stays the"
        " same."
    )
    before, after = temperature.before, temperature.after
    return f"""## Calibrated probabilities

{textwrap.fill(text, 100)}

| {temperature.tested:,} images, {temperature.tested_on}, in float32 | before | after |
|---|---|---|
| expected calibration error, 15 bins | {before.calibration_error:.2f} % \
| {after.calibration_error:.2f} % |
| negative log-likelihood, nats per image | {before.negative_log_likelihood:.4f} \
| {after.negative_log_likelihood:.4f} |

"""


def _origin(classifier: Classifier) -> str:
    model = classifier.model
    parameters = f"{model.count_params():,} parameters"
    if classifier.run is None:
        return f"The {type(model).__name__} Keras model `{model.name}` of {parameters}."
    recipe = classifier.run.recipe()
    return (
        f"The {recipe.spec.depth}-layer network `{recipe.spec.name}` of *Deep Residual Learning for"
        f" Image\nRecognition* (He et al., 2015), of {parameters}, trained on `{recipe.dataset}` by"
        f" the recipe\n`{recipe.name}`."
    )


def view_in_words(preprocessing: Preprocessing) -> str:
    """Return how an image becomes the network's input, as sentences.

    Args:
        preprocessing: the preprocessing of the network.
    """
    size, crop = preprocessing.resize, preprocessing.crop
    filtered = "bilinear and antialiased" if preprocessing.antialias else "bilinear"
    view = {
        "keep": f"The shorter side is resized to {size} px, {filtered}. The center of {crop} x"
        f" {crop} px\nis cut out.",
        "stretch": f"Both sides are resized to {size} px, {filtered}, whatever the aspect.",
    }
    orientation = "applied first" if preprocessing.exif_orientation else "ignored"
    return (
        f"{view[preprocessing.aspect]} An EXIF orientation is {orientation}.\nThe network's input"
        f" has {preprocessing.describe()}."
    )


def _heat_map(preprocessing: Preprocessing, signatures: Sequence[str]) -> str:
    """Return a paragraph on the signature `heat_map`; "" if there is none."""
    if "heat_map" not in signatures:
        return ""
    share = f"{preprocessing.crop} / {preprocessing.resize}"
    box = {
        "keep": f"the square in the center of an image whose side is {share} of the shorter side",
        "stretch": f"the center of an image, {share} of its height and of its width",
    }
    text = (
        "`maps`, `[batch, h, w]`, are the class activation maps (Zhou et al. 2016) of the best"
        " classes: the mean of a map and the bias of its class are the logit. A map covers"
        f" {box[preprocessing.aspect]}; lay it there, resized."
    )
    return textwrap.fill(text, 100) + "\n\n"


def _errors(classifier: Classifier, network: Lowered) -> str:
    run = classifier.run
    if run is None:
        return "Unknown: the model was not trained by a run of this package."
    found = [views for views in VIEWS if run.evaluation_file(views).is_file()]
    if not found:
        return "Not measured: there was no evaluation at the time of the export."
    errors = ("top1", "top5") if len(classifier.class_names) > 5 else ("top1",)
    names = {"top1": "top-1 error", "top5": "top-5 error"}
    lines = [
        f"| views | {' | '.join(names[k] for k in errors)} | images |",
        "|---" * (len(errors) + 2) + "|",
    ]
    for views in found:
        result = run.evaluation(views)
        measured = " | ".join(
            with_interval(result[f"{k}_error"], result[f"{k}_interval"])
            if f"{k}_error" in result
            else "not measured"
            for k in errors
        )
        tested = f"{result['images']:,}, {result['split']} of {result['dataset']}"
        lines.append(f"| {views} | {measured} | {tested} |")
    precision = "These are errors in float32. " if network.precision != "float32" else ""
    return "\n".join([*lines, "", INTERVALS, f"{precision}A server uses the single view."])


def _mixed_precision(network: Lowered) -> str:
    """Return the row of the table on speed for exports in float32."""
    if network.precision != "float32":
        return ""
    return (
        "| `--mixed_precision=bfloat16` | with avx512_bf16 or AMX: products in bfloat16, which"
        " change the answers slightly |\n"
    )


def _files(folder: Path) -> str:
    rows = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        rows.append(f"| `{path.relative_to(folder)}` | {len(content):,} | `{digest}` |")
    return "\n".join(rows)
