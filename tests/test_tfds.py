"""Any image-classification data set of tensorflow-datasets: stored here as it stores them, and read by name."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_resnet import data
from keras_resnet.data import tfds as module
from keras_resnet.data.dataset import Arrays
from keras_resnet.data.tfds import Records
from keras_resnet.recipe import RECIPES
from keras_resnet.train import train

LABELS = ("sea", "wood", "town")


def pictures(count, shape, labelled=True):
    """`count` of them, each recognised by its label and its first pixel; a side of `None` differs between pictures."""
    for i in range(count):
        sides = [side or 20 + i % 5 for side in shape[:2]]
        image = np.random.default_rng(i).integers(0, 256, (*sides, shape[2]), np.uint8)
        image[0, 0] = i
        yield {"image": image, "label": i % 3 if labelled else -1, "filename": f"{i}.png"}


def store(root, name, shape, splits, *, config=None, encoding="png", version="1.0.0", unlabelled=()):
    """A prepared data set in the folder `root`. `splits`: pictures in each."""
    spec = {
        "image": tf.TensorSpec(shape, tf.uint8),
        "label": tf.TensorSpec((), tf.int64),
        "filename": tf.TensorSpec((), tf.string),
    }
    tfds.dataset_builders.store_as_tfds_dataset(
        name,
        version,
        tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=shape, encoding_format=encoding),
                "label": tfds.features.ClassLabel(names=LABELS),
                "filename": tfds.features.Text(),
            }
        ),
        {
            split: tf.data.Dataset.from_generator(
                lambda split=split, count=count: pictures(count, shape, split not in unlabelled), output_signature=spec
            )
            for split, count in splits.items()
        },
        config=config,
        data_dir=str(root),
        disable_shuffling=True,
    )
    return str(root)


def first_pixels(split):
    """Of every picture in order, whichever kind the split is."""
    return [tuple(np.asarray(data.decode(p) if p.dtype == tf.string else p)[0, 0]) for p, _ in split.in_order()]


@pytest.mark.parametrize("channels", [1, 3, 4], ids=["grey", "colour", "with alpha"])
@pytest.mark.parametrize("side", [20, None], ids=["in memory", "as records"])
def test_pictures_of_any_channels_become_colours(tmp_path, channels, side):
    place = store(tmp_path, "land", (side, side, channels), {"train": 12, "test": 6})
    dataset = data.load("land", data_dir=place)
    assert isinstance(dataset.train, Arrays if side else Records)
    assert (dataset.name, dataset.labels, len(dataset.train), len(dataset.test)) == ("land", LABELS, 12, 6)
    assert dataset.validation is None and not dataset.test_held_out and not dataset.notes
    assert first_pixels(dataset.train) == [(i, i, i) for i in range(12)]
    for (found, label), wanted in zip(dataset.test.in_order(), pictures(6, (side, side, channels)), strict=True):
        picture = data.decode(found) if found.dtype == tf.string else found
        colours = wanted["image"][..., :3] if channels > 1 else np.repeat(wanted["image"], 3, axis=-1)
        np.testing.assert_array_equal(picture, colours)
        assert label == wanted["label"]
    images, labels = next(iter(data.train_batches(dataset.train, data.preprocessing_for(dataset, 16), batch_size=4)))
    assert images.shape == (4, 16, 16, 3) and labels.shape == (4,)


@pytest.mark.parametrize("side", [20, None], ids=["in memory", "as records"])
def test_without_a_test_split_a_part_of_the_training_split_is_one(tmp_path, side):
    place = store(tmp_path, "land", (side, side, 3), {"train": 30})
    with pytest.warns(UserWarning, match="land has no test split: .*6 of its 30 pictures are kept out of training"):
        dataset = data.load("land", data_dir=place, holdout=6)
    assert dataset.test_held_out and "no test split" in dataset.notes[0]
    splits = [first_pixels(split) for split in (dataset.train, dataset.validation, dataset.test)]
    assert [len(split) for split in splits] == [18, 6, 6] and len(set(sum(splits, []))) == 30


@pytest.mark.parametrize("side", [20, None], ids=["in memory", "as records"])
def test_a_validation_split_beside_a_test_split_is_validated_on(tmp_path, side):
    place = store(tmp_path, "land", (side, side, 3), {"train": 12, "validation": 5, "test": 6})
    dataset = data.load("land", data_dir=place)
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [12, 5, 6]
    held_out = data.load("land", data_dir=place, holdout=4)
    assert [len(split) for split in (held_out.train, held_out.validation, held_out.test)] == [8, 4, 6]


@pytest.mark.parametrize("side", [20, None], ids=["in memory", "as records"])
def test_a_test_split_without_labels_is_none(tmp_path, side):
    """imagenet2012's is of the competition: tensorflow-datasets gives all of it the label -1."""
    place = store(tmp_path, "land", (side, side, 3), {"train": 12, "validation": 5, "test": 6}, unlabelled=("test",))
    dataset = data.load("land", data_dir=place)
    assert len(dataset.test) == 5 and dataset.validation is None
    assert all(label >= 0 for _, label in dataset.test.in_order())


