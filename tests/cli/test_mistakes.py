"""Typical mistakes: what each prints, in one line, and exit status 2."""

import pytest

from keras_resnet import RECIPES, Run
from keras_resnet.cli.commands import main

MISTAKES = [
    ("trian digits-tiny", "no verb is called 'trian'; the nearest is train"),
    (
        "train",
        "give the name of a recipe right after `train`; `keras-resnet list` shows them",
    ),
    (
        "train digits-resnet21",
        "no recipe is called 'digits-resnet21'; the nearest are digits-resnet20, digits-resnet56",
    ),
    (
        "train digits-tiny --lr 0.1",
        "no flag of `keras-resnet train` is called '--lr'; the nearest is --learning-rate",
    ),
    ("train digits-tiny --learning-rate fast", "--learning-rate is 'fast'; give a number"),
    (
        "train digits-tiny --spec.width 0",
        "--spec.width is 0; give a positive integer number of channels, at most 65,536",
    ),
    (
        "train digits-tiny --spec.shortcut D",
        "--spec.shortcut is 'D'; choose one of 'A', 'B', 'C', 'None'",
    ),
    (
        "show resnet35",
        "no network is called 'resnet35'; the nearest are resnet34, resnet32, resnet44",
    ),
    (
        "search digits-tiny",
        "`keras-resnet search` needs --trials INT; `keras-resnet search --help` shows an example",
    ),
    (
        "evaluate runs/digits",
        "runs/digits is not a run: it has no recipe.json; the runs beside it are runs/digits-tiny",
    ),
    (
        "export runs/digits-tiny",
        "runs/digits-tiny is not fully trained: it has no model.keras; `keras-resnet train"
        " runs/digits-tiny` resumes it",
    ),
    # The same in other forms.
    (
        "",
        "no verb is given; choose one of list, show, train, evaluate, report, explain,"
        " reproduce, export, check, benchmark, predict, demo, client, search: `keras-resnet --help`"
        " says more",
    ),
    ("--hlep", "no flag of `keras-resnet` is called '--hlep'; the nearest is --help"),
    (
        "show resnet34 --json=yes",
        "'yes' is one argument too many; `keras-resnet show --help` shows an example",
    ),
    ("train digits-tiny --epochs", "--epochs has no value; give a number"),
    ("train digits-tiny --spec.width=1.5", "--spec.width is '1.5'; give an integer"),
    (
        "train digits-tiny --epochs 2 --steps 3",
        "--epochs is 2.0 and --steps is 3; give exactly one of them",
    ),
    (
        "train digits-tiny --schedule 0 1 0.5",
        "--schedule is '0 1 0.5'; give FLOAT FLOAT ...|{cosine,plateau}",
    ),
    (
        "search digits-tiny --trails=5",
        "no flag of `keras-resnet search` is called '--trails'; the nearest is --trials",
    ),
    ("export", "`keras-resnet export` needs RUN; `keras-resnet export --help` shows an example"),
    (
        "client http://localhost:8501 rose.jpg",
        "`keras-resnet client` needs --model STR; `keras-resnet client --help` shows an example",
    ),
    (
        "client localhost:8501 rose.jpg --model flowers",
        "url is 'localhost:8501'; give http://HOST:PORT, https://HOST, grpc://HOST:PORT or"
        " grpcs://HOST:PORT",
    ),
    (
        "client http://localhost --model flowers --version 1 --label stable",
        "--version is 1 and --label is 'stable'; give at most one of them",
    ),
    (
        "client http://localhost --model flowers --retries 9",
        "--retries is 9; give 0 to 4",
    ),
    ("report", "no run is given; give one or more"),
    ("explain", "no run is given; give one or more"),
    ("check 1 2", "'2' is one argument too many; `keras-resnet check --help` shows an example"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "says"), MISTAKES, ids=[each for each, _ in MISTAKES])
def test_a_mistake_is_answered_in_one_line(arguments, says, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Run(tmp_path / "runs" / "digits-tiny").begin(RECIPES["digits-tiny"])
    assert main(arguments.split()) == 2
    assert capfd.readouterr() == ("", f"keras-resnet: {says}\n")
