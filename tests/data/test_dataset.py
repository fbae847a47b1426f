"""Test splits of data sets: held-out images, their order, and splits of a user's own data."""

import hashlib
from collections import Counter

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.model_selection import train_test_split

from keras_resnet import data
from keras_resnet.data.dataset import Arrays, Dataset, Files, Shard, Split, class_counts
from keras_resnet.data.own_data import Stream, as_split, content_hashes
from keras_resnet.data.splitting import hold_out

DIGITS = data.load("digits")


def test_hold_out():
    dataset = data.load("digits", holdout=100, seed=3)
    assert (len(dataset.train), len(dataset.validation)) == (1337, 100)
    together = Counter(
        image.tobytes() for split in (dataset.train, dataset.validation) for image in split.images
    )
    assert together == Counter(image.tobytes() for image in DIGITS.train.images)
    assert set(dataset.validation.labels) == set(range(10))
    with pytest.raises(ValueError, match="holdout is 2000; digits can spare"):
        data.load("digits", holdout=2000)


def images_of(contents):
    """Return an image for each number, equal for equal numbers."""
    images = np.random.default_rng(0).integers(0, 256, (max(contents) + 1, 2, 2, 3), np.uint8)
    return images[contents]


def splits_of(contents, labels, **options):
    """Return the training and validation images of arrays and of files with fingerprints."""
    for train in (
        Arrays(images_of(contents), labels),
        Files(np.arange(len(labels)).astype(str), labels, np.asarray(contents)),
    ):
        empty = train.take(np.arange(0))
        dataset = hold_out(Dataset("mine", ("a", "b"), train, empty), **options)
        yield train, dataset.train, dataset.validation


def test_without_copies_held_out_images_equal_those_of_scikit_learn():
    """A resumed run needs the same images."""
    labels = np.repeat(np.arange(2, dtype=np.int32), [40, 60])
    expected = train_test_split(np.arange(100), test_size=25, stratify=labels, random_state=7)[1]
    for train, _, held in splits_of(np.arange(100), labels, count=25, seed=7):
        wanted = train.take(np.sort(expected))
        for name in ("paths", "images", "labels"):
            assert np.array_equal(getattr(held, name, None), getattr(wanted, name, None))


def test_copies_are_held_out_together_and_as_often_as_other_images():
    """Of 600 images and 100 pairs of copies a quarter is held out in the mean of 20 seeds.

    The share of pairs has a variance of 0.25 * 0.75 / (100 * 20).
    """
    contents = np.concatenate([np.arange(700), np.arange(100)])
    labels = (contents % 2).astype(np.int32)
    shares = []
    for seed in range(20):
        (train, rest, held), (_, same_rest, same_held) = splits_of(
            contents, labels, count=200, seed=seed
        )
        assert np.array_equal(held.labels, same_held.labels) and len(held) == 200
        places = same_held.paths.astype(int)
        assert not set(contents[places]) & set(contents[same_rest.paths.astype(int)])
        assert np.array_equal(held.images, train.images[places])
        assert len(rest) == len(same_rest) == 600
        shares.append(np.mean(np.isin(np.arange(100), contents[places])))
    assert abs(np.mean(shares) - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 2000)


def test_a_copy_of_another_class_is_held_out_with_it():
    contents = np.concatenate([np.arange(40), np.arange(10)])
    labels = np.repeat(np.arange(2, dtype=np.int32), [40, 10])  # the last ten copy the first ten
    for train, rest, held in splits_of(contents, labels, count=10, seed=0):
        assert len(rest) + len(held) == len(train)
        assert Counter(held.labels.tolist()) == {0: 8, 1: 2}
        if isinstance(held, Files):
            assert set(contents[held.paths.astype(int)]).isdisjoint(
                contents[rest.paths.astype(int)]
            )


def test_too_few_different_images_cannot_be_held_out():
    labels = np.repeat(np.arange(2, dtype=np.int32), 10)
    with pytest.raises(ValueError, match="holdout is 4; the 20 images of mine are copies of too"):
        next(splits_of(np.zeros(20, int), labels, count=4, seed=0))


