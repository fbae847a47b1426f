import csv
import hashlib
import io
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import network_of
from rich.console import Console

import keras_resnet
from keras_resnet import data
from keras_resnet.data.pipeline import Augmentation, train_batches
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.runs.dataset import TrainingData, load_dataset
from keras_resnet.runs.recipes import RECIPES
from keras_resnet.runs.run import Run
from keras_resnet.training.batch_statistics import set_population_statistics
from keras_resnet.training.fit import segments
from keras_resnet.training.optimizer import compile_for
from keras_resnet.training.schedule import validations_since_best
from keras_resnet.training.train import _recipe_and_run as recipe_and_run
from keras_resnet.training.train import train

TINY = replace(RECIPES["digits-tiny"], deterministic=True)
COMMAND = [sys.executable, "-m", "keras_resnet", "train", "digits-tiny", "--deterministic"]


def history(run):
    """Return the rows of the history without the timings."""
    with open(run.history_file, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [
        {k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows
    ]


def weights(run):
    return keras.models.load_model(run.model_file).get_weights()


def same(a, b):
    return len(a) == len(b) and all((x == y).all() for x, y in zip(a, b, strict=True))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Run the command that the tests below interrupt, without interruption."""
    folder = tmp_path_factory.mktemp("unbroken")
    subprocess.run(
        [*COMMAND, "--epochs", "4", "--run-dir", folder], check=True, capture_output=True
    )
    return Run(folder)


def test_the_files_of_a_run(digits_run):
    rows = history(digits_run)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert set(rows[0]) == {
        "epoch",
        "learning_rate",
        "loss",
        "accuracy",
        "val_loss",
        "val_accuracy",
    }
    assert float(rows[-1]["val_accuracy"]) > 0.9
    for part in ("train", "validation"):
        assert list(digits_run.tensorboard.glob(f"{part}/events*"))
    names = {path.name for path in digits_run.path.iterdir()}
    assert names >= {
        "recipe.json",
        "provenance.json",
        "labels.txt",
        "preprocessing.json",
        "history.csv",
        "model.keras",
    }


def test_a_finished_run_is_unchanged(digits_run):
    before = digits_run.model_file.stat().st_mtime_ns
    train(RECIPES["digits-tiny"], digits_run.path)
    assert digits_run.model_file.stat().st_mtime_ns == before


def test_the_learning_rate_follows_the_schedule():
    """Section 4.2, shortened: 0.1 for the first half, then 0.01, and 0.001 for the last quarter."""
    recipe = replace(TINY, epochs=None, steps=8, learning_rate=0.1)
    model = network_of(recipe, 8, 10)
    compile_for(recipe, model, steps_per_epoch=4)
    rates = []
    for _ in range(8):
        rates.append(float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)))
        model.train_on_batch(np.zeros((2, 8, 8, 3)), np.zeros(2))
    assert rates == pytest.approx([0.1] * 4 + [0.01] * 2 + [0.001] * 2)


@pytest.mark.slow
def test_one_step_is_sgd_with_momentum_and_the_papers_weight_decay():
    """By hand: v = 0.9 v - 0.1 (g + decay w); w = w + v. Only kernels decay, as in Caffe, which the
    authors used."""
    recipe = replace(TINY, weight_decay=1e-2)
    model = network_of(recipe, 8, 10, weight_decay=recipe.weight_decay)
    compile_for(recipe, model, steps_per_epoch=100)
    rng = np.random.default_rng(0)
    wanted = [w.numpy() for w in model.trainable_variables]
    velocity = [np.zeros_like(w) for w in wanted]
    for _ in range(2):
        images, labels = rng.normal(size=(4, 8, 8, 3)).astype("float32"), rng.integers(0, 10, 4)
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        gradients = tape.gradient(loss, model.trainable_variables)
        for i, (variable, gradient) in enumerate(
            zip(model.trainable_variables, gradients, strict=True)
        ):
            decay = 1e-2 * wanted[i] if variable.path.endswith("kernel") else 0.0
            velocity[i] = 0.9 * velocity[i] - 0.1 * (gradient.numpy() + decay)
            wanted[i] = wanted[i] + velocity[i]
        model.train_on_batch(images, labels)
        for variable, value in zip(model.trainable_variables, wanted, strict=True):
            np.testing.assert_allclose(variable.numpy(), value, rtol=2e-4, atol=2e-5)


def test_label_smoothing():
    """By hand: the share is spread equally over all classes (Szegedy et al. 2015, section 7)."""
    logits = np.array([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]], np.float32)
    labels = np.array([0, 2])
    log = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    targets = np.eye(3)[labels] * 0.9 + 0.1 / 3
    wanted = -(targets * log).sum(axis=1).mean()
    recipe = replace(TINY, label_smoothing=0.1)
    model = network_of(recipe, 8, 3)
    compile_for(recipe, model, 10)
    assert float(model.compute_loss(y=labels, y_pred=logits)) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.slow
def test_the_averages_of_the_weights_are_saved(tmp_path):
    """The reference is the average over the weights and statistics of the same training without
    averages."""
    # The rate does not depend on the number of steps, so shorter runs are prefixes of longer ones.
    recipe = replace(TINY, epochs=None, steps=3, ema=0.8, schedule=((0.0, 1.0),))
    kept = train(recipe, tmp_path / "kept")
    average = None
    for steps in (1, 2, 3):
        part = train(replace(recipe, ema=0.0, steps=steps), tmp_path / str(steps))
        values = keras.models.load_model(part.model_file).get_weights()
        values = [value.astype("float64") for value in values]
        average = (
            values
            if average is None
            else [0.8 * a + 0.2 * v for a, v in zip(average, values, strict=True)]
        )
    for got, wanted in zip(
        keras.models.load_model(kept.model_file).get_weights(), average, strict=True
    ):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_batch_norm_statistics_are_those_of_the_averaged_weights(tmp_path):
    """The saved statistics belong to the saved weights: average first, then compute statistics."""
    run = train(replace(TINY, ema=0.9, bn_statistics="population"), tmp_path)
    model = keras.models.load_model(run.model_file)
    saved = [v.numpy() for v in model.non_trainable_variables]
    dataset = data.load("digits")
    batches = train_batches(
        dataset.train,
        Preprocessing.read(run.preprocessing_file),
        batch_size=64,
        augmentation=Augmentation("pad-crop"),
        seed=1,
    )
    set_population_statistics(model, batches, 22)
    for got, wanted in zip(saved, model.non_trainable_variables, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_rate_falls_on_a_plateau_of_the_validation_error(tmp_path):
    """With a negligible rate the error is constant: after five validations the rate is a tenth."""
    run = train(
        replace(TINY, schedule="plateau", holdout=100, learning_rate=1e-12, epochs=8), tmp_path
    )
    rates = [float(row["learning_rate"]) for row in history(run)]
    assert len({row["val_accuracy"] for row in history(run)[1:]}) <= 3
    assert rates[0] == pytest.approx(1e-12) and rates[-1] == pytest.approx(1e-13)
    assert rates == sorted(rates, reverse=True)


@pytest.mark.slow
def test_a_nan_loss_ends_the_training(tmp_path):
    command = [
        *COMMAND,
        "--learning-rate",
        "1e30",
        "--checkpoint-seconds",
        "0",
        "--run-dir",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert re.search(
        r"^keras-resnet: the loss is nan at step \d+, with learning rate 1e\+30", done.stderr, re.M
    )
    assert "Traceback" not in done.stderr
    assert not Run(tmp_path).model_file.exists()


class Worsen(keras.callbacks.Callback):
    """Set the classifier to zeros before every validation except the first two."""

    def __init__(self, interrupt=None):
        super().__init__()
        self.interrupt = interrupt

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        if epoch == self.interrupt:
            raise KeyboardInterrupt

    def on_test_begin(self, logs=None):
        if self.epoch >= 2:
            layer = self.model.get_layer("predictions")
            layer.set_weights([np.zeros_like(weight) for weight in layer.get_weights()])


# The rate does not depend on the number of steps, so a shorter run is a prefix of a longer one.
CONSTANT_RATE = replace(TINY, schedule=((0.0, 1.0),), holdout=100)


@pytest.mark.slow
def test_the_weights_of_the_best_validation_are_kept(tmp_path):
    """They equal those of a training of two epochs bit for bit. The training is interrupted after
    the third epoch, when only the checkpoint has them."""
    shown = io.StringIO()
    recipe = replace(CONSTANT_RATE, keep="best", epochs=4)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "best", callbacks=[Worsen(interrupt=3)], checkpoint_seconds=0)
    console = Console(file=shown, width=200)
    run = train(recipe, tmp_path / "best", callbacks=[Worsen()], console=console)
    assert "resuming from step" in shown.getvalue()
    rows = history(run)
    assert [row["best_epoch"] for row in rows] == ["1", "2", "2", "2"]
    error = 100 * (1 - float(rows[1]["val_accuracy"]))
    assert f"kept: epoch 2, validation error {error:.2f} %" in shown.getvalue()
    shorter = train(replace(recipe, keep="last", epochs=2), tmp_path / "last")
    assert same(weights(run), weights(shorter))
    assert "best_epoch" not in history(shorter)[0]


@pytest.mark.slow
def test_a_training_ends_after_its_patience(tmp_path):
    """The rate is negligible. If only the model file is missing, it is written without training."""
    shown = io.StringIO()
    recipe = replace(CONSTANT_RATE, learning_rate=1e-12, patience=2, epochs=30)
    run = train(recipe, tmp_path, console=Console(file=shown, width=200))
    errors = [1 - float(row["val_accuracy"]) for row in history(run)]
    assert len(errors) < 30
    waited = [validations_since_best(errors[: n + 1]) for n in range(len(errors))]
    assert waited[-1] == 2 and max(waited[:-1]) == 1
    assert "no lower validation error in 2 validations: training ends" in shown.getvalue()
    rows, kept = history(run), weights(run)
    run.model_file.unlink()
    train(run)
    assert history(run) == rows and same(weights(run), kept)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_averages_are_validated_and_training_continues_from_the_weights(tmp_path, precision):
    """The last validation equals that of the saved model, and training errors those without
    averages."""
    recipe = replace(CONSTANT_RATE, ema=0.9, learning_rate=0.02, precision=precision)
    run = train(recipe, tmp_path / "averaged")
    without = train(replace(recipe, ema=0.0), tmp_path / "without")
    for ours, theirs in zip(history(run), history(without), strict=True):
        assert ours["loss"] == theirs["loss"] and ours["accuracy"] == theirs["accuracy"]
        assert ours["val_loss"] != theirs["val_loss"]
    prepared = Preprocessing.read(run.preprocessing_file)
    held_out = TrainingData(recipe, load_dataset(recipe), prepared).validation_batches()
    model = keras.models.load_model(run.model_file)
    logits, labels = zip(*((model(images), labels) for images, labels in held_out), strict=True)
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(
        tf.concat(labels, 0), tf.concat(logits, 0)
    )
    penalty = (
        TINY.weight_decay
        / 2
        * sum(np.square(v).sum() for v in model.trainable_variables if v.path.endswith("kernel"))
    )
    wanted = pytest.approx(
        float(tf.reduce_mean(loss) + penalty), rel=1e-5 if precision == "float32" else 1e-2
    )
    assert float(history(run)[-1]["val_loss"]) == wanted


@pytest.mark.parametrize("changes", [{"keep": "best"}, {"patience": 3}])
def test_the_test_split_never_chooses_the_weights(tmp_path, changes):
    with pytest.raises(ValueError, match="digits has no validation split, and the test split must"):
        train(replace(TINY, **changes), tmp_path / "run")
    assert not Run(tmp_path / "run").recipe_file.exists()


@pytest.mark.parametrize(
    ("first", "total", "spans"),
    [
        (0, 60, [(0, 60)]),
        (0, 64, [(0, 60), (60, 64)]),
        (7, 64, [(7, 20), (20, 60), (60, 64)]),
        (40, 64, [(40, 60), (60, 64)]),
        (62, 64, [(62, 64)]),
        (0, 5, [(0, 5)]),
        (64, 64, []),
    ],
)
def test_segments(first, total, spans):
    assert list(segments(first, total, 20)) == spans


@pytest.mark.slow
def test_a_fractional_number_of_epochs(tmp_path):
    run = train(replace(TINY, epochs=1.5), tmp_path)
    assert [row["epoch"] for row in history(run)] == ["1", "2"]
    assert history(run)[1]["val_accuracy"]


@pytest.mark.slow
def test_validation_on_held_out_images_every_second_epoch(tmp_path):
    run = train(replace(TINY, holdout=100, validate_every=2), tmp_path)
    assert [bool(row["val_accuracy"]) for row in history(run)] == [False, True, True]
    hundredths = float(history(run)[2]["val_accuracy"]) * 100
    assert hundredths == pytest.approx(round(hundredths), abs=1e-4)


@pytest.mark.slow
def test_a_stopped_training_resumes_to_the_same_result(unbroken, tmp_path):
    """SIGTERM in the middle of an epoch saves the state, and the result is equal bit for bit."""
    command = [*COMMAND, "--epochs", "4", "--run-dir", tmp_path]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith("epoch 1/4"):
            process.send_signal(signal.SIGTERM)
            break
    _, errors = process.communicate()
    if process.returncode == 0:
        pytest.fail("the training was over before it could be stopped")
    assert process.returncode == 130
    assert "stopped" in errors
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "resuming from step" in done.stderr
    assert history(Run(tmp_path)) == history(unbroken)
    assert same(weights(Run(tmp_path)), weights(unbroken))


PLATEAU = ["--schedule", "plateau", "--holdout", "100", "--learning-rate", "1e-6"]
TODAY = [
    *["--mixup", "0.2", "--cutmix", "1.0", "--repeated-augmentation", "2", "--erasing", "0.2"],
    *["--schedule", "cosine", "--warmup", "0.2", "--learning-rate", "0.01"],
    *["--stochastic-depth", "0.3", "--dropout", "0.2", "--zero-gamma", "--optimizer", "adamw"],
    *["--loss", "binary_cross_entropy", "--weigh-classes"],
    *["--keep", "best", "--patience", "9", "--holdout", "100"],
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "killed_in"), [(PLATEAU, [6]), (TODAY, [3, 6, 9])], ids=["plateau", "today"]
)
def test_a_killed_training_with_every_option_resumes_exactly(options, killed_in, tmp_path):
    """kill -9 in the middle of epochs, with schedules, averages and statistics."""
    arguments = ["--epochs", "12", "--ema", "0.9", "--bn-statistics", "population", *options]
    command = [*COMMAND, *arguments, "--checkpoint-seconds", "0.1", "--run-dir"]
    whole, killed = Run(tmp_path / "whole"), Run(tmp_path / "killed")
    subprocess.run([*command, str(whole.path)], check=True, capture_output=True)
    resumed = set()
    for epoch in killed_in:
        process = subprocess.Popen([*command, str(killed.path)], stderr=subprocess.PIPE, text=True)
        for line in process.stderr:
            if "resuming from step" in line:
                resumed.add(int(line.split("step ")[1].split()[0]))
            if line.startswith(f"epoch {epoch}/"):
                break
        time.sleep(0.15)
        process.kill()
        process.communicate()
    last = subprocess.run([*command, str(killed.path)], check=True, capture_output=True, text=True)
    assert len(resumed) == len(killed_in) - 1 and "resuming from step" in last.stderr
    assert len({row["learning_rate"] for row in history(whole)}) > 1, "the schedule never moved"
    assert history(killed) == history(whole)
    assert same(weights(killed), weights(whole))


@pytest.mark.slow
def test_four_kills(tmp_path):
    """kill -9 four times at random moments; at least one run resumes from the middle of an epoch.

    The waits before the kills are fractions of the time of the whole training, so it does not end
    before the last kill on a fast machine: they sum to at most half of it, and the four
    epochs that the test waits for are a quarter.
    """
    rng = random.Random(0)
    arguments = ["--epochs", "16", "--checkpoint-seconds", "0.1"]
    whole, killed = Run(tmp_path / "whole"), Run(tmp_path / "killed")
    subprocess.run([*COMMAND, *arguments, "--run-dir", whole.path], check=True, capture_output=True)
    with open(whole.history_file, encoding="utf-8") as file:
        training = sum(float(row["seconds"]) for row in csv.DictReader(file))
    command = [*COMMAND, *arguments, "--run-dir", str(killed.path)]
    resumed = set()
    for _ in range(4):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        seen = []
        for line in process.stderr:
            seen.append(line)
            if rng.random() < 0.1 or line.startswith("epoch"):
                break
        time.sleep(rng.uniform(0.0, training / 8))
        process.kill()
        seen.append(process.communicate()[1])
        assert process.returncode == -signal.SIGKILL, "the run was over before the last kill"
        resumed |= {
            int(text.split("step ")[1].split()[0]) for text in seen if "resuming from step" in text
        }
    subprocess.run(command, check=True, capture_output=True)
    assert any(step % 22 for step in resumed), "no run resumed from the middle of an epoch"
    assert history(killed) == history(whole)
    assert same(weights(killed), weights(whole))


@pytest.mark.slow
def test_a_damaged_checkpoint_costs_only_the_steps_since_the_previous_one(unbroken, tmp_path):
    command = [
        *COMMAND,
        "--epochs",
        "4",
        "--checkpoint-seconds",
        "0.01",
        "--run-dir",
        str(tmp_path),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith("epoch 2/4"):
            process.kill()
            break
    process.communicate()
    newest = max(Run(tmp_path).checkpoints.glob("step-*.npz"))
    newest.write_bytes(newest.read_bytes()[:-100])
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{newest} is damaged" in done.stderr and "resuming from step" in done.stderr
    assert history(Run(tmp_path)) == history(unbroken)
    assert same(weights(Run(tmp_path)), weights(unbroken))


def limit_file_size():
    """Make writes beyond 300 kB fail, as on a full disk; this network's checkpoint has 627 kB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))


@pytest.mark.slow
def test_a_full_disk_gives_one_clear_line_and_keeps_the_last_checkpoint(tmp_path):
    command = [
        *COMMAND,
        "--epochs",
        "40",
        "--checkpoint-seconds",
        "0.1",
        "--run-dir",
        str(tmp_path),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith("epoch 3/"):
            process.kill()
            break
    process.communicate()
    before = {path.name: path.read_bytes() for path in Run(tmp_path).checkpoints.glob("step*")}
    assert before
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit_file_size)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert (
        done.stderr.splitlines()[-1].startswith("keras-resnet: ")
        and "npz: File too large" in done.stderr
    )
    assert {path.name: path.read_bytes() for path in Run(tmp_path).checkpoints.iterdir()} == before


@pytest.mark.slow
def test_an_unwritable_folder(tmp_path):
    (tmp_path / "file").touch()
    done = subprocess.run(
        [*COMMAND, "--run-dir", str(tmp_path / "file" / "run")], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "Not a directory" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "ema"),
    [("mixed_bfloat16", 0.0), pytest.param("mixed_float16", 0.5, marks=pytest.mark.slow)],
)
def test_mixed_precision_saves_a_float32_network(tmp_path, precision, ema):
    """With averaged weights too: float16 wraps the optimizer that holds them."""
    run = train(replace(TINY, precision=precision, ema=ema), tmp_path)
    assert float(history(run)[-1]["val_accuracy"]) > 0.7
    model = keras.models.load_model(run.model_file)
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.slow
def test_the_saved_network_opens_without_this_package(digits_run, tmp_path):
    code = """
import sys
sys.modules["keras_resnet"] = None
import keras
print(keras.models.load_model(sys.argv[1]).count_params())
"""
    command = [sys.executable, "-I", "-c", code, digits_run.model_file]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    # ResNet-8 by hand: 3x3 convolutions, four numbers per channel of batch norm, dense.
    assert done.stdout.split()[-1] == str(
        432 + 2 * 2304 + 4608 + 9216 + 18432 + 36864 + 4 * (48 + 64 + 128) + 650
    )


@pytest.mark.slow
def test_two_replicas_train_like_one_device(tmp_path):
    """Synchronized batch norm gives the same loss, and the saved network is unsynchronized."""
    # At a large learning rate, rounding that moves a value across zero in a ReLU grows with every
    # step.
    recipe = replace(
        RECIPES["digits-tiny"], epochs=None, steps=10, learning_rate=0.01, weight_decay=1e-3
    )
    alone = train(recipe, tmp_path / "alone")
    replicas = train(recipe, tmp_path / "replicas", devices=["CPU:0", "CPU:1"])
    for a, b in zip(history(alone), history(replicas), strict=True):
        for name in ("loss", "val_loss"):
            assert float(a[name]) == pytest.approx(float(b[name]), rel=1e-4)
    for a, b in zip(weights(alone), weights(replicas), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-3 * np.abs(a).max())
    saved = keras.models.load_model(replicas.model_file)
    assert not any(getattr(layer, "synchronized", False) for layer in saved.layers)


@pytest.mark.slow
def test_cifar10(tmp_path):
    """A tiny version of the paper's recipe, on the real images."""
    if not os.path.isdir(os.path.join(os.environ.get("TFDS_DATA_DIR", ""), "cifar10")):
        pytest.skip("CIFAR-10 is not at TFDS_DATA_DIR")
    run = train(replace(RECIPES["cifar10-tiny"], steps=60, holdout=1000), tmp_path)
    preprocessing = Preprocessing.read(run.preprocessing_file)
    assert preprocessing.crop == 32
    assert np.shape(preprocessing.mean) == (32, 32, 3)
    assert float(history(run)[-1]["val_accuracy"]) > 0.15


@pytest.mark.slow
def test_resnet20_on_digits(tmp_path):
    """The README reports 2.22 % (median of three seeds); chance is 90 %."""
    run = train(replace(RECIPES["digits-resnet20"], seed=1), tmp_path)
    assert 1 - float(history(run)[-1]["val_accuracy"]) <= 0.03


@pytest.mark.slow
def test_a_resumed_run_keeps_its_preprocessing(tmp_path):
    """One from before `exif_orientation` ends with images as they are stored."""
    run = Run(tmp_path)

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(TINY, run.path, epochs=2, callbacks=[Stop()])
    begun = Preprocessing.read(run.preprocessing_file)
    assert begun.exif_orientation
    values = json.loads(begun.to_json())
    del values["exif_orientation"]
    run.preprocessing_file.write_text(json.dumps(values))
    train(run)
    assert Preprocessing.read(run.preprocessing_file) == replace(begun, exif_orientation=False)


def test_a_folder_resumes_its_run_and_an_unknown_one_is_refused(digits_run, tmp_path):
    assert train(digits_run) == digits_run == train(str(digits_run.path))
    with pytest.raises(ValueError, match="epochs is 9; .* holds a run with 3; another `run_dir`"):
        train(digits_run, epochs=9)
    with pytest.raises(ValueError, match="no recipe is called"):
        train(tmp_path / "nowhere")


def test_a_recipes_name_takes_precedence_over_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Run(tmp_path / "digits-tiny").begin(replace(TINY, seed=99))
    assert recipe_and_run("digits-tiny", None, {})[0].seed == TINY.seed
    assert recipe_and_run("./digits-tiny", None, {})[0].seed == 99


@pytest.mark.slow
def test_a_finished_run_is_trained_further_as_a_new_run(digits_run, tmp_path):
    """At a negligible learning rate its weights equal those of the finished run."""
    further = train(digits_run, tmp_path / "further", epochs=1, learning_rate=1e-12)
    assert further.recipe().spec == digits_run.recipe().spec and further.recipe().epochs == 1
    digest = hashlib.sha256(digits_run.model_file.read_bytes()).hexdigest()
    origin = {"file": str(digits_run.model_file.resolve()), "sha256": digest}
    assert further.provenance()["started_from"] == origin
    before = keras.models.load_model(digits_run.model_file)
    after = keras.models.load_model(further.model_file)
    for a, b in zip(before.trainable_weights, after.trainable_weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-6)
    assert train(digits_run, further.path, epochs=1, learning_rate=1e-12) == further, "resumes"
    assert train(further) == further


@pytest.mark.slow
def test_a_callback_can_end_the_training(tmp_path):
    class Stop(keras.callbacks.Callback):
        epochs = 0

        def on_epoch_end(self, epoch, logs=None):
            self.epochs += 1
            self.model.stop_training = self.epochs == 2

    stop = Stop()
    run = train(replace(TINY, epochs=5), tmp_path / "run", callbacks=[stop])
    assert stop.epochs == 2 and len(history(run)) == 2
    assert run.model_file.exists()


@pytest.mark.slow
def test_train_in_a_notebook(tmp_path, monkeypatch):
    """By a recipe's name, outside the main thread, with the caller's console."""
    monkeypatch.chdir(tmp_path)
    shown = io.StringIO()
    found = []

    def work():
        console = Console(file=shown)
        found.append(keras_resnet.train("digits-tiny", epochs=1, console=console))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found[0].model_file.exists() and found[0].path == Path("runs/digits-tiny")
    assert "epoch 1/1" in shown.getvalue()


def test_a_compiled_model_reopens_with_its_schedule_and_loss(tmp_path):
    recipe = replace(TINY, schedule=((0.0, 1.0), (0.5, 0.1)), warmup=0.1, label_smoothing=0.1)
    model = network_of(recipe, 8, 10)
    compile_for(recipe, model, 100, class_weights=np.arange(1, 11, dtype=np.float32))
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    labels = np.arange(4)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    for step in (0, 5, 149, 150):
        rates = [float(m.optimizer._learning_rate(step)) for m in (model, again)]
        assert rates[0] == rates[1] > 0
    losses = [
        m.evaluate(images, labels, verbose=0, return_dict=True)["loss"] for m in (model, again)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
