import hashlib
import os
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf

from keras_resnet import data

DIGITS = data.load("digits")


def batches(count, first_step=0, **changes):
    arguments = {"batch_size": 32, "augmentation": "none", "seed": 0} | changes
    pipeline = data.train_batches(DIGITS.train, preprocessing(), first_step=first_step, **arguments)
    return [(images.numpy(), labels.numpy()) for images, labels in pipeline.take(count)]


def preprocessing():
    return data.per_pixel_mean(DIGITS.train.images, 8)


def test_digits_are_all_there_once_and_stratified():
    """1,797 pictures in 10 classes of 174 to 183: sklearn.datasets.load_digits."""
    from sklearn.datasets import load_digits

    assert (len(DIGITS.train), len(DIGITS.test)) == (1437, 360)
    everything = np.concatenate([DIGITS.train.images, DIGITS.test.images])[..., 0]
    ours = Counter(image.tobytes() for image in everything)
    theirs = Counter(np.round(image * 255 / 16).astype(np.uint8).tobytes() for image in load_digits().images)
    assert ours == theirs
    assert all(35 <= count <= 37 for count in Counter(DIGITS.test.labels.tolist()).values())


def test_the_split_of_the_digits_never_changes():
    """Results over the years are comparable only on the same test pictures."""
    assert hashlib.sha256(DIGITS.test.images.tobytes()).hexdigest()[:16] == "8cde8721d1e8329f"


def test_synthetic_pictures_can_be_told_apart_and_are_always_the_same():
    dataset = data.load("synthetic", image_size=20)
    assert dataset.train.images.shape == (1024, 20, 20, 3)
    assert (dataset.test.images == data.load("synthetic", image_size=20).test.images).all()
    means = np.stack([dataset.train.images[dataset.train.labels == c].mean(axis=0) for c in range(10)])
    distances = ((dataset.test.images[:, None] - means) ** 2).sum(axis=(2, 3, 4))
    assert (distances.argmin(axis=1) == dataset.test.labels).mean() > 0.9


def test_cifar10():
    """50,000 and 10,000 pictures of 32 px, 10 classes alike (Krizhevsky 2009); channel means as often published."""
    if not os.path.isdir(os.path.join(os.environ.get("TFDS_DATA_DIR", ""), "cifar10")):
        pytest.skip("CIFAR-10 is not at TFDS_DATA_DIR")
    dataset = data.load("cifar10")
    assert dataset.train.images.shape == (50_000, 32, 32, 3)
    assert dataset.test.images.shape == (10_000, 32, 32, 3)
    assert set(Counter(dataset.train.labels.tolist()).values()) == {5000}
    assert dataset.labels[:3] == ("airplane", "automobile", "bird")
    means = dataset.train.images.mean(axis=(0, 1, 2)) / 255
    assert means == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)


def test_missing_data_says_how_to_get_it(tmp_path):
    with pytest.raises(ValueError, match="cifar10 is not in .*download_and_prepare.*TFDS_DATA_DIR"):
        data.load("cifar10", data_dir=str(tmp_path))
    with pytest.raises(ValueError, match="mnist is not in .*download_and_prepare"):
        data.load("mnist")


def test_hold_out():
    dataset = data.load("digits", holdout=100, seed=3)
    assert (len(dataset.train), len(dataset.validation)) == (1337, 100)
    together = Counter(image.tobytes() for split in (dataset.train, dataset.validation) for image in split.images)
    assert together == Counter(image.tobytes() for image in DIGITS.train.images)
    assert set(dataset.validation.labels) == set(range(10))
    with pytest.raises(ValueError, match="holdout is 2000; digits can spare"):
        data.load("digits", holdout=2000)


def test_an_epoch_takes_each_picture_at_most_once_and_epochs_differ():
    steps = data.steps_per_epoch(DIGITS.train, 32)
    epochs = batches(2 * steps)
    orders = [np.concatenate([images for images, _ in epochs[e * steps : (e + 1) * steps]]) for e in (0, 1)]
    available = Counter(np.asarray(data.normalize(preprocessing(), image)).tobytes() for image in DIGITS.train.images)
    for order in orders:
        taken = Counter(image.tobytes() for image in order)
        assert sum(taken.values()) == steps * 32
        assert not taken - available
    assert (orders[0] != orders[1]).any()