@pytest.mark.parametrize("total", [30, 250, 1437])
def test_the_order_does_not_correlate_with_the_order_of_files(total):
    """Files are sorted by class. The rank correlation of a random order with theirs is normal, with
    standard deviation 1/sqrt(N)."""
    steps = total // 10
    split = Arrays(
        np.arange(total)[:, None, None, None].astype(np.int32), np.arange(total, dtype=np.int32)
    )
    pipeline = split.shuffled(10, 1, 0).batch(steps).take(100)
    scores = [
        np.corrcoef(np.ravel(labels), np.arange(10 * steps))[0, 1] * np.sqrt(10 * steps)
        for _, _, labels in pipeline
    ]
    assert np.abs(scores).max() < 4.5 and 0.8 < np.std(scores) < 1.2


IMAGES = np.random.default_rng(0).integers(0, 256, (7, 9, 11, 3), np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2, 0])
PNG = np.array([tf.io.encode_png(image).numpy() for image in IMAGES], object)


def single(images=IMAGES, labels=LABELS):
    return tf.data.Dataset.from_tensor_slices((images, labels))


SOURCES = {
    "arrays": (IMAGES, LABELS),
    "tensors": (tf.constant(IMAGES), tf.constant(LABELS)),
    "single": single(),
    "batches": single().batch(3),
    "a last batch left out": single().batch(2, drop_remainder=True),
    "encoded": single(PNG),
    "encoded batches": single(PNG).batch(3),
    "floats": single(IMAGES.astype(np.float32)).batch(3),
    "unknown length": single().filter(lambda image, label: True),
}


@pytest.mark.parametrize("name", SOURCES)
def test_any_data_is_a_split(name):
    count = 6 if "left out" in name else 7
    split = as_split(SOURCES[name])
    assert isinstance(split, Split) and len(split) == count
    images, labels = zip(*split.in_order().as_numpy_iterator(), strict=True)
    assert list(labels) == LABELS[:count].tolist() and labels[0].dtype == np.int32
    wanted = PNG if "encoded" in name else IMAGES
    assert all(np.array_equal(a, b) for a, b in zip(images, wanted[:count], strict=True))
    shard = split.in_order(Shard(1, 2)).as_numpy_iterator()
    assert [label for _, label in shard] == LABELS[1:count:2].tolist()
    assert class_counts(split, 3).tolist() == np.bincount(LABELS[:count]).tolist()
    assert as_split(split) is split


def test_images_of_any_size_stream():
    sizes = [(5, 6), (9, 4), (3, 3)]
    generated = tf.data.Dataset.from_generator(
        lambda: ((np.zeros((*size, 3), np.uint8), i) for i, size in enumerate(sizes)),
        output_signature=(tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([], tf.int64)),
    )
    split = as_split(generated)
    assert len(split) == 3
    assert [image.shape[:2] for image, _ in split.in_order()] == sizes


