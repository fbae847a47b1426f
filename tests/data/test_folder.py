"""Test folders of images: layouts, kinds of files, and errors."""

import errno
import io
import json
import os
import subprocess
import sys
import unicodedata
import zlib
from collections import Counter
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from keras_resnet import data, evaluate, export
from keras_resnet.data import decoding
from keras_resnet.data.decoding import decode
from keras_resnet.data.pipeline import Augmentation, View, evaluation_batches, train_batches
from keras_resnet.data.preprocessing import preprocessing_for
from keras_resnet.runs.recipes import RECIPES
from keras_resnet.training import train as training


def photo(seed=0, size=(40, 30), mode="RGB"):
    pixels = np.random.default_rng(seed).integers(
        0, 256, (size[1] // 10, size[0] // 10, 3), np.uint8
    )
    return Image.fromarray(pixels).resize(size).convert(mode)


def encoded(kind, image=None, **options):
    file = io.BytesIO()
    (image or photo()).save(file, kind, **options)
    return file.getvalue()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def fill(root, classes, count):
    """Write different images; they also differ from those of a root with another name."""
    for name in classes:
        for i in range(count):
            seed = zlib.crc32(os.fsencode(f"{root.name}/{name}/{i}"))
            write(root / name / f"{i}.jpg", encoded("jpeg", photo(seed)))


JPEG, PNG = encoded("jpeg"), encoded("png")
BROKEN = {
    "empty.jpg": b"",
    "truncated.jpg": JPEG[: len(JPEG) // 2],
    "header.jpg": JPEG[:20],
    "truncated.png": PNG[: len(PNG) // 2],
    "damaged.png": PNG[:60] + bytes([PNG[60] ^ 255]) + PNG[61:],
    "text.jpg": b"not an image\n",
    "page.png": b"<!DOCTYPE html><title>404</title>",
    "image.tiff": encoded("tiff"),
    "truncated.gif": encoded("gif")[:40],
    "zeros.bmp": bytes(1000),
}


@pytest.fixture
def folder(tmp_path):
    """Write three classes of 20 good images, with ten broken files among them."""
    root = tmp_path / "pets"
    fill(root, ("cats", "dogs", "owls"), 20)
    for number, (name, content) in enumerate(BROKEN.items()):
        write(root / ("cats", "dogs", "owls")[number % 3] / name, content)
    return root


def test_broken_files_are_all_named(folder):
    with pytest.raises(
        ValueError,
        match="10 of 70 files in .* cannot be read as images.*leave them out with `skip_broken`",
    ) as error:
        data.load(str(folder))
    assert sorted(
        line.split(": ")[0].split(os.sep)[-1] for line in str(error.value).splitlines()[1:]
    ) == sorted(BROKEN)


def test_skip_broken_leaves_broken_files_out(folder):
    with pytest.warns(UserWarning) as warned:
        dataset = data.load(str(folder), skip_broken=True)
    said = [str(warning.message) for warning in warned]
    assert all(name in said[0] for name in BROKEN)
    assert "12 of its 60 images are kept out of training to test on" in said[1]
    assert Counter(dataset.test.labels.tolist()) == {0: 4, 1: 4, 2: 4}
    files = [*dataset.train.paths, *dataset.test.paths]
    assert len(set(files)) == 60 and not {os.path.basename(file) for file in files} & set(BROKEN)


@pytest.mark.slow
def test_training_without_the_broken_files(folder, tmp_path):
    """Without `skip_broken` the command names the files, with status 2. With it the run is trained,
    tested and exported."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "keras_resnet"]
    arguments = ["imagenet-tiny", "--dataset", str(folder), "--run-dir", str(run), "--steps", "3"]
    images = tmp_path / "images"
    refused = subprocess.run([*command, "train", *arguments], capture_output=True, text=True)
    assert refused.returncode == 2 and all(name in refused.stderr for name in BROKEN)
    assert "Traceback" not in refused.stderr and not (run / "model.keras").exists()
    subprocess.run(
        [*command, "train", *arguments, "--skip-broken"], check=True, capture_output=True
    )
    with pytest.warns(UserWarning, match="cannot be read as images and are left out"):
        evaluate(run)
        export(run, images / "run")
    result = json.loads((run / "evaluation.json").read_text())
    assert result["images"] == 12 and result["split"] == "held out of train"
    (version,) = (images / "run").iterdir()
    assert (version / "assets" / "labels.txt").read_text().split() == ["cats", "dogs", "owls"]
    kept = json.loads((run / "data.json").read_text())
    assert kept["splits"]["train"]["classes"] == {"cats": 16, "dogs": 16, "owls": 16}
    assert kept["splits"]["test"]["classes"] == {"cats": 4, "dogs": 4, "owls": 4}
    assert kept["test_held_out"] and "kept out of training to test on" in kept["notes"][1]
    assert all(name in kept["notes"][0] for name in BROKEN)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["pets", "train"])
def test_the_seed_determines_the_test_split(tmp_path, layout):
    fill(tmp_path / "train" if layout == "train" else tmp_path, ("a", "b"), 10)
    parts = []
    for seed in (1, 1, 2):
        with pytest.warns(UserWarning, match="no test split"):
            dataset = data.load(str(tmp_path), seed=seed)
        assert not set(dataset.train.paths) & set(dataset.test.paths)
        parts.append(dataset.test.paths.tolist())
    assert parts[0] == parts[1] != parts[2]


def test_validation_images_are_held_out_after_test_images(tmp_path):
    fill(tmp_path, ("a", "b"), 10)
    with pytest.warns(UserWarning):
        dataset = data.load(str(tmp_path), holdout=4)
    splits = [dataset.train.paths, dataset.validation.paths, dataset.test.paths]
    assert [len(paths) for paths in splits] == [12, 4, 4] and len(set(np.concatenate(splits))) == 20


def test_odd_folders(tmp_path):
    """Names with spaces and non-ASCII letters, links, upper-case suffixes, a class of one image,
    hidden files and nested folders."""
    root = tmp_path / "Bilder & так далее"
    fill(root, ("Äpfel und Birnen", "猫"), 5)
    write(root / "single" / "ONE.JPG", encoded("jpeg"))
    write(root / "猫" / ".DS_Store", b"\x00\x01")
    write(root / ".thumbnails" / "x.jpg", b"")
    write(root / "猫" / "deeper" / "still" / "SIX.PnG", encoded("png"))
    elsewhere = tmp_path / "elsewhere"
    fill(elsewhere, ("images",), 3)
    (root / "linked").symlink_to(elsewhere / "images", target_is_directory=True)
    (root / "猫" / "round").symlink_to(root / "猫", target_is_directory=True)
    (root / "single" / "link.jpeg").symlink_to(elsewhere / "images" / "0.jpg")
    with pytest.warns(UserWarning, match="no test split"):
        dataset = data.load(str(root))
    assert dataset.class_names == (
        "linked",
        "single",
        "Äpfel und Birnen",
        "猫",
    ), "the order of code points"
    together = Counter(
        dataset.class_names[i] for i in [*dataset.train.labels, *dataset.test.labels]
    )
    assert together == {"Äpfel und Birnen": 5, "猫": 6, "single": 2, "linked": 3}
    batch = next(iter(train_batches(dataset.train, preprocessing_for(dataset, 16), batch_size=8)))
    assert batch[0].shape == (8, 16, 16, 3)


def test_a_dangling_link_is_a_broken_file(tmp_path):
    fill(tmp_path, ("a", "b"), 3)
    (tmp_path / "a" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    with pytest.raises(ValueError, match="gone.jpg: No such file"):
        data.load(str(tmp_path))


def test_the_only_image_of_a_class_is_trained_on(tmp_path):
    fill(tmp_path, ("many",), 10)
    write(tmp_path / "one" / "0.png", PNG)
    with pytest.warns(UserWarning, match="2 of its 11"):
        dataset = data.load(str(tmp_path))
    assert 1 in dataset.train.labels and 1 not in dataset.test.labels


def test_too_few_images(tmp_path):
    fill(tmp_path, ("a", "b"), 1)
    with pytest.raises(ValueError, match="2 images are too few"):
        data.load(str(tmp_path))


def test_a_class_without_images(tmp_path):
    fill(tmp_path, ("a", "b"), 4)
    (tmp_path / "c").mkdir()
    with pytest.raises(ValueError, match="c holds no images"):
        data.load(str(tmp_path))


@pytest.mark.parametrize(
    ("image", "kind", "options"),
    [
        (photo(mode="L"), "jpeg", {}),
        (photo(mode="CMYK"), "jpeg", {}),
        (photo(), "jpeg", {"progressive": True}),
        (photo(mode="RGBA"), "png", {}),
        (photo(mode="P"), "png", {}),
        (photo(mode="1"), "png", {}),
        (photo(mode="LA"), "png", {}),
        (Image.fromarray(np.asarray(photo(mode="L"), np.uint16) * 257), "png", {}),
        (photo(mode="P"), "gif", {}),
        (photo(), "bmp", {}),
    ],
    ids=[
        "gray",
        "cmyk",
        "progressive",
        "rgba",
        "palette",
        "1 bit",
        "gray and alpha",
        "16 bit",
        "gif",
        "bmp",
    ],
)
def test_kinds_of_images_are_read_as_in_pillow(tmp_path, image, kind, options):
    write(tmp_path / "file", encoded(kind, image, **options))
    ours = decode((tmp_path / "file").read_bytes()).numpy().astype(float)
    opened = Image.open(tmp_path / "file")
    theirs = np.asarray(opened.convert("L") if opened.mode == "LA" else opened, float)
    if opened.mode.startswith("I"):
        theirs = theirs / 257
    elif opened.mode != "LA":
        theirs = np.asarray(opened.convert("RGB"), float)
    theirs = np.repeat(theirs[..., None], 3, axis=2) if theirs.ndim == 2 else theirs
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).mean() < 2


@pytest.mark.slow
def test_all_kinds_of_images_are_trained_on(tmp_path):
    """In the training view, which reads only a part of a JPEG, including the smallest and the
    longest image."""
    kinds = [
        (photo(mode="L"), "jpeg", {}),
        (photo(mode="CMYK"), "jpeg", {}),
        (photo(), "jpeg", {"progressive": True}),
        (photo(mode="RGBA"), "png", {}),
        (photo(mode="P"), "png", {"transparency": 3}),
        (Image.fromarray(np.asarray(photo(mode="L"), np.uint16) * 257), "png", {}),
        (photo(mode="P"), "gif", {"save_all": True, "append_images": [photo(9, mode="P")]}),
        (photo(), "bmp", {}),
        (Image.new("RGB", (1, 1)), "png", {}),
        (Image.new("RGB", (3, 96)), "jpeg", {}),
    ]
    for label in ("a", "b"):
        for i, (image, kind, options) in enumerate(kinds):
            write(tmp_path / label / f"{i}", encoded(kind, image, **options))
    with pytest.warns(UserWarning, match="no test split"):
        dataset = data.load(str(tmp_path))
    preprocessing = preprocessing_for(dataset, 48)
    for view in get_args(View):
        batches = train_batches(
            dataset.train, preprocessing, batch_size=16, augmentation=Augmentation(view)
        )
        images, labels = next(iter(batches))
        assert (
            images.shape == (16, 48, 48, 3)
            and np.isfinite(images).all()
            and sorted(labels) == 8 * [0] + 8 * [1]
        )


@pytest.mark.slow
def test_an_exif_orientation_is_applied_in_training_and_testing(tmp_path):
    """Compare an image that is stored rotated with the upright image."""
    upright = Image.fromarray(np.uint8([[[8 * y, 6 * x, 0] for x in range(40)] for y in range(30)]))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees: EXIF 2.3, table 4
    fill(tmp_path / "train", ("a", "b"), 5)
    for split in ("train", "test"):
        lying = upright.transpose(Image.Transpose.ROTATE_90)
        write(tmp_path / split / "a" / "phone.png", encoded("png", lying, exif=exif))
        write(tmp_path / split / "b" / "upright.png", encoded("png", upright))
    with pytest.warns(UserWarning, match="lie in several splits"):
        dataset = data.load(str(tmp_path))
    preprocessing = preprocessing_for(dataset, 24)
    assert preprocessing.exif_orientation
    (views, _), *_ = evaluation_batches(dataset.test, preprocessing, 2)
    np.testing.assert_array_equal(views[0], views[1])
    chosen = [number for number, path in enumerate(dataset.train.paths) if path[-5:-4] in "et"]
    assert len(chosen) == 2
    for view in get_args(View):
        batches = train_batches(
            dataset.train.take(np.array(chosen)),
            preprocessing,
            batch_size=2,
            augmentation=Augmentation(view),
        )
        # One color changes from top to bottom, another from left to right.
        for image in next(iter(batches))[0].numpy():
            down = np.abs(np.diff(image.mean(axis=1), axis=0)).sum(axis=0)
            across = np.abs(np.diff(image.mean(axis=0), axis=0)).sum(axis=0)
            assert down[0] > 5 * across[0] and across[1] > 5 * down[1], view


@pytest.mark.slow
@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (Image.new("RGB", (66, 2)), "66 pixels long and 2 wide"),
        (Image.new("1", (300, 300)), "90,000 pixels; 60,000 at most"),
    ],
)
def test_images_that_could_exhaust_memory_are_broken(tmp_path, image, reason, monkeypatch):
    monkeypatch.setattr(decoding, "_decode", decoding._decode.python_function)
    monkeypatch.setattr(decoding, "MAX_PIXELS", 60_000)
    fill(tmp_path, ("a", "b"), 3)
    write(tmp_path / "a" / "long.png", encoded("png", image))
    write(tmp_path / "b" / "large.png", encoded("png", Image.new("1", (200, 200))))
    write(tmp_path / "b" / "large.jpg", encoded("jpeg", Image.new("L", (200, 200))))
    with pytest.raises(ValueError, match=f"1 of 9 files.*\n.*long.png: {reason}"):
        data.load(str(tmp_path))


def test_train_test_and_validation_are_three_splits(tmp_path):
    for split, count in (("train", 4), ("valid", 3), ("test", 2)):
        fill(tmp_path / split, ("a", "b"), count)
    dataset = data.load(str(tmp_path))
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [8, 6, 4]
    assert not dataset.test_held_out and not dataset.notes
    assert all("valid" in path for path in dataset.validation.paths)
    write(tmp_path / "valid" / "._c" / "0.png", PNG)
    assert data.load(str(tmp_path)).class_names == ("a", "b")
    write(tmp_path / "valid" / "c" / "0.png", PNG)
    with pytest.raises(ValueError, match="valid has the class 'c', which .*train lacks"):
        data.load(str(tmp_path))


def test_train_can_be_a_class(tmp_path):
    fill(tmp_path, ("bus", "car", "train"), 5)
    with pytest.warns(UserWarning, match="no test split"):
        assert data.load(str(tmp_path)).class_names == ("bus", "car", "train")


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        (
            ["Train/a", "Train/b", "Test/a"],
            "has 'Test' and 'Train' for a folder; splits are called train, and test",
        ),
        (["training/a", "training/b", "testing/a"], "has 'testing' and 'training' for a folder"),
        (["train/a", "train/b", "Test/a"], "has 'Test' for a folder"),
        (
            ["train", "test"],
            "has 'train' and 'test' for a folder|has 'test' and 'train' for a folder",
        ),
        (["test/a", "val/a"], "has 'test' and 'val' for a folder"),
        (["pets/a", "pets/b"], "two classes or more; it has only 'pets'"),
        (["a", "b\nc"], r"has the class 'b\\nc'; give its folder a name of one line"),
        (["a", "b\u2028c"], "give its folder a name of one line"),
        (
            ["train/a", "train/b", "Dev set/a"],
            "has 'Dev set' for a folder; splits are called train",
        ),
        (["train2017/a", "train2017/b", "val2017/a"], "has 'train2017' and 'val2017' for a folder"),
        (["train_images/a", "test_images/a"], "has 'test_images' and 'train_images' for a folder"),
        (["a", "b", "test/a", "test/b"], "has 'test' for a folder; .* holds a folder for every"),
        (
            ["train/a", "train/b", "test/a", "validation/a", "val/a"],
            "has the splits train, test, validation, val; give at most two beside train",
        ),
        (
            ["train/a", "train/b", "test/a", "unseen/deep/a"],
            "has the folder 'unseen' beside train, with images such as .*unseen/deep/a/0.png; name",
        ),
        (["bus", "car", "train/steam", "train/electric"], "the folder 'bus' beside train"),
        (
            ["a/train", "a/test", "b/train", "b/test"],
            "a has 'test' and 'train' for a folder; splits come before classes: train/CLASS",
        ),
    ],
)
def test_misleading_names_of_folders_are_refused(tmp_path, folders, says):
    for name in folders:
        write(tmp_path / name / "0.png", PNG)
    with pytest.raises(ValueError, match=says):
        data.load(str(tmp_path))


NAS = [
    "@eaDir/0.jpg/SYNOPHOTO_THUMB_XL.jpg",
    "@eaDir/0.jpg@SynoEAStream",
    "0.jpg@SynoResource",
    "#recycle/old.jpg",
    "#snapshot/0.jpg",
    "@Recycle/0.jpg",
    "@Recently-Snapshot/0.jpg",
    ".@__thumb/s1000.jpg",
    ".thumbnails/0.png",
    ".Trash-1000/files/0.jpg",
    ".hidden.jpg",
    "__MACOSX/._0.jpg",
    "._0.jpg",
    ".DS_Store",
    "Icon\r",
    "Thumbs.db",
    "THUMBS.DB",
    "ehthumbs.db",
    "Desktop.ini",
    "$RECYCLE.BIN/$R0.jpg",
    "System Volume Information/0.jpg",
    "lost+found/0.jpg",
]
"""files that network storage (Synology, QNAP), macOS, Windows and Linux add to a user's folders"""


@pytest.mark.parametrize("layers", [[""], ["train", "test"]])
def test_thumbnails_and_metadata_are_ignored(tmp_path, layers):
    """In the root, beside the classes and in them, with names in any case."""
    places = {tmp_path}
    for number, layer in enumerate(layers):
        fill(tmp_path / layer, ("a", "b"), 10 - number)
        places |= {tmp_path / layer, tmp_path / layer / "a", tmp_path / layer / "b"}
    for number, name in enumerate(NAS):
        for place in places:
            write(
                place / name, encoded("jpeg", photo(1000 + number)) if number % 2 else b"\0\5\x16"
            )
    if layers == [""]:
        with pytest.warns(UserWarning, match="no test split: 4 of its 20 images"):
            dataset = data.load(str(tmp_path))
        assert (len(dataset.train), len(dataset.test), len(dataset.notes)) == (16, 4, 1)
    else:
        dataset = data.load(str(tmp_path))
        assert (len(dataset.train), len(dataset.test)) == (20, 18)
    assert dataset.class_names == ("a", "b")
    names = {os.path.basename(file) for file in [*dataset.train.paths, *dataset.test.paths]}
    assert names == {f"{i}.jpg" for i in range(10)}


def test_thumbnails_in_train_do_not_make_it_a_split(tmp_path):
    """Nor do macOS' files in an archive: `train` is a class of vehicles."""
    fill(tmp_path, ("bus", "train"), 5)
    write(tmp_path / "train" / "@eaDir" / "0.jpg", JPEG)
    write(tmp_path / "__MACOSX" / "bus" / "._0.jpg", b"\0\5\x16\7")
    with pytest.warns(UserWarning, match="no test split"):
        assert data.load(str(tmp_path)).class_names == ("bus", "train")
    fill(tmp_path / "pets", ("cats", "dogs"), 3)
    (tmp_path / "unpacked").mkdir()
    (tmp_path / "pets").rename(tmp_path / "unpacked" / "pets")
    write(tmp_path / "unpacked" / "__MACOSX" / "pets" / "._0.jpg", b"")
    with pytest.raises(ValueError, match="it has only 'pets'$"):
        data.load(str(tmp_path / "unpacked"))


def test_names_that_look_like_those_of_storage_can_be_classes(tmp_path):
    fill(tmp_path, ("#1", "@home", "thumbs", "recycle"), 5)
    with pytest.warns(UserWarning, match="no test split"):
        assert data.load(str(tmp_path)).class_names == ("#1", "@home", "recycle", "thumbs")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "test", "validation"),
    [
        (["dev"], "dev", None),
        (["eval"], "eval", None),
        (["evaluation"], "evaluation", None),
        (["testing"], "testing", None),
        (["development"], "development", None),
        (["val"], "val", None),
        (["valid"], "valid", None),
        (["validation"], "validation", None),
        (["dev", "test"], "test", "dev"),
        (["dev", "eval"], "eval", "dev"),
        (["eval", "val"], "eval", "val"),
        (["testing", "validation"], "testing", "validation"),
        (["eval", "test"], "test", "eval"),
    ],
)
def test_splits_by_other_names(tmp_path, names, test, validation):
    """`dev` is the validation split if there is a test split, as in shared tasks."""
    for number, name in enumerate(["train", *names]):
        for i, label in enumerate("ab"):
            write(tmp_path / name / label / "0.png", encoded("png", photo(10 * number + i)))
    dataset = data.load(str(tmp_path))
    assert not dataset.test_held_out and len(dataset.train) == 2

    def folders(split):
        return {os.path.relpath(path, tmp_path).split(os.sep)[0] for path in split.paths}

    assert folders(dataset.train) == {"train"} and folders(dataset.test) == {test}
    assert (dataset.validation and folders(dataset.validation)) == (validation and {validation})


def test_a_word_for_a_split_can_be_a_class(tmp_path):
    fill(tmp_path, ("dev", "operations"), 5)
    with pytest.warns(UserWarning, match="no test split"):
        assert data.load(str(tmp_path)).class_names == ("dev", "operations")


def test_a_folder_without_images_beside_train_is_not_a_split(tmp_path):
    fill(tmp_path / "train", ("a", "b"), 3)
    fill(tmp_path / "test", ("a", "b"), 2)
    write(tmp_path / "annotations" / "deep" / "0.xml", b"<annotation/>")
    (tmp_path / "empty").mkdir()
    assert len(data.load(str(tmp_path)).train) == 6


@pytest.mark.slow
@pytest.mark.parametrize("layered", [False, True])
def test_images_outside_of_class_folders_are_named(tmp_path, layered):
    for split in ("train", "test") if layered else ("",):
        fill(tmp_path / split, ("a", "b"), 5)
    places = [tmp_path, tmp_path / "train", tmp_path / "test"] if layered else [tmp_path]
    for place in places:
        write(place / "loose.jpg", JPEG)
        write(place / "without_ending", PNG)
        write(place / "labels.csv", b"0.jpg,a\n")
        write(place / "README.md", b"# Pets\n")
    with pytest.warns(UserWarning, match="lie beside the folders of the classes"):
        dataset = data.load(str(tmp_path))
    assert str(2 * len(places)) in dataset.notes[0].split()[0]
    listed = {line.strip() for line in dataset.notes[0].splitlines()[1:]}
    assert listed == {
        str(place / name) for place in places for name in ("loose.jpg", "without_ending")
    }
    assert not listed & {*dataset.train.paths, *dataset.test.paths}


@pytest.mark.parametrize("split", ["test", "val"])
def test_an_unlabeled_split_is_refused(tmp_path, split):
    """As in Kaggle's competitions."""
    fill(tmp_path / "train", ("a", "b"), 5)
    for i in range(3):
        write(tmp_path / split / f"{i}.jpg", JPEG)
    with pytest.raises(
        ValueError,
        match=f"{split} is unlabeled: 3 images lie in it without folders of classes. Sort its"
        f" images into folders .* move {split} elsewhere, and classify them by `predict`",
    ):
        data.load(str(tmp_path))
    (tmp_path / split).rename(tmp_path / "images")
    (tmp_path / split).mkdir()
    (tmp_path / "images").rename(tmp_path / split / "unknown")
    with pytest.raises(
        ValueError,
        match=f"{split} has the class 'unknown', which .*train lacks, and none of its classes: it"
        f" seems to be unlabeled. .*move {split} elsewhere",
    ):
        data.load(str(tmp_path))


COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Äpfel é") for form in ("NFC", "NFD"))


@pytest.mark.parametrize("names", [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_a_class_composed_in_one_split_and_decomposed_in_another(tmp_path, names):
    """The order of the composed names is the same on every system."""
    for number, (split, name) in enumerate(zip(("train", "test"), names, strict=True)):
        for i, label in enumerate((name, "Birnen")):
            for j in range(3):
                image = encoded("png", photo(100 * number + 10 * i + j))
                write(tmp_path / split / label / f"{j}.png", image)
    dataset = data.load(str(tmp_path))
    assert dataset.class_names == ("Birnen", COMPOSED)
    for split in (dataset.train, dataset.test):
        assert split.labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert all(os.path.isfile(path) for path in split.paths), "the names as they are stored"


@pytest.mark.skipif(sys.platform == "darwin", reason="both names are one folder there")
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_class_composed_and_decomposed_side_by_side_is_refused(tmp_path, split):
    fill(tmp_path / "train", (COMPOSED, "b"), 2)
    fill(tmp_path / "test", (COMPOSED, "b"), 2)
    fill(tmp_path / split, (DECOMPOSED,), 2)
    with pytest.raises(
        ValueError, match="has the class .* twice.*; merge the two folders"
    ) as error:
        data.load(str(tmp_path))
    assert ascii(COMPOSED) in str(error.value) and ascii(DECOMPOSED) in str(error.value)


def copy(root, source, *targets):
    for target in targets:
        write(root / target, (root / source).read_bytes())


def test_the_same_file_in_several_splits_is_named(tmp_path):
    for split in ("train", "val", "test"):
        fill(tmp_path / split, ("a", "b"), 12)
    copy(tmp_path, "train/a/0.jpg", "test/a/other name.png")
    copy(tmp_path, "val/b/1.jpg", "test/b/deep/er/1.jpg")
    (tmp_path / "val" / "a" / "link.jpg").symlink_to(tmp_path / "train" / "a" / "2.jpg")
    copy(tmp_path, "train/b/3.jpg", "train/b/again.jpg", "val/b/again.jpg", "test/b/again.jpg")
    copy(tmp_path, "train/b/4.jpg", "train/b/4 (1).jpg")  # within one split and class
    with pytest.warns(UserWarning) as warned:
        dataset = data.load(str(tmp_path))
    (note,) = dataset.notes
    assert [str(warning.message) for warning in warned] == [note]
    head, *lines = note.splitlines()
    assert head == (
        f"4 of 72 different images in {tmp_path} lie in several splits, byte for byte: errors are"
        " measured on images that are trained or selected on:"
    )
    assert sorted(map(str.strip, lines)) == [
        "test/b/deep/er/1.jpg = val/b/1.jpg",
        "train/a/0.jpg = test/a/other name.png",
        "train/a/2.jpg = val/a/link.jpg",
        "train/b/again.jpg = test/b/again.jpg = val/b/again.jpg",
    ]
    splits = (dataset.train, dataset.validation, dataset.test)
    assert [len(split) for split in splits] == [26, 26, 27], "they are all used"


def test_the_same_file_in_several_classes_is_named(tmp_path):
    for split in ("train", "test"):
        fill(tmp_path / split, ("a", "b", "c"), 5)
    copy(tmp_path, "train/a/0.jpg", "train/c/copy.jpg", "train/b/copy.jpg")
    copy(tmp_path, "train/b/1.jpg", "test/a/copy.jpg")
    with pytest.warns(UserWarning):
        dataset = data.load(str(tmp_path))
    splits, classes = dataset.notes
    assert splits.startswith("1 of 30 different images") and splits.splitlines()[1:] == [
        "  train/b/1.jpg = test/a/copy.jpg"
    ]
    assert classes.splitlines() == [
        f"2 of 30 different images in {tmp_path} lie in several classes, byte for byte: of their"
        " labels at most one is right:",
        "  train/a/0.jpg = train/b/copy.jpg = train/c/copy.jpg",
        "  train/b/1.jpg = test/a/copy.jpg",
    ]


def test_many_copies_are_counted_and_the_first_named(tmp_path):
    for split in ("train", "test"):
        fill(tmp_path / split, ("a", "b"), 13)
    for i in range(13):
        copy(tmp_path, f"train/a/{i}.jpg", f"test/a/{i}.jpg")
    with pytest.warns(UserWarning, match="13 of 39 different images"):
        (note,) = data.load(str(tmp_path)).notes
    lines = note.splitlines()
    assert len(lines) == 12 and lines[-1] == "  and 3 more" and " = " in lines[-2]


def test_files_of_equal_size_are_not_copies(tmp_path):
    """All bitmaps of one shape have the same number of bytes; these differ in one bit."""
    for number, place in enumerate(["train/a", "train/b", "test/a", "test/b"]):
        for i in range(4):
            image = Image.new("RGB", (9, 9))
            image.putpixel((i, number), (1, 0, 0))
            write(tmp_path / place / f"{i}.bmp", encoded("bmp", image))
    sizes = {file.stat().st_size for file in tmp_path.rglob("*.bmp")}
    assert len(sizes) == 1 and not data.load(str(tmp_path)).notes


def test_broken_copies_are_not_counted(tmp_path):
    for split in ("train", "test"):
        fill(tmp_path / split, ("a", "b"), 5)
        write(tmp_path / split / "a" / "broken.jpg", JPEG[:20])
    with pytest.warns(UserWarning, match="2 of 22 files"):
        assert len(data.load(str(tmp_path), skip_broken=True).notes) == 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_copies_are_held_out_together(tmp_path, seed):
    """No training image is in the test split or the validation split."""
    fill(tmp_path, ("a", "b"), 30)
    for i in range(10):
        copy(tmp_path, f"a/{i}.jpg", f"a/{i} (1).jpg", f"a/{i} (2).jpg")
        copy(tmp_path, f"b/{i}.jpg", f"b/{i} (1).jpg")
    with pytest.warns(UserWarning, match="no test split: 18 of its 90 images"):
        dataset = data.load(str(tmp_path), holdout=14, seed=seed)
    splits = (dataset.train, dataset.validation, dataset.test)
    assert [len(split) for split in splits] == [58, 14, 18], "single images fill the gaps"
    contents = [{Path(path).read_bytes() for path in split.paths} for split in splits]
    assert sum(map(len, contents)) == len(set().union(*contents)) == 60
    assert Counter(dataset.test.labels.tolist()) == {0: 10, 1: 8}


def test_copies_of_one_image_cannot_be_held_out(tmp_path):
    for label in "ab":
        for i in range(10):
            write(tmp_path / label / f"{i}.png", PNG)
    with (
        pytest.warns(UserWarning, match="1 of 1 different images .* in several classes"),
        pytest.raises(ValueError, match="its 20 images are copies of too few to take one from"),
    ):
        data.load(str(tmp_path))


def test_names_that_are_not_utf_8(tmp_path):
    fill(tmp_path / "files", ("a", "b"), 5)
    write(tmp_path / "files" / "a" / os.fsdecode(b"caf\xe9.png"), PNG)
    with pytest.raises(ValueError, match="1 of 11 files .*\n.*: its name is not UTF-8"):
        data.load(str(tmp_path / "files"))
    with pytest.warns(UserWarning, match="are left out"):
        assert len(data.load(str(tmp_path / "files"), skip_broken=True).train) == 8
    fill(tmp_path / "classes", ("a", os.fsdecode(b"caf\xe9")), 5)
    with pytest.raises(ValueError, match="a name that is not UTF-8; rename its folder"):
        data.load(str(tmp_path / "classes"))


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    """Its images are not left out silently. A patch replaces permissions, which root ignores."""
    fill(tmp_path, ("a", "b"), 5)
    write(tmp_path / "b" / "private" / "0.png", PNG)
    scandir = os.scandir

    def guarded(path):
        if os.fspath(path).endswith("private"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(PermissionError, match="private"):
        data.load(str(tmp_path))


def test_a_file_instead_of_a_folder(tmp_path):
    write(tmp_path / "pets.zip", b"PK")
    with pytest.raises(
        ValueError, match="pets.zip is a file; give the folder of the images, unpacked"
    ):
        data.load(str(tmp_path / "pets.zip"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:pets has no test split")
def test_an_image_that_vanishes_during_training(tmp_path, monkeypatch):
    """One line names it. When it is restored, the training resumes."""
    fill(tmp_path / "pets", ("a", "b"), 20)
    kept = {file: file.read_bytes() for file in (tmp_path / "pets" / "a").iterdir()}
    compile_for = training.compile_for

    def lose_files(*arguments):
        for file in kept:
            file.unlink()
        return compile_for(*arguments)

    recipe = RECIPES["imagenet-tiny"].override(dataset=str(tmp_path / "pets"), steps=2)
    monkeypatch.setattr(training, "compile_for", lose_files)
    with pytest.raises(
        OSError,
        match=r"pets/a/\d+.jpg could be read when the training began \(No such file or"
        r" directory\); restore it, and `",
    ):
        training.train(recipe, tmp_path / "run")
    monkeypatch.undo()
    for file, content in kept.items():
        file.write_bytes(content)
    assert training.train(recipe, tmp_path / "run").model_file.exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_a_data_sets_name_takes_precedence_over_a_folder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / name, ("a", "b"), 5)
    fill(tmp_path / "pets", ("a", "b"), 5)
    with pytest.warns(
        UserWarning, match=f"{name} is the data set of that name; give ./{name} for the folder"
    ):
        if name == "digits":
            assert len(data.load(name).class_names) == 10
        else:
            with pytest.raises(ValueError, match=f"{name} is not in "):
                data.load(name, data_dir=str(tmp_path / "nothing"))
    for path in (f"./{name}", f"{name}/", "pets"):
        with pytest.warns(UserWarning, match="no test split"):
            assert data.load(path).class_names == ("a", "b")


@pytest.mark.parametrize(("sides", "size"), [((40, 30), 30), ((500, 400), 224)])
def test_the_input_size_follows_from_the_images(tmp_path, sides, size):
    for label in ("a", "b"):
        for i in range(4):
            write(tmp_path / label / f"{i}.png", encoded("png", photo(i, sides)))
    with pytest.warns(UserWarning):
        dataset = data.load(str(tmp_path))
    assert preprocessing_for(dataset, None).crop == size
    assert preprocessing_for(dataset, 48).crop == 48


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        ([], "needs a folder for each of two classes"),
        (["train/a", "train/b"], "holds no images"),
        (["train/a", "test/a"], "two classes or more"),
        (["train/a", "train/b", "test/c"], "has the class 'c'"),
        (["train/a", "train/b", "test/a"], "holds no images"),
    ],
)
def test_folders_of_another_layout_are_refused(tmp_path, folders, says):
    for name in folders:
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(ValueError, match=says):
        data.load(str(tmp_path))
