"""The model card of an export: what it is, how well it does, how it is asked, by what hashes it is known."""

import hashlib
import importlib.metadata
import json
from pathlib import Path

from . import data
from .run import PACKAGES, Run
from .serving_files import BATCH_SIZES, LABELS


def write_card(folder: Path, run: Run, preprocessing: data.Preprocessing) -> None:
    """Writes `README.md` into the folder of a SavedModel, of the files that are there by then.

    The measured errors are those of the run's `evaluation.json` and its like.
    """
    recipe, size = run.recipe(), preprocessing.crop
    files = {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    rows = "\n".join(f"| `{name}` | {len(b):,} | `{hashlib.sha256(b).hexdigest()}` |" for name, b in files.items())
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    text = f"""# {run.name}

The {recipe.spec.depth}-layer network `{recipe.spec.name}` of *Deep Residual Learning for Image Recognition* (He et al.,
2015), trained on `{recipe.dataset}` by the recipe `{recipe.name}`. Its {len(run.labels())} classes are in `{LABELS}`.
Batch norm is folded into the convolutions; weights are float32.

## Measured error

{_errors(run)}

## Input

The shorter side is resized to {preprocessing.resize} px, bilinear and antialiased. The centre, {size} x {size} px, is
cut out and normalised:
{preprocessing.describe()}.
The graph does all this; only `tensor` takes its result.

| signature | input | outputs |
|---|---|---|
| `serving_default` | `image_bytes`: JPEG or PNG, string `[batch]` | `probabilities`, `classes`, `scores` |
| `image_tensor` | `images`: uint8 `[batch, height, width, 3]`, RGB | the same |
| `features` | `images`: the same | `features` |
| `tensor` | `inputs`: float32 `[batch, {size}, {size}, 3]`, preprocessed | `logits` |
| `classify` | `inputs`: tf.Example with `image/encoded` | `classes`, `scores` |

Bytes that are no picture, have more than {data.MAX_PIXELS:,} pixels, or one side more than {data.MAX_ASPECT} times the
other, get scores of zero and empty labels; the other pictures of the batch are answered. A JPEG that is cut off is read
as far as it goes, and grey from there. Batches of {", ".join(map(str, BATCH_SIZES))} are warmed up.

## Files

| file | bytes | SHA-256 |
|---|---|---|
{rows}

Made by {versions}.
"""
    (folder / "README.md").write_text(text, encoding="utf-8")


def _errors(run: Run) -> str:
    found = {views: file for views in data.VIEWS if (file := run.evaluation_file(views)).is_file()}
    if not found:
        return "Not measured: there was no evaluation when this was exported."
    lines = ["| views | top-1 error | top-5 error | pictures |", "|---|---|---|---|"]
    for views, file in found.items():
        result = json.loads(file.read_text(encoding="utf-8"))
        where = f"{result['images']:,}, {result['split']} of {result['dataset']}"
        lines.append(f"| {views} | {result['top1_error']:.2f} % | {result['top5_error']:.2f} % | {where} |")
    return "\n".join([*lines, "", "A server shows the network the single view."])
