"""Search: the axes, the kept results, and resuming without losing a trial."""

import csv
import errno
import json
import math
import os
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import grpc
import keras
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf

from keras_resnet import data
from keras_resnet.cli.commands import main
from keras_resnet.data.decoded import decode_files
from keras_resnet.data.pipeline import evaluation_batches
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.files import write_table
from keras_resnet.networks.paper import NETWORKS, cifar_spec
from keras_resnet.runs.recipe import Recipe
from keras_resnet.runs.recipes import RECIPES, recipe_of
from keras_resnet.runs.run import Run
from keras_resnet.tuning import folder, oracle, tuner
from keras_resnet.tuning.folder import Search
from keras_resnet.tuning.space import AXES
from keras_resnet.tuning.tuner import search

TINY = replace(RECIPES["digits-tiny"], holdout=144)


def begin(run, recipe):
    """Record a recipe and its 144 validation images."""
    run.begin(recipe)
    run.data_file.write_text('{"splits": {"validation": {"images": 144}}}')


def quick(run, recipe, **_):
    """Replace a training by a formula whose best learning rate is 0.1 and best depth is 32."""
    begin(run, recipe)
    accuracy = 1 - abs(math.log10(recipe.learning_rate) + 1) / 4 - abs(recipe.spec.depth - 32) / 100
    write_table(run.history_file, [{"epoch": 1}, {"epoch": 2, "val_accuracy": accuracy}])
    return run


@pytest.fixture
def quick_trials(monkeypatch):
    monkeypatch.setattr(tuner, "train_in", quick)
    monkeypatch.setattr(
        keras.utils, "clear_session", lambda: None
    )  # slow, and nothing is to be cleared


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["random", "bayesian", "hyperband"])
@pytest.mark.usefixtures("quick_trials")
def test_the_best_trial_has_the_lowest_error(algorithm, tmp_path):
    found = search(
        replace(TINY, epochs=9),
        tmp_path,
        trials=12,
        over=("learning_rate", "depth"),
        algorithm=algorithm,
    )
    rows = found.trials()
    assert len(rows) == 12 and {row["status"] for row in rows} == {"completed"}
    assert len({(row["learning_rate"], row["depth"], row["epochs"]) for row in rows}) == 12
    errors = [float(row["validation_error"]) for row in rows]
    assert errors == sorted(errors)
    for row in rows:
        recipe = Run(tmp_path / "trials" / row["trial"]).recipe()
        assert (recipe.learning_rate, recipe.spec.depth) == (
            float(row["learning_rate"]),
            int(row["depth"]),
        )
        slow = 25 * abs(math.log10(recipe.learning_rate) + 1) + abs(recipe.spec.depth - 32)
        assert float(row["validation_error"]) == pytest.approx(slow, abs=1e-4)
    best = Recipe.from_json(found.best_file.read_text())
    assert best == replace(found.trial(rows[0]["trial"]).recipe(), name="digits-tiny-best")


@pytest.mark.usefixtures("quick_trials")
def test_hyperband_trains_only_the_best_for_all_epochs(tmp_path):
    """Li et al. (2018): the best third is trained further, for 1, then 3, then 9 of 9 epochs."""
    rows = search(replace(TINY, epochs=9), tmp_path, trials=13, algorithm="hyperband").trials()
    lengths = [float(row["epochs"]) for row in rows]
    assert (
        sorted(set(lengths)) == [1, 3, 9]
        and lengths.count(1) > lengths.count(3) > lengths.count(9) > 0
    )
    of_length = {
        n: {row["learning_rate"] for row in rows if float(row["epochs"]) == n} for n in (1, 3, 9)
    }
    by_error = [row["learning_rate"] for row in rows if float(row["epochs"]) == 1]
    assert of_length[3] == set(by_error[: len(of_length[3])])
    assert of_length[9] < of_length[3]


@pytest.mark.parametrize("name", AXES)
def test_each_axis_reaches_the_recipe_and_nothing_else(name):
    for base in (TINY, RECIPES["imagenet-resnet18"], RECIPES["imagenet-resnet50"]):
        hp = keras_tuner.HyperParameters()
        AXES[name](hp, base)
        (space,) = hp.space
        assert space.name == name
        floats = isinstance(space, keras_tuner.engine.hyperparameters.Float)
        low, high = (
            (space.min_value, space.max_value) if floats else (space.values[0], space.values[-1])
        )
        for value in (low, high):
            hp.values[name] = value
            recipe = AXES[name](hp, base)
            owner = recipe if name in Recipe.__dataclass_fields__ else recipe.spec
            assert getattr(owner, name) == value
            field = "blocks" if name == "depth" else name
            spec = (
                replace(recipe.spec, **{field: getattr(base.spec, field)})
                if owner is recipe.spec
                else recipe.spec
            )
            assert replace(recipe, spec=spec) == (
                base if owner is recipe.spec else replace(base, **{name: value})
            )


