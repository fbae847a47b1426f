"""The folder of a run: its files, its lock and its messages."""

import contextlib
import errno
import json
import os
import shlex
import subprocess
import sys
from dataclasses import replace

import pytest

from keras_resnet.files import whole_file, write_text
from keras_resnet.runs.recipes import RECIPES
from keras_resnet.runs.run import Run

TINY = RECIPES["digits-tiny"]


@pytest.mark.slow
def test_a_run_records_its_origin(digits_run):
    assert digits_run.recipe() == TINY
    assert digits_run.class_names() == tuple("0123456789")
    provenance = json.loads(digits_run.provenance_file.read_text())
    assert provenance["packages"]["tensorflow"].startswith("2.")
    program = shlex.split(provenance["command"])[0]
    assert program == os.path.basename(program), "without the program's folder"


def test_evaluations_of_other_views_have_separate_files(tmp_path):
    run = Run(tmp_path)
    assert run.evaluation_file() == run.evaluation_file("single") == tmp_path / "evaluation.json"
    assert run.evaluation_file("ten-crop") == tmp_path / "evaluation-ten-crop.json"
    assert run.confusion_file() == run.confusion_file("single") == tmp_path / "confusion.csv"
    assert run.confusion_file("multi-scale") == tmp_path / "confusion-multi-scale.csv"


def test_another_recipe_in_the_same_folder_is_refused(tmp_path):
    Run(tmp_path / "run").begin(TINY)
    Run(tmp_path / "run").begin(TINY)
    with pytest.raises(
        ValueError, match="seed=1, not 2.*`keras-resnet train .*run` resumes it, another `run_dir`"
    ):
        Run(tmp_path / "run").begin(replace(TINY, seed=2))


def test_a_folder_that_is_not_a_run_is_named_with_nearby_runs(tmp_path):
    Run(tmp_path / "good").begin(TINY)
    with pytest.raises(ValueError, match="bad is not a run.*good"):
        Run(tmp_path / "bad").recipe()
    with pytest.raises(ValueError, match="good is not fully trained"):
        Run(tmp_path / "good").require_trained()


def test_a_damaged_recipe_is_named(tmp_path):
    Run(tmp_path).begin(TINY)
    Run(tmp_path).recipe_file.write_text("{")
    with pytest.raises(ValueError, match="recipe.json"):
        Run(tmp_path).recipe()


def test_files_are_written_atomically(tmp_path):
    write_text(tmp_path / "a", "old")
    with pytest.raises(OSError, match="full.*/a'"), whole_file(tmp_path / "a") as sibling:
        sibling.write_text("ne")
        raise OSError(errno.ENOSPC, "disk full")
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]
    write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"
    assert os.stat(tmp_path / "a").st_mode & 0o400


def test_unfinished_files_of_a_run_inside_the_folder_are_kept(tmp_path):
    """The folder of a run may contain another run that is writing a checkpoint."""
    below = Run(tmp_path / "below")
    below.checkpoints.mkdir(parents=True)
    mine = Run(tmp_path)
    for folder in (mine.path, mine.checkpoints, mine.augmentation_figure.parent):
        folder.mkdir(exist_ok=True)
        (folder / ".writing-mine").touch()
    others = [below.path / ".writing-a", below.checkpoints / ".writing-b.npz"]
    for file in others:
        file.touch()
    (tmp_path / ".writing-folder").mkdir()
    with below.alone(), mine.alone():
        # At its start, `below` has removed its own unfinished files.
        assert not any(file.exists() for file in others)
        for file in others:
            file.touch()
    with mine.alone():
        assert all(file.exists() for file in others)
        assert not list(tmp_path.rglob(".writing-mine"))


def test_is_busy_creates_no_folder(tmp_path):
    assert not Run(tmp_path / "run").is_busy()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_is_a_link_keeps_its_target(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "target").write_text("mine")
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "target")
    with contextlib.suppress(OSError), Run(tmp_path / "run").alone():
        pass
    assert (tmp_path / "target").read_text() == "mine"


def test_a_second_training_in_a_folder_is_refused(tmp_path):
    run = Run(tmp_path)
    (tmp_path / ".writing-left-by-a-kill").touch()
    with run.alone():
        assert not (tmp_path / ".writing-left-by-a-kill").exists()
        code = (
            "import sys, pathlib; from keras_resnet.runs.run import Run;"
            " Run(pathlib.Path(sys.argv[1])).alone().__enter__()"
        )
        other = subprocess.run(
            [sys.executable, "-c", code, tmp_path], capture_output=True, text=True
        )
        assert "another process is training" in other.stderr
    with run.alone():
        pass


def test_a_run_takes_its_path_as_text(digits_run):
    assert Run(str(digits_run.path)) == digits_run