def test_a_data_set_of_keras_is_a_split(tmp_path):
    """Its images are float32 in 0 to 255, in batches with a smaller last one."""
    for i, (image, label) in enumerate(zip(PNG, LABELS, strict=True)):
        path = tmp_path / str(label) / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(image)
    read = keras.utils.image_dataset_from_directory(
        str(tmp_path), image_size=(9, 11), batch_size=3, shuffle=False, verbose=False
    )
    split = as_split(read)
    order = np.argsort(LABELS, kind="stable")
    assert len(split) == 7
    for (image, label), i in zip(split.in_order(), order, strict=True):
        assert label == LABELS[i]
        np.testing.assert_array_equal(image, IMAGES[i])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: single().repeat(), "data is endless; .* without repeat"),
        (lambda: single(labels=np.eye(3)[LABELS]), "labels is float64 .*argmax"),
        (lambda: single(labels=np.eye(3, dtype=np.int32)[LABELS]).batch(2), "one-hot .*argmax"),
        (lambda: single(labels=LABELS / 1.0), "labels is float64 of shape .*; give class numbers"),
        (lambda: single(labels=LABELS[:, None]).batch(2), "class numbers, integers"),
        (lambda: single(IMAGES / 255).batch(2), "images has values from .* to 1; .*0 to 255"),
        (lambda: single((IMAGES - 120.0) / 60), "images has values from -2"),
        (lambda: single(IMAGES * np.nan), "values from nan"),
        (lambda: single(IMAGES.astype(np.int64)), "images is int64; give uint8, or floats"),
        (lambda: single(IMAGES[..., :1]), "give 3 channels"),
        (lambda: single(IMAGES[..., 0]), r"images has shape \(9, 11\); give images \[H, W, 3\]"),
        (lambda: single().batch(2).batch(2), "images has shape .*; give images"),
        (lambda: tf.data.Dataset.from_tensor_slices(IMAGES), "give .image, label., two tensors"),
        (lambda: single().map(lambda a, b: (a, b, b)), "give .image, label., two tensors"),
        (lambda: (IMAGES / 255, LABELS), "images has values from"),
        (lambda: (IMAGES[0], LABELS), r"images has shape \(9, 11, 3\); give \[N, H, W, 3\]"),
        (lambda: (IMAGES[:0], LABELS[:0]), "images has shape"),
        (lambda: (IMAGES.astype(int), LABELS), "images is int64; give uint8"),
        (lambda: (IMAGES, np.eye(3)[LABELS]), "labels is float64 .*argmax"),
        (lambda: (IMAGES, LABELS[:3]), "labels has length 3; give one for each of 7"),
        (lambda: (IMAGES, LABELS - 1), "labels has -1; classes are numbered from 0"),
        (lambda: IMAGES, "data is of type ndarray; give arrays"),
        (lambda: DIGITS, "data is of type Dataset; .* or a split of a data set"),
    ],
)
def test_other_data_is_refused_with_advice(make, says):
    with pytest.raises(ValueError, match=says):
        as_split(make())


def test_a_stream_is_not_shuffled():
    with pytest.raises(ValueError, match="an order of its own; give arrays or a folder"):
        as_split(single()).shuffled(2, 0, 0)


def test_an_unknown_length_is_counted_once(monkeypatch):
    stream = as_split(single().batch(3))
    assert isinstance(stream, Stream) and len(stream) == 7
    monkeypatch.setattr(tf.data.Dataset, "reduce", lambda *_: pytest.fail("counted again"))
    assert len(stream) == 7


def test_content_hashes(tmp_path):
    """By hashlib: the SHA-256 of a file's bytes, and of the pixels in memory."""
    pixels = [hashlib.sha256(image.tobytes()).digest() for image in IMAGES]
    encoded = [hashlib.sha256(png).digest() for png in PNG]
    for source in (SOURCES["arrays"], SOURCES["batches"]):
        found = content_hashes(as_split(source))
        assert found.dtype == np.uint8 and found.shape == (7, 32)
        assert [row.tobytes() for row in found] == pixels
    for i, png in enumerate(PNG):
        (tmp_path / f"{i}.png").write_bytes(png)
    files = Files(np.array([str(tmp_path / f"{i}.png") for i in range(7)]), LABELS)
    for split in (files, as_split(SOURCES["encoded batches"])):
        assert [row.tobytes() for row in content_hashes(split)] == encoded
    assert content_hashes(DIGITS.test.take(np.arange(0))).shape == (0, 32)


def test_a_changing_order_is_refused():
    """`shuffle` changes the order each time, so hashes would not match their labels."""
    tiled = single(np.tile(IMAGES, (9, 1, 1, 1)), np.tile(LABELS, 9))
    steady = as_split(tiled.shuffle(63, seed=1, reshuffle_each_iteration=False))
    labels = np.array([label for _, label in steady.in_order().as_numpy_iterator()])
    assert len(content_hashes(steady, labels)) == 63
    restless = as_split(tiled.shuffle(63, seed=1))
    labels = np.array([label for _, label in restless.in_order().as_numpy_iterator()])
    with pytest.raises(ValueError, match="another order each time; .*reshuffle_each_iteration"):
        content_hashes(restless, labels)
