import errno
import json
import os
import shlex
import subprocess
import sys
from dataclasses import replace

import pytest

from keras_resnet.recipe import RECIPES
from keras_resnet.run import Run, whole_file, write_text

TINY = RECIPES["digits-tiny"]


def test_a_run_says_what_made_it(digits_run):
    assert digits_run.recipe() == TINY
    assert digits_run.labels() == tuple("0123456789")
    provenance = json.loads(digits_run.provenance_file.read_text())
    assert provenance["packages"]["tensorflow"].startswith("2.")
    program = shlex.split(provenance["command"])[0]
    assert program == os.path.basename(program), "where the program lies is nobody's business"


def test_evaluations_of_other_views_have_files_of_their_own(tmp_path):
    run = Run(tmp_path)
    assert run.evaluation_file() == run.evaluation_file("single") == tmp_path / "evaluation.json"
    assert run.evaluation_file("ten-crop") == tmp_path / "evaluation-ten-crop.json"
    assert run.confusion_file() == run.confusion_file("single") == tmp_path / "confusion.csv"
    assert run.confusion_file("multi-scale") == tmp_path / "confusion-multi-scale.csv"


def test_another_recipe_in_the_same_folder_is_refused(tmp_path):
    Run(tmp_path / "run").begin(TINY)
    Run(tmp_path / "run").begin(TINY)
    with pytest.raises(ValueError, match="seed=1, not 2.*--run-dir"):
        Run(tmp_path / "run").begin(replace(TINY, seed=2))


def test_a_folder_that_is_no_run_is_named_with_those_beside_it(tmp_path):
    Run(tmp_path / "good").begin(TINY)
    with pytest.raises(ValueError, match="bad is not a run.*good"):
        Run(tmp_path / "bad").recipe()
    with pytest.raises(ValueError, match="good is not trained to its end"):
        Run(tmp_path / "good").require_trained()


def test_a_damaged_recipe_is_named(tmp_path):
    Run(tmp_path).begin(TINY)
    Run(tmp_path).recipe_file.write_text("{")
    with pytest.raises(ValueError, match="recipe.json"):
        Run(tmp_path).recipe()


def test_a_file_is_whole_or_not_there(tmp_path):
    write_text(tmp_path / "a", "old")
    with pytest.raises(OSError, match="full.*/a'"), whole_file(tmp_path / "a") as sibling:
        sibling.write_text("ne")
        raise OSError(errno.ENOSPC, "disk full")
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]
    write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"
    assert os.stat(tmp_path / "a").st_mode & 0o400


def test_two_trainings_in_one_folder(tmp_path):
    run = Run(tmp_path)
    (tmp_path / ".writing-left-by-a-kill").touch()
    with run.alone():
        assert not (tmp_path / ".writing-left-by-a-kill").exists()
        code = (
            "import sys, pathlib; from keras_resnet.run import Run; Run(pathlib.Path(sys.argv[1])).alone().__enter__()"
        )
        other = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
        assert "another process is training" in other.stderr
    with run.alone():
        pass
