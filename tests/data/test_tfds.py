"""Test data sets that are stored like those of tensorflow-datasets and loaded by name."""

import os
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_resnet import data
from keras_resnet.data import tfds as module
from keras_resnet.data.dataset import WHOLE, Arrays, Shard
from keras_resnet.data.decoding import decode
from keras_resnet.data.pipeline import evaluation_batches, train_batches
from keras_resnet.data.preprocessing import preprocessing_for
from keras_resnet.data.records import IndexedRecords, Records
from keras_resnet.runs.recipes import RECIPES
from keras_resnet.training.train import train

LABELS = ("sea", "wood", "town")


def photos(count, shape, labeled=True):
    """Yield images that differ in the first pixel, with random sides where the shape has None."""
    for i in range(count):
        sides = [side or 20 + i % 5 for side in shape[:2]]
        image = np.random.default_rng(i).integers(0, 256, (*sides, shape[2]), np.uint8)
        image[0, 0] = i
        yield {"image": image, "label": i % 3 if labeled else -1, "filename": f"{i}.png"}


def store(
    root,
    name,
    shape,
    splits,
    *,
    config=None,
    encoding="png",
    version="1.0.0",
    unlabeled=(),
    file_format="tfrecord",
):
    """Store a prepared data set in the folder `root`; `splits` has the number of images of each."""
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
                lambda split=split, count=count: photos(count, shape, split not in unlabeled),
                output_signature=spec,
            )
            for split, count in splits.items()
        },
        config=config,
        data_dir=str(root),
        disable_shuffling=True,
        file_format=file_format,
    )
    return str(root)


def first_pixels(split):
    """Return the first pixel of every image in order, for any kind of split."""
    return [
        tuple(np.asarray(decode(p) if p.dtype == tf.string else p)[0, 0])
        for p, _ in split.in_order()
    ]


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3, 4], ids=["gray", "color", "with alpha"])
@pytest.mark.parametrize("side", [20, None], ids=["in memory", "as records"])
def test_images_of_any_channels_become_rgb(tmp_path, channels, side):
    place = store(tmp_path, "land", (side, side, channels), {"train": 12, "test": 6})
    dataset = data.load("land", data_dir=place)
    assert isinstance(dataset.train, Arrays if side else Records)
    assert (dataset.name, dataset.class_names, len(dataset.train), len(dataset.test)) == (
        "land",
        LABELS,
        12,
        6,
    )
    assert dataset.validation is None and not dataset.test_held_out and not dataset.notes
    assert first_pixels(dataset.train) == [(i, i, i) for i in range(12)]
    for (found, label), wanted in zip(
        dataset.test.in_order(), photos(6, (side, side, channels)), strict=True
    ):
        photo = decode(found) if found.dtype == tf.string else found
        colors = (
            wanted["image"][..., :3] if channels > 1 else np.repeat(wanted["image"], 3, axis=-1)
        )
        np.testing.assert_array_equal(photo, colors)
        assert label == wanted["label"]
    images, labels = next(
        iter(train_batches(dataset.train, preprocessing_for(dataset, 16), batch_size=4))
    )
    assert images.shape == (4, 16, 16, 3) and labels.shape == (4,)


@pytest.mark.parametrize("side", [20, None], ids=["in memory", "as records"])
def test_without_a_test_split_a_part_of_the_training_split_is_held_out(tmp_path, side):
    place = store(tmp_path, "land", (side, side, 3), {"train": 30})
    with pytest.warns(
        UserWarning, match="land has no test split: .*6 of its 30 images are kept out of training"
    ):
        dataset = data.load("land", data_dir=place, holdout=6)
    assert dataset.test_held_out and "no test split" in dataset.notes[0]
    splits = [first_pixels(split) for split in (dataset.train, dataset.validation, dataset.test)]
    assert [len(split) for split in splits] == [18, 6, 6] and len(set(sum(splits, []))) == 30


@pytest.mark.parametrize("side", [20, None], ids=["in memory", "as records"])
def test_a_validation_split_beside_a_test_split_is_used(tmp_path, side):
    place = store(tmp_path, "land", (side, side, 3), {"train": 12, "validation": 5, "test": 6})
    dataset = data.load("land", data_dir=place)
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [12, 5, 6]
    held_out = data.load("land", data_dir=place, holdout=4)
    assert [len(split) for split in (held_out.train, held_out.validation, held_out.test)] == [
        8,
        4,
        6,
    ]


@pytest.mark.parametrize("side", [20, None], ids=["in memory", "as records"])
def test_a_test_split_without_labels_is_not_used(tmp_path, side):
    """The test split of imagenet2012 is a competition's: all its labels are -1."""
    place = store(
        tmp_path,
        "land",
        (side, side, 3),
        {"train": 12, "validation": 5, "test": 6},
        unlabeled=("test",),
    )
    dataset = data.load("land", data_dir=place)
    assert len(dataset.test) == 5 and dataset.validation is None
    assert all(label >= 0 for _, label in dataset.test.in_order())


