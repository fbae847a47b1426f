"""Test batches for training and evaluation from every kind of split."""

import hashlib
from collections import Counter
from functools import partial

import numpy as np
import pytest
import tensorflow as tf

from keras_resnet import data
from keras_resnet.data.augmentation import scale_crop_flip
from keras_resnet.data.crops import VIEWS
from keras_resnet.data.dataset import Arrays, Files, Shard
from keras_resnet.data.own_data import as_split
from keras_resnet.data.pipeline import (
    UNCHANGED,
    Augmentation,
    evaluation_batches,
    steps_per_epoch,
    train_batches,
    view_batches,
)
from keras_resnet.data.preprocessing import (
    Preprocessing,
    normalize,
    per_channel_mean,
    per_pixel_mean,
)

DIGITS = data.load("digits")


def batches(count, first_step=0, **changes):
    arguments = {"batch_size": 32, "augmentation": UNCHANGED, "seed": 0} | changes
    pipeline = train_batches(DIGITS.train, preprocessing(), first_step=first_step, **arguments)
    return [(images.numpy(), labels.numpy()) for images, labels in pipeline.take(count)]


def preprocessing():
    return per_pixel_mean(DIGITS.train.images, 8)


@pytest.mark.slow
def test_an_epoch_takes_each_image_at_most_once_and_epochs_differ():
    steps = steps_per_epoch(DIGITS.train, 32)
    epochs = batches(2 * steps)
    orders = [
        np.concatenate([images for images, _ in epochs[e * steps : (e + 1) * steps]])
        for e in (0, 1)
    ]
    available = Counter(
        np.asarray(normalize(preprocessing(), image)).tobytes() for image in DIGITS.train.images
    )
    for order in orders:
        taken = Counter(image.tobytes() for image in order)
        assert sum(taken.values()) == steps * 32
        assert not taken - available
    assert (orders[0] != orders[1]).any()


def test_the_order_is_shuffled():
    """Labels of neighbors in the batch agree about as often as by chance: one in ten."""
    labels = np.concatenate([labels for _, labels in batches(44)])
    assert 0.06 < (labels[1:] == labels[:-1]).mean() < 0.14


@pytest.mark.slow
@pytest.mark.parametrize("view", ["none", "pad-crop", "pad-crop-flip"])
def test_batches_are_a_function_of_seed_and_step(view):
    augmentation = Augmentation(view)
    whole = batches(50, augmentation=augmentation)
    later = batches(4, first_step=46, augmentation=augmentation)
    for (images, labels), (images2, labels2) in zip(whole[46:], later, strict=True):
        assert (images == images2).all() and (labels == labels2).all()
    other = batches(1, augmentation=augmentation, seed=1)
    assert (other[0][0] != whole[0][0]).any()


def test_a_batch_larger_than_the_split_is_refused():
    with pytest.raises(ValueError, match="batch_size is 1438, but only 1437 images are available"):
        batches(1, batch_size=1438)


