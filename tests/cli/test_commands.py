"""The command line: what it prints, how it reports errors, and how it is interrupted."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import tensorflow as tf

from keras_resnet import RECIPES, Recipe, Run, data
from keras_resnet.cli import tables
from keras_resnet.cli.commands import main
from keras_resnet.cli.evaluations import evaluate
from keras_resnet.cli.output import console
from keras_resnet.data.crops import VIEWS
from keras_resnet.evaluation.evaluate import SCORES, SPLITS


def run(*arguments, env=None):
    """Run the command in a process of its own, as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "keras_resnet", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=env,
    )


def refused(result, *says):
    """Return True if the command failed with a message and without a traceback."""
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert all(text in result.stderr for text in says)
    return True


@pytest.mark.slow
def test_the_whole_path(tmp_path):
    folder = tmp_path / "run"
    assert run("train", "digits-tiny", "--run-dir", folder, "--epochs", "1").returncode == 0
    result = json.loads(run("evaluate", folder, "--json").stdout)
    assert result["images"] == 360 and 0 < result["top1_error"] < 90
    version = json.loads(run("export", folder, "--to", tmp_path / "saved", "--json").stdout)[
        "export"
    ]
    assert version == str(tmp_path / "saved" / "run" / "1")
    tf.io.write_file(
        str(tmp_path / "digit.png"), tf.io.encode_png(data.load("digits").test.images[0])
    )
    answer = json.loads(run("predict", version, tmp_path / "digit.png", "--json").stdout)
    assert len(answer["classes"]) == 5
    assert str(tmp_path / "digit.png") in run("predict", folder, tmp_path / "digit.png").stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "digit-resnet20"], ["'digit-resnet20'", "digits-resnet20"]),
        (["train"], ["name of a recipe"]),
        (["train", "digits-tiny", "--learning-rate", "fast"], ["--learning-rate", "'fast'"]),
        (
            ["train", "digits-tiny", "--learning-rates", "1"],
            ["--learning-rates", "--learning-rate"],
        ),
        (["train", "digits-tiny", "--spec.shortcut", "D"], ["'D'", "'A'", "'B'", "'C'"]),
        (["train", "digits-tiny", "--batch-size", "0"], ["--batch-size is 0; give a positive"]),
        (
            ["train", "digits-tiny", "--dataset", "mnits", "--run-dir", "RUN"],
            ["'mnits'", "digits, synthetic"],
        ),
        (
            ["train", "digits-tiny", "--batch-size", "2000", "--run-dir", "RUN"],
            ["--batch-size is 2000", "1437"],
        ),
        (
            ["train", "cifar10-tiny", "--data-dir", "RUN", "--run-dir", "RUN"],
            ["cifar10", "download_and_prepare"],
        ),
        (["evaluate", "RUN"], ["is not a run"]),
        (
            ["evaluate", "RUN", "--views", "five"],
            ["--views", "'five'", "'single', 'ten-crop', 'multi-scale'"],
        ),
        (
            ["evaluate", "RUN", "--scores", "votes"],
            ["--scores", "'votes'", "'probabilities', 'logits'"],
        ),
        (["evaluate", "RUN", "--batch-size", "0"], ["--batch-size is 0; give a positive number"]),
        (
            ["evaluate", "RUN", "--split", "dev"],
            ["--split", "'dev'", "'test', 'validation', 'train'"],
        ),
        (["export", "RUN"], ["is not a run"]),
        (["predict", "RUN"], ["no image"]),
        (["predict", "RUN", "nothing.png"], ["nowhere is neither a run", "nor an export"]),
        (["show", "resnet35"], ["'resnet35'", "resnet34"]),
        (["show", "resnet34", "--compare", "plain35"], ["'plain35'", "plain34"]),
        (["show", "resnet34", "--input-size", "0"], ["--input-size is 0 and --classes is 1000"]),
        (["show", "resnet34", "--width", "0"], ["--width is 0"]),
        (["check", "RUN", "--expected", "calls"], ["--expected"]),
        (["show"], ["name of a network"]),
        (["learn"], ["learn", "train"]),
        ([], ["list"]),
    ],
)
def test_errors_name_the_value_and_the_choices(arguments, says, tmp_path, capfd):
    """In this process, since each new one takes seconds to start."""
    arguments = [
        str(tmp_path / "nowhere") if argument == "RUN" else argument for argument in arguments
    ]
    assert main(arguments) == 2
    error = capfd.readouterr().err
    assert all(text in error for text in says)


