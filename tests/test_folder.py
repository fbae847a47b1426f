"""People's own pictures: what is in their folders, and what is wrong with it."""

import errno
import io
import json
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from keras_resnet import data
from keras_resnet import train as training
from keras_resnet.data import folder as folder_module
from keras_resnet.recipe import RECIPES


def picture(seed=0, size=(40, 30), mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1] // 10, size[0] // 10, 3), np.uint8)
    return Image.fromarray(pixels).resize(size).convert(mode)


def encoded(kind, image=None, **options):
    file = io.BytesIO()
    (image or picture()).save(file, kind, **options)
    return file.getvalue()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def fill(root, classes, count):
    for number, name in enumerate(classes):
        for i in range(count):
            write(root / name / f"{i}.jpg", encoded("jpeg", picture(100 * number + i)))


JPEG, PNG = encoded("jpeg"), encoded("png")
BROKEN = {
    "empty.jpg": b"",
    "truncated.jpg": JPEG[: len(JPEG) // 2],
    "header.jpg": JPEG[:20],
    "truncated.png": PNG[: len(PNG) // 2],
    "damaged.png": PNG[:60] + bytes([PNG[60] ^ 255]) + PNG[61:],
    "text.jpg": b"not a picture\n",
    "page.png": b"<!DOCTYPE html><title>404</title>",
    "picture.tiff": encoded("tiff"),
    "truncated.gif": encoded("gif")[:40],
    "zeros.bmp": bytes(1000),
}


@pytest.fixture
def folder(tmp_path):
    """Three classes of 20 good pictures and ten broken files among them."""
    root = tmp_path / "pets"
    fill(root, ("cats", "dogs", "owls"), 20)
    for number, (name, content) in enumerate(BROKEN.items()):
        write(root / ("cats", "dogs", "owls")[number % 3] / name, content)
    return root


def test_broken_files_are_all_named(folder):
    with pytest.raises(ValueError, match="10 of 70 files in .* cannot be read as pictures.*--skip-broken") as error:
        data.load(str(folder))
    assert sorted(line.split(": ")[0].split(os.sep)[-1] for line in str(error.value).splitlines()[1:]) == sorted(BROKEN)


def test_broken_files_are_left_out_when_that_is_asked(folder):
    with pytest.warns(UserWarning) as warned:
        dataset = data.load(str(folder), skip_broken=True)
    said = [str(warning.message) for warning in warned]
    assert all(name in said[0] for name in BROKEN)
    assert "12 of its 60 pictures are kept out of training to test on" in said[1]
    assert Counter(dataset.test.labels.tolist()) == {0: 4, 1: 4, 2: 4}
    files = [*dataset.train.paths, *dataset.test.paths]
    assert len(set(files)) == 60 and not {os.path.basename(file) for file in files} & set(BROKEN)


@pytest.mark.slow
def test_training_on_the_rest(folder, tmp_path):
    """The command as a user gives it: refused with the names and status 2, then trained, tested and exported."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "keras_resnet"]
    arguments = ["imagenet-tiny", "--dataset", str(folder), "--run-dir", str(run), "--steps", "3"]
    pictures = tmp_path / "pictures"
    refused = subprocess.run([*command, "train", *arguments], capture_output=True, text=True)
    assert refused.returncode == 2 and all(name in refused.stderr for name in BROKEN)
    assert "Traceback" not in refused.stderr and not (run / "model.keras").exists()
    for verb in (
        ["train", *arguments, "--skip-broken"],
        ["evaluate", str(run)],
        ["export", str(run), "--to", pictures],
    ):
        subprocess.run([*command, *verb], check=True, capture_output=True)
    result = json.loads((run / "evaluation.json").read_text())
    assert result["images"] == 12 and result["split"] == "held out of train"
    (version,) = (pictures / "run").iterdir()
    assert (version / "assets" / "labels.txt").read_text().split() == ["cats", "dogs", "owls"]
    kept = json.loads((run / "data.json").read_text())
    assert kept["splits"]["train"]["classes"] == {"cats": 16, "dogs": 16, "owls": 16}
    assert kept["splits"]["test"]["classes"] == {"cats": 4, "dogs": 4, "owls": 4}
    assert kept["test_held_out"] and "kept out of training to test on" in kept["notes"][1]
    assert all(name in kept["notes"][0] for name in BROKEN)


@pytest.mark.parametrize("layout", ["pets", "train"])
def test_the_test_part_is_fixed_by_the_seed(tmp_path, layout):
    fill(tmp_path / "train" if layout == "train" else tmp_path, ("a", "b"), 10)
    parts = []
    for seed in (1, 1, 2):
        with pytest.warns(UserWarning, match="no test split"):
            dataset = data.load(str(tmp_path), seed=seed)
        assert not set(dataset.train.paths) & set(dataset.test.paths)
        parts.append(dataset.test.paths.tolist())
    assert parts[0] == parts[1] != parts[2]


def test_a_validation_part_comes_out_of_what_is_left(tmp_path):
    fill(tmp_path, ("a", "b"), 10)
    with pytest.warns(UserWarning):
        dataset = data.load(str(tmp_path), holdout=4)
    splits = [dataset.train.paths, dataset.validation.paths, dataset.test.paths]
    assert [len(paths) for paths in splits] == [12, 4, 4] and len(set(np.concatenate(splits))) == 20


def test_odd_folders(tmp_path):
    """Names with letters of the world and spaces, links, upper-case endings, an only picture, hidden files, depth."""
    root = tmp_path / "Bilder & так далее"
    fill(root, ("Äpfel und Birnen", "猫"), 5)
    write(root / "single" / "ONE.JPG", encoded("jpeg"))
    write(root / "猫" / ".DS_Store", b"\x00\x01")
    write(root / ".thumbnails" / "x.jpg", b"")
    write(root / "猫" / "deeper" / "still" / "SIX.PnG", encoded("png"))
    elsewhere = tmp_path / "elsewhere"
    fill(elsewhere, ("pictures",), 3)
    (root / "linked").symlink_to(elsewhere / "pictures", target_is_directory=True)
    (root / "猫" / "round").symlink_to(root / "猫", target_is_directory=True)
    (root / "single" / "link.jpeg").symlink_to(elsewhere / "pictures" / "0.jpg")
    with pytest.warns(UserWarning, match="no test split"):
        dataset = data.load(str(root))
    assert dataset.labels == ("linked", "single", "Äpfel und Birnen", "猫"), "the order of code points"
    together = Counter(dataset.labels[i] for i in [*dataset.train.labels, *dataset.test.labels])
    assert together == {"Äpfel und Birnen": 5, "猫": 6, "single": 2, "linked": 3}
    batch = next(iter(data.train_batches(dataset.train, data.preprocessing_for(dataset, 16), batch_size=8)))
    assert batch[0].shape == (8, 16, 16, 3)


def test_a_dangling_link_is_a_broken_file(tmp_path):
    fill(tmp_path, ("a", "b"), 3)
    (tmp_path / "a" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    with pytest.raises(ValueError, match="gone.jpg: No such file"):
        data.load(str(tmp_path))


def test_an_only_picture_is_trained_on(tmp_path):
    fill(tmp_path, ("many",), 10)
    write(tmp_path / "one" / "0.png", PNG)
    with pytest.warns(UserWarning, match="2 of its 11"):
        dataset = data.load(str(tmp_path))
    assert 1 in dataset.train.labels and 1 not in dataset.test.labels


def test_too_few_pictures(tmp_path):
    fill(tmp_path, ("a", "b"), 1)
    with pytest.raises(ValueError, match="2 pictures are too few"):
        data.load(str(tmp_path))


def test_a_class_without_pictures(tmp_path):
    fill(tmp_path, ("a", "b"), 4)
    (tmp_path / "c").mkdir()
    with pytest.raises(ValueError, match="c holds no pictures"):
        data.load(str(tmp_path))


@pytest.mark.parametrize(
    ("image", "kind", "options"),
    [
        (picture(mode="L"), "jpeg", {}),
        (picture(mode="CMYK"), "jpeg", {}),
        (picture(), "jpeg", {"progressive": True}),
        (picture(mode="RGBA"), "png", {}),
        (picture(mode="P"), "png", {}),
        (picture(mode="1"), "png", {}),
        (picture(mode="LA"), "png", {}),
        (Image.fromarray(np.asarray(picture(mode="L"), np.uint16) * 257), "png", {}),
        (picture(mode="P"), "gif", {}),
        (picture(), "bmp", {}),
    ],
    ids=["grey", "cmyk", "progressive", "rgba", "palette", "1 bit", "grey and alpha", "16 bit", "gif", "bmp"],
)
def test_kinds_of_pictures_are_read_as_pillow_reads_them(tmp_path, image, kind, options):
    write(tmp_path / "file", encoded(kind, image, **options))
    ours = data.decode((tmp_path / "file").read_bytes()).numpy().astype(float)
    opened = Image.open(tmp_path / "file")
    theirs = np.asarray(opened.convert("L") if opened.mode == "LA" else opened, float)
    if opened.mode.startswith("I"):
        theirs = theirs / 257
    elif opened.mode != "LA":
        theirs = np.asarray(opened.convert("RGB"), float)
    theirs = np.repeat(theirs[..., None], 3, axis=2) if theirs.ndim == 2 else theirs
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).mean() < 2


def test_all_kinds_of_pictures_are_trained_on(tmp_path):
    """In the training view, which reads a part of a JPEG only, and the smallest and longest pictures among them."""
    kinds = [
        (picture(mode="L"), "jpeg", {}),
        (picture(mode="CMYK"), "jpeg", {}),
        (picture(), "jpeg", {"progressive": True}),
        (picture(mode="RGBA"), "png", {}),
        (picture(mode="P"), "png", {"transparency": 3}),
        (Image.fromarray(np.asarray(picture(mode="L"), np.uint16) * 257), "png", {}),
        (picture(mode="P"), "gif", {"save_all": True, "append_images": [picture(9, mode="P")]}),
        (picture(), "bmp", {}),
        (Image.new("RGB", (1, 1)), "png", {}),
        (Image.new("RGB", (3, 96)), "jpeg", {}),
    ]
    for label in ("a", "b"):
        for i, (image, kind, options) in enumerate(kinds):
            write(tmp_path / label / f"{i}", encoded(kind, image, **options))
    with pytest.warns(UserWarning, match="no test split"):
        dataset = data.load(str(tmp_path))
    preprocessing = data.preprocessing_for(dataset, 48)
    for augmentation in ("none", "pad-crop-flip", "scale-crop-flip"):
        batches = data.train_batches(dataset.train, preprocessing, batch_size=16, augmentation=augmentation)
        images, labels = next(iter(batches))
        assert images.shape == (16, 48, 48, 3) and np.isfinite(images).all() and sorted(labels) == 8 * [0] + 8 * [1]


def test_an_exif_orientation_is_said_and_not_applied(tmp_path):
    fill(tmp_path, ("a", "b"), 5)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees: EXIF 2.3, table 4
    write(tmp_path / "a" / "phone.jpg", encoded("jpeg", exif=exif))
    exif[0x0112] = 1
    write(tmp_path / "b" / "upright.jpg", encoded("jpeg", exif=exif))
    with pytest.warns(UserWarning) as warned:
        dataset = data.load(str(tmp_path))
    note = dataset.notes[0]
    assert str(warned[0].message) == note
    assert note.startswith(f"1 of 12 pictures in {tmp_path} are to be shown turned") and "phone.jpg" in note
    assert "upright.jpg" not in note
    assert data.decode((tmp_path / "a" / "phone.jpg").read_bytes()).shape == (30, 40, 3), "as stored"


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (Image.new("RGB", (66, 2)), "66 pixels long and 2 wide"),
        (Image.new("1", (300, 300)), "90,000 pixels; 60,000 at most"),
    ],
)
def test_pictures_that_would_fill_the_memory_are_broken_ones(tmp_path, image, reason, monkeypatch):
    monkeypatch.setattr(folder_module, "MAX_PIXELS", 60_000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30_000)  # at which Pillow warns
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
    write(tmp_path / "valid" / "c" / "0.png", PNG)
    with pytest.raises(ValueError, match="valid has the class 'c', which .*train has not"):
        data.load(str(tmp_path))


def test_train_can_be_a_class(tmp_path):
    fill(tmp_path, ("bus", "car", "train"), 5)
    with pytest.warns(UserWarning, match="no test split"):
        assert data.load(str(tmp_path)).labels == ("bus", "car", "train")


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        (["Train/a", "Train/b", "Test/a"], "has 'Test' and 'Train' for a folder; splits are called train, and test"),
        (["training/a", "training/b", "testing/a"], "has 'testing' and 'training' for a folder"),
        (["train/a", "train/b", "Test/a"], "has 'Test' for a folder"),
        (["train", "test"], "has 'train' and 'test' for a folder|has 'test' and 'train' for a folder"),
        (["test/a", "val/a"], "has 'test' and 'val' for a folder"),
        (["pets/a", "pets/b"], "two classes or more; it has 'pets' alone"),
        (["a", "b\nc"], r"has the class 'b\\nc'; give its folder a name of one line"),
        (["a", "b\u2028c"], "give its folder a name of one line"),
    ],
)
def test_names_of_folders_that_mean_something_else(tmp_path, folders, says):
    for name in folders:
        write(tmp_path / name / "0.png", PNG)
    with pytest.raises(ValueError, match=says):
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


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    """Its pictures are not left out in silence. Permissions stop no administrator, hence this way."""
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
    with pytest.raises(ValueError, match="pets.zip is a file; give the folder of the pictures, unpacked"):
        data.load(str(tmp_path / "pets.zip"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:pets has no test split")
def test_a_picture_that_is_gone_while_it_trains(tmp_path, monkeypatch):
    """Said in a line with its name; put back, the training goes on."""
    fill(tmp_path / "pets", ("a", "b"), 20)
    kept = {file: file.read_bytes() for file in (tmp_path / "pets" / "a").iterdir()}
    compile_for = training.compile_for

    def lose_files(*arguments):
        for file in kept:
            file.unlink()
        return compile_for(*arguments)

    recipe = RECIPES["imagenet-tiny"].override(dataset=str(tmp_path / "pets"), steps=2)
    monkeypatch.setattr(training, "compile_for", lose_files)
    with pytest.raises(OSError, match=r"pets/a/\d+.jpg was there when the training began; put it back"):
        training.train(recipe, tmp_path / "run")
    monkeypatch.undo()
    for file, content in kept.items():
        file.write_bytes(content)
    assert training.train(recipe, tmp_path / "run").model_file.exists()


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_a_name_comes_before_a_folder_that_is_called_so(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / name, ("a", "b"), 5)
    fill(tmp_path / "pets", ("a", "b"), 5)
    with pytest.warns(UserWarning, match=f"{name} is the data set of that name; give ./{name} for the folder"):
        if name == "digits":
            assert len(data.load(name).labels) == 10
        else:
            with pytest.raises(ValueError, match=f"{name} is not in "):
                data.load(name, data_dir=str(tmp_path / "nothing"))
    for path in (f"./{name}", f"{name}/", "pets"):
        with pytest.warns(UserWarning, match="no test split"):
            assert data.load(path).labels == ("a", "b")


@pytest.mark.parametrize(("sides", "size"), [((40, 30), 30), ((500, 400), 224)])
def test_the_input_size_follows_from_the_pictures(tmp_path, sides, size):
    for label in ("a", "b"):
        for i in range(4):
            write(tmp_path / label / f"{i}.png", encoded("png", picture(i, sides)))
    with pytest.warns(UserWarning):
        dataset = data.load(str(tmp_path))
    assert data.preprocessing_for(dataset, None).crop == size
    assert data.preprocessing_for(dataset, 48).crop == 48