@pytest.mark.parametrize("total", [30, 250, 1437])
def test_the_order_has_no_trace_of_the_order_of_the_files(total):
    """Files come class by class. The rank correlation of a random order with them is normal, deviation 1/sqrt(N)."""
    steps = total // 10
    split = data.Arrays(np.arange(total)[:, None, None, None].astype(np.int32), np.arange(total, dtype=np.int32))
    pipeline = split.shuffled(10, 1, 0).batch(steps).take(100)
    scores = [
        np.corrcoef(np.ravel(labels), np.arange(10 * steps))[0, 1] * np.sqrt(10 * steps) for _, _, labels in pipeline
    ]
    assert np.abs(scores).max() < 4.5 and 0.8 < np.std(scores) < 1.2


def test_the_order_is_shuffled():
    """Labels of neighbours in the batch agree about as often as chance has it: one in ten."""
    labels = np.concatenate([labels for _, labels in batches(44)])
    assert 0.06 < (labels[1:] == labels[:-1]).mean() < 0.14


@pytest.mark.parametrize("augmentation", ["none", "pad-crop", "pad-crop-flip"])
def test_batches_are_a_function_of_seed_and_step(augmentation):
    whole = batches(50, augmentation=augmentation)
    later = batches(4, first_step=46, augmentation=augmentation)
    for (images, labels), (images2, labels2) in zip(whole[46:], later, strict=True):
        assert (images == images2).all() and (labels == labels2).all()
    other = batches(1, augmentation=augmentation, seed=1)
    assert (other[0][0] != whole[0][0]).any()


def test_a_batch_larger_than_the_split_is_refused():
    with pytest.raises(ValueError, match="batch_size is 1438, but only 1437"):
        batches(1, batch_size=1438)


@pytest.mark.parametrize("batch_size", [1, 7, 256, 1000])
def test_test_batches_hold_every_picture_once_in_order(batch_size):
    found = list(data.test_batches(DIGITS.test, preprocessing(), batch_size))
    assert (np.concatenate([labels for _, labels in found]) == DIGITS.test.labels).all()
    wanted = data.normalize(preprocessing(), DIGITS.test.images)
    assert (np.concatenate([images for images, _ in found]) == wanted.numpy()).all()


def test_normalize_and_json_round_trip():
    per_pixel = preprocessing()
    again = data.Preprocessing.from_json(per_pixel.to_json())
    assert again == per_pixel
    mean = DIGITS.train.images.mean(axis=0)
    wanted = (DIGITS.test.images - mean) / 255
    np.testing.assert_allclose(data.normalize(again, DIGITS.test.images), wanted, atol=1e-6)
    assert np.abs(np.mean([np.asarray(data.normalize(again, i)) for i in DIGITS.train.images], axis=0)).max() < 1e-5


@pytest.mark.parametrize(
    "values",
    [
        {"resize": 8, "crop": 9, "mean": (0, 0, 0), "scale": (1, 1, 1)},
        {"resize": 8, "crop": 8, "mean": (0, 0), "scale": (1, 1, 1)},
    ],
)
def test_unusable_preprocessing(values):
    with pytest.raises(ValueError, match="crop is 9|mean has shape"):
        data.Preprocessing(**values)
    with pytest.raises(ValueError, match="not a preprocessing"):
        data.Preprocessing.from_json('{"size": 3}')


@pytest.mark.parametrize("shape", [(8, 8), (9, 8), (50, 30), (7, 100), (3, 3)])
def test_the_test_view_is_the_centre_of_the_resized_picture(shape):
    """Against PIL, whose bilinear resize is antialiased in the same way."""
    from PIL import Image

    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    view = data.Preprocessing(resize=8, crop=6, mean=(0.0,) * 3, scale=(1.0,) * 3)
    ours = data.test_view(view, image[np.newaxis]).numpy()[0]
    height, width = (side * 8 // min(shape) for side in shape)
    resized = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR), np.float32)
    top, left = (height - 6) // 2, (width - 6) // 2
    # PIL rounds to whole grey values, twice.
    assert np.abs(ours - resized[top : top + 6, left : left + 6]).max() <= 1.01


