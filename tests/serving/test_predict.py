import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from helpers import PROGRAMS, STORED_BY_ORIENTATION
from PIL import Image

from keras_resnet import ResNetSpec, data
from keras_resnet.evaluation.evaluate import predictions as evaluated
from keras_resnet.networks.build import build
from keras_resnet.serving.export import export
from keras_resnet.serving.predict import files_in, predict, predict_each


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    files = [folder / f"{number}.png" for number in range(3)]
    for file, image in zip(files, data.load("digits").test.images, strict=False):
        tf.io.write_file(str(file), tf.io.encode_png(image))
    return files


@pytest.mark.slow
def test_a_run_and_its_export_predict_as_evaluate_does(digits_run, exported, images):
    version = exported
    wanted, _ = evaluated(digits_run)
    for target in (digits_run, digits_run.path, version, str(version.parent)):
        answers = predict(target, images, top=10)
        assert [answer["image"] for answer in answers] == [str(file) for file in images]
        for answer, row in zip(answers, wanted, strict=False):
            assert answer["scores"] == sorted(answer["scores"], reverse=True)
            found = np.zeros(10)
            found[[int(label) for label in answer["classes"]]] = answer["scores"]
            np.testing.assert_allclose(found, row, atol=1e-5)
    assert [len(answer["classes"]) for answer in predict(version, images, top=2)] == [2, 2, 2]


def test_an_unreadable_file_is_named(digits_run, images, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match="text.png is not an image"):
        predict(digits_run.path, [images[0], tmp_path / "text.png"])
    with pytest.raises(ValueError, match="gone.png cannot be read: No such file"):
        predict(digits_run.path, [tmp_path / "gone.png"])
    with pytest.raises(ValueError, match="neither a run .* nor an export"):
        predict(tmp_path, images)
    with pytest.raises(ValueError, match="top is 0"):
        predict(digits_run.path, images, top=0)


@pytest.mark.slow
def test_a_run_and_its_export_read_and_refuse_the_same_files(digits_run, exported, tmp_path):
    """Both read a JPEG without its end marker."""
    image = Image.fromarray(data.load("digits").test.images[0])
    for kind in ("png", "gif", "bmp", "webp"):
        image.save(tmp_path / f"digit.{kind}", lossless=True)
    image.quantize(256).save(tmp_path / "palette.bmp")
    image.save(tmp_path / "digit.jpg")
    whole = (tmp_path / "digit.jpg").read_bytes()
    assert whole.endswith(b"\xff\xd9")
    (tmp_path / "open.jpg").write_bytes(whole[:-2])
    (tmp_path / "cut.jpg").write_bytes(whole[:-20])
    names = ("digit.png", "digit.gif", "digit.bmp", "palette.bmp", "digit.jpg", "open.jpg")
    found = [
        [answer["scores"] for answer in predict(target, [tmp_path / name for name in names])]
        for target in (digits_run.path, exported)
    ]
    np.testing.assert_allclose(*found, atol=1e-5)
    np.testing.assert_allclose(found[0][1:4], found[0][:1] * 3, atol=1e-6)
    np.testing.assert_array_equal(found[0][4], found[0][5])
    for target in (digits_run.path, exported):
        with pytest.raises(ValueError, match="digit.webp is not .*: WebP; give JPEG, PNG, GIF or"):
            predict(target, [tmp_path / "digit.webp"])
        with pytest.raises(ValueError, match="cut.jpg is not .*: a damaged JPEG, or one that is"):
            predict(target, [tmp_path / "cut.jpg"])


@pytest.mark.slow
def test_rotated_photographs_are_classified_upright(digits_run, exported, tmp_path):
    """By a run and its export, as JPEG and PNG, in all orientations."""
    image = Image.fromarray(data.load("digits").test.images[3])
    for kind in ("png", "jpg"):
        # Of 16 x 16 pixels, so that the loss of JPEG does not depend on the position of blocks.
        large = image.resize((16, 16), Image.Resampling.NEAREST)
        files = [tmp_path / f"{number}.{kind}" for number in range(9)]
        large.save(files[0], quality=100, subsampling=0)
        for number, back in enumerate(STORED_BY_ORIENTATION, 1):
            exif = Image.Exif()
            exif[0x0112] = number
            stored = large if back is None else large.transpose(back)
            stored.save(files[number], exif=exif, quality=100, subsampling=0)
        for target in (digits_run.path, exported):
            answers = predict(target, files, top=10)
            for answer in answers[1:]:
                assert answer["classes"][:2] == answers[0]["classes"][:2]
                np.testing.assert_allclose(answer["scores"], answers[0]["scores"], atol=0.01)


