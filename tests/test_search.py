"""Search: what varies, what is kept, and that nothing of it is lost."""

import csv
import errno
import json
import math
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace

import grpc
import keras
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf

from keras_resnet import data
from keras_resnet.cli import main
from keras_resnet.recipe import RECIPES, Recipe
from keras_resnet.run import Run, write_table
from keras_resnet.search import AXES, Search, folder, oracle, search, tuner
from keras_resnet.spec import NETWORKS, cifar_spec

TINY = replace(RECIPES["digits-tiny"], holdout=144)


def quick(recipe, run_dir, **_):
    """In place of a training: the best learning rate is 0.1, the best depth 32."""
    run = Run(run_dir)
    run.begin(recipe)
    accuracy = 1 - abs(math.log10(recipe.learning_rate) + 1) / 4 - abs(recipe.spec.depth - 32) / 100
    write_table(run.history_file, [{"epoch": 1}, {"epoch": 2, "val_accuracy": accuracy}])
    return run


@pytest.fixture
def quick_trials(monkeypatch):
    monkeypatch.setattr(tuner, "train", quick)
    monkeypatch.setattr(keras.utils, "clear_session", lambda: None)  # slow, and there is nothing to clear


@pytest.mark.parametrize("algorithm", ["random", "bayesian", "hyperband"])
@pytest.mark.usefixtures("quick_trials")
def test_the_best_is_the_trial_of_the_lowest_error(algorithm, tmp_path):
    found = search(replace(TINY, epochs=9), tmp_path, trials=12, over=("learning_rate", "depth"), algorithm=algorithm)
    rows = found.trials()
    assert len(rows) == 12 and {row["status"] for row in rows} == {"completed"}
    assert len({(row["learning_rate"], row["depth"], row["epochs"]) for row in rows}) == 12
    errors = [float(row["validation_error"]) for row in rows]
    assert errors == sorted(errors)
    for row in rows:
        recipe = Run(tmp_path / "trials" / row["trial"]).recipe()
        assert (recipe.learning_rate, recipe.spec.depth) == (float(row["learning_rate"]), int(row["depth"]))
        slow = 25 * abs(math.log10(recipe.learning_rate) + 1) + abs(recipe.spec.depth - 32)
        assert float(row["validation_error"]) == pytest.approx(slow, abs=1e-4)
    best = Recipe.from_json(found.best_file.read_text())
    assert best == replace(found.trial(rows[0]["trial"]).recipe(), name="digits-tiny-best")


@pytest.mark.usefixtures("quick_trials")
def test_hyperband_gives_most_a_part_of_the_epochs_and_the_best_all(tmp_path):
    """Li et al. (2018), with a third going on: of 9 epochs 1, then 3, then 9."""
    rows = search(replace(TINY, epochs=9), tmp_path, trials=13, algorithm="hyperband").trials()
    lengths = [float(row["epochs"]) for row in rows]
    assert sorted(set(lengths)) == [1, 3, 9] and lengths.count(1) > lengths.count(3) > lengths.count(9) > 0
    of_length = {n: {row["learning_rate"] for row in rows if float(row["epochs"]) == n} for n in (1, 3, 9)}
    by_error = [row["learning_rate"] for row in rows if float(row["epochs"]) == 1]
    assert of_length[3] == set(by_error[: len(of_length[3])])
    assert of_length[9] < of_length[3]


@pytest.mark.slow
@pytest.mark.usefixtures("quick_trials")
def test_the_bayesian_search_learns(tmp_path):
    """In 12 trials it comes nearer to the known optimum than the same number at random; for most seeds."""
    best = {}
    for algorithm in ("random", "bayesian"):
        best[algorithm] = [
            float(
                search(
                    replace(TINY, seed=seed),
                    tmp_path / f"{algorithm}{seed}",
                    trials=12,
                    over=("learning_rate",),
                    algorithm=algorithm,
                ).trials()[0]["validation_error"]
            )
            for seed in range(5)
        ]
    assert np.median(best["bayesian"]) < np.median(best["random"])


