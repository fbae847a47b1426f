"""Data of runs, which is found from any directory, even after the run has moved."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_resnet import train
from keras_resnet.data.pipeline import Augmentation, train_batches
from keras_resnet.data.preprocessing import preprocessing_for
from keras_resnet.evaluation.evaluate import evaluate
from keras_resnet.runs.dataset import TrainingData, load_dataset
from keras_resnet.runs.recipes import RECIPES, recipe_of
from keras_resnet.runs.run import Run

TINY = replace(RECIPES["digits-tiny"], batch_size=16, epochs=2, deterministic=True)


def write_images(folder, counts=(("train", 20), ("test", 4))):
    """Write images of two classes that differ in brightness."""
    random = np.random.default_rng(0)
    for split, count in counts:
        for label, low in (("dark", 0), ("light", 128)):
            for i in range(count):
                path = folder / split / label / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = random.integers(low, low + 128, (16, 16, 3), np.uint8)
                path.write_bytes(tf.io.encode_png(pixels).numpy())


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project whose run was started with relative paths."""
    folder = tmp_path_factory.mktemp("project")
    write_images(folder / "images")
    before = os.getcwd()
    os.chdir(folder)
    try:
        train(replace(TINY, dataset="images"), "runs/mine")
        errors = evaluate("runs/mine")
    finally:
        os.chdir(before)
    return folder, errors


@pytest.mark.slow
@pytest.mark.parametrize("directory", ["/"])
def test_a_run_is_evaluated_from_any_directory(project, tmp_path, monkeypatch, directory):
    folder, errors = project
    (tmp_path / "elsewhere" / "images" / "train").mkdir(parents=True)  # not the run's images
    monkeypatch.chdir(tmp_path / directory)
    assert evaluate(folder / "runs" / "mine") == errors


@pytest.mark.slow
def test_a_moved_run_gives_the_same_numbers(project, tmp_path, monkeypatch):
    folder, errors = project
    moved = shutil.copytree(folder / "runs" / "mine", tmp_path / "moved")
    monkeypatch.chdir("/")
    assert evaluate(moved) == errors


def test_a_project_that_was_moved_as_a_whole_gives_the_same_numbers(project, tmp_path, monkeypatch):
    folder, errors = project
    moved = shutil.copytree(folder, tmp_path / "project")
    started = json.loads((moved / "runs" / "mine" / "provenance.json").read_text())
    started["directory"] = str(tmp_path / "gone")  # as if the old directory were gone
    (moved / "runs" / "mine" / "provenance.json").write_text(json.dumps(started))
    monkeypatch.chdir("/")
    assert evaluate(moved / "runs" / "mine") == errors


def test_a_missing_data_set_is_named(project, tmp_path, monkeypatch):
    folder, _ = project
    moved = shutil.copytree(folder / "runs" / "mine", tmp_path / "moved")
    started = json.loads((moved / "provenance.json").read_text())
    (moved / "provenance.json").write_text(json.dumps(started | {"directory": "/nowhere"}))
    monkeypatch.chdir("/")
    with pytest.raises(ValueError, match="'images'"):
        evaluate(moved)


def weights_of(run):
    return [weight.numpy() for weight in keras.models.load_model(run.model_file).weights]


