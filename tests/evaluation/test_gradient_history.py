"""Gradients that are recorded while a network trains."""

import shutil
import xml.etree.ElementTree as ET

import keras
import numpy as np
import pytest
from pages import parsed

from keras_resnet import GradientHistory, data, explain, train
from keras_resnet.data.pipeline import evaluation_batches
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.evaluation.gradients import unit_gradients
from keras_resnet.files import read_table, write_text
from keras_resnet.runs.recipes import RECIPES
from keras_resnet.runs.run import Run

TINY = RECIPES["digits-tiny"]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("recorded") / "run")
    return train(TINY, run.path, callbacks=[GradientHistory(run.path, images=64)])


@pytest.mark.slow
def test_the_training_itself_does_not_change(recorded, digits_run):
    networks = [keras.models.load_model(run.model_file) for run in (recorded, digits_run)]
    for ours, theirs in zip(*(network.get_weights() for network in networks), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_the_last_rows_are_the_gradients_of_the_trained_network(recorded):
    rows = read_table(recorded.gradients_file)
    assert [int(row["epoch"]) for row in rows] == sorted(list(range(4)) * (len(rows) // 4))
    split = data.load("digits").train
    every = split.take(np.arange(0, len(split), len(split) // 64)[:64])
    preprocessing = Preprocessing.read(recorded.preprocessing_file)
    ((images, labels),) = evaluation_batches(every, preprocessing, 64).as_numpy_iterator()
    network = keras.models.load_model(recorded.model_file)
    wanted = unit_gradients(network, TINY.spec, images, labels)
    for row, unit in zip(rows[-len(wanted) :], wanted, strict=True):
        assert row["unit"] == unit.unit
        assert float(row["total"]) == pytest.approx(unit.total, rel=1e-4)


@pytest.mark.slow
def test_a_resumed_training_leaves_the_table_of_an_unbroken_one(recorded, tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    run = Run(tmp_path / "run")
    history = GradientHistory(run, images=64)
    with pytest.raises(KeyboardInterrupt):
        train(TINY, run.path, checkpoint_seconds=0, callbacks=[history, Stop()])
    assert read_table(run.gradients_file)[-1]["epoch"] == "2"
    train(TINY, run.path, callbacks=[GradientHistory(run, images=64)])
    assert run.gradients_file.read_text() == recorded.gradients_file.read_text()


@pytest.mark.slow
def test_explain_draws_them(recorded, tmp_path):
    file = explain(recorded, tmp_path / "page.html", images=20, depths=(), figures=tmp_path)
    assert parsed(file).find(".//section[@id='during']") is not None
    drawn = ET.parse(tmp_path / "gradients-during.svg").getroot()
    texts = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert {"0", "1", "2", "3"} <= set(texts)
    damaged = Run(shutil.copytree(recorded.path, tmp_path / "damaged"))
    write_text(damaged.gradients_file, "epoch,total\n0,much\n")
    with pytest.raises(ValueError, match="gradients.csv is damaged"):
        explain(damaged)


def test_a_batch_of_no_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="images is 0; give a positive number"):
        GradientHistory(tmp_path, images=0)