@pytest.mark.parametrize("name", AXES)
def test_each_axis_reaches_the_recipe_and_nothing_else(name):
    for base in (TINY, RECIPES["imagenet-resnet18"], RECIPES["imagenet-resnet50"]):
        hp = keras_tuner.HyperParameters()
        AXES[name](hp, base)
        (space,) = hp.space
        assert space.name == name
        floats = isinstance(space, keras_tuner.engine.hyperparameters.Float)
        low, high = (space.min_value, space.max_value) if floats else (space.values[0], space.values[-1])
        for value in (low, high):
            hp.values[name] = value
            recipe = AXES[name](hp, base)
            owner = recipe if name in Recipe.__dataclass_fields__ else recipe.spec
            assert getattr(owner, name) == value
            field = "blocks" if name == "depth" else name
            spec = replace(recipe.spec, **{field: getattr(base.spec, field)}) if owner is recipe.spec else recipe.spec
            assert replace(recipe, spec=spec) == (base if owner is recipe.spec else replace(base, **{name: value}))


@pytest.mark.parametrize(
    ("spec", "depths"),
    [
        (cifar_spec(20), [8, 20, 32, 44, 56]),  # 6n + 2, section 4.2
        (NETWORKS["resnet18"], [10, 18, 34]),  # Table 1
        (NETWORKS["resnet50"], [26, 50, 101, 152]),
    ],
)
def test_depths_are_the_papers(spec, depths):
    hp = keras_tuner.HyperParameters()
    AXES["depth"](hp, replace(TINY, spec=spec))
    assert hp.space[0].values == depths
    for depth in depths[1:]:
        hp.values["depth"] = depth
        assert AXES["depth"](hp, replace(TINY, spec=spec)).spec in NETWORKS.values()


def test_it_is_chosen_by_pictures_held_out_of_training(tmp_path, capsys):
    """A tenth of them, said aloud; the error is that of the saved network on them, computed here anew."""
    found = search(replace(TINY, holdout=0, epochs=1), tmp_path, trials=1)
    assert "digits: 144 of 1437 training pictures are held out to choose by" in capsys.readouterr().err
    run = found.trial("0")
    assert run.recipe().holdout == 144
    held_out = data.load("digits", holdout=144, seed=TINY.seed).validation
    preprocessing = data.Preprocessing.read(run.preprocessing_file)
    logits = keras.models.load_model(run.model_file).predict(
        data.test_batches(held_out, preprocessing, 100).map(lambda pictures, _: pictures), verbose=0
    )
    error = 100 * np.mean(logits.argmax(axis=1) != held_out.labels)
    assert float(found.trials()[0]["validation_error"]) == pytest.approx(error, abs=1e-4)


@pytest.mark.parametrize("algorithm", ["random", "bayesian", "hyperband"])
@pytest.mark.usefixtures("quick_trials")
def test_more_trials_go_on_where_fewer_ended(algorithm, tmp_path, monkeypatch):
    """The Bayesian one proposes at random at first, three times for each axis, and then by its model of the errors.

    The errors here are without order: its model has many optima, and its random starts decide which one it finds.
    """

    def rugged(recipe, run_dir, **_):
        run = quick(recipe, run_dir)
        place = round(1e6 * recipe.learning_rate + 1e9 * recipe.warmup)
        accuracy = np.random.default_rng(place).uniform()
        write_table(run.history_file, [{"epoch": 1, "val_accuracy": accuracy}])
        return run

    monkeypatch.setattr(tuner, "train", rugged)
    arguments = {"over": ("learning_rate", "warmup"), "algorithm": algorithm}
    whole = search(TINY, tmp_path / "whole", trials=9, **arguments)
    for trials in (2, 2, 7, 8, 9):
        found = search(TINY, tmp_path / "parts", trials=trials, **arguments)
        assert len(found.trials()) == trials
    assert found.trials() == whole.trials()


