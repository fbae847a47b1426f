"""Recorded results that are trained again."""

import json
from pathlib import Path

import pytest

from keras_resnet import RECIPES
from keras_resnet.cli.commands import main
from keras_resnet.evaluation import reproduce as module
from keras_resnet.evaluation.reproduce import Reproduction, recorded, reproduce
from keras_resnet.runs.run import Run

RESULTS = Path(__file__).parents[2] / "scripts" / "results"


def test_the_records_are_those_of_the_results():
    """Each is the evaluation of a run of the recipe as it is now, but for the seed."""
    found = {}
    for file in RESULTS.glob("*/recipe.json"):
        run = Run(file.parent)
        if run.evaluation_file().exists():
            error = json.loads(run.evaluation_file().read_text())["top1_error"]
            found[run.recipe().name, run.recipe().seed] = round(error, 2)
    for name, errors in recorded().items():
        assert name in RECIPES
        for seed, error in errors.items():
            assert found[name, seed] == error


def test_the_tolerance_is_three_spreads_of_the_seeds_or_one_point():
    def one(error, *errors):
        return Reproduction(run=Run(Path("run")), error=error, recorded=dict(enumerate(errors)))

    assert one(4.70, 1.39, 2.22, 2.22).reproduced  # 2.22 + 3 (2.22 - 1.39) = 4.71
    assert not one(4.72, 1.39, 2.22, 2.22).reproduced
    assert one(0.0, 1.39, 2.22, 2.22).reproduced
    assert one(9.36, 8.37).reproduced and one(7.38, 8.37).reproduced
    assert not one(9.38, 8.37).reproduced and not one(7.36, 8.37).reproduced


def test_other_names_are_refused():
    with pytest.raises(
        ValueError, match="name is 'cifar10-resnet21'; choose one of 'digits-resnet"
    ):
        reproduce("cifar10-resnet21")


@pytest.mark.slow
def test_the_exit_status_says_whether_it_is_reproduced(tmp_path, monkeypatch, capsys):
    """The second call finds the training of the first."""
    file, run_dir = tmp_path / "recorded.json", str(tmp_path / "run")
    monkeypatch.setattr(module, "RECORDED", file)
    file.write_text('{"digits-tiny": {"7": 99.0}}')
    assert main(["reproduce", "digits-tiny", "--run-dir", run_dir]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert "recorded: 99.00 % (seed 7)" in first and second.startswith("not reproduced: ")
    error = float(first.split("error ")[1].split(" %")[0])
    assert Run(Path(run_dir)).recipe().seed == 7
    file.write_text(json.dumps({"digits-tiny": {"7": error + 0.9}}))
    assert main(["reproduce", "digits-tiny", "--run-dir", run_dir, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["reproduced"] and printed["tolerance"] == 1.0
    assert printed["error"] == pytest.approx(error, abs=0.005)
