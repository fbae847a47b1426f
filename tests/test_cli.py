import json
import re
import shutil
import subprocess
import sys
from typing import get_args, get_type_hints

import pytest
import tensorflow as tf

from keras_resnet import data
from keras_resnet.cli import evaluate, main
from keras_resnet.evaluate import SCORES


def run(*arguments, env=None):
    """In a process of its own, as a user would."""
    return subprocess.run(
        [sys.executable, "-m", "keras_resnet", *map(str, arguments)], capture_output=True, text=True, env=env
    )


def refused(result, *says):
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    for text in says:
        assert text in result.stderr.replace("│\n│ ", "")  # the parser's messages are in a box
    return True


@pytest.mark.slow
def test_the_whole_path(tmp_path):
    folder = tmp_path / "run"
    assert run("train", "digits-tiny", "--run-dir", folder, "--epochs", "1").returncode == 0
    result = json.loads(run("evaluate", folder, "--json").stdout)
    assert result["images"] == 360 and 0 < result["top1_error"] < 90
    version = json.loads(run("export", folder, "--to", tmp_path / "saved", "--json").stdout)["export"]
    assert version == str(tmp_path / "saved" / "run" / "1")
    tf.io.write_file(str(tmp_path / "digit.png"), tf.io.encode_png(data.load("digits").test.images[0]))
    answers = json.loads(run("predict", version, tmp_path / "digit.png", "--json").stdout)
    assert len(answers[0]["classes"]) == 5
    assert str(tmp_path / "digit.png") in run("predict", folder, tmp_path / "digit.png").stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "digit-resnet20"], ["'digit-resnet20'", "digits-resnet20"]),
        (["train"], ["name of a recipe"]),
        (["train", "digits-tiny", "--learning-rate", "fast"], ["--learning-rate", "'fast'"]),
        (["train", "digits-tiny", "--learning-rates", "1"], ["--learning-rates", "--learning-rate"]),
        (["train", "digits-tiny", "--spec.shortcut", "D"], ["'D'", "'A'", "'B'", "'C'"]),
        (["train", "digits-tiny", "--batch-size", "0"], ["batch_size is 0"]),
        (["train", "digits-tiny", "--dataset", "mnits", "--run-dir", "RUN"], ["'mnits'", "digits, synthetic"]),
        (["train", "digits-tiny", "--batch-size", "2000", "--run-dir", "RUN"], ["2000", "1437"]),
        (["train", "cifar10-tiny", "--data-dir", "RUN", "--run-dir", "RUN"], ["cifar10", "download_and_prepare"]),
        (["evaluate", "RUN"], ["is not a run"]),
        (["evaluate", "RUN", "--views", "five"], ["--views", "'five'", "'single', 'ten-crop', 'multi-scale'"]),
        (["evaluate", "RUN", "--scores", "votes"], ["--scores", "'votes'", "'probabilities', 'logits'"]),
        (["evaluate", "RUN", "--batch-size", "0"], ["batch_size is 0; give a positive number"]),
        (["export", "RUN"], ["is not a run"]),
        (["predict", "RUN"], ["no image"]),
        (["predict", "RUN", "nothing.png"], ["nothing.png", "No such file"]),
        (["show", "resnet35"], ["'resnet35'", "resnet34"]),
        (["show", "resnet34", "--compare", "plain35"], ["'plain35'", "plain34"]),
        (["show", "resnet34", "--input-size", "0"], ["input_size is 0"]),
        (["show"], ["name of a network"]),
        (["learn"], ["learn", "train"]),
        ([], ["list"]),
    ],
)
def test_what_a_user_can_get_wrong_is_named(arguments, says, tmp_path, capfd):
    """In this process where that is as good, since each new one takes seconds to start."""
    arguments = [str(tmp_path / "nowhere") if argument == "RUN" else argument for argument in arguments]
    try:
        status = main(arguments)
    except SystemExit as exit:  # how the parser ends
        status = exit.code
    error = capfd.readouterr().err
    assert status == 2
    error = " ".join(error.replace("│", " ").split())  # the parser's messages are in a box
    for text in says:
        assert text in error


