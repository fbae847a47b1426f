from dataclasses import replace

import keras
import numpy as np
import pytest

from keras_resnet.runs.recipes import RECIPES
from keras_resnet.training.loss import Accuracy, loss_of

TINY = RECIPES["digits-tiny"]
LOGITS = np.array([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0], [2.0, 2.5, 0.0]], np.float32)
LABELS = np.array([0, 2, 1], np.int32)
# Shares of an unmixed image, an image mixed from two classes, and one mostly of another class.
SHARES = np.array([[1, 0, 0], [0.3, 0, 0.7], [0.9, 0.1, 0]], np.float32)


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_shares(smoothing):
    """By hand: minus the sum of share times log probability, of smoothed shares."""
    targets = SHARES * (1 - smoothing) + smoothing / 3
    wanted = -(targets * np.log(softmax(LOGITS))).sum(axis=1).mean()
    loss = loss_of(replace(TINY, label_smoothing=smoothing))
    assert float(loss(SHARES, LOGITS)) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(
    ("labels", "present"),
    [
        (LABELS, [[1, 0, 0], [0, 0, 1], [0, 1, 0]]),
        (SHARES, [[1, 0, 0], [1, 0, 1], [1, 0, 0]]),  # a tenth is too little
    ],
)
def test_binary_cross_entropy(labels, present):
    """Wightman et al. 2021, section 3: the mean over independent classes, with both classes of a
    mixed image present."""
    sigmoid = 1 / (1 + np.exp(-LOGITS))
    present = np.array(present)
    wanted = -(present * np.log(sigmoid) + (1 - present) * np.log(1 - sigmoid)).mean()
    loss = loss_of(replace(TINY, loss="binary_cross_entropy"))
    assert float(loss(labels, LOGITS)) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("name", ["cross_entropy", "binary_cross_entropy"])
def test_class_weights_of_shares(name):
    """An image's weight is the mean of its classes' weights by their shares."""
    weights = [1.0, 10.0, 4.0]
    alone = [
        float(loss_of(replace(TINY, loss=name))(SHARES[i : i + 1], LOGITS[i : i + 1]))
        for i in range(3)
    ]
    wanted = np.mean(np.multiply(alone, [1.0, 0.3 + 2.8, 0.9 + 1.0]))
    weighed = loss_of(replace(TINY, loss=name), weights)
    assert float(weighed(SHARES, LOGITS)) == pytest.approx(wanted, rel=1e-6)
    whole = np.eye(3, dtype=np.float32)[LABELS]
    assert float(weighed(LABELS, LOGITS)) == float(weighed(whole, LOGITS))


def test_accuracy_of_labels_and_of_shares_in_one_metric():
    """The first image is correct in both forms of labels; the third has another class in shares."""
    metric = Accuracy()
    metric.update_state(LABELS, LOGITS)
    assert float(metric.result()) == pytest.approx(2 / 3)
    metric.update_state(SHARES, LOGITS)
    assert float(metric.result()) == pytest.approx(3 / 6)
    keras_own = keras.metrics.SparseCategoricalAccuracy()
    keras_own.update_state(LABELS, LOGITS)
    assert [v.name for v in metric.variables] == [v.name for v in keras_own.variables]
    again = keras.metrics.deserialize(keras.metrics.serialize(metric))
    assert type(again) is Accuracy and again.name == "accuracy"