def test_the_name_of_a_configuration_and_a_version(tmp_path):
    """As for `eurosat/rgb`, whose other configuration has 13 bands of 16 bits."""
    place = store(
        tmp_path,
        "eurosat",
        (64, 64, 3),
        {"train": 30},
        config="rgb",
        encoding="jpeg",
        version="2.0.0",
    )
    for name in ("eurosat/rgb", "eurosat/rgb:2.0.0"):
        with pytest.warns(UserWarning, match="no test split"):
            dataset = data.load(name, data_dir=place)
        assert (dataset.name, len(dataset.train), len(dataset.test)) == (name, 24, 6)
    with pytest.raises(ValueError, match="no data set and no folder is called 'eurosat/infrared'"):
        data.load("eurosat/infrared", data_dir=place)


@pytest.mark.parametrize("name", ["mnist", "oxford_flowers102", "eurosat/rgb", "imagenet2012"])
def test_an_unprepared_data_set_is_refused_at_once_with_advice(name, tmp_path, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was used"))
    with pytest.raises(
        ValueError,
        match=f"^{name} is not in {tmp_path}; .*builder\\('{name}'\\).download_and_prepare",
    ):
        data.load(name, data_dir=str(tmp_path))


@pytest.mark.parametrize(
    "name",
    [
        "mnits",
        "huggingface:mnist",
        "kaggle:mnist",
        "no/such/folder",
        "../pets/",
        "a b",
        "mnist:9.9.9",
        "?",
    ],
)
def test_an_unknown_name_is_refused(name, tmp_path):
    with pytest.raises(
        ValueError, match="no data set and no folder is called .* or give a folder of images"
    ):
        data.load(name, data_dir=str(tmp_path))


def test_numbers_with_a_label_are_refused(tmp_path):
    tfds.dataset_builders.store_as_tfds_dataset(
        "wine",
        "1.0.0",
        tfds.features.FeaturesDict(
            {"acid": np.float32, "label": tfds.features.ClassLabel(names=LABELS)}
        ),
        {
            "train": tf.data.Dataset.from_tensor_slices(
                {"acid": [1.0, 2.0], "label": np.array([0, 1])}
            )
        },
        data_dir=str(tmp_path),
    )
    with pytest.raises(
        ValueError,
        match="wine is not a data set of images .* features .*acid.* and the splits train",
    ):
        data.load("wine", data_dir=str(tmp_path))


def test_images_of_16_bits_are_refused(tmp_path):
    """Such as eurosat/all, whose sensor values do not fit the networks' preprocessing."""
    tfds.dataset_builders.store_as_tfds_dataset(
        "depths",
        "1.0.0",
        tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(
                    shape=(8, 8, 1), dtype=np.uint16, encoding_format="png"
                ),
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
    with pytest.raises(ValueError, match="depths is not a data set .*needs an image of 8 bits"):
        data.load("depths", data_dir=str(tmp_path))


def test_too_many_images_of_one_size_stay_in_records(tmp_path, monkeypatch):
    place = store(tmp_path, "land", (20, 20, 3), {"train": 12, "test": 6})
    monkeypatch.setattr(module, "IN_MEMORY", 18 * 20 * 20 * 3 - 1)
    assert isinstance(data.load("land", data_dir=place).train, Records)
    monkeypatch.setattr(module, "IN_MEMORY", 18 * 20 * 20 * 3)
    assert isinstance(data.load("land", data_dir=place).train, Arrays)


@pytest.mark.slow
def test_training_by_name(tmp_path):
    place = store(tmp_path / "data", "land", (None, None, 1), {"train": 32, "test": 8})
    recipe = RECIPES["imagenet-tiny"].override(dataset="land", data_dir=place, steps=2)
    run = train(recipe, tmp_path / "run")
    assert run.class_names() == LABELS and run.model_file.exists()


FORMATS = {"tfrecord": Records, "array_record": IndexedRecords}


@pytest.fixture(scope="module", params=FORMATS)
def imagenet(request, tmp_path_factory):
    """Store 53 and 9 JPEG images of many sizes as imagenet2012, in shards, with its labels."""
    import tensorflow_datasets as tfds

    root = tmp_path_factory.mktemp("tfds")
    names = tfds.builder("imagenet2012", data_dir=str(root)).info.features["label"].names
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=names),
            "file_name": tfds.features.Text(),
        }
    )

    def images(count):
        rng = np.random.default_rng(0)
        for i in range(count):
            image = rng.integers(0, 256, (30 + i % 7, 40 - i % 5, 3)).astype("uint8")
            yield {"image": image, "label": i, "file_name": str(i)}

    tensors = {
        "image": tf.TensorSpec((None, None, 3), tf.uint8),
        "label": tf.TensorSpec((), tf.int64),
        "file_name": tf.TensorSpec((), tf.string),
    }
    tfds.dataset_builders.store_as_tfds_dataset(
        "imagenet2012",
        "5.1.0",
        features,
        {
            name: tf.data.Dataset.from_generator(
                lambda count=count: images(count), output_signature=tensors
            )
            for name, count in (("train", 53), ("validation", 9))
        },
        str(root / "imagenet2012"),
        download_config=tfds.download.DownloadConfig(num_shards=4),
        file_format=request.param,
    )
    return str(root)