def test_evaluate_says_what_it_found(digits_run, tmp_path, capsys):
    """In the views that it is asked for; each class once, the worst first."""
    folder = shutil.copytree(digits_run.path, tmp_path / "run")
    assert main(["evaluate", str(folder), "--views", "ten-crop", "--scores", "logits"]) == 0
    first, worst, written, following = capsys.readouterr().out.splitlines()
    result = json.loads((folder / "evaluation-ten-crop.json").read_text())
    assert (result["views"], result["scores"]) == ("ten-crop", "logits")
    assert first == (
        f"digits test, 360 images, ten-crop: "
        f"top-1 error {result['top1_error']:.2f} %, top-5 error {result['top5_error']:.2f} %"
    )
    named = re.findall(r"(\d) (\d+\.\d\d) %", worst.removeprefix("worst classes: "))
    errors = sorted(result["class_errors"].values(), reverse=True)[:5]
    assert [error for _, error in named] == [f"{error:.2f}" for error in errors]
    assert all(f"{result['class_errors'][label]:.2f}" == error for label, error in named)
    assert written == f"confusion matrix: {folder / 'confusion-ten-crop.csv'}"
    assert (folder / "confusion-ten-crop.csv").is_file()
    assert following == f"next: keras-resnet export {folder}"


def test_evaluate_names_no_worst_of_two_classes(monkeypatch, capsys):
    result = {"top1_error": 50.0, "top5_error": 0.0, "images": 4, "dataset": "pets", "split": "test"}
    errors = {"cat": 100.0, "dog": 0.0}
    monkeypatch.setattr("keras_resnet.evaluate.evaluate", lambda *_, **__: result | {"class_errors": errors})
    assert main(["evaluate", "runs/pets"]) == 0
    assert "worst" not in capsys.readouterr().out
    errors["fish"] = 25.0
    assert main(["evaluate", "runs/pets"]) == 0
    assert "worst classes: cat 100.00 %, fish 25.00 %, dog 0.00 %\n" in capsys.readouterr().out


def test_evaluate_offers_what_there_is():
    """The choices are written out in the command line, which answers without TensorFlow."""
    hints = get_type_hints(evaluate)
    assert get_args(hints["views"]) == tuple(data.VIEWS)
    assert get_args(hints["scores"]) == SCORES


def test_no_traceback_in_a_process_of_its_own(tmp_path):
    assert refused(run("evaluate", tmp_path), "is not a run")


def test_another_backend_is_refused(tmp_path):
    import os

    assert refused(run("evaluate", tmp_path, env=os.environ | {"KERAS_BACKEND": "jax"}), "'jax'", "'tensorflow'")


def test_channels_first_is_refused(tmp_path):
    import os

    (tmp_path / "keras.json").write_text('{"image_data_format": "channels_first"}')
    env = os.environ | {"KERAS_HOME": str(tmp_path)}
    assert refused(
        run("train", "digits-tiny", "--run-dir", tmp_path / "run", env=env), "channels_first", "channels_last"
    )


def test_list_and_show_as_json(capsys):
    assert main(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    by_name = {network["name"]: network for network in listed["networks"]}
    # He et al. 2015, Table 6 and Table 3; torchvision's parameter count.
    assert by_name["resnet20"]["paper_error"] == 8.75
    assert by_name["resnet50"]["paper_error"] == 22.85
    assert by_name["resnet50"]["parameters"] == 25_557_032
    assert {recipe["name"] for recipe in listed["recipes"]} >= {"digits-resnet20", "cifar10-resnet20"}
    assert main(["show", "resnet50", "--stride-on", "3x3", "--json"]) == 0
    # v1.5 as torchvision counts it: 4.089 G multiply-adds.
    assert json.loads(capsys.readouterr().out)["multiply_adds"] == 4_089_184_256


def test_tables_name_what_they_show(capsys):
    assert main(["show", "resnet34", "--compare", "plain34"]) == 0
    out = capsys.readouterr().out
    assert "3,663,761,408" in out and "3,644,493,824" in out and "conv5_x" in out and "899 px" in out
    assert main(["list"]) == 0
    assert "resnet1202" in capsys.readouterr().out


def test_version(capsys):
    import keras_resnet

    assert main(["--version"]) == 0
    assert keras_resnet.__version__ in capsys.readouterr().out
