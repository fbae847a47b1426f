"""Every command line of the READMEs, the tour and the scripts is one that the program takes."""

import importlib
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from keras_resnet.cli.commands import main
from keras_resnet.runs.recipes import RECIPES

ROOT = Path(__file__).parents[2]
COMPUTE = {  # what the verbs call, and where it is
    "train": "keras_resnet.training.train",
    "evaluate": "keras_resnet.evaluation.evaluate",
    "compare": "keras_resnet.evaluation.compare",
    "report": "keras_resnet.evaluation.report",
    "explain": "keras_resnet.evaluation.explain",
    "reproduce": "keras_resnet.evaluation.reproduce",
    "export": "keras_resnet.serving.export",
    "check": "keras_resnet.serving.check",
    "benchmark": "keras_resnet.serving.benchmark",
    "predict_each": "keras_resnet.serving.predict",
    "demo": "keras_resnet.serving.demo",
    "Client": "keras_resnet.serving.client",
    "search": "keras_resnet.tuning.tuner",
}
STAND_INS = {"RUN": "runs/digits-tiny", "RECIPE": "digits-tiny", "VERB": "train"}


@dataclass
class Called(Exception):
    """What would have computed was called."""

    verb: str


def texts():
    for path in sorted(ROOT.glob("keras_resnet/**/README.md")):
        yield path, path.read_text(encoding="utf-8")
    for name in (
        "README.md",
        "CHANGELOG.md",
        "scripts/README.md",
        "scripts/serving/README.md",
        "scripts/quickstart.sh",
    ):
        yield ROOT / name, (ROOT / name).read_text(encoding="utf-8")
    yield ROOT / "scripts/tour.ipynb", (ROOT / "scripts/tour.ipynb").read_text(encoding="utf-8")


def command_lines():
    """Return every command, from lines of their own and from inside of sentences."""
    found = set()
    for path, text in texts():
        lines = re.findall(
            r'^(?:"\$VENV/bin/keras-resnet"|  keras-resnet|keras-resnet) (.*)$', text, re.M
        )
        quoted = [] if path.suffix == ".sh" else re.findall(r"`keras-resnet ([^`]*)`", text)
        found |= {line.split("#")[0].strip() for line in lines + quoted}
    return sorted(line for line in found if "|" not in line and line not in COMPUTE)


def test_there_are_commands():
    assert len(command_lines()) > 20
    assert "train digits-resnet20" in command_lines()


@pytest.mark.slow
@pytest.mark.parametrize("line", command_lines())
def test_the_program_takes_the_command(line, tmp_path, monkeypatch, digits_run, capsys):
    monkeypatch.chdir(tmp_path)
    args = [STAND_INS.get(arg, arg) for arg in shlex.split(line.replace("...", ""))]
    for arg in args:
        if arg.startswith("runs/") and arg.endswith(".json"):
            Path(arg).parent.mkdir(parents=True)
            Path(arg).write_text(RECIPES["digits-tiny"].to_json())
        elif (
            arg.startswith("runs/") and args[0] == "train" and args[args.index(arg) - 1] == "train"
        ):
            shutil.copytree(digits_run.path, arg)
    # All are imported first: a module that is imported later would keep the stand-ins of others.
    modules = {verb: importlib.import_module(module) for verb, module in COMPUTE.items()}
    for verb, module in modules.items():

        def called(*_, verb=verb, **__):
            raise Called(verb)

        monkeypatch.setattr(module, verb, called)
    try:
        status = main(args)
    except Called as call:
        assert call.verb in (args[0], "compare", "predict_each", "Client")
    except SystemExit as end:
        assert end.code == 0 and "--help" in args
    else:
        assert status == 0, capsys.readouterr().err
