"""Test changes of a run's folder and images during training: each is reported in one line."""

import errno
import os
import shutil
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_resnet import RECIPES, Run, train
from keras_resnet.cli.commands import main

TINY = replace(RECIPES["digits-tiny"], epochs=3)


class AfterFirstStep(keras.callbacks.Callback):
    """Run an action once, after the first step."""

    def __init__(self, action):
        super().__init__()
        self.action = action

    def on_train_batch_end(self, batch, logs=None):
        if self.action:
            self.action()
            self.action = None


@pytest.mark.slow
def test_deleting_the_folder_ends_the_training(tmp_path):
    run = Run(tmp_path / "run")
    delete = AfterFirstStep(lambda: shutil.rmtree(run.path))
    with pytest.raises(
        OSError, match=r"run/recipe.json has been removed since the training in .*run began"
    ):
        train(TINY, run.path, callbacks=[delete])
    assert not run.model_file.exists(), "the run would look trained"
    # The folder can be used again.
    assert train(replace(TINY, epochs=1), run.path).model_file.is_file()
    assert run.recipe().epochs == 1


@pytest.mark.slow
def test_a_network_without_a_recipe_is_not_a_run(tmp_path):
    run = train(replace(TINY, steps=2, epochs=None), tmp_path / "run")
    run.recipe_file.unlink()
    with pytest.raises(ValueError, match="model.keras and no recipe.json, .* another `run_dir`"):
        train(replace(TINY, steps=2, epochs=None), run.path)


@pytest.fixture
def pets(tmp_path):
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        for split, count in (("train", 16), ("test", 2)):
            for i in range(count):
                path = tmp_path / "pets" / split / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = random.integers(0, 256, (12, 12, 3), np.uint8)
                path.write_bytes(tf.io.encode_png(pixels).numpy())
    return tmp_path / "pets"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("split", "harm", "reason"),
    [
        ("train", lambda path: path.write_bytes(b"not an image"), "no JPEG, PNG"),
        ("test", lambda path: path.write_bytes(path.read_bytes()[:40]), "a damaged PNG"),
        ("train", lambda path: path.write_bytes(b""), "empty"),
        ("test", lambda path: path.unlink(), os.strerror(errno.ENOENT)),
        ("train", lambda path: (path.unlink(), path.mkdir()), os.strerror(errno.EISDIR)),
    ],
)
def test_an_image_that_changes_during_training_is_named(
    pets, tmp_path, split, harm, reason, capsys, monkeypatch
):
    """On the command line it is one line and exit status 2."""
    image = pets / split / "dog" / "1.png"
    # Far more batches than the pipeline prepares during the first step.
    recipe = replace(TINY, epochs=100, dataset=str(pets), batch_size=8, augmentation="pad-crop",
                     image_size=8)  # fmt: skip
    with pytest.raises(OSError) as raised:
        train(recipe, tmp_path / "run", callbacks=[AfterFirstStep(lambda: harm(image))])
    text = str(raised.value)
    assert text.startswith(f"{image} could be read when the training began (") and reason in text
    assert text.endswith("resumes the training") and len(text.splitlines()) == 1

    def failing(*_, **__):
        raise raised.value

    monkeypatch.setattr("keras_resnet.training.train.train", failing)
    capsys.readouterr()
    assert main(["train", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == f"keras-resnet: {text}\n"