def test_evaluate_prints_what_it_found(digits_run, tmp_path, capsys):
    """In the given views; the worst classes first, each once."""
    folder = shutil.copytree(digits_run.path, tmp_path / "run")
    assert main(["evaluate", str(folder), "--views", "ten-crop", "--scores", "logits"]) == 0
    first, calibration, worst, brackets, written, following = capsys.readouterr().out.splitlines()
    result = json.loads((folder / "evaluation-ten-crop.json").read_text())
    assert (result["views"], result["scores"]) == ("ten-crop", "logits")
    (low, high), (low5, high5) = result["top1_interval"], result["top5_interval"]
    assert (
        first == "digits test, 360 images, ten-crop: "
        f"top-1 error {result['top1_error']:.2f} % ({low:.2f} to {high:.2f}), "
        f"top-5 error {result['top5_error']:.2f} % ({low5:.2f} to {high5:.2f})"
    )
    error = f"{result['calibration_error']:.2f} %"
    assert calibration == f"expected calibration error {error} (Guo et al. 2017, 15 bins)"
    assert "95 % intervals" in brackets and "not the spread over seeds" in brackets
    named = re.findall(r"(\d) (\d+\.\d\d) % \(", worst.removeprefix("worst classes: "))
    errors = sorted(result["class_errors"].values(), reverse=True)[:5]
    assert [error for _, error in named] == [f"{error:.2f}" for error in errors]
    assert all(f"{result['class_errors'][label]:.2f}" == error for label, error in named)
    low, high = result["class_intervals"][named[0][0]]
    assert worst.startswith(f"worst classes: {' '.join(named[0])} % ({low:.2f} to {high:.2f}), ")
    assert written == f"confusion matrix: {folder / 'confusion-ten-crop.csv'}"
    assert (folder / "confusion-ten-crop.csv").is_file()
    assert following == f"next: keras-resnet export {folder}"


def result_of(changes, errors):
    """Return a result of `evaluate`."""
    result = {"top1_error": 50.0, "top1_interval": [15.0, 85.0], "images": 4, "split": "test"}
    result |= {"calibration_error": 25.0}
    intervals = {name: [0.0, 100.0] for name in errors}
    by_class = {"class_errors": errors, "class_intervals": intervals}
    return result | {"dataset": "pets"} | by_class | changes


def test_names_reach_the_terminal_as_they_are(monkeypatch, tmp_path, capsys):
    """Escape codes are shown and have no effect; brackets are no markup, and colons no emoji."""
    name = "\x1b]0;owned\x07[red]:dog:[/red][/]\u202e"
    shown = r"\x1b]0;owned\x07[red]:dog:[/red][/]\u202e"
    errors = {name: 100.0, "cat": 0.0, "fish": 0.0}
    result = result_of({"dataset": name}, errors)
    monkeypatch.setattr("keras_resnet.evaluation.evaluate.evaluate", lambda *_, **__: result)
    assert main(["evaluate", "runs/pets"]) == 0
    assert capsys.readouterr().out.startswith(f"{shown} test, 4 images")
    answering(monkeypatch, [{"image": name, "classes": [name], "scores": [1.0]}])
    assert main(["predict", "runs/pets", "image.png"]) == 0
    assert capsys.readouterr().out == f"{shown}: {shown} 1.0000\n"
    assert main(["check", str(tmp_path / name)]) == 2
    error = capsys.readouterr().err
    assert shown in error and "\x1b" not in error
    console().print(tables.trials(name, [{"[b]": name, name: "[/]"}]))
    table = capsys.readouterr().out
    assert table.count(shown) == 3 and "[b]" in table and "[/]" in table
    short = "[/b]\x1b"
    places = {short: {"inputs": {short: "?"}, "outputs": {}}}
    console().print(tables.signatures(short, places, {}, {}))
    assert capsys.readouterr().out.count(r"[/b]\x1b") == 3


def answering(monkeypatch, answers):
    """Let `predict` give these answers, one per file."""
    monkeypatch.setattr(
        "keras_resnet.serving.predict.predict_each", lambda target, files, top: iter(answers)
    )


