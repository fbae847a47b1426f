import json

import keras
import numpy as np
import pytest

from keras_resnet import data
from keras_resnet.evaluate import evaluate, softmax, test_probabilities, top_k_error
from keras_resnet.run import Run

test_probabilities.__test__ = False  # a function of the package, not a test


def test_every_picture_counts_once_whatever_the_batch_size(digits_run):
    results = [evaluate(digits_run.path, batch_size=size) for size in (1, 7, 360, 1000)]
    assert all(result == results[0] for result in results)
    assert results[0]["images"] == 360
    assert json.loads(digits_run.evaluation_file().read_text()) == results[0]


def test_the_errors_against_a_slow_count(digits_run):
    """One picture at a time through the saved network, ranks counted by sorting."""
    model = keras.models.load_model(digits_run.model_file)
    preprocessing = data.Preprocessing.read(digits_run.preprocessing_file)
    test = data.load("digits").test
    wrong = {1: 0, 5: 0}
    for image, label in zip(test.images, test.labels, strict=True):
        logits = model(np.asarray(data.normalize(preprocessing, image))[np.newaxis], training=False).numpy()[0]
        order = list(np.argsort(-logits))
        for k in wrong:
            wrong[k] += label not in order[:k]
    result = evaluate(digits_run.path)
    assert result["top1_error"] == pytest.approx(100 * wrong[1] / 360)
    assert result["top5_error"] == pytest.approx(100 * wrong[5] / 360)


def test_top_k_error_by_hand():
    probabilities = np.array([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [0.1, 0.8, 0.1]])
    labels = np.array([0, 1, 0])
    assert top_k_error(probabilities, labels, 1) == pytest.approx(200 / 3)
    # The third label ties with another class for the second place, which counts against it.
    assert top_k_error(probabilities, labels, 2) == pytest.approx(100 / 3)
    assert top_k_error(probabilities, labels, 3) == 0


def test_a_network_that_says_nothing_gets_nothing():
    assert top_k_error(np.full((4, 10), 0.1), np.arange(4), 5) == 100
    assert top_k_error(np.full((4, 10), np.nan), np.arange(4), 5) == 100


def test_softmax_of_large_logits():
    np.testing.assert_allclose(softmax(np.array([[1000.0, 1000.0, -1000.0]])), [[0.5, 0.5, 0.0]])


def test_a_run_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="is not a run"):
        evaluate(tmp_path / "nothing")


def test_the_probabilities_are_those_of_the_labels_split(digits_run):
    probabilities, labels = test_probabilities(Run(digits_run.path))
    assert probabilities.shape == (360, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-12)
    assert (labels == data.load("digits").test.labels).all()