def test_a_run_from_before_exif_orientation_reads_images_as_stored(digits_run, tmp_path):
    run = shutil.copytree(digits_run.path, tmp_path / "run")
    values = json.loads((run / "preprocessing.json").read_text())
    del values["exif_orientation"]
    (run / "preprocessing.json").write_text(json.dumps(values))
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(data.load("digits").test.images[3])
    image.save(tmp_path / "phone.png", exif=exif)
    image.save(tmp_path / "stored.png")
    lying, stored = predict(run, [tmp_path / "phone.png", tmp_path / "stored.png"])
    assert lying["scores"] == stored["scores"]
    lying, stored = predict(digits_run, [tmp_path / "phone.png", tmp_path / "stored.png"])
    assert lying["scores"] != stored["scores"]


@pytest.mark.slow
@pytest.mark.parametrize("which", ["run", "export"])
def test_files_that_are_no_images_are_named_among_the_answers(
    which, digits_run, exported, images, tmp_path, monkeypatch
):
    """In the order of the files, whatever the chunks; a folder stands for its files."""
    target = {"run": digits_run, "export": exported}[which]
    folder = tmp_path / "folder"
    for name, content in {
        "a.png": images[0].read_bytes(),
        "b.txt": b"text",
        "c/d.png": images[1].read_bytes(),
        "c/e.png": images[1].read_bytes()[:-20],
        "f": images[2].read_bytes(),  # told by its content, not its name
        ".hidden.png": images[2].read_bytes(),
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    files = files_in([images[2], folder, tmp_path / "gone.png"])
    names = ["2.png", "a.png", "b.txt", "d.png", "e.png", "f", "gone.png"]
    assert [file.name for file in files] == names
    first, second, third = predict(target, images)
    wanted = {"2.png": third, "a.png": first, "d.png": second, "f": third}
    for chunk in (2, 32):
        monkeypatch.setattr("keras_resnet.serving.predict.CHUNK", chunk)
        answers = list(predict_each(target, files))
        assert [answer["image"] for answer in answers] == list(map(str, files))
        for file, answer in zip(files, answers, strict=True):
            if file.name in wanted:
                assert answer["classes"] == wanted[file.name]["classes"]
                np.testing.assert_allclose(
                    answer["scores"], wanted[file.name]["scores"], rtol=1e-5, atol=1e-7
                )
        errors = [answer["error"] for answer in answers if "error" in answer]
        assert [error.split(":")[0] for error in errors] == [
            f"{folder / 'b.txt'} is not an image that can be read",
            f"{folder / 'c' / 'e.png'} is not an image that can be read",
            f"{tmp_path / 'gone.png'} cannot be read",
        ]


def test_a_folder_without_files_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"^{tmp_path} holds no file; give images, or folders"):
        files_in([tmp_path])


def test_what_is_no_image_is_not_read_whole(digits_run, tmp_path):
    """A terabyte of nothing, which takes no space on the disk."""
    with (tmp_path / "film").open("wb") as file:
        file.truncate(2**40)
    (answer,) = predict_each(digits_run, [tmp_path / "film"])
    assert answer["error"].endswith(
        "film is not an image that can be read: no JPEG, PNG, GIF or BMP"
    )


@pytest.mark.slow
@pytest.mark.parametrize("which", ["export"])
def test_memory_does_not_grow_with_the_number_of_files(which, digits_run, tmp_path):
    """1,000 files of 224 px: 600 MB as float32, of which a chunk has 19 MB."""
    target = digits_run.path
    if which == "export":
        spec = ResNetSpec(stem="imagenet", blocks=(1, 1, 1, 1), width=16)
        model = build(spec, input_shape=(224, 224, 3), classes=3)
        target = export(
            model, tmp_path / "saved", class_names=["a", "b", "c"], preprocessing="caffe"
        )
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(noise).save(folder / "0.jpg")
    for number in range(1, 1000):
        (folder / f"{number}.jpg").hardlink_to(folder / "0.jpg")
    command = [sys.executable, PROGRAMS / "predict_memory.py", target, folder, "200", "1000"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    peaks = {int(count): float(peak) for count, peak in map(str.split, printed.splitlines())}
    assert list(peaks) == [200, 1000]
    assert peaks[1000] - peaks[200] < 40


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("saved_model.pb", b"", "does not answer"),
        ("saved_model.pb", b"\x0a\xff", "does not answer"),
        ("variables/variables.data-00000-of-00001", b"short", "does not answer"),
        ("assets/labels.txt", b"0\n1\n", "it has 2 labels and answers .* \\(1, 10\\)"),
        ("assets/labels.txt", b"\xff\n" * 10, "does not answer: .*utf-8"),
    ],
)
def test_a_damaged_export_is_named(exported, images, tmp_path, name, content, says):
    damaged = shutil.copytree(exported, tmp_path / "1")
    (damaged / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"^{damaged} .*{says}") as raised:
        predict(damaged, images[:1])
    assert len(str(raised.value).splitlines()) == 1


def test_scores_that_are_not_finite_are_refused(digits_run, images, monkeypatch):
    answer = (lambda encoded: np.full((1, 10), np.nan)), list("0123456789")
    monkeypatch.setattr("keras_resnet.serving.predict._open", lambda target: answer)
    with pytest.raises(ValueError, match="with scores that are not finite"):
        predict(digits_run, images[:1])