@pytest.mark.parametrize("algorithm", ["random", "hyperband"])
@pytest.mark.usefixtures("quick_trials")
def test_a_disk_that_is_full_at_any_write_loses_nothing(algorithm, tmp_path, monkeypatch):
    """Each write in turn fails, and all after it, as where the process died there; the search then goes on."""
    arguments = {"trials": 3, "over": ("learning_rate", "depth"), "algorithm": algorithm}
    whole = search(TINY, tmp_path / "whole", **arguments)
    left = math.inf

    def failing(write):
        def fail_or_write(path, content):
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            write(path, content)

        return fail_or_write

    for room, name in ((folder, "write_text"), (folder, "write_table"), (oracle, "write_text")):
        monkeypatch.setattr(room, name, failing(getattr(room, name)))
    failures = 0
    while left >= 0:
        left = failures
        try:
            found = search(TINY, tmp_path / str(failures), **arguments)
        except OSError as error:
            assert error.errno == errno.ENOSPC and error.filename
        else:
            break
        left = math.inf
        found = search(TINY, tmp_path / str(failures), **arguments)
        assert found.trials() == whole.trials(), f"after a failure at write {failures}"
        assert found.best_file.read_text() == whole.best_file.read_text()
        failures += 1
    assert failures > 10


@pytest.mark.usefixtures("quick_trials")
def test_an_error_in_a_trial_ends_the_search_and_the_trial_is_tried_again(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise ValueError("batch_size is 2000, but there are 1293 pictures")

    whole = search(TINY, tmp_path / "whole", trials=3)
    search(TINY, tmp_path / "other", trials=1)
    monkeypatch.setattr(tuner, "train", broken)
    for _ in range(2):
        with pytest.raises(ValueError, match="batch_size is 2000"):
            search(TINY, tmp_path / "other", trials=3)
    monkeypatch.setattr(tuner, "train", quick)
    assert search(TINY, tmp_path / "other", trials=3).trials() == whole.trials()


def test_a_loss_that_is_no_number_counts_as_all_wrong(tmp_path, monkeypatch, capsys):
    def diverging(recipe, run_dir, **_):
        if recipe.learning_rate > 0.1:
            Run(run_dir).begin(recipe)
            raise FloatingPointError("the loss is nan")
        return quick(recipe, run_dir)

    monkeypatch.setattr(tuner, "train", diverging)
    rows = search(TINY, tmp_path, trials=8, over=("learning_rate",)).trials()
    wrong = {row["trial"] for row in rows if float(row["learning_rate"]) > 0.1}
    assert 0 < len(wrong) < 8
    assert {row["trial"] for row in rows if float(row["validation_error"]) == 100} == wrong
    assert "the loss is nan" in capsys.readouterr().err


def test_a_network_too_large_for_the_memory_is_a_failed_trial(tmp_path, monkeypatch):
    def large(recipe, run_dir, **_):
        if recipe.spec.depth > 20:
            Run(run_dir).begin(recipe)
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")
        return quick(recipe, run_dir)

    monkeypatch.setattr(tuner, "train", large)
    try:
        found = search(TINY, tmp_path, trials=8, over=("depth", "learning_rate"))
    except ValueError as error:  # three in a row
        assert "OOM when allocating" in str(error)
        found = Search(tmp_path)
    status = {row["depth"]: row["status"] for row in found.trials()}
    assert status and all(state == ("failed" if int(depth) > 20 else "completed") for depth, state in status.items())
    assert [row["status"] for row in found.trials()] == sorted(row["status"] for row in found.trials())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"trials": 0}, "trials is 0; give a positive number"),
        ({"over": ()}, "over is empty; give one or more of learning_rate, "),
        ({"over": ("deth",)}, "over is 'deth'; choose one of .*'depth'"),
        ({"algorithm": "grid"}, "algorithm is 'grid'; choose one of 'random', 'bayesian', 'hyperband'"),
        ({"recipe": TINY.override(steps=9), "algorithm": "hyperband"}, "steps is 9; hyperband shares out whole epochs"),
        ({"recipe": TINY.override(epochs=1.5), "algorithm": "hyperband"}, "epochs is 1.5 .*whole epochs"),
    ],
)
def test_what_cannot_be_searched(arguments, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        search(**{"recipe": TINY, "directory": tmp_path / "new", "trials": 1} | arguments)
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("quick_trials")
def test_another_search_in_the_folder(tmp_path):
    found = search(TINY, tmp_path, trials=1)
    before = found.trials_file.read_bytes()
    for recipe, arguments, says in (
        (TINY, {"over": ("depth",)}, r"holds a search with over=\['learning_rate', 'weight_decay'\], not \['depth'\]"),
        (TINY, {"algorithm": "bayesian"}, "algorithm='random', not 'bayesian'"),
        (replace(TINY, batch_size=32), {}, "batch_size=64, not 32"),
    ):
        with pytest.raises(ValueError, match=says):
            search(recipe, tmp_path, trials=1, **arguments)
    assert found.trials_file.read_bytes() == before
    with Run(tmp_path).alone(), pytest.raises(ValueError, match="another process"):
        search(TINY, tmp_path, trials=2)


@pytest.mark.parametrize("name", ["oracle.json", "search.json"])
@pytest.mark.parametrize("damage", [lambda text: text[: len(text) // 2], lambda text: "{}", lambda text: "[1]"])
@pytest.mark.usefixtures("quick_trials")
def test_damaged_files_are_named(name, damage, tmp_path):
    search(TINY, tmp_path, trials=2)
    (tmp_path / name).write_text(damage((tmp_path / name).read_text()))
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        search(TINY, tmp_path, trials=3)


@pytest.mark.parametrize("call", ["create_trial", "update_trial", "end_trial"])
@pytest.mark.usefixtures("quick_trials")
def test_a_worker_whose_chief_is_gone_says_so_and_no_trial_has_failed(call, tmp_path, monkeypatch):
    """What grpc raises in a worker when its chief dies while it is asked."""

    class Gone(grpc.RpcError):
        def code(self):
            return grpc.StatusCode.UNAVAILABLE

    def gone(*_, **__):
        raise Gone

    with monkeypatch.context() as context:
        context.setattr(keras_tuner.Oracle, call, gone)
        with pytest.raises(ValueError, match=r"chief .* does not answer \(UNAVAILABLE\); .* start this worker again"):
            search(TINY, tmp_path, trials=2)
    assert [row["status"] for row in search(TINY, tmp_path, trials=2).trials()] == 2 * ["completed"]


@pytest.mark.usefixtures("quick_trials")
def test_a_validation_split_of_the_data_is_chosen_by(tmp_path, capsys, monkeypatch):
    digits = data.load("digits")
    monkeypatch.setattr(tuner.start, "dataset", lambda _: replace(digits, validation=digits.test))
    found = search(replace(TINY, holdout=0), tmp_path, trials=1)
    assert found.trial("0").recipe().holdout == 0 and "held out" not in capsys.readouterr().err


def test_variables_that_are_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    with pytest.raises(ValueError, match="KERASTUNER_ORACLE_PORT"):
        search(TINY, tmp_path, trials=1)


@pytest.mark.usefixtures("quick_trials")
def test_the_command_prints_the_table_and_its_best_recipe_trains(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["search", "digits-tiny", "--trials", "2", "--over", "learning_rate", "shortcut", "--epochs", "1"]
    assert main(command) == 0
    found = Search(tmp_path / "runs" / "digits-tiny-search")
    shown = capsys.readouterr().out
    for row in found.trials():
        assert row["learning_rate"] in shown and row["validation_error"] in shown
    assert shown.endswith("next: keras-resnet train runs/digits-tiny-search/best.json\n")
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found.trials()
    monkeypatch.setattr("keras_resnet.train.train", quick)
    assert main(["train", "runs/digits-tiny-search/best.json", "--momentum", "0.8"]) == 0
    best = Recipe.from_json(found.best_file.read_text())
    assert Run(tmp_path / "runs" / "digits-tiny-best").recipe() == replace(best, momentum=0.8)


def test_help_names_what_can_vary(capsys):
    with pytest.raises(SystemExit):
        main(["search", "--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert f"what varies: {', '.join(AXES)} (default" in shown


COMMAND = [sys.executable, "-m", "keras_resnet", "search", "digits-tiny", "--over", "learning_rate", "shortcut"]


@pytest.mark.slow
def test_a_killed_search_goes_on_and_its_best_recipe_trains_to_the_error_it_reported(tmp_path):
    """kill -9 in the middle of the first, the fourth and the last of eight trials."""
    command = [*COMMAND, "--trials", "8", "--deterministic", "--checkpoint-seconds", "0.1", "--run-dir"]
    whole, killed = Search(tmp_path / "whole"), Search(tmp_path / "killed")
    subprocess.run([*command, str(whole.path)], check=True, capture_output=True)
    resumed = 0
    for trial in (0, 3, 7):
        process = subprocess.Popen([*command, str(killed.path)], stderr=subprocess.PIPE, text=True)
        current = -1
        for line in process.stderr:
            current = int(line.split()[1][:-1]) if line.startswith("trial") else current
            resumed += "going on from step" in line
            if current == trial and line.startswith("epoch 2/3"):
                break
        process.kill()
        process.communicate()
    last = subprocess.run([*command, str(killed.path)], check=True, capture_output=True, text=True)
    assert resumed == 2 and "going on from step" in last.stderr
    assert len(whole.trials()) == 8 and killed.trials() == whole.trials()
    best = killed.best_file
    subprocess.run(
        [sys.executable, "-m", "keras_resnet", "train", str(best), "--run-dir", str(tmp_path / "best")],
        check=True,
        capture_output=True,
    )
    with open(tmp_path / "best" / "history.csv", newline="") as file:
        *_, row = csv.DictReader(file)
    error = 100 * (1 - float(row["val_accuracy"]))
    assert error == pytest.approx(float(killed.trials()[0]["validation_error"]), abs=1e-4)


@pytest.mark.slow
def test_two_workers_share_a_search(tmp_path):
    """A chief and two workers. In the first trials one worker and then the chief is killed -9 and started again; the
    other worker goes on with its trial meanwhile, and no trial is trained twice."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = tmp_path / "search"
    command = [*COMMAND, "--trials", "6", "--epochs", "4", "--checkpoint-seconds", "0.1", "--run-dir", str(place)]

    def start(tuner, says):
        names = {"TUNER_ID": tuner, "ORACLE_IP": "127.0.0.1", "ORACLE_PORT": str(port)}
        variables = {f"KERASTUNER_{name}": value for name, value in names.items()}
        with open(tmp_path / says, "w") as file:
            return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file, env=os.environ | variables)

    chief, first, second = start("chief", "chief"), start("tuner0", "first"), start("tuner1", "second")
    while not all("epoch" in (tmp_path / says).read_text() for says in ("first", "second")):
        assert None is chief.poll() is first.poll() is second.poll()
        time.sleep(0.1)
    for process in (first, chief):
        process.kill()
        process.wait()
    busy = [trial.name for trial in (place / "trials").iterdir() if Run(trial).is_busy()]
    assert len(busy) == 1, "the other worker is at it"
    again, chief = start("tuner0", "again"), start("chief", "chief again")
    assert [process.wait(timeout=300) for process in (again, second, chief)] == [0, 0, 0]
    said = [(tmp_path / says).read_text() for says in ("again", "second", "chief again")]
    # What a worker finished while there was no chief may be given to the other, who finds it trained.
    trials = [[part.split(":")[0] for part in text.split("trial ")[1:] if "epoch" in part] for text in said]
    assert trials[0] and trials[1] and not trials[2], "the chief does not train"
    assert sorted(trials[0] + trials[1]) == [str(number) for number in range(6)]
    found = Search(place)
    rows = found.trials()
    assert len(rows) == 6 and {row["status"] for row in rows} == {"completed"}
    best = Recipe.from_json(found.best_file.read_text())
    assert best == replace(found.trial(rows[0]["trial"]).recipe(), name=best.name)
