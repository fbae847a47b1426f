"""Test processes that run one exported network each."""

import numpy as np
import pytest

from keras_resnet.serving.check import endpoints
from keras_resnet.serving.cpp_loader import Call
from keras_resnet.serving.worker import worker


@pytest.mark.slow
def test_a_saved_model_answers_as_in_the_loader(exported, ask):
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32)
    with worker("saved_model", exported, endpoints(exported)["tensor"]) as process:
        answer = process.answer(images)
        with pytest.raises(ValueError, match="input depth must be"):
            process.answer(images[..., :2])
        np.testing.assert_array_equal(process.answer(images), answer)  # it still answers
    (call,) = ask(exported, Call(signature="tensor", inputs={"inputs": images}))
    np.testing.assert_array_equal(answer, call.outputs["logits"])


def test_a_network_that_does_not_load_is_one_line(exported, tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"no graph")
    place = endpoints(exported)["tensor"]
    with pytest.raises(ValueError, match="Read less bytes than requested") as refused:
        with worker("saved_model", tmp_path, place):
            pass
    assert "\n" not in str(refused.value)


def test_a_process_that_ends_says_why(exported):
    with worker("saved_model", exported, endpoints(exported)["tensor"]) as process:
        process._process._process.kill()
        with pytest.raises(ValueError, match="signal 9 ended it"):
            process.answer(np.zeros((1, 8, 8, 3), np.float32))


def test_a_process_without_an_answer_is_stopped(exported):
    place = endpoints(exported)["tensor"]
    with pytest.raises(TimeoutError, match="it has not answered within 0.01 seconds"):
        with worker("saved_model", exported, place, time_limit=0.01):
            pass