def test_a_picture_that_has_the_size_keeps_its_values_exactly_in_a_graph_that_does_not_know_it():
    image, digits = DIGITS.test.images[:1], preprocessing()
    unknown = tf.TensorSpec([None, None, None, 3], tf.uint8)
    view = tf.function(lambda images: data.test_view(digits, images), input_signature=[unknown])
    assert (view(image).numpy() == image).all()


@pytest.mark.parametrize("kind", "png,jpeg,gif,bmp,grey png,rgba png,16-bit png,progressive jpeg".split(","))
def test_pictures_that_can_be_decoded(kind):
    import io

    from PIL import Image

    mode = {"grey png": "L", "rgba png": "RGBA", "16-bit png": "I;16"}.get(kind, "RGB")
    image = Image.new(mode, (5, 4), 40000 if mode == "I;16" else None)
    file = io.BytesIO()
    image.save(file, kind.split()[-1], **({"progressive": True} if "progressive" in kind else {}))
    decoded = data.decode(tf.constant(file.getvalue()))
    assert decoded.shape == (4, 5, 3) and decoded.dtype == tf.uint8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The digits as PNG files, `SPLIT/CLASS/NUMBER.png`."""
    root = tmp_path_factory.mktemp("digits")
    for name, split in (("train", DIGITS.train), ("test", DIGITS.test)):
        for number, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
            path = root / name / DIGITS.labels[label] / f"{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tf.io.encode_png(image).numpy())
    return root


def as_arrays(files):
    images = [tf.io.decode_png(tf.io.read_file(str(path))).numpy() for path in files.paths]
    return data.Arrays(np.stack(images), files.labels)


def test_a_folder_of_pictures(folder):
    dataset = data.load(str(folder))
    assert dataset.labels == DIGITS.labels
    assert (len(dataset.train), len(dataset.test)) == (1437, 360)
    assert Counter(dataset.test.labels.tolist()) == Counter(DIGITS.test.labels.tolist())
    held = data.load(str(folder), holdout=100, seed=3)
    assert (len(held.train), len(held.validation)) == (1337, 100)
    assert not set(held.train.paths) & set(held.validation.paths)


@pytest.mark.parametrize("augmentation", ["none", "pad-crop-flip", "scale-crop-flip"])
@pytest.mark.parametrize("lighting", [0.0, 0.1])
def test_files_and_arrays_give_the_same_batches(folder, augmentation, lighting):
    """Order, augmentation and numbers: where the pictures lie makes no difference."""
    files = data.load(str(folder)).train
    arguments = {"batch_size": 16, "augmentation": augmentation, "lighting": lighting, "seed": 5, "first_step": 87}
    ours = data.train_batches(files, preprocessing(), **arguments).take(5)  # into the second epoch
    theirs = data.train_batches(as_arrays(files), preprocessing(), **arguments).take(5)
    for (images, labels), (other_images, other_labels) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(labels, other_labels)
        np.testing.assert_allclose(images, other_images, atol=1e-6)


def test_files_are_tested_like_arrays(folder):
    files = data.load(str(folder)).test
    ours = list(data.test_batches(files, preprocessing(), 100))
    theirs = list(data.test_batches(as_arrays(files), preprocessing(), 100))
    assert [len(labels) for _, labels in ours] == [100, 100, 100, 60]
    for (images, labels), (other_images, other_labels) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(labels, other_labels)
        np.testing.assert_array_equal(images, other_images)


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        ([], "needs a folder for each of two classes"),
        (["train/a", "train/b"], "holds no pictures"),
        (["train/a", "test/a"], "two classes or more"),
        (["train/a", "train/b", "test/c"], "has the class 'c'"),
        (["train/a", "train/b", "test/a"], "holds no pictures"),
    ],
)
def test_folders_that_are_built_otherwise(tmp_path, folders, says):
    for name in folders:
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(ValueError, match=says):
        data.load(str(tmp_path))


def test_no_such_data_set():
    with pytest.raises(ValueError, match="'mnits'; choose digits.*imagenet2012, or give a folder of pictures"):
        data.load("mnits")


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """53 and 9 JPEGs of many sizes as tensorflow-datasets stores imagenet2012, in several files; its real labels."""
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

    def pictures(count):
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
            name: tf.data.Dataset.from_generator(lambda count=count: pictures(count), output_signature=tensors)
            for name, count in (("train", 53), ("validation", 9))
        },
        str(root / "imagenet2012"),
        download_config=tfds.download.DownloadConfig(num_shards=4),
    )
    return str(root)


def imagenet_labels(imagenet, count, first_step=0, seed=0):
    split = data.load("imagenet2012", data_dir=imagenet).train
    return [(int(step), labels.numpy().tolist()) for step, _, labels in split.shuffled(5, seed, first_step).take(count)]


def test_records_are_each_in_an_epoch_at_most_once_and_epochs_differ(imagenet):
    found = imagenet_labels(imagenet, 20)
    assert [step for step, _ in found] == list(range(20))
    epochs = [[label for _, labels in found[a : a + 10] for label in labels] for a in (0, 10)]
    for epoch in epochs:
        assert len(set(epoch)) == 50 and set(epoch) <= set(range(53))
    assert epochs[0] != epochs[1] and epochs[0] != sorted(epochs[0])
    assert imagenet_labels(imagenet, 20) == found
    assert imagenet_labels(imagenet, 3, seed=1) != found[:3]


@pytest.mark.parametrize("seed", [0, 1])
def test_records_go_on_from_any_step(imagenet, seed):
    """Whatever the global seed: training sets it."""
    tf.random.set_seed(seed)
    whole = imagenet_labels(imagenet, 25)
    for first in (1, 9, 10, 17):
        assert imagenet_labels(imagenet, 25 - first, first_step=first) == whole[first:]


def test_records_are_read_in_order_once(imagenet):
    dataset = data.load("imagenet2012", data_dir=imagenet)
    labels = [int(label) for _, label in dataset.test.in_order()]
    assert sorted(labels) == list(range(9)) and len(dataset.test) == 9
    assert labels == [int(label) for _, label in dataset.test.in_order()]
    assert len(dataset.labels) == 1000 and dataset.labels[0] == "n01440764", "tench, the first synset of ILSVRC2012"


def test_held_out_records_are_not_trained_on(imagenet):
    dataset = data.load("imagenet2012", data_dir=imagenet, holdout=10)
    held = {int(label) for _, label in dataset.validation.in_order()}
    rest = {int(label) for _, label in dataset.train.in_order()}
    assert (len(held), len(rest)) == (10, 43) and not held & rest
    trained = {int(i) for _, _, labels in dataset.train.shuffled(43, 0, 0).take(1) for i in labels}
    assert trained == rest
    with pytest.raises(ValueError, match="holdout is 53"):
        data.load("imagenet2012", data_dir=imagenet, holdout=53)


def test_missing_imagenet_says_how_to_get_it(tmp_path):
    with pytest.raises(ValueError, match="ILSVRC2012_img_train.tar.*download_and_prepare"):
        data.load("imagenet2012", data_dir=str(tmp_path))


def test_the_preprocessing_of_records_is_the_mean_colour(imagenet):
    """Section 3.4: shorter side 256, crop 224; the mean of ImageNet in RGB (keras-applications, mode "caffe")."""
    dataset = data.load("imagenet2012", data_dir=imagenet)
    found = data.preprocessing_for(dataset, None)
    assert (found.resize, found.crop, found.channels, found.mean) == (256, 224, "RGB", (123.68, 116.779, 103.939))
    images, labels = next(iter(data.test_batches(dataset.test, data.preprocessing_for(dataset, 32), 4)))
    assert images.shape == (4, 32, 32, 3) and labels.shape == (4,)
