import hashlib
import os
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf

from keras_resnet import data
from keras_resnet.data import views

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
    with pytest.raises(ValueError, match="'mnist'; choose one of digits"):
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


def run_in_pipeline(function, *arguments):
    """The same operation inside tf.data, where shapes are traced and seeds are tensors."""
    return next(iter(tf.data.Dataset.from_tensors(arguments).map(function)))


@pytest.mark.parametrize("flip", [False, True])
def test_pad_crop_against_a_slow_one(flip):
    """Every result is one of the 9 x 9 crops of the padded picture or its mirror image; each is equally likely."""
    padding, count = 4, 8100
    picture = np.arange(1.0, 12 * 10 + 1, dtype=np.float32).reshape(12, 10, 1)
    images = np.repeat(picture[np.newaxis], count, axis=0)
    eager = views.pad_crop(tf.constant(images), padding, flip, tf.constant([5, 6], tf.int64)).numpy()
    traced = run_in_pipeline(
        lambda images, seed: views.pad_crop(images, padding, flip, seed), images, np.array([5, 6], np.int64)
    ).numpy()
    assert (eager == traced).all()

    padded = np.pad(picture, ((4, 4), (4, 4), (0, 0)))
    crops = {}
    for top in range(9):
        for left in range(9):
            crop = padded[top : top + 12, left : left + 10]
            crops[crop.tobytes()] = (top, left, False)
            if flip:
                crops[crop[:, ::-1].tobytes()] = (top, left, True)
    assert len(crops) == (162 if flip else 81)
    seen = Counter(crops[result.tobytes()] for result in eager)
    # Chi-squared with 161 and 80 degrees of freedom: 0.9999 of it lies below.
    expected = count / len(crops)
    assert sum((seen[crop] - expected) ** 2 / expected for crop in crops.values()) < (237 if flip else 133)


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
