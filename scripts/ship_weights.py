"""Put the trained network of a run into the package, in half precision.

    python scripts/ship_weights.py RUN [RUN ...]

Of several runs of one recipe, which differ in their seeds, the one with the median test error is
taken. The error of the rounded weights is measured on the test split again. The data set must be
where the runs found it (`TFDS_DATA_DIR`). Writes keras_resnet/networks/pretrained.
"""

import argparse
import json
import tempfile
from pathlib import Path

import h5py
import keras

from keras_resnet import NETWORKS, Preprocessing, ResNet, Run, evaluate
from keras_resnet.files import read_json, whole_file, write_text
from keras_resnet.networks.pretrained_weights import DATA_SETS, FOLDER, sha256, weights_file
from keras_resnet.runs.dataset import load_dataset

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    runs = [Run(path) for path in parser.parse_args().runs]
    errors = {run.path: read_json(run.evaluation_file())["top1_error"] for run in runs}
    runs.sort(key=lambda run: errors[run.path])
    chosen = runs[(len(runs) - 1) // 2]
    recipe = chosen.recipe()
    network = next((name for name, spec in NETWORKS.items() if spec == recipe.spec), None)
    if network is None or recipe.dataset not in DATA_SETS:
        parser.error(
            f"{chosen.path} is {recipe.spec.name} on {recipe.dataset}; give networks of NETWORKS"
            f" on {', '.join(DATA_SETS)}"
        )
    preprocessing = FOLDER / recipe.dataset / "preprocessing.json"
    text = chosen.preprocessing_file.read_text(encoding="utf-8")
    if preprocessing.exists() and preprocessing.read_text(encoding="utf-8") != text:
        parser.error(f"{preprocessing} is another preprocessing; ship all networks of it together")
    preprocessing.parent.mkdir(parents=True, exist_ok=True)
    write_text(preprocessing, text)
    file = weights_file(recipe.dataset, network)
    write_half(keras.models.load_model(chosen.model_file), file)
    model = ResNet(
        recipe.spec,
        weights=file,
        input_shape=(32, 32, 3),
        classes=len(chosen.class_names()),
        classifier_activation=None,
    )
    measured = evaluate(
        model,
        load_dataset(recipe, chosen).test,
        preprocessing=Preprocessing.read(preprocessing),
        class_names=chosen.class_names(),
    )
    entry = {
        "error": measured["top1_error"],
        "interval": measured["top1_interval"],
        "images": measured["images"],
        "float32_error": errors[chosen.path],
        "errors": {str(run.recipe().seed): errors[run.path] for run in runs},
        "seed": recipe.seed,
        "recipe": recipe.name,
        "run": str(chosen.path.resolve().relative_to(ROOT)),
        "class_names": chosen.class_names(),
        "bytes": file.stat().st_size,
        "sha256": sha256(file),
    }
    manifest = FOLDER / "manifest.json"
    known = read_json(manifest) if manifest.exists() else {}
    known.setdefault(recipe.dataset, {})[network] = entry
    write_text(manifest, json.dumps(known, indent=2) + "\n")
    print(f"{file.relative_to(ROOT)}: {entry['error']:.2f} % of {entry['images']:,} images")


def write_half(model: keras.Model, file: Path) -> None:
    """Write a model's weights as `save_weights` does, but in float16."""
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "model.weights.h5"
        model.save_weights(whole)
        with h5py.File(whole) as source, whole_file(file) as sibling:
            with h5py.File(sibling, "w") as target:
                copy(source, target)


def copy(source: h5py.Group, target: h5py.Group) -> None:
    """Copy a group, with its numbers in float16."""
    for name, value in source.attrs.items():
        target.attrs[name] = value
    for name, member in source.items():
        if isinstance(member, h5py.Group):
            copy(member, target.create_group(name))
        else:
            half = "float16" if member.dtype == "float32" else member.dtype
            target.create_dataset(name, data=member[()].astype(half))
            for attribute, value in member.attrs.items():
                target[name].attrs[attribute] = value


if __name__ == "__main__":
    main()
