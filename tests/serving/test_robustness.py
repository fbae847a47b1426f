"""What a served export and its clients endure: many requests, and bad ones.

`scripts/experiments/serving_load.py` does the same for minutes.
"""

import time

import grpc
import numpy as np
import pytest
import tensorflow as tf
from model_server import junk
from model_server.clients import asking, wait_for
from model_server.core import config_of
from model_server.server import Server

from keras_resnet import data
from keras_resnet.evaluation.evaluate import predictions as evaluated
from keras_resnet.serving.client import BATCH, Client


@pytest.fixture(scope="module")
def server(served):
    with Server(config_of(digits=served)) as started:
        yield started


@pytest.fixture(scope="module")
def images():
    """Of which the last one is damaged."""
    good = [tf.io.encode_png(image).numpy() for image in data.load("digits").test.images[:20]]
    return [*good, good[0][:-20]]


@pytest.fixture(scope="module")
def probabilities(digits_run):
    """Of the images, by `evaluate`."""
    good = np.asarray(evaluated(digits_run)[0])[:20]
    return np.concatenate([good, np.zeros_like(good[:1])])


@pytest.fixture
def others(server, images, probabilities):
    """Ask over both protocols during the test, and require a right answer to every request."""
    urls = (server.rest, server.grpc)
    with asking(urls, "digits", images, probabilities, clients=2) as counts:
        wait_for(lambda: counts.requests > 4)
        yield counts
        before = counts.requests
        wait_for(lambda: counts.requests > before + 4)
    assert counts.errors == counts.wrong == []


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["rest", "grpc"])
@pytest.mark.parametrize("clients", [1, 8, 32])
def test_every_answer_under_load_is_right(server, images, probabilities, protocol, clients):
    urls = (getattr(server, protocol),)
    with asking(urls, "digits", images, probabilities, clients=clients) as counts:
        time.sleep(0.5)
        wait_for(lambda: counts.requests > 2 * clients)
    assert counts.errors == counts.wrong == []


@pytest.mark.slow
def test_a_wrong_answer_and_an_error_are_counted(server, images, probabilities):
    with asking((server.rest,), "digits", images, probabilities[::-1], clients=1) as counts:
        wait_for(lambda: counts.wrong)
    with asking((server.rest,), "digit", images, probabilities, clients=1) as counts:
        wait_for(lambda: counts.errors)
    assert counts.requests == 0


def test_clients_that_vanish_harm_nobody(server, images, others):
    """In the middle of a request, and while the server computes."""
    request = junk.post("/v1/models/digits:predict", b'{"instances": [' + b" " * 10_000)
    for size in (5, 40, 300, len(request) - 1):
        junk.cut_off(server.rest, request[:size])
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    for size in (5, len(preface)):
        junk.cut_off(server.grpc, preface[:size])
    message = junk.predict_request("digits", images[:1]).SerializeToString()
    with grpc.insecure_channel(server.grpc.partition("//")[2]) as channel:
        calls = [channel.unary_unary(junk.PREDICT).future(message) for _ in range(20)]
        for call in calls:
            call.cancel()


@pytest.mark.slow
def test_a_request_over_the_limit_is_refused_and_the_next_one_answered(served, images):
    with Server(config_of(digits=served), max_bytes=100_000) as server:
        for url, code in ((server.rest, "413"), (server.grpc, "RESOURCE_EXHAUSTED")):
            with Client(url, "digits", timeout=300, retries=1) as client:
                with pytest.raises(ValueError, match=rf"refuses the request \({code}\)"):
                    client.predict([b"x" * 200_000])
                assert client.predict(images[:1])[0].classes


def test_more_images_than_a_batch_holds_are_refused(server, images):
    """The client sends fewer."""
    message = junk.predict_request("digits", images[: BATCH + 1]).SerializeToString()
    with grpc.insecure_channel(server.grpc.partition("//")[2]) as channel:
        with pytest.raises(grpc.RpcError, match="Task size 9 is larger than maximum input batch"):
            channel.unary_unary(junk.PREDICT)(message)


def test_an_unknown_model_harms_nobody(server, images, others):
    for url in (server.rest, server.grpc):
        with Client(url, "digit", timeout=300) as client:
            for _ in range(20):
                with pytest.raises(ValueError, match="Servable not found for request"):
                    client.predict(images[:1])


def test_junk_over_rest_harms_nobody(server, images, others):
    rng = np.random.default_rng(0)
    for _ in range(500):
        request = junk.http_junk(rng, "digits", images[0])
        status = junk.answer_of(server.rest, request)
        # Bytes of an image may change without harm to the request: then it is answered.
        assert status in (None, 200, 400, 404, 408, 413, 414, 431, 501, 505), request[:200]


def test_junk_over_grpc_harms_nobody(server, images, others):
    rng = np.random.default_rng(0)
    expected = {"OK", "INTERNAL", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION",
                "UNIMPLEMENTED"}  # fmt: skip
    with grpc.insecure_channel(server.grpc.partition("//")[2]) as channel:
        for _ in range(500):
            method, message = junk.grpc_junk(rng, "digits", images[0])
            code = junk.code_of(channel, method, message)
            assert code.name in expected, (method, message[:200])
    for _ in range(20):
        junk.answer_of(server.grpc, rng.bytes(200))