def imagenet_labels(imagenet, count, first_step=0, seed=0, **shard):
    split = data.load("imagenet2012", data_dir=imagenet).train
    return [
        (int(step), labels.numpy().tolist())
        for step, _, labels in split.shuffled(5, seed, first_step, **shard).take(count)
    ]


@pytest.mark.slow
def test_an_epoch_has_each_record_at_most_once_and_epochs_differ(imagenet):
    found = imagenet_labels(imagenet, 20)
    assert [step for step, _ in found] == list(range(20))
    epochs = [[label for _, labels in found[a : a + 10] for label in labels] for a in (0, 10)]
    for epoch in epochs:
        assert len(set(epoch)) == 50 and set(epoch) <= set(range(53))
    assert epochs[0] != epochs[1] and epochs[0] != sorted(epochs[0])
    assert imagenet_labels(imagenet, 20) == found
    assert imagenet_labels(imagenet, 3, seed=1) != found[:3]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_records_resume_at_any_step(imagenet, seed):
    """With any global seed, which training sets."""
    tf.random.set_seed(seed)
    whole = imagenet_labels(imagenet, 25)
    for first in (1, 9, 10, 17):
        assert imagenet_labels(imagenet, 25 - first, first_step=first) == whole[first:]


def test_records_are_read_in_order_once(imagenet):
    dataset = data.load("imagenet2012", data_dir=imagenet)
    labels = [int(label) for _, label in dataset.test.in_order()]
    assert sorted(labels) == list(range(9)) and len(dataset.test) == 9
    assert labels == [int(label) for _, label in dataset.test.in_order()]
    assert len(dataset.class_names) == 1000 and dataset.class_names[0] == "n01440764", (
        "tench, the first synset of ILSVRC2012"
    )


def test_held_out_records_are_not_trained_on(imagenet):
    dataset = data.load("imagenet2012", data_dir=imagenet, holdout=10)
    held = {int(label) for _, label in dataset.validation.in_order()}
    rest = {int(label) for _, label in dataset.train.in_order()}
    assert (len(held), len(rest)) == (10, 43) and not held & rest
    trained = {int(i) for _, _, labels in dataset.train.shuffled(43, 0, 0).take(1) for i in labels}
    assert trained == rest
    with pytest.raises(ValueError, match="holdout is 53"):
        data.load("imagenet2012", data_dir=imagenet, holdout=53)


def test_missing_imagenet_is_refused_with_advice(tmp_path):
    with pytest.raises(ValueError, match="ILSVRC2012_img_train.tar.*download_and_prepare"):
        data.load("imagenet2012", data_dir=str(tmp_path))


@pytest.mark.slow
def test_the_preprocessing_of_records_subtracts_the_mean_color(imagenet):
    """Section 3.4: shorter side 256, crop 224, and ImageNet's mean in RGB (keras-applications, mode
    "caffe")."""
    dataset = data.load("imagenet2012", data_dir=imagenet)
    found = preprocessing_for(dataset, None)
    assert (found.resize, found.crop, found.channels, found.mean) == (
        256,
        224,
        "RGB",
        (123.68, 116.779, 103.939),
    )
    images, labels = next(iter(evaluation_batches(dataset.test, preprocessing_for(dataset, 32), 4)))
    assert images.shape == (4, 32, 32, 3) and labels.shape == (4,)


def test_missing_data_is_refused_with_advice(tmp_path):
    with pytest.raises(ValueError, match="cifar10 is not in .*download_and_prepare.*TFDS_DATA_DIR"):
        data.load("cifar10", data_dir=str(tmp_path))
    with pytest.raises(ValueError, match="mnist is not in .*download_and_prepare"):
        data.load("mnist")


def test_a_misspelled_name_is_refused():
    with pytest.raises(
        ValueError, match="'mnits'; choose digits.*imagenet2012, or give a folder of images"
    ):
        data.load("mnits")