@pytest.mark.parametrize(
    ("spec", "depths"),
    [
        (cifar_spec(20), [8, 20, 32, 44, 56]),  # 6n + 2, section 4.2
        (NETWORKS["resnet18"], [10, 18, 34]),  # Table 1
        (NETWORKS["resnet50"], [26, 50, 101, 152]),
    ],
)
def test_depths_are_those_of_the_paper(spec, depths):
    hp = keras_tuner.HyperParameters()
    AXES["depth"](hp, replace(TINY, spec=spec))
    assert hp.space[0].values == depths
    for depth in depths[1:]:
        hp.values["depth"] = depth
        assert AXES["depth"](hp, replace(TINY, spec=spec)).spec in NETWORKS.values()


@pytest.mark.slow
def test_trials_are_compared_on_images_held_out_of_training(tmp_path, capsys):
    """A tenth of them is held out and reported. The saved network reproduces the error."""
    found = search(replace(TINY, holdout=0, epochs=1), tmp_path, trials=1)
    assert (
        "digits: 144 of 1437 training images are held out for validation" in capsys.readouterr().err
    )
    run = found.trial("0")
    assert run.recipe().holdout == 144
    held_out = data.load("digits", holdout=144, seed=TINY.seed).validation
    preprocessing = Preprocessing.read(run.preprocessing_file)
    logits = keras.models.load_model(run.model_file).predict(
        evaluation_batches(held_out, preprocessing, 100).map(lambda images, _: images), verbose=0
    )
    error = 100 * np.mean(logits.argmax(axis=1) != held_out.labels)
    assert float(found.trials()[0]["validation_error"]) == pytest.approx(error, abs=1e-4)


@pytest.mark.slow
def test_all_trials_share_the_images_in_memory(tmp_path, monkeypatch):
    loaded = []
    load = data.digits.load
    monkeypatch.setattr(data.digits, "load", lambda: loaded.append(load()) or loaded[-1])
    found = search(replace(TINY, epochs=1), tmp_path, trials=2, over=("learning_rate",))
    assert len(found.trials()) == 2 and len(loaded) == 1
    errors = {row["validation_error"] for row in found.trials()}
    assert len(errors) == 2, "each is a training of its own"