@pytest.mark.slow
def test_a_moved_run_resumed_by_its_folder_alone_ends_with_the_same_weights(project, tmp_path):
    """Killed after its first epoch, moved, and resumed from another directory."""
    folder, _ = project
    recipe = replace(TINY, dataset="images", epochs=4)
    (folder / "recipe.json").write_text(recipe.to_json())
    base = [sys.executable, "-m", "keras_resnet", "train"]
    command = [*base, "recipe.json", "--checkpoint-seconds", "0"]
    subprocess.run([*command, "--run-dir", "whole"], cwd=folder, check=True, capture_output=True)
    process = subprocess.Popen(
        [*command, "--run-dir", "killed"], cwd=folder, stderr=subprocess.PIPE, text=True
    )
    for line in process.stderr:
        if line.startswith("epoch 1/"):
            process.kill()
            break
    process.communicate()
    moved = Path(shutil.move(folder / "killed", tmp_path / "moved"))
    assert not Run(moved).model_file.exists()
    subprocess.run([*base, str(moved)], cwd=tmp_path, check=True, capture_output=True)
    for a, b in zip(weights_of(Run(folder / "whole")), weights_of(Run(moved)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_run_records_the_data_directory_of_the_environment(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setenv("TFDS_DATA_DIR", "prepared")
    (tmp_path / "prepared").mkdir()
    monkeypatch.chdir(tmp_path)
    run = Run(Path("runs/cifar"))
    run.begin(RECIPES["cifar10-resnet20"])
    monkeypatch.chdir("/")
    monkeypatch.delenv("TFDS_DATA_DIR")
    moved = Run(tmp_path / "runs" / "cifar")
    load_dataset(RECIPES["cifar10-resnet20"], moved, lambda name, **rest: seen.append(rest))
    assert Path(seen[0]["data_dir"]) == tmp_path / "prepared"


def test_training_data_gives_augmentation_split_and_batches():
    """Arrays get the augmentation of section 4.2. The parts of a batch make the whole batch."""
    recipe = replace(RECIPES["digits-tiny"], augmentation="auto")
    dataset = load_dataset(recipe)
    data = TrainingData(recipe, dataset, preprocessing_for(dataset, None))
    assert data.augmentation == Augmentation("pad-crop-flip")
    assert data.steps_per_epoch == 1437 // 64 and data.held_out is dataset.test
    assert data.class_counts.sum() == 1437
    whole, _ = next(iter(data.batches(5)))
    halves = [next(iter(data.batches(5, index, 2)))[0] for index in range(2)]
    np.testing.assert_array_equal(whole, np.concatenate(halves))


@pytest.mark.slow
def test_every_ingredient_of_the_recipe_reaches_the_batches():
    """No field has its default value. The targets are shares of ten classes."""
    recipe = replace(
        RECIPES["digits-tiny"],
        augmentation="resized-crop-flip",
        crop_area=0.5,
        rand_augment=5.0,
        lighting=0.2,
        erasing=0.3,
        mixup=0.4,
        cutmix=0.6,
        repeated_augmentation=2,
    )
    dataset = load_dataset(recipe)
    data = TrainingData(recipe, dataset, preprocessing_for(dataset, None))
    wanted = Augmentation(
        "resized-crop-flip",
        crop_area=0.5,
        rand_augment=5.0,
        lighting=0.2,
        erasing=0.3,
        mixup=0.4,
        cutmix=0.6,
        repeats=2,
    )
    assert data.augmentation == wanted
    trivial = replace(recipe, rand_augment=0.0, trivial_augment=True)
    assert replace(data, recipe=trivial).augmentation == replace(
        wanted, rand_augment=0.0, trivial_augment=True
    )
    images, targets = next(iter(data.batches(3)))
    assert images.shape == (64, 8, 8, 3) and targets.shape == (64, 10)
    whole = next(
        iter(
            train_batches(
                dataset.train,
                data.preprocessing,
                batch_size=64,
                augmentation=wanted,
                classes=10,
                seed=recipe.seed,
                first_step=3,
            )
        )
    )
    np.testing.assert_array_equal(images, whole[0])
    np.testing.assert_array_equal(targets, whole[1])
    _, labels = next(iter(data.validation_batches()))
    assert labels.dtype == tf.int32, "class numbers"


def test_recipes_are_found_by_name_or_file(tmp_path):
    assert recipe_of("digits-tiny") is not None
    assert recipe_of("digits-tiny", epochs=7).epochs == 7
    assert recipe_of(RECIPES["cifar10-resnet20"], epochs=7).steps is None
    (tmp_path / "mine.json").write_text(replace(TINY, seed=9).to_json())
    assert recipe_of(tmp_path / "mine.json").seed == 9
    with pytest.raises(
        ValueError, match="no recipe is called 'digits-tinny'; the nearest are digit"
    ):
        recipe_of("digits-tinny")
    with pytest.raises(ValueError, match="a field of Recipe is 'epoch'; choose one of"):
        recipe_of("digits-tiny", epoch=7)
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ValueError, match="bad.json: not a recipe"):
        recipe_of(tmp_path / "bad.json")
