"""Test fine-tuning: initial weights, frozen weights and class weights."""

import json
import zlib
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import network_of

from keras_resnet.data.preprocessing import PREPROCESSING, Preprocessing
from keras_resnet.evaluation.evaluate import evaluate
from keras_resnet.networks.paper import cifar_spec
from keras_resnet.runs.recipes import RECIPES
from keras_resnet.runs.run import Run
from keras_resnet.training import initial_weights
from keras_resnet.training.fit import segments
from keras_resnet.training.optimizer import compile_for
from keras_resnet.training.train import train

TINY = replace(RECIPES["digits-tiny"], epochs=2, learning_rate=0.01)


def weights_of(path):
    return {w.path: w.numpy() for w in keras.models.load_model(path).weights}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "moves"),
    [
        ({"freeze": "backbone"}, lambda name: name.startswith("predictions")),
        ({"freeze": "batch_norm"}, lambda name: "_bn" not in name),
        pytest.param(
            {"head_epochs": 2}, lambda name: name.startswith("predictions"), marks=pytest.mark.slow
        ),
        pytest.param({"head_epochs": 1}, lambda name: True, marks=pytest.mark.slow),
    ],
    ids=["backbone", "batch_norm", "head for all epochs", "head first"],
)
def test_frozen_weights_are_unchanged(digits_run, tmp_path, changes, moves):
    run = train(replace(TINY, weights=str(digits_run.path), **changes), tmp_path / "run")
    before, after = weights_of(digits_run.model_file), weights_of(run.model_file)
    assert before.keys() == after.keys()
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved == {name for name in before if moves(name)}


def test_a_run_gives_its_preprocessing_and_its_classifier_for_the_same_classes(digits_run):
    begun = initial_weights.find(replace(TINY, weights=str(digits_run.path)), digits_run)
    assert begun.preprocessing == Preprocessing.read(digits_run.preprocessing_file)
    for labels, same in ((tuple("0123456789"), True), (tuple("abcdefghij"), False)):
        model = network_of(TINY, 8, 10)
        new = model.get_layer("predictions").get_weights()[0]
        initial_weights.load_into(begun, model, TINY, labels)
        trained = (
            keras.models.load_model(digits_run.model_file).get_layer("predictions").get_weights()[0]
        )
        np.testing.assert_array_equal(
            model.get_layer("predictions").get_weights()[0], trained if same else new
        )


def test_another_number_of_classes_gives_a_warning(digits_run):
    model = network_of(TINY, 8, 3)
    with pytest.warns(UserWarning, match="10 classes.* 3 classes: the backbone is loaded"):
        initial_weights.load_into(
            initial_weights.find(replace(TINY, weights=str(digits_run.path)), digits_run),
            model,
            TINY,
            ("a", "b", "c"),
        )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"weights": "nowhere.h5"}, "nowhere.h5 does not exist"),
        ({"image_size": 16}, "image_size is 16; .* mean image of 8 px"),
        ({"spec": cifar_spec(20)}, "has no |which the network has not"),
    ],
)
def test_weights_that_do_not_fit(digits_run, tmp_path, changes, says):
    recipe = replace(TINY, **({"weights": str(digits_run.path)} | changes))
    with pytest.raises(ValueError, match=says):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "model.keras").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"freeze": "backbone"}, "give weights"),
        ({"head_epochs": 1}, "give weights"),
        ({"freeze": "everything", "weights": "x"}, "choose one of"),
        (
            {"freeze": "batch_norm", "weights": "x", "bn_statistics": "population"},
            "frozen statistics are not recomputed",
        ),
    ],
)
def test_inconsistent_recipes_are_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        replace(TINY, **changes)


@pytest.mark.slow
def test_public_weights_bring_their_preprocessing(tmp_path):
    """keras.applications' ResNet-50 was trained on BGR minus ImageNet's mean (mode "caffe")."""
    recipe = replace(RECIPES["finetune-resnet50"], dataset="digits")
    model = keras.applications.ResNet50(weights=None, include_top=False)
    model.save_weights(tmp_path / "resnet50.weights.h5")
    begun = initial_weights.find(
        replace(recipe, weights=str(tmp_path / "resnet50.weights.h5"), image_size=112),
        Run(tmp_path / "run"),
    )
    assert begun.preprocessing == replace(
        PREPROCESSING["caffe"], crop=112, resize=128, exif_orientation=True
    )