@pytest.mark.slow
def test_the_files_of_a_folder_are_read_once_for_all_trials(tmp_path, monkeypatch):
    """The files of training and validation vanish before the first trial."""
    random = np.random.default_rng(0)
    for number in range(40):
        path = tmp_path / "pets" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tf.io.encode_png(random.integers(0, 256, (8, 8, 3), np.uint8)).numpy())

    def gone(dataset):
        decoded = decode_files(dataset)
        for path in (*dataset.train.paths, *dataset.validation.paths):
            os.unlink(path)
        return decoded

    monkeypatch.setattr(tuner, "decode_files", gone)
    recipe = replace(TINY, dataset=str(tmp_path / "pets"), batch_size=8, epochs=1, holdout=8)
    with pytest.warns(UserWarning, match="no test split"):
        found = search(recipe, tmp_path / "search", trials=2, over=("learning_rate",))
    assert len(found.trials()) == 2


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["random", "bayesian", "hyperband"])
@pytest.mark.usefixtures("quick_trials")
def test_more_trials_resume_where_fewer_ended(algorithm, tmp_path, monkeypatch):
    """The Bayesian search proposes three random trials per axis, and then follows its model.

    The errors here are random, so the model has many optima, and random starts decide among them.
    """

    def rugged(run, recipe, **_):
        quick(run, recipe)
        seed = round(1e6 * recipe.learning_rate + 1e9 * recipe.warmup)
        accuracy = np.random.default_rng(seed).uniform()
        write_table(run.history_file, [{"epoch": 1, "val_accuracy": accuracy}])
        return run

    monkeypatch.setattr(tuner, "train_in", rugged)
    arguments = {"over": ("learning_rate", "warmup"), "algorithm": algorithm}
    whole = search(TINY, tmp_path / "whole", trials=9, **arguments)
    for trials in (2, 2, 7, 8, 9):
        found = search(TINY, tmp_path / "parts", trials=trials, **arguments)
        assert len(found.trials()) == trials
    assert found.trials() == whole.trials()


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["random", "hyperband"])
@pytest.mark.usefixtures("quick_trials")
def test_a_disk_that_is_full_at_any_write_loses_nothing(algorithm, tmp_path, monkeypatch):
    """Let each write in turn fail with all later ones, as if the process died; then resume."""
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

    for module, name in ((folder, "write_text"), (folder, "write_table"), (oracle, "write_text")):
        monkeypatch.setattr(module, name, failing(getattr(module, name)))
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
def test_an_error_in_a_trial_ends_the_search_and_the_trial_is_repeated(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise ValueError("batch_size is 2000, but there are 1293 images")

    whole = search(TINY, tmp_path / "whole", trials=3)
    search(TINY, tmp_path / "other", trials=1)
    monkeypatch.setattr(tuner, "train_in", broken)
    for _ in range(2):
        with pytest.raises(ValueError, match="batch_size is 2000"):
            search(TINY, tmp_path / "other", trials=3)
    monkeypatch.setattr(tuner, "train_in", quick)
    assert search(TINY, tmp_path / "other", trials=3).trials() == whole.trials()


@pytest.mark.parametrize(
    ("keep", "error", "interval"),
    # Of 29 and 58 of 144 images, by Wilson's formula worked out by hand.
    [("best", 20.0, "14.40 to 27.43"), ("last", 40.0, "32.62 to 48.44")],
)
def test_the_error_is_measured_with_the_kept_weights(keep, error, interval, tmp_path, monkeypatch):
    def up_and_down(run, recipe, **_):
        begin(run, recipe)
        accuracies = (0.5, 0.8, 0.6)
        rows = [{"epoch": n, "val_accuracy": a} for n, a in enumerate(accuracies, 1)]
        write_table(run.history_file, rows)
        return run

    monkeypatch.setattr(tuner, "train_in", up_and_down)
    (row,) = search(replace(TINY, keep=keep), tmp_path, trials=1).trials()
    assert float(row["validation_error"]) == pytest.approx(error, abs=1e-4)
    assert row["interval"] == interval


@pytest.mark.slow
def test_a_nan_loss_counts_as_an_error_of_100_percent(tmp_path, monkeypatch, capsys):
    def diverging(run, recipe, **_):
        if recipe.learning_rate > 0.1:
            begin(run, recipe)
            raise FloatingPointError("the loss is nan")
        return quick(run, recipe)

    monkeypatch.setattr(tuner, "train_in", diverging)
    rows = search(TINY, tmp_path, trials=8, over=("learning_rate",)).trials()
    wrong = {row["trial"] for row in rows if float(row["learning_rate"]) > 0.1}
    assert 0 < len(wrong) < 8
    assert {row["trial"] for row in rows if float(row["validation_error"]) == 100} == wrong
    assert "the loss is nan" in capsys.readouterr().err


@pytest.mark.slow
def test_a_network_too_large_for_memory_is_a_failed_trial(tmp_path, monkeypatch):
    def large(run, recipe, **_):
        if recipe.spec.depth > 20:
            begin(run, recipe)
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")
        return quick(run, recipe)

    monkeypatch.setattr(tuner, "train_in", large)
    try:
        found = search(TINY, tmp_path, trials=8, over=("depth", "learning_rate"))
    except ValueError as error:  # three in a row
        assert "OOM when allocating" in str(error)
        found = Search(tmp_path)
    status = {row["depth"]: row["status"] for row in found.trials()}
    assert status and all(
        state == ("failed" if int(depth) > 20 else "completed") for depth, state in status.items()
    )
    assert [row["status"] for row in found.trials()] == sorted(
        row["status"] for row in found.trials()
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"trials": 0}, "trials is 0; give a positive number"),
        ({"over": ()}, "over is empty; give one or more of learning_rate, "),
        ({"over": ("deth",)}, "over is 'deth'; choose one of .*'depth'"),
        (
            {"algorithm": "grid"},
            "algorithm is 'grid'; choose one of 'random', 'bayesian', 'hyperband'",
        ),
        (
            {"recipe": TINY.override(steps=9), "algorithm": "hyperband"},
            "steps is 9; hyperband allocates whole epochs",
        ),
        (
            {"recipe": TINY.override(epochs=1.5), "algorithm": "hyperband"},
            "epochs is 1.5 .*whole epochs",
        ),
    ],
)
def test_unusable_arguments_are_refused(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        search(**{"recipe": TINY, "directory": tmp_path / "new", "trials": 1} | arguments)
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("quick_trials")
def test_a_folder_holds_one_search(tmp_path):
    found = search(TINY, tmp_path, trials=1)
    before = found.trials_file.read_bytes()
    for recipe, arguments, message in (
        (
            TINY,
            {"over": ("depth",)},
            r"holds a search with over=\['learning_rate', 'weight_decay'\], not \['depth'\]",
        ),
        (TINY, {"algorithm": "bayesian"}, "algorithm='random', not 'bayesian'"),
        (replace(TINY, batch_size=32), {}, "batch_size=64, not 32"),
    ):
        with pytest.raises(ValueError, match=message):
            search(recipe, tmp_path, trials=1, **arguments)
    assert found.trials_file.read_bytes() == before
    with Run(tmp_path).alone(), pytest.raises(ValueError, match="another process"):
        search(TINY, tmp_path, trials=2)


@pytest.mark.parametrize("name", ["oracle.json", "search.json"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "{}",
        lambda text: "[1]",
        lambda text: "[" * 100_000,
        lambda text: text.replace('"trials": [', '"trials": [5, ').replace('"over"', '"under"'),
        lambda text: text.replace('"trial_id": "', '"trial_id": "../').replace('"recipe"', '"r"'),
    ],
)
@pytest.mark.usefixtures("quick_trials")
def test_damaged_files_are_named(name, damage, tmp_path):
    search(TINY, tmp_path, trials=2)
    (tmp_path / name).write_text(damage((tmp_path / name).read_text()))
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        search(TINY, tmp_path, trials=3)


@pytest.mark.parametrize("call", ["create_trial", "update_trial", "end_trial"])
@pytest.mark.usefixtures("quick_trials")
def test_a_worker_reports_a_dead_chief_and_no_trial_fails(call, tmp_path, monkeypatch):
    """When the chief dies during a request, grpc raises an RpcError in the worker."""

    class Gone(grpc.RpcError):
        def code(self):
            return grpc.StatusCode.UNAVAILABLE

    def gone(*_, **__):
        raise Gone

    with monkeypatch.context() as context:
        context.setattr(keras_tuner.Oracle, call, gone)
        with pytest.raises(
            ValueError,
            match=r"chief .* does not answer \(UNAVAILABLE\); .* start this worker again",
        ):
            search(TINY, tmp_path, trials=2)
    assert [row["status"] for row in search(TINY, tmp_path, trials=2).trials()] == 2 * ["completed"]


@pytest.mark.usefixtures("quick_trials")
def test_trials_are_compared_on_the_validation_split_if_it_exists(tmp_path, capsys, monkeypatch):
    digits = data.load("digits")
    monkeypatch.setattr(tuner, "load_dataset", lambda _: replace(digits, validation=digits.test))
    found = search(replace(TINY, holdout=0), tmp_path, trials=1)
    assert found.trial("0").recipe().holdout == 0 and "held out" not in capsys.readouterr().err


def test_missing_variables_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    with pytest.raises(ValueError, match="KERASTUNER_ORACLE_PORT"):
        search(TINY, tmp_path, trials=1)


@pytest.mark.usefixtures("quick_trials")
def test_a_recipe_by_its_name_or_file_and_the_default_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").write_text(replace(TINY, name="mine").to_json())
    by_name = search("digits-tiny", trials=1)
    by_file = search(tmp_path / "mine.json", trials=1)
    assert by_name.path.samefile(tmp_path / "runs" / "digits-tiny-search")
    assert by_file.path.samefile(tmp_path / "runs" / "mine-search")
    assert by_file.trial("0").recipe().name == "mine"
    assert [trial["status"] for trial in by_name.trials()] == ["completed"]


@pytest.mark.usefixtures("quick_trials")
def test_the_command_prints_the_table_and_its_best_recipe_trains(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = [
        "search",
        "digits-tiny",
        "--trials",
        "2",
        "--over",
        "learning_rate",
        "shortcut",
        "--epochs",
        "1",
    ]
    assert main(command) == 0
    found = Search(tmp_path / "runs" / "digits-tiny-search")
    shown = capsys.readouterr().out
    for row in found.trials():
        assert row["learning_rate"] in shown and row["validation_error"] in shown
    assert shown.endswith("next: keras-resnet train runs/digits-tiny-search/best.json\n")
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found.trials()

    def quick_train(recipe, run_dir, *, momentum, **_):
        recipe = recipe_of(recipe, momentum=momentum)
        return quick(Run(run_dir or tmp_path / "runs" / recipe.name), recipe)

    monkeypatch.setattr("keras_resnet.training.train.train", quick_train)
    assert main(["train", "runs/digits-tiny-search/best.json", "--momentum", "0.8"]) == 0
    best = Recipe.from_json(found.best_file.read_text())
    assert Run(tmp_path / "runs" / "digits-tiny-best").recipe() == replace(best, momentum=0.8)


def test_help_lists_the_axes(capsys):
    assert main(["search", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert f"what varies: {', '.join(AXES)} (default" in shown


COMMAND = [
    sys.executable,
    "-m",
    "keras_resnet",
    "search",
    "digits-tiny",
    "--over",
    "learning_rate",
    "shortcut",
]


@pytest.mark.slow
def test_a_killed_search_resumes_and_its_best_recipe_reaches_the_reported_error(tmp_path):
    """Kill the search with -9 in the middle of the first and the last of 3 trials."""
    command = [
        *COMMAND,
        "--trials",
        "3",
        "--epochs",  # enough that the kill precedes the end, even on a busy machine
        "6",
        "--deterministic",
        "--checkpoint-seconds",
        "0.1",
        "--run-dir",
    ]
    whole, killed = Search(tmp_path / "whole"), Search(tmp_path / "killed")
    subprocess.run([*command, str(whole.path)], check=True, capture_output=True)
    resumed = 0
    for trial in (0, 2):
        process = subprocess.Popen([*command, str(killed.path)], stderr=subprocess.PIPE, text=True)
        current = -1
        for line in process.stderr:
            current = int(line.split()[1][:-1]) if line.startswith("trial") else current
            resumed += "resuming from step" in line
            if current == trial and line.startswith("epoch 2/6"):
                break
        process.kill()
        process.communicate()
    last = subprocess.run([*command, str(killed.path)], check=True, capture_output=True, text=True)
    assert resumed == 1 and "resuming from step" in last.stderr
    assert len(whole.trials()) == 3 and killed.trials() == whole.trials()
    best = killed.best_file
    subprocess.run(
        [
            sys.executable,
            "-m",
            "keras_resnet",
            "train",
            str(best),
            "--run-dir",
            str(tmp_path / "best"),
        ],
        check=True,
        capture_output=True,
    )
    with open(tmp_path / "best" / "history.csv", newline="") as file:
        *_, row = csv.DictReader(file)
    error = 100 * (1 - float(row["val_accuracy"]))
    assert error == pytest.approx(float(killed.trials()[0]["validation_error"]), abs=1e-4)


@pytest.mark.slow
def test_two_workers_share_a_search(tmp_path):
    """Run a chief and two workers; kill -9 and restart the chief and one worker.

    The other worker meanwhile continues its trial. No trial is trained twice.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    directory = tmp_path / "search"
    command = [
        *COMMAND,
        "--trials",
        "6",
        "--epochs",
        "4",
        "--checkpoint-seconds",
        "0.1",
        "--run-dir",
        str(directory),
    ]

    def start(tuner, log):
        names = {"TUNER_ID": tuner, "ORACLE_IP": "127.0.0.1", "ORACLE_PORT": str(port)}
        variables = {f"KERASTUNER_{name}": value for name, value in names.items()}
        with open(tmp_path / log, "w") as file:
            return subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=file, env=os.environ | variables
            )

    chief, first, second = (
        start("chief", "chief"),
        start("tuner0", "first"),
        start("tuner1", "second"),
    )
    while not all("epoch" in (tmp_path / log).read_text() for log in ("first", "second")):
        assert None is chief.poll() is first.poll() is second.poll()
        time.sleep(0.1)
    for process in (first, chief):
        process.kill()
        process.wait()
    busy = [trial.name for trial in (directory / "trials").iterdir() if Run(trial).is_busy()]
    assert len(busy) <= 1, "at most the other worker is training"
    again, chief = start("tuner0", "again"), start("chief", "chief again")
    assert [process.wait(timeout=300) for process in (again, second, chief)] == [0, 0, 0]
    # A trial whose worker was killed may be continued by the other one.
    killed, resumed, other, chiefs = (
        [
            (part.split(":")[0], epoch)
            for part in (tmp_path / log).read_text().split("trial ")[1:]
            for epoch in re.findall(r"epoch (\d)/4", part)
        ]
        for log in ("first", "again", "second", "chief again")
    )
    assert resumed and other and not chiefs, "the chief does not train"
    trained = Counter([*killed, *resumed, *other])
    assert set(trained) == {(str(trial), str(epoch)) for trial in range(6) for epoch in range(1, 5)}
    assert {trial for (trial, _), times in trained.items() if times > 1} <= {killed[-1][0]}
    found = Search(directory)
    rows = found.trials()
    assert len(rows) == 6 and {row["status"] for row in rows} == {"completed"}
    best = Recipe.from_json(found.best_file.read_text())
    assert best == replace(found.trial(rows[0]["trial"]).recipe(), name=best.name)
