"""The help: its groups, its examples, and the completion of a shell."""

import inspect
import re
import shlex
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from keras_resnet import RECIPES, Recipe, ResNetSpec
from keras_resnet.cli import groups
from keras_resnet.cli.commands import main
from keras_resnet.cli.parser import commands

VERBS = commands()


@pytest.mark.parametrize(
    ("cls", "by_title"), [(Recipe, groups.RECIPE), (ResNetSpec, groups.NETWORK)]
)
def test_each_field_is_in_one_group(cls, by_title):
    names = [name for group in by_title.values() for name in group]
    assert sorted(names) == sorted(field.name for field in fields(cls))


def test_values_pass_through_groups_unchanged():
    recipe = RECIPES["cifar10-resnet20"]
    made = groups.grouped(recipe, groups.RECIPE)
    given = groups.values(made)
    assert given["schedule"] == recipe.schedule
    assert given["spec.width"] == 16 and "spec" not in given
    assert groups.changes(recipe, made) == {}


def test_the_help_of_a_recipe_is_in_groups(capsys, monkeypatch):
    """Each flag in its group, with what the recipe has for it and what the source says of it."""
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["train", "cifar10-resnet20", "--help"]) == 0
    _, *parts = re.split(r"^ ([\w ]+?) *\n -+ *\n", capsys.readouterr().out, flags=re.MULTILINE)
    text = {
        title: " ".join(box.split()) for title, box in zip(parts[::2], parts[1::2], strict=True)
    }
    assert list(text) == ["options", *(f"{title} options" for title in groups.RECIPE)]
    assert "--run-dir FOLDER folder of the run; by default runs/NAME --devices" in text["options"]
    assert (
        "--batch-size INT images per step, over all devices together (default: 128)"
        in (text["optimization options"])
    )
    assert "--spec.width INT channels of the first" in text["network options"]
    assert "--spec.shortcut {A,B,C,None}" in text["network options"]
    assert "--skip-broken, --no-skip-broken" in text["data options"]


def test_the_help_names_what_a_verb_takes(capsys):
    assert main(["train", "--help"]) == 0
    assert capsys.readouterr().out.startswith(
        "usage: keras-resnet train [-h] [TRAIN OPTIONS] RECIPE\n"
    )
    assert main(["predict", "--help"]) == 0
    assert "EXPORT|RUN IMAGE ..." in capsys.readouterr().out


def test_the_first_help_has_one_line_per_verb(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for verb in VERBS:
        assert re.search(rf"^ +\S {verb} +[A-Z].+\. *$", out, re.MULTILINE)
    assert out.count("Example: ") == 1


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_has_an_example(verb, capsys):
    assert main([verb, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.count("\nExample: ") == 1
    assert f"\nExample: keras-resnet {verb}" in out


@pytest.mark.parametrize("verb", VERBS)
def test_the_example_of_a_verb_is_parsed(verb, monkeypatch):
    """What runs is replaced by what takes the same arguments, of which none lacks a value."""
    documented = inspect.getdoc(VERBS[verb])
    arguments = shlex.split(re.search(r"Example: keras-resnet (.+)", documented)[1])
    called = []

    def made(args=None):
        found = commands(args)

        def verb_itself(*positional, **named):
            called.append((positional, named))

        verb_itself.__signature__ = inspect.signature(found[verb])
        verb_itself.__annotations__ = inspect.get_annotations(found[verb])
        return found | {verb: verb_itself}

    monkeypatch.setattr("keras_resnet.cli.parser.commands", made)
    assert main(arguments) == 0
    assert len(called) == 1


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        (["tr"], ["train"]),
        (["train", "digits-tiny", "--learn"], ["--learning-rate"]),
        (["train", "digits-tiny", "--optimizer", ""], ["sgd", "adamw", "lamb"]),
        (["show", "resnet34", "--s"], ["--stem", "--shortcut", "--stride-on"]),
    ],
)
def test_bash_completes_verbs_flags_and_choices(typed, completed, tmp_path):
    """With the command that the README names."""
    text = (Path(commands.__code__.co_filename).parent / "README.md").read_text(encoding="utf-8")
    command = re.search(r"keras-resnet (--tyro-write-completion bash) \S+keras-resnet\n", text)[1]
    script = tmp_path / "keras-resnet"
    assert main([*command.split(), str(script)]) == 0
    ask = """
        source "$0"
        read -r _ _ function _ <<< "$(complete -p keras-resnet)"
        COMP_WORDS=(keras-resnet "$@")
        COMP_CWORD=$#
        "$function"
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    answered = subprocess.run(
        ["bash", "-c", ask, script, *typed], capture_output=True, text=True, check=True
    )
    assert answered.stdout.splitlines() == completed