GOOD = {"image": "cat.png", "classes": ["cat", "dog"], "scores": [0.75, 0.25]}
BAD = {"image": "b.txt", "error": "b.txt is not an image"}


def test_predict_answers_the_good_files_and_names_the_bad_ones(monkeypatch, capsys):
    answering(monkeypatch, [BAD, GOOD, BAD])
    assert main(["predict", "runs/pets", "b.txt", "cat.png", "b.txt"]) == 2
    out, error = capsys.readouterr()
    assert out == "cat.png: cat 0.7500  dog 0.2500\n"
    assert error.splitlines() == [
        "keras-resnet: b.txt is not an image",
        "keras-resnet: b.txt is not an image",
        "keras-resnet: 2 of 3 files have no answer",
    ]
    answering(monkeypatch, [GOOD, GOOD])
    assert main(["predict", "runs/pets", "cat.png", "cat.png"]) == 0
    assert capsys.readouterr() == ("cat.png: cat 0.7500  dog 0.2500\n" * 2, "")


def test_predict_of_one_bad_file_is_one_line(monkeypatch, capsys):
    answering(monkeypatch, [BAD])
    assert main(["predict", "runs/pets", "b.txt"]) == 2
    assert capsys.readouterr() == ("", "keras-resnet: b.txt is not an image\n")


def test_predict_prints_a_line_of_json_per_file_at_once(monkeypatch, capsys):
    def answers():
        yield GOOD
        assert json.loads(capsys.readouterr().out) == GOOD  # before the next one is there
        yield BAD
        assert json.loads(capsys.readouterr().out) == BAD

    answering(monkeypatch, answers())
    assert main(["predict", "runs/pets", "cat.png", "b.txt", "--json"]) == 2


def test_predict_takes_folders(digits_run, tmp_path, capsys):
    for number, image in enumerate(data.load("digits").test.images[:3]):
        tf.io.write_file(str(tmp_path / "images" / f"{number}.png"), tf.io.encode_png(image))
    assert main(["predict", str(digits_run.path), str(tmp_path / "images"), "--top", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        str(tmp_path / "images" / f"{number}.png") for number in range(3)
    ]


@pytest.mark.skipif(os.name != "posix", reason="the system has no pseudo terminals")
@pytest.mark.parametrize("answers_on_terminal", [False, True])
def test_progress_is_shown_on_a_terminal_that_shows_no_answers(answers_on_terminal):
    import pty

    ours, theirs = pty.openpty()
    code = "from keras_resnet.cli.output import tracked; print(*tracked(iter([5, 6, 7]), 3))"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        stdout=theirs if answers_on_terminal else subprocess.PIPE,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "80"},
    )
    os.close(theirs)
    shown = os.read(ours, 100_000).decode() if answers_on_terminal or ended.stdout else ""
    os.close(ours)
    assert ended.returncode == 0
    assert ("3/3" in shown) is not answers_on_terminal
    assert ("5 6 7" in shown) is answers_on_terminal
    if not answers_on_terminal:
        assert ended.stdout == b"5 6 7\n"


def test_a_recipe_with_markup_in_its_values_shows_its_help(tmp_path, capsys):
    recipe = RECIPES["digits-tiny"].override(name="[red]x[y]", dataset="a[/b]")
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    assert main(["train", str(tmp_path / "recipe.json"), "--help"]) == 0
    assert "[red]x[y]" in capsys.readouterr().out


def test_evaluate_names_no_worst_class_of_two(monkeypatch, capsys):
    """And no top-5 error, which five classes or fewer do not have."""
    errors = {"cat": 100.0, "dog": 0.0}
    monkeypatch.setattr(
        "keras_resnet.evaluation.evaluate.evaluate", lambda *_, **__: result_of({}, errors)
    )
    assert main(["evaluate", "runs/pets"]) == 0
    printed = capsys.readouterr().out
    assert "worst" not in printed and "top-5" not in printed
    assert "4 images, single: top-1 error 50.00 % (15.00 to 85.00)\n" in printed
    errors["fish"] = 25.0
    assert main(["evaluate", "runs/pets"]) == 0
    assert (
        "worst classes: cat 100.00 % (0.00 to 100.00), fish 25.00 % (0.00 to 100.00), "
        "dog 0.00 % (0.00 to 100.00)\n"
    ) in capsys.readouterr().out