def test_the_name_of_a_configuration_and_a_version(tmp_path):
    """As `eurosat/rgb` is stored; its other configuration has 13 bands of 16 bits."""
    place = store(tmp_path, "eurosat", (64, 64, 3), {"train": 30}, config="rgb", encoding="jpeg", version="2.0.0")
    for name in ("eurosat/rgb", "eurosat/rgb:2.0.0"):
        with pytest.warns(UserWarning, match="no test split"):
            dataset = data.load(name, data_dir=place)
        assert (dataset.name, len(dataset.train), len(dataset.test)) == (name, 24, 6)
    with pytest.raises(ValueError, match="no data set and no folder is called 'eurosat/infrared'"):
        data.load("eurosat/infrared", data_dir=place)


@pytest.mark.parametrize("name", ["mnist", "oxford_flowers102", "eurosat/rgb", "imagenet2012"])
def test_what_is_not_prepared_is_said_at_once_with_the_way_to_prepare_it(name, tmp_path, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("no network is to be asked"))
    with pytest.raises(ValueError, match=f"^{name} is not in {tmp_path}; .*builder\\('{name}'\\).download_and_prepare"):
        data.load(name, data_dir=str(tmp_path))


@pytest.mark.parametrize(
    "name", ["mnits", "huggingface:mnist", "kaggle:mnist", "no/such/folder", "../pets/", "a b", "mnist:9.9.9", "?"]
)
def test_what_is_no_name_is_said(name, tmp_path):
    with pytest.raises(ValueError, match="no data set and no folder is called .* or give a folder of pictures"):
        data.load(name, data_dir=str(tmp_path))


def test_numbers_with_a_label_are_no_pictures(tmp_path):
    tfds.dataset_builders.store_as_tfds_dataset(
        "wine",
        "1.0.0",
        tfds.features.FeaturesDict({"acid": np.float32, "label": tfds.features.ClassLabel(names=LABELS)}),
        {"train": tf.data.Dataset.from_tensor_slices({"acid": [1.0, 2.0], "label": np.array([0, 1])})},
        data_dir=str(tmp_path),
    )
    with pytest.raises(ValueError, match="wine is no data set of pictures .* features .*acid.* and the splits train"):
        data.load("wine", data_dir=str(tmp_path))


def test_pictures_of_16_bits_are_refused(tmp_path):
    """As eurosat/all, patterns of a sensor: not what the networks' preprocessing is for."""
    tfds.dataset_builders.store_as_tfds_dataset(
        "depths",
        "1.0.0",
        tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(8, 8, 1), dtype=np.uint16, encoding_format="png"),
                "label": tfds.features.ClassLabel(names=LABELS),
            }
        ),
        {
            "train": tf.data.Dataset.from_tensor_slices(
                {"image": np.zeros((2, 8, 8, 1), np.uint16), "label": np.array([0, 1])}
            )
        },
        data_dir=str(tmp_path),
    )
    with pytest.raises(ValueError, match="depths is no data set .*a picture of 8 bits"):
        data.load("depths", data_dir=str(tmp_path))


def test_pictures_of_one_size_that_are_too_many_stay_in_their_records(tmp_path, monkeypatch):
    place = store(tmp_path, "land", (20, 20, 3), {"train": 12, "test": 6})
    monkeypatch.setattr(module, "IN_MEMORY", 18 * 20 * 20 * 3 - 1)
    assert isinstance(data.load("land", data_dir=place).train, Records)
    monkeypatch.setattr(module, "IN_MEMORY", 18 * 20 * 20 * 3)
    assert isinstance(data.load("land", data_dir=place).train, Arrays)


def test_training_on_one_by_its_name(tmp_path):
    place = store(tmp_path / "data", "land", (None, None, 1), {"train": 32, "test": 8})
    recipe = RECIPES["imagenet-tiny"].override(dataset="land", data_dir=place, steps=2)
    run = train(recipe, tmp_path / "run")
    assert run.labels() == LABELS and run.model_file.exists()