@pytest.mark.parametrize("batch_size", [1, 7, 256, 1000])
def test_evaluation_batches_hold_every_image_once_in_order(batch_size):
    found = list(evaluation_batches(DIGITS.test, preprocessing(), batch_size))
    assert (np.concatenate([labels for _, labels in found]) == DIGITS.test.labels).all()
    wanted = normalize(preprocessing(), DIGITS.test.images)
    assert (np.concatenate([images for images, _ in found]) == wanted.numpy()).all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write the digits as PNG files, `SPLIT/CLASS/NUMBER.png`."""
    root = tmp_path_factory.mktemp("digits")
    for name, split in (("train", DIGITS.train), ("test", DIGITS.test)):
        for number, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
            path = root / name / DIGITS.class_names[label] / f"{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tf.io.encode_png(image).numpy())
    return root


def as_arrays(files):
    images = [tf.io.decode_png(tf.io.read_file(str(path))).numpy() for path in files.paths]
    return Arrays(np.stack(images), files.labels)


@pytest.mark.slow
def test_a_folder_of_images(folder):
    dataset = data.load(str(folder))
    assert dataset.class_names == DIGITS.class_names
    assert (len(dataset.train), len(dataset.test)) == (1437, 360)
    assert Counter(dataset.test.labels.tolist()) == Counter(DIGITS.test.labels.tolist())
    held = data.load(str(folder), holdout=100, seed=3)
    assert (len(held.train), len(held.validation)) == (1337, 100)
    assert not set(held.train.paths) & set(held.validation.paths)


@pytest.fixture(scope="module")
def stored(folder):
    """Return the digits as files, and the same images as arrays."""
    files = data.load(str(folder)).train
    return files, as_arrays(files)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("augmentation", "lighting"), [("none", 0.1), ("pad-crop-flip", 0.0), ("scale-crop-flip", 0.1)]
)
def test_files_and_arrays_give_the_same_batches(stored, augmentation, lighting):
    """Order, augmentation and values do not depend on the storage of the images."""
    files, arrays = stored
    arguments = {
        "batch_size": 16,
        "augmentation": Augmentation(augmentation, lighting=lighting),
        "seed": 5,
        "first_step": 87,
    }
    ours = train_batches(files, preprocessing(), **arguments).take(5)  # into the second epoch
    theirs = train_batches(arrays, preprocessing(), **arguments).take(5)
    for (images, labels), (other_images, other_labels) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(labels, other_labels)
        np.testing.assert_allclose(images, other_images, atol=1e-6)


@pytest.mark.slow
def test_files_are_evaluated_like_arrays(folder):
    files = data.load(str(folder)).test
    ours = list(evaluation_batches(files, preprocessing(), 100))
    theirs = list(evaluation_batches(as_arrays(files), preprocessing(), 100))
    assert [len(labels) for _, labels in ours] == [100, 100, 100, 60]
    for (images, labels), (other_images, other_labels) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(labels, other_labels)
        np.testing.assert_array_equal(images, other_images)


def sha256(pipeline, count):
    digest = hashlib.sha256()
    for images, labels in pipeline.take(count):
        digest.update(images.numpy().tobytes())
        digest.update(labels.numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize(
    ("augmentation", "first_step", "wanted"),
    [
        ("none", 0, "ce7376ef71fe1316a83eb99dd06c06eb8f988bbb9a3aa544e00dfaed5fcc7fba"),
        ("pad-crop", 0, "091ab0cec4180a02211994bc3f9358d367540d0fa18fdcea9be0595147337db0"),
        ("pad-crop", 45, "d05adeaa13a7a0756b2172bfa2d9ee3f4f57e30c168f872fc714deee4ad8ecaf"),
        ("pad-crop-flip", 0, "cbef53d2e69a7d7b0ff86361aa2cf00f544967a0e531830c5e87f03f34a28d65"),
        ("pad-crop-flip", 45, "8eb46007f132f73aa61312220069badf15a127038e5f6580324ca26e5c3711d9"),
    ],
)
def test_batches_of_the_digits_never_change(augmentation, first_step, wanted):
    """The hashes were recorded before augmentations drew their own random numbers."""
    pipeline = train_batches(
        DIGITS.train,
        preprocessing(),
        batch_size=32,
        augmentation=Augmentation(augmentation),
        seed=3,
        first_step=first_step,
    )
    assert sha256(pipeline, 3) == wanted


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Write twelve drawn JPEG files of different sizes."""
    root, paths = tmp_path_factory.mktemp("drawn"), []
    for i in range(12):
        height, width = 40 + 7 * i, 90 - 4 * i
        y, x = np.mgrid[:height, :width]
        image = np.stack([x * 255 // width, y * 255 // height, (x // 8 + y // 8) % 2 * 255], -1)
        path = root / f"{i}.jpg"
        path.write_bytes(tf.io.encode_jpeg(image.astype(np.uint8), quality=90).numpy())
        paths.append(str(path))
    return Files(np.array(paths), np.arange(12, dtype=np.int32))


# Two projections of each image of the first batch. Not a hash: resizing rounds differently on
# processors with other vector instructions.
PROJECTIONS = {
    ("none", 0.0): "29.0859 13.4076 9.3006 22.763 11.2705 -7.8292 16.6313 19.0537 20.9408 -16.5653"
    " 9.8468 13.8984 10.711 2.5999 14.2292 -9.7119",
    ("pad-crop-flip", 0.1): "29.4743 21.2487 0.5685 2.6239 21.5615 -7.9757 5.0007 3.7549 11.6505"
    " 28.3174 16.6491 14.9352 -0.7637 -4.8422 14.8853 -4.3886",
    ("scale-crop-flip", 0.0): "30.5837 -32.4316 37.4457 -24.9115 16.4176 -3.1027 6.7493 -15.6511"
    " 26.076 -1.494 6.7862 21.9979 27.6799 -18.7358 17.3439 19.2405",
    ("scale-crop-flip", 0.1): "30.0839 -31.322 37.5488 -25.2759 15.8739 -1.5799 6.7394 -15.6358"
    " 26.2765 -1.9356 6.6641 22.536 27.8784 -19.0748 16.8456 20.3291",
}


@pytest.mark.slow
@pytest.mark.parametrize(("augmentation", "lighting"), PROJECTIONS)
def test_batches_of_files_never_change(drawn, augmentation, lighting):
    """The numbers were recorded when JPEG decoding was changed to Pillow's DCT method. Before, they
    were from the time before augmentations drew their own random numbers."""
    pipeline = train_batches(
        drawn,
        per_channel_mean(32),
        batch_size=8,
        augmentation=Augmentation(augmentation, lighting=lighting),
        seed=7,
        first_step=2,
    )
    images, _ = next(iter(pipeline))
    directions = np.random.default_rng(1).normal(size=(32 * 32 * 3, 2))
    wanted = np.reshape(np.array(PROJECTIONS[augmentation, lighting].split(), float), (8, 2))
    np.testing.assert_allclose(np.reshape(images, (8, -1)) @ directions, wanted, atol=5e-4)


@pytest.mark.slow
@pytest.mark.parametrize("aspect", ["keep", "stretch"])
@pytest.mark.parametrize("antialias", [True, False])
def test_training_views_follow_the_preprocessing(drawn, aspect, antialias):
    value = Preprocessing(resize=32, crop=32, aspect=aspect, antialias=antialias)
    augmentation = Augmentation("scale-crop-flip")
    batches = train_batches(drawn, value, batch_size=8, augmentation=augmentation, seed=7)
    images, labels = next(iter(batches))
    for position, (image, label) in enumerate(zip(images, labels, strict=True)):
        wanted = scale_crop_flip(
            tf.io.read_file(drawn.paths[label]),
            seed=7,
            step=0,
            position=position,
            size=32,
            aspect=aspect,
            antialias=antialias,
        )
        np.testing.assert_array_equal(image, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize("kind", ["single", "batches", "encoded", "floats", "any size"])
def test_streams_give_the_views_of_arrays(views, kind):
    value = Preprocessing(resize=20, crop=16, mean=(120, 110, 100), scale=(50, 60, 70))
    images = np.random.default_rng(0).integers(0, 256, (6, 24, 31, 3), np.uint8)
    labels = np.arange(6, dtype=np.int64)
    encoded = np.array([tf.io.encode_png(image).numpy() for image in images], object)
    source = {"encoded": encoded, "floats": images.astype(np.float32)}.get(kind, images)
    stream = tf.data.Dataset.from_tensor_slices((source, labels))
    if kind == "any size":
        shape = [None, None, 3]
        spec = (tf.TensorSpec(shape, tf.uint8), tf.TensorSpec([], tf.int64))
        pairs = list(zip(images, labels, strict=True))
        stream = tf.data.Dataset.from_generator(lambda: iter(pairs), output_signature=spec)
    elif kind != "single":
        stream = stream.batch(4)

    def collect(split):
        found = list(view_batches(split, value, views, 25))
        parts = [np.concatenate(part) for part in zip(*(v for v, _ in found), strict=True)]
        return parts, np.concatenate([numbers for _, numbers in found])

    ours, numbers = collect(as_split(stream))
    theirs, _ = collect(Arrays(images, labels.astype(np.int32)))
    assert numbers.tolist() == list(range(6)) and numbers.dtype == np.int32
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


EVERYTHING = {"lighting": 0.1, "erasing": 0.5, "mixup": 0.2, "cutmix": 1.0}
ALL_ON = {
    "batches": Augmentation("pad-crop-flip", trivial_augment=True, repeats=3, **EVERYTHING),
    "images": Augmentation("resized-crop-flip", rand_augment=7, crop_area=0.35, **EVERYTHING),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["batches", pytest.param("images", marks=pytest.mark.slow)])
def test_every_augmentation_depends_only_on_seed_step_and_position(name):
    """Batches of a later start and of two hosts equal those of one uninterrupted run."""
    arguments = {"batch_size": 24, "augmentation": ALL_ON[name], "classes": 10, "seed": 4}
    steps = 1437 // (24 // ALL_ON[name].repeats)
    first = steps - 1  # into another epoch
    whole = batches(3, first_step=first, **arguments)
    later = batches(2, first_step=first + 1, **arguments)
    halves = [batches(3, first_step=first, shard=Shard(i, 2), **arguments) for i in range(2)]
    for (images, targets), (images2, targets2) in zip(whole[1:], later, strict=True):
        np.testing.assert_array_equal(images, images2)
        np.testing.assert_array_equal(targets, targets2)
    for (images, targets), left, right in zip(whole, *halves, strict=True):
        assert images.shape == (24, 8, 8, 3) and targets.shape == (24, 10)
        assert images.dtype == targets.dtype == np.float32
        np.testing.assert_array_equal(images, np.concatenate([left[0], right[0]]))
        np.testing.assert_array_equal(targets, np.concatenate([left[1], right[1]]))
        np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)
        assert ((targets > 0).sum(axis=1) == 2).any()


@pytest.mark.slow
def test_augmentations_of_files_and_arrays_are_equal(stored):
    files, arrays = stored
    arguments = {"batch_size": 16, "augmentation": ALL_ON["images"], "classes": 10, "seed": 5}
    ours = next(iter(train_batches(files, preprocessing(), **arguments)))
    theirs = next(iter(train_batches(arrays, preprocessing(), **arguments)))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.slow
def test_the_order_of_augmentations():
    """The reference calls the functions of the modules in order, with the shard's position."""
    split, place = DIGITS.train, {"seed": 4, "step": 2, "position": 8}
    (images, targets), *_ = batches(
        1,
        first_step=2,
        shard=Shard(1, 2),
        batch_size=16,
        seed=4,
        classes=10,
        augmentation=Augmentation("pad-crop", rand_augment=7, **EVERYTHING),
    )
    _, pixels, labels = next(iter(split.shuffled(16, 4, 2, Shard(1, 2))))
    # The mean color of the digits, which are gray.
    fill = (round(float(split.images.mean())),) * 3
    wanted = data.policies.rand_augment(pixels, strength=7, fill=fill, **place)
    wanted = data.augmentation.lighting(wanted, deviation=0.1, **place)
    wanted = normalize(preprocessing(), wanted)
    wanted = data.augmentation.pad_crop(wanted, padding=1, flip=False, **place)
    wanted = data.augmentation.random_erasing(wanted, probability=0.5, **place)
    wanted, mixed = data.mixing.mix(
        wanted, labels, classes=10, mixup_alpha=0.2, cutmix_alpha=1.0, **place
    )
    np.testing.assert_allclose(images, wanted, atol=1e-6)
    np.testing.assert_allclose(targets, mixed, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ingredient", "policy"),
    [
        ({"trivial_augment": True}, data.policies.trivial_augment),
        ({"rand_augment": 3.0}, partial(data.policies.rand_augment, strength=3.0)),
    ],
)
def test_fill_colors_of_the_policies(drawn, ingredient, policy):
    """TrivialAugment fills with black, and RandAugment with the mean color, here in BGR."""
    value = Preprocessing(resize=32, crop=32, mean=(10.4, 20.6, 300.0), channels="BGR")
    arguments = {"batch_size": 12, "augmentation": Augmentation(**ingredient)}
    images, labels = next(iter(train_batches(drawn, value, **arguments)))
    plain, order = next(iter(train_batches(drawn, value, batch_size=12)))
    np.testing.assert_array_equal(labels, order)
    fill = (0, 0, 0) if "trivial_augment" in ingredient else (255, 21, 10)
    pixels = tf.reverse(plain + np.array(value.mean, np.float32), axis=[-1])
    wanted = normalize(value, policy(pixels, seed=0, step=0, fill=fill))
    # A value halfway between two integers depends on the subtraction of the mean above.
    assert (np.abs(images - wanted) < 1e-3).mean() > 0.99


@pytest.mark.slow
@pytest.mark.parametrize("hosts", [1, 2])
def test_repeated_images_alternate_and_an_epoch_has_fewer_images(hosts):
    """Two images alternate in groups of 2k positions. The order of images is that of batches with a
    k-th of the size."""
    repeats, batch_size = 3, 24
    augmentation = Augmentation("pad-crop", trivial_augment=True, repeats=repeats)
    arguments = {"batch_size": batch_size, "seed": 6, "first_step": 178}
    shards = [
        batches(4, augmentation=augmentation, shard=Shard(i, hosts), **arguments)
        for i in range(hosts)
    ]
    plain = batches(4, augmentation=Augmentation("pad-crop"), **arguments | {"batch_size": 8})
    for number, (_, labels) in enumerate(plain):
        repeated = np.concatenate([shard[number][1] for shard in shards])
        images = np.concatenate([shard[number][0] for shard in shards])
        groups = repeated.reshape(4, 2 * repeats)
        assert (groups[:, 0::2] == labels[0::2, np.newaxis]).all()
        assert (groups[:, 1::2] == labels[1::2, np.newaxis]).all()
        assert repeated.dtype == np.int32
        # Each repetition has another view.
        assert len({image.tobytes() for image in images}) > 0.8 * batch_size


def test_shards_that_separate_pairs_or_repeats_are_refused():
    mixes = Augmentation(mixup=0.2)
    with pytest.raises(ValueError, match="classes is None, and images are mixed"):
        batches(1, augmentation=mixes)
    with pytest.raises(ValueError, match="batch_size is 30, over 2 hosts; with pairs of mixed"):
        batches(1, batch_size=30, augmentation=mixes, classes=10, shard=Shard(0, 2))
    with pytest.raises(
        ValueError, match="with 3 views of each image give a number divisible by 12"
    ):
        batches(1, batch_size=30, augmentation=Augmentation(repeats=3), shard=Shard(0, 2))
    with pytest.raises(ValueError, match="view is 'flip'; choose one of 'none', 'pad-crop'"):
        Augmentation("flip")
    with pytest.raises(ValueError, match="repeats is 0"):
        Augmentation(repeats=0)


@pytest.mark.slow
@pytest.mark.parametrize("aspect", ["keep", "stretch"])
def test_resized_crops_follow_the_preprocessing(drawn, aspect):
    value = Preprocessing(resize=32, crop=32, aspect=aspect, antialias=False)
    augmentation = Augmentation("resized-crop-flip", crop_area=0.35)
    images, labels = next(
        iter(train_batches(drawn, value, batch_size=8, augmentation=augmentation, seed=7))
    )
    for position, (image, label) in enumerate(zip(images, labels, strict=True)):
        wanted = data.augmentation.resized_crop_flip(
            tf.io.read_file(drawn.paths[label]),
            seed=7,
            step=0,
            position=position,
            size=32,
            area=0.35,
            aspect=aspect,
            antialias=False,
        )
        np.testing.assert_array_equal(image, wanted)