@pytest.mark.slow
def test_evaluate_on_other_data_names_its_own_files(digits_run, tmp_path, capsys):
    folder = shutil.copytree(digits_run.path, tmp_path / "run")
    (folder / "confusion.csv").unlink(missing_ok=True)  # other tests share the run
    for arguments, suffix in (
        (["--split", "train"], "-train"),
        (["--dataset", "digits"], "-digits"),
        (
            ["--dataset", "digits", "--split", "train", "--views", "ten-crop"],
            "-digits-train-ten-crop",
        ),
    ):
        assert main(["evaluate", str(folder), *arguments]) == 0
        named = folder / f"confusion{suffix}.csv"
        assert f"confusion matrix: {named}\n" in capsys.readouterr().out
        assert named.is_file()
    assert not (folder / "confusion.csv").exists()


def test_evaluate_offers_all_choices():
    """They are repeated in the command line, whose help does not load TensorFlow."""
    hints = get_type_hints(evaluate)
    assert get_args(hints["views"]) == tuple(VIEWS)
    assert get_args(hints["scores"]) == SCORES
    assert get_args(hints["split"]) == SPLITS


@pytest.fixture
def trained(monkeypatch):
    """The arguments that the command line gives `train`, which does nothing."""
    calls = []

    def remember(what, run_dir, **arguments):
        calls.append((what, run_dir, arguments))
        return Run(run_dir or Path("runs/made-up"))

    monkeypatch.setattr("keras_resnet.training.train.train", remember)
    return calls


def made_up_run(folder, **changes):
    """Begin a run that is not trained."""
    run = Run(folder)
    run.begin(replace(RECIPES["digits-tiny"], **changes))
    return run


def changed(arguments):
    """Return the changes of the recipe among the arguments of `train`."""
    return {name: value for name, value in arguments.items() if name in Recipe.__dataclass_fields__}


