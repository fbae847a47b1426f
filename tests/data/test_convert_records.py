"""Test the conversion of folders and TFRecord files to array_record files."""

import importlib.util
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from keras_resnet import data
from keras_resnet.data.dataset import Files
from keras_resnet.data.records import IndexedRecords

SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_records.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("convert_records", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # for its dataclasses
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def convert(script, monkeypatch):
    """Run the script, and return its exit status."""

    def convert(*arguments):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        return script.main()

    return convert


@pytest.fixture
def pets(tmp_path):
    """Write JPEG and PNG images of two classes in two splits."""
    random = np.random.default_rng(0)
    for split, count in (("train", 9), ("test", 3)):
        for label in ("cat", "dog"):
            for number in range(count):
                path = (
                    tmp_path
                    / "My pets"
                    / split
                    / label
                    / f"{number}.{'jpeg png'.split()[number % 2]}"
                )
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = random.integers(0, 256, (20 + number, 30, 3), np.uint8)
                Image.fromarray(pixels).save(path)
    return tmp_path / "My pets"


def contents(split):
    """Return the encoded images and labels of a split, in order."""
    return [(image.numpy(), int(label)) for image, label in split.in_order()]


@pytest.mark.slow
def test_a_folder_is_copied_byte_for_byte(pets, convert, tmp_path, capsys):
    assert convert(pets, tmp_path / "records", "--megabytes", 1) == 0
    assert "converted: --dataset my_pets --data-dir" in capsys.readouterr().out
    folder = data.load(str(pets))
    records = data.load("my_pets", data_dir=str(tmp_path / "records"))
    assert isinstance(records.train, IndexedRecords)
    assert records.class_names == folder.class_names == ("cat", "dog")
    assert sorted(contents(records.train)) == sorted(contents(folder.train))
    assert sorted(contents(records.test)) == sorted(contents(folder.test))


def test_files_without_bytes_are_refused(pets, convert, tmp_path, capsys):
    assert convert(pets, tmp_path / "records", "--megabytes", 0) == 2
    assert "--megabytes is 0; give a positive number" in capsys.readouterr().err


def test_images_that_are_held_out_are_of_every_class(pets, convert, tmp_path):
    """A folder is sorted by class, and tensorflow-datasets reads slices of a split."""
    assert convert(pets, tmp_path / "records") == 0
    records = data.load("my_pets", data_dir=str(tmp_path / "records"), holdout=8)
    held_out = {int(label) for _, label in records.validation.in_order().as_numpy_iterator()}
    assert held_out == {0, 1}


def test_the_records_in_data_dir_take_precedence_over_the_folder_of_their_name(
    pets, convert, tmp_path, monkeypatch
):
    """The commands of the training README give both the same name."""
    monkeypatch.chdir(shutil.copytree(pets, tmp_path / "here" / "photographs").parent)
    assert convert("photographs", "records") == 0
    with pytest.warns(UserWarning, match="give ./photographs for the folder"):
        assert isinstance(data.load("photographs", data_dir="records").train, IndexedRecords)
    assert isinstance(data.load("./photographs", data_dir="records").train, Files)
    assert isinstance(data.load("photographs").train, Files)


def test_files_are_divided_by_their_sizes(pets, convert, script, tmp_path):
    sizes = [path.stat().st_size for path in (pets / "train").rglob("*.*")]
    plan = script.of_folder(pets, sum(sizes) // 3, 0, False)
    counts = [shard.count for shard in plan.splits["train"]]
    assert sum(counts) == 18 and len(counts) in (3, 4)
    read = sum((list(shard.records()) for shard in plan.splits["train"]), [])
    names = [
        tf.train.Example.FromString(record).features.feature["filename"].bytes_list.value[0]
        for record in read
    ]
    assert len(set(names)) == 18 and names != sorted(names)


def test_an_interrupted_conversion_is_continued(pets, convert, script, tmp_path, monkeypatch):
    target, written = tmp_path / "records", []

    def write(shard, path):
        if len(written) == 1:
            raise OSError("the disk is full")
        written.append(path.name)
        return original(shard, path)

    original = script.write
    monkeypatch.setattr(script, "write", write)
    assert convert(pets, target) == 2
    assert not list(target.rglob("dataset_info.json"))
    first = next(target.rglob("*.array_record-*")).stat().st_mtime_ns
    monkeypatch.setattr(script, "write", original)
    assert convert(pets, target) == 0
    assert first in {path.stat().st_mtime_ns for path in target.rglob("*.array_record-*")}
    assert len(data.load("my_pets", data_dir=str(target)).train) == 18


def test_other_images_and_damaged_writing_are_refused(
    pets, convert, script, tmp_path, monkeypatch, capsys
):
    target = tmp_path / "records"

    class Lossy(script.ArrayRecordWriter):
        def write(self, record):
            super().write(record[:-1] + b"?")

    with monkeypatch.context() as patch:
        patch.setattr(script, "ArrayRecordWriter", Lossy)
        assert convert(pets, target) == 2
    assert "differ from the 18 written" in capsys.readouterr().err
    assert not [path for path in target.rglob("*array_record*") if path.name[0] != "."]
    assert convert(pets, target) == 0
    (pets / "train" / "cat" / "0.jpeg").unlink()
    assert convert(pets, target) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "has a conversion of other images; remove it" in line


def test_tfrecords_are_copied_byte_for_byte(convert, tmp_path, capsys):
    features = {
        "image": tfds.features.Image(encoding_format="png"),
        "label": tfds.features.ClassLabel(names=["sea", "wood"]),
    }
    images = [{"image": np.full((9 + i, 12, 3), i, np.uint8), "label": i % 2} for i in range(10)]
    signature = {
        "image": tf.TensorSpec((None, None, 3), tf.uint8),
        "label": tf.TensorSpec((), tf.int64),
    }
    tfds.dataset_builders.store_as_tfds_dataset(
        "land",
        "2.1.0",
        tfds.features.FeaturesDict(features),
        {
            name: tf.data.Dataset.from_generator(
                lambda part=part: iter(part), output_signature=signature
            )
            for name, part in (("train", images[:7]), ("test", images[7:]))
        },
        data_dir=str(tmp_path / "old"),
        download_config=tfds.download.DownloadConfig(num_shards=2),
    )
    assert convert(tmp_path / "old" / "land" / "2.1.0", tmp_path / "new") == 0
    old, new = (data.load("land", data_dir=str(tmp_path / kind)) for kind in ("old", "new"))
    assert isinstance(new.train, IndexedRecords) and new.class_names == ("sea", "wood")
    assert sorted(contents(new.train)) == sorted(contents(old.train))
    assert sorted(contents(new.test)) == sorted(contents(old.test))
    capsys.readouterr()
    assert convert(tmp_path / "new" / "land" / "2.1.0", tmp_path / "newer") == 2
    assert "is in array_record files; give TFRecord files" in capsys.readouterr().err
