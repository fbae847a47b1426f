"""Images that are decoded once and kept in memory."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_resnet.data.dataset import Dataset, Files, Shard
from keras_resnet.data.decoded import DecodedFiles, decode_files
from keras_resnet.data.pipeline import Augmentation, evaluation_batches, train_batches
from keras_resnet.data.preprocessing import PREPROCESSING


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
    """Write images of different sizes and formats, two of them stored rotated."""
    folder, random, paths = tmp_path_factory.mktemp("images"), np.random.default_rng(0), []
    for number in range(12):
        small = Image.fromarray(random.integers(0, 256, (6, 5, 3), np.uint8))
        image, exif = small.resize((40 + 3 * number, 64 - 2 * number)), Image.Exif()
        exif[0x0112] = {3: 6, 7: 3}.get(number, 1)  # EXIF 2.3, table 4
        paths.append(folder / f"{number}.{'png' if number % 4 == 1 else 'jpg'}")
        image.save(paths[-1], exif=exif)
    labels = np.arange(12, dtype=np.int32) % 3
    split = Files(np.array(list(map(str, paths))), labels)
    return Dataset(
        "images", ("a", "b", "c"), split.take(np.arange(8)), split, split.take(np.arange(8, 12))
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("view", "exif_orientation", "repeats", "shard"),
    [
        ("none", True, 1, Shard(0, 1)),
        ("pad-crop-flip", True, 1, Shard(0, 1)),
        ("scale-crop-flip", True, 1, Shard(1, 2)),
        ("scale-crop-flip", False, 1, Shard(0, 1)),
        ("resized-crop-flip", True, 2, Shard(0, 1)),
    ],
)
def test_training_batches_equal_those_of_files(on_disk, view, exif_orientation, repeats, shard):
    """A window of a JPEG decoded alone has the pixels of the whole image."""
    preprocessing = replace(PREPROCESSING["tf"].for_size(16), exif_orientation=exif_orientation)
    found, wanted = (
        train_batches(
            dataset.train, preprocessing, batch_size=8, seed=1, first_step=1, shard=shard,
            augmentation=Augmentation(view, repeats=repeats),
        ).take(3)
        for dataset in (decode_files(on_disk), on_disk)
    )  # fmt: skip
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])
        np.testing.assert_array_equal(ours[1], theirs[1])


def test_validation_batches_equal_those_of_files(on_disk):
    preprocessing = PREPROCESSING["tf"].for_size(16)
    found, wanted = (
        list(evaluation_batches(dataset.validation, preprocessing, 3).as_numpy_iterator())
        for dataset in (decode_files(on_disk), on_disk)
    )
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])
        np.testing.assert_array_equal(ours[1], theirs[1])


def test_files_are_read_once(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(tf.io.encode_png(np.full((4, 4, 3), 9, np.uint8)).numpy())
    split = Files(np.array([str(path)]), np.zeros(1, np.int32))
    memory = decode_files(Dataset("one", ("a",), split, split))
    path.unlink()
    assert isinstance(memory.train, DecodedFiles) and memory.validation is None
    preprocessing = PREPROCESSING["tf"].for_size(4)
    assert len(list(evaluation_batches(memory.train, preprocessing, 1))) == 1
    with pytest.raises(tf.errors.NotFoundError):
        list(evaluation_batches(memory.test, preprocessing, 1))


def test_images_beyond_the_limit_stay_in_files(on_disk):
    total = sum(12 + (40 + 3 * number) * (64 - 2 * number) * 3 for number in range(12))
    assert decode_files(on_disk, limit=total - 1) is on_disk
    assert decode_files(on_disk, limit=total) is not on_disk


def test_a_missing_file_is_named(tmp_path):
    split = Files(np.array([str(tmp_path / "gone.png")]), np.zeros(1, np.int32))
    with pytest.raises(OSError, match="gone.png .*No such file or directory"):
        decode_files(Dataset("one", ("a",), split, split))