def test_train_takes_a_recipe_a_file_or_a_run(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine.json"
    file.write_text(replace(RECIPES["digits-tiny"], name="mine", momentum=0.5).to_json())
    started = made_up_run(tmp_path / "started", learning_rate=0.3)
    for name in ("digits-tiny", str(file), "started"):
        assert main(["train", name]) == 0
    (recipe, *_), (path, *_), (run, *_) = trained
    assert recipe == "digits-tiny" and path == str(file)
    assert run.path.samefile(started.path)
    assert all(run_dir is None and not changed(given) for _, run_dir, given in trained)


def test_a_recipe_comes_before_a_folder_of_its_name(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made_up_run(tmp_path / "digits-tiny")
    assert main(["train", "digits-tiny"]) == main(["train", "./digits-tiny"]) == 0
    assert trained[0][0] == "digits-tiny" and isinstance(trained[1][0], Run)


def test_only_changed_fields_are_passed_on(trained, tmp_path):
    """A flag with the run's own value changes nothing; a length replaces the other one."""
    folder = made_up_run(tmp_path / "run").path
    for name in ("digits-tiny", str(folder)):
        assert main(["train", name, "--steps", "9", "--momentum", "0.9", "--spec.width", "8"]) == 0
    for _, _, given in trained:
        assert changed(given) == {
            "epochs": None,
            "steps": 9,
            "spec": replace(RECIPES["digits-tiny"].spec, width=8),
        }


def test_changes_of_a_run_need_another_folder(tmp_path, capsys, trained, monkeypatch):
    run = made_up_run(tmp_path / "run")
    monkeypatch.undo()  # `train` itself
    assert main(["train", str(run.path), "--learning-rate", "0.5"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("keras-resnet: --learning-rate is 0.5; ")
    assert "another --run-dir" in error and "`" not in error


def test_a_folder_that_is_no_run(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["train", str(tmp_path / "empty")]) == 2
    assert "is not a run" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["train", "search"])
def test_an_interrupt_says_how_to_resume(verb, tmp_path, capsys, monkeypatch):
    """A run by its folder; what has not begun, and a search, by the command itself."""

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("keras_resnet.training.train.train", interrupted)
    monkeypatch.setattr("keras_resnet.tuning.tuner.search", interrupted)
    folder = tmp_path / "a run"
    command = [verb, "digits-tiny", "--run-dir", str(folder), "--momentum", "0.8"]
    command += ["--trials", "2"] if verb == "search" else []
    assert main(command) == 130
    again = f"keras-resnet {verb} digits-tiny --run-dir '{folder}' --momentum 0.8"
    again += " --trials 2" if verb == "search" else ""
    assert capsys.readouterr().err == f"keras-resnet: stopped; `{again}` resumes\n"
    made_up_run(folder)
    assert main(command) == 130
    again = f"keras-resnet train '{folder}'" if verb == "train" else again
    assert capsys.readouterr().err == f"keras-resnet: stopped; `{again}` resumes\n"


def test_other_verbs_only_stop(tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("keras_resnet.evaluation.evaluate.evaluate", interrupted)
    assert main(["evaluate", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "keras-resnet: stopped\n"


# A process that a shell starts in the background ignores SIGINT, and so do its children.
INTERRUPT = """import os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
os.write(2, b"noise" * NOISE)
os.kill(os.getpid(), signal.SIGINT)
"""


def test_an_interrupt_of_the_start_is_quiet(tmp_path):
    """Importing TensorFlow takes seconds, and what it says meanwhile is of no use then."""
    (tmp_path / "tensorflow.py").write_text(INTERRUPT.replace("NOISE", "1"))
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    for arguments in (("evaluate", "runs/a"), ("train", "digits-tiny")):
        ended = run(*arguments, env=env)
        assert ended.returncode == 130
        assert (ended.stdout, ended.stderr) == ("", "keras-resnet: stopped\n")


def test_an_interrupt_before_the_parser_is_quiet(tmp_path):
    (tmp_path / "tyro.py").write_text(INTERRUPT.replace("NOISE", "0"))
    ended = run("list", env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr == "keras-resnet: stopped\n"


@pytest.mark.parametrize("arguments", ["list", "list --json", "show resnet152 --json", "--help"])
def test_a_closed_pipe_is_quiet(arguments):
    """`head` has read enough: nobody is there for the rest, nor for a complaint."""
    command = [sys.executable, "-m", "keras_resnet", *arguments.split()]
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (1, "")


@pytest.mark.slow
def test_no_traceback_in_a_process_of_its_own(tmp_path):
    assert refused(run("evaluate", tmp_path), "is not a run")


def test_another_backend_is_refused(tmp_path):
    assert refused(
        run("evaluate", tmp_path, env=os.environ | {"KERAS_BACKEND": "jax"}),
        "'jax'",
        "'tensorflow'",
    )


@pytest.mark.slow
def test_channels_first_is_refused(tmp_path):
    (tmp_path / "keras.json").write_text('{"image_data_format": "channels_first"}')
    env = os.environ | {"KERAS_HOME": str(tmp_path)}
    assert refused(
        run("train", "digits-tiny", "--run-dir", tmp_path / "run", env=env),
        "channels_first",
        "channels_last",
    )


def test_list_and_show_as_json(capsys):
    assert main(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    by_name = {network["name"]: network for network in listed["networks"]}
    # He et al. 2015, Table 6 and Table 3; torchvision's parameter count.
    assert by_name["resnet20"]["paper_error"] == 8.75
    assert by_name["resnet50"]["paper_error"] == 22.85
    assert by_name["resnet50"]["parameters"] == 25_557_032
    assert {recipe["name"] for recipe in listed["recipes"]} >= {
        "digits-resnet20",
        "cifar10-resnet20",
    }
    assert main(["show", "resnet50", "--stride-on", "3x3", "--json"]) == 0
    # v1.5 as torchvision counts it: 4.089 G multiply-adds.
    assert json.loads(capsys.readouterr().out)["multiply_adds"] == 4_089_184_256


def test_tables_name_what_they_show(capsys):
    assert main(["show", "resnet34", "--compare", "plain34"]) == 0
    out = capsys.readouterr().out
    assert (
        "3,663,761,408" in out and "3,644,493,824" in out and "conv5_x" in out and "899 px" in out
    )
    assert main(["list"]) == 0
    assert "resnet1202" in capsys.readouterr().out


def test_version(capsys):
    import keras_resnet

    assert main(["--version"]) == 0
    assert keras_resnet.__version__ in capsys.readouterr().out