def test_the_head_is_trained_first():
    assert list(segments(0, 64, 20, 1)) == [(0, 20), (20, 60), (60, 64)]
    assert list(segments(7, 64, 20, 1)) == [(7, 20), (20, 60), (60, 64)]
    assert list(segments(0, 64, 20, 9)) == [(0, 60), (60, 64)]


def test_weighed_classes_count_equally():
    """Two images of class 0 and one of class 1 have the weights 3 / (2 * 2) and 3 / (2 * 1), as
    "balanced" in scikit-learn."""
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.array([0, 0, 1], np.int32)
    weights = compute_class_weight("balanced", classes=np.array([0, 1]), y=labels).astype(
        np.float32
    )
    model = network_of(TINY, 8, 2)
    logits = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    each = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True).numpy()
    compile_for(TINY, model, 1, weights)
    assert float(model.compute_loss(y=tf.constant(labels), y_pred=logits)) == pytest.approx(
        float(np.mean(each * weights[labels])), rel=1e-5
    )


@pytest.mark.slow
def test_uneven_classes_are_reported_and_weighed(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for label, count in (("many", 40), ("few", 10)):
        for split, share in (("train", count), ("test", 4)):
            for i in range(share):
                path = tmp_path / "data" / split / label / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(
                    tf.io.encode_png(rng.integers(0, 256, (16, 16, 3), np.uint8)).numpy()
                )
    recipe = replace(TINY, dataset=str(tmp_path / "data"), batch_size=16, epochs=1)
    train(recipe, tmp_path / "plain")
    assert "40 images of many, 10 of few; `weigh_classes`" in capsys.readouterr().err
    train(replace(recipe, weigh_classes=True), tmp_path / "weighed")
    assert "40 images of many, 10 of few\n" in capsys.readouterr().err


def draw(path):
    """Write an image of its own for each split, class and name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = zlib.crc32("/".join(path.parts[-3:]).encode())
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
    path.write_bytes(tf.io.encode_png(pixels).numpy())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:pets has no test split")
def test_added_images_are_neither_trained_nor_tested_on(tmp_path):
    """One more image would change the test split to include training images."""
    for label in ("a", "b"):
        for i in range(20):
            draw(tmp_path / "pets" / label / f"{i}.png")
    recipe = replace(TINY, dataset=str(tmp_path / "pets"), batch_size=16, epochs=1)
    run = train(recipe, tmp_path / "run")
    kept = run.data_file.read_bytes()
    assert evaluate(run.path)["images"] == 8
    (run.model_file).rename(tmp_path / "model.keras")
    draw(tmp_path / "pets" / "a" / "later.png")
    says = "pets has changed since .*run began: its train split had 32 images, now 33; restore them"
    with pytest.raises(ValueError, match=says):
        train(recipe, run.path)
    (tmp_path / "model.keras").rename(run.model_file)
    with pytest.raises(ValueError, match=says):
        evaluate(run.path)
    (tmp_path / "pets" / "a" / "0.png").unlink()
    with pytest.raises(ValueError, match="had 32 images, now 32, some of them different"):
        evaluate(run.path)
    assert run.data_file.read_bytes() == kept
    run.data_file.write_text("{}")
    with pytest.raises(ValueError, match="data.json is damaged"):
        evaluate(run.path)


@pytest.mark.slow
def test_an_own_test_split_may_grow(tmp_path):
    for split, count in (("train", 20), ("test", 5)):
        for label in ("a", "b"):
            for i in range(count):
                draw(tmp_path / "pets" / split / label / f"{i}.png")
    run = train(
        replace(TINY, dataset=str(tmp_path / "pets"), batch_size=16, epochs=1), tmp_path / "run"
    )
    draw(tmp_path / "pets" / "test" / "a" / "later.png")
    assert evaluate(run.path)["images"] == 11


def test_the_record_of_images_in_memory(digits_run):
    """scikit-learn's `load_digits` has 1,797 digits; a fifth is the test split."""
    kept = json.loads(digits_run.data_file.read_text())
    assert kept["dataset"] == "digits" and not kept["notes"] and not kept["test_held_out"]
    assert {name: split["images"] for name, split in kept["splits"].items()} == {
        "train": 1437,
        "test": 360,
    }
    assert sum(kept["splits"]["train"]["classes"].values()) == 1437


def test_a_recipe_without_data_asks_for_it(tmp_path):
    with pytest.raises(ValueError, match="no data set is given"):
        train(RECIPES["scratch-resnet18"], tmp_path / "run")