@pytest.mark.slow
def test_cifar10():
    """50,000 and 10,000 images of 32 px in 10 equal classes (Krizhevsky 2009), and channel means
    in common use."""
    if not os.path.isdir(os.path.join(os.environ.get("TFDS_DATA_DIR", ""), "cifar10")):
        pytest.skip("CIFAR-10 is not at TFDS_DATA_DIR")
    dataset = data.load("cifar10")
    assert dataset.train.images.shape == (50_000, 32, 32, 3)
    assert dataset.test.images.shape == (10_000, 32, 32, 3)
    assert set(Counter(dataset.train.labels.tolist()).values()) == {5000}
    assert dataset.class_names[:3] == ("airplane", "automobile", "bird")
    means = dataset.train.images.mean(axis=(0, 1, 2)) / 255
    assert means == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)


@pytest.fixture(scope="module")
def indexed(tmp_path_factory):
    """Store images of many sizes in array_record files, and load them as splits."""
    place = store(
        tmp_path_factory.mktemp("indexed"),
        "land",
        (None, None, 3),
        {"train": 60, "validation": 7, "test": 9},
        file_format="array_record",
    )
    return data.load("land", data_dir=place)


@pytest.fixture
def read(monkeypatch):
    """Record the numbers of the records that are read."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    numbers = []

    def getitems(self, keys):
        numbers.extend(keys)
        return original(self, keys)

    original = ArrayRecordDataSource.__getitems__
    monkeypatch.setattr(ArrayRecordDataSource, "__getitems__", getitems)
    return numbers


def steps_of(split, steps, first_step=0, shard=WHOLE):
    """Return the first pixels of images and the labels of each batch of 12."""
    return [
        ([decode(image)[0, 0, 0].numpy() for image in images], labels.numpy().tolist())
        for _, images, labels in split.shuffled(12, 3, first_step, shard).take(steps)
    ]


@pytest.mark.slow
def test_indexed_records_are_in_the_order_of_the_files(indexed):
    assert isinstance(indexed.train, IndexedRecords)
    for split, count in ((indexed.train, 60), (indexed.validation, 7), (indexed.test, 9)):
        assert first_pixels(split) == [(i, i, i) for i in range(count)] and len(split) == count
        parts = [[int(label) for _, label in split.in_order(Shard(i, 4))] for i in range(4)]
        assert parts == [[n % 3 for n in range(i, count, 4)] for i in range(4)]


@pytest.mark.slow
@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_each_host_reads_its_records_and_no_others(indexed, read, hosts):
    """The order is the same for every number of hosts, and a resume reads nothing before it."""
    whole = steps_of(indexed.train, 8)
    for first in (0, 3, 7):
        read.clear()
        shards = [steps_of(indexed.train, 8 - first, first, Shard(i, hosts)) for i in range(hosts)]
        for number, (pixels, labels) in enumerate(whole[first:]):
            assert sum((shard[number][0] for shard in shards), []) == pixels
            assert sum((shard[number][1] for shard in shards), []) == labels
        # Up to four batches are read ahead by each host.
        share = 12 // hosts
        assert hosts * share * (8 - first) <= len(read) <= hosts * share * (8 - first + 6)
        assert len(read) % share == 0


def test_an_epoch_of_indexed_records_is_a_shuffle_of_all(indexed):
    """No trace of the order of the files: the mean rank correlation of 200 epochs with it is zero
    within four standard errors, of 1 / sqrt(n - 1) each."""
    numbers = data.dataset.shuffled_indices(60, 60, 5, 0).take(200)
    orders = np.stack([indices for _, indices in numbers.as_numpy_iterator()])
    assert (np.sort(orders, axis=1) == np.arange(60)).all()
    correlations = [np.corrcoef(order, np.arange(60))[0, 1] for order in orders]
    assert abs(np.mean(correlations)) < 4 / np.sqrt(59 * 200)
    pixels = sum((pixels for pixels, _ in steps_of(indexed.train, 5)), [])
    order = next(iter(data.dataset.shuffled_indices(60, 60, 3, 0)))[1].numpy()
    assert pixels == order.tolist()


def test_small_indexed_records_are_read_into_memory(tmp_path):
    place = store(
        tmp_path, "land", (20, 20, 1), {"train": 12, "test": 6}, file_format="array_record"
    )
    dataset = data.load("land", data_dir=place)
    assert isinstance(dataset.train, Arrays) and dataset.train.images.shape == (12, 20, 20, 3)
    assert first_pixels(dataset.train) == [(i, i, i) for i in range(12)]


def test_a_damaged_record_ends_with_an_error(tmp_path):
    place = store(
        tmp_path, "land", (None, None, 3), {"train": 40, "test": 6}, file_format="array_record"
    )
    (file,) = tmp_path.rglob("*train*array_record*")
    content = bytearray(file.read_bytes())
    for place_ in range(2000, len(content) - 70_000, 97):
        content[place_] ^= 0x55
    file.write_bytes(content)
    dataset = data.load("land", data_dir=place)
    with pytest.raises(tf.errors.OpError):
        list(dataset.train.in_order())
