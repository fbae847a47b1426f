"""The client, against the double of TF Serving, over both protocols."""

import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from model_server.core import Code, Failure, config_of
from model_server.server import Server

from keras_resnet import data
from keras_resnet.evaluation.evaluate import predictions as evaluated
from keras_resnet.serving import sidecars
from keras_resnet.serving.client import BATCH, Client, predict_each

TWO = """
model_config_list {
  config {
    name: "digits"
    base_path: "%s"
    model_platform: "tensorflow"
    model_version_policy { specific { versions: 1 versions: 2 } }
    version_labels { key: "stable" value: 1 }
    version_labels { key: "canary" value: 2 }
  }
}
"""


@pytest.fixture(scope="module")
def versions(exported, tmp_path_factory):
    """The folder of two versions of a model."""
    folder = tmp_path_factory.mktemp("served") / "digits"
    for number in (1, 2):
        # Without the warm-up, which takes seconds.
        ignored = shutil.ignore_patterns("tf_serving_warmup_requests")
        shutil.copytree(exported, folder / str(number), ignore=ignored)
    return folder


@pytest.fixture(scope="module")
def server(versions):
    with Server(config_of(TWO % versions)) as started:
        yield started


@pytest.fixture(params=["rest", "grpc"])
def protocol(request):
    return request.param


@pytest.fixture
def connect(server, protocol):
    """Make clients of the server by one protocol."""
    made = []

    def connect(model="digits", **options):
        # The first request of a version without warm-up takes seconds.
        options = {"timeout": 300.0} | options
        made.append(Client(getattr(server, protocol), model, **options))
        return made[-1]

    yield connect
    for client in made:
        client.close()
    server.core.faults.clear()


@pytest.fixture(scope="module")
def images():
    return [tf.io.encode_png(image).numpy() for image in data.load("digits").test.images[:11]]


@pytest.mark.slow
def test_answers_are_those_of_evaluate(connect, images, digits_run):
    """Of more images than one request holds."""
    assert len(images) > BATCH == sidecars.MAX_BATCH_SIZE
    answers = connect().predict(images, top=3)
    wanted, _ = evaluated(digits_run)
    np.testing.assert_allclose(
        [answer.probabilities for answer in answers], wanted[: len(images)], atol=1e-5
    )
    for answer, row in zip(answers, wanted, strict=False):
        assert list(answer.scores) == sorted(answer.scores, reverse=True)
        np.testing.assert_allclose(
            answer.scores, [row[int(label)] for label in answer.classes], atol=1e-5
        )
        np.testing.assert_allclose(answer.scores, np.sort(row)[::-1][:3], atol=1e-5)


@pytest.mark.slow
def test_the_classify_api_answers_the_same(connect, images):
    client = connect()
    for classified, predicted in zip(client.classify(images), client.predict(images), strict=True):
        assert classified.classes == predicted.classes
        np.testing.assert_allclose(classified.scores, predicted.scores, rtol=1e-6)
        assert classified.probabilities == ()


def test_a_corrupt_image_does_not_affect_others(connect, images, tmp_path):
    client = connect()
    good = client.predict(images[:2])
    for ask in (client.predict, client.classify):
        first, corrupt, second = ask([images[0], images[1][:-20], images[1]])
        assert corrupt.classes == corrupt.scores == ()
        assert (first.classes, second.classes) == (good[0].classes, good[1].classes)
    (tmp_path / "good.png").write_bytes(images[0])
    (tmp_path / "corrupt.png").write_bytes(b"text")
    files = [tmp_path / name for name in ("good.png", "corrupt.png", "gone.png", "good.png")]
    answers = list(predict_each(client, files, top=1))
    assert [answer["image"] for answer in answers] == list(map(str, files))
    assert answers[0] == answers[3] and answers[0]["classes"] == [good[0].classes[0]]
    assert answers[1]["error"].endswith("corrupt.png is not an image that the server reads")
    assert answers[2]["error"].endswith("gone.png cannot be read: No such file or directory")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("chosen", "number"),
    [({}, 2), ({"version": 1}, 1), ({"label": "stable"}, 1), ({"label": "canary"}, 2)],
)
def test_a_version_is_chosen_by_number_or_label(connect, server, images, chosen, number):
    client = connect(**chosen)
    server.core.answered.clear()
    client.predict(images[:1])
    client.classify(images[:1])
    assert client.metadata().version == number
    assert server.core.answered == [("digits", number)] * 3


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"model": "digit"}, r"Servable not found for request: Latest\(digit\)"),
        ({"version": 3}, r"Servable not found for request: Specific\(digits, 3\)"),
        ({"label": "beta"}, "Unrecognized servable version label: beta"),
    ],
)
def test_what_the_server_does_not_have_is_named(connect, images, chosen, says):
    with pytest.raises(ValueError, match=f"^[^\n]*127.0.0.1:.* refuses the request .*{says}$"):
        connect(**chosen).predict(images[:1])


def test_status_and_metadata(connect):
    client = connect()
    states = [(one.version, one.state, one.error) for one in client.status()]
    assert states == [(1, "AVAILABLE", ""), (2, "AVAILABLE", "")]
    assert [one.version for one in connect(version=1).status()] == [1]
    with pytest.raises(ValueError, match="Could not find version 3 of model digits"):
        connect(version=3).status()
    signatures = client.metadata().signatures
    assert sorted(signatures) == [
        "classify", "features", "image_tensor", "serving_default", "tensor"
    ]  # fmt: skip
    assert signatures["serving_default"] == {
        "inputs": {"image_bytes": "string [?]"},
        "outputs": {
            "classes": "string [?, 5]",
            "probabilities": "float [?, 10]",
            "scores": "float [?, 5]",
        },
    }


def test_a_slow_answer_ends_the_wait_and_is_not_asked_for_again(connect, server, images):
    server.core.faults[:] = [3.0, 0.0]
    start = time.monotonic()
    with pytest.raises(TimeoutError, match=r"127.0.0.1:\d+ has not answered within 0.5 seconds"):
        connect(timeout=0.5).predict(images[:1])
    assert time.monotonic() - start < 2.5
    assert server.core.faults == [0.0]


def test_a_busy_server_is_asked_again(connect, server, images):
    busy = Failure(Code.UNAVAILABLE, "The batch scheduling queue is full")
    server.core.faults[:] = [busy, busy]
    assert connect(retries=2).predict(images[:1])[0].classes
    assert server.core.faults == []
    server.core.faults[:] = [busy] * 3
    with pytest.raises(ConnectionError, match="127.0.0.1:.* The batch scheduling queue is full$"):
        connect(retries=1).predict(images[:1])
    assert server.core.faults == [busy]


def test_the_timeout_limits_all_attempts(connect, server, images):
    server.core.faults[:] = [Failure(Code.UNAVAILABLE, "The queue is full", after=0.4)] * 5
    start = time.monotonic()
    with pytest.raises(TimeoutError, match=r"127.0.0.1:\d+ has not answered within 1 seconds"):
        connect(timeout=1.0, retries=4).predict(images[:1])
    assert 0.9 < time.monotonic() - start < 2.0
    assert 1 <= len(server.core.faults) < 4


def test_a_wrong_request_is_not_sent_again(connect, server, images):
    wrong = Failure(Code.INVALID_ARGUMENT, "it's\nwrong")
    server.core.faults[:] = [wrong, wrong]
    with pytest.raises(ValueError, match="refuses the request .*: it.*s.*wrong$"):
        connect(retries=2).predict(images[:1])
    assert server.core.faults == [wrong]


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_server_that_is_not_there_is_named(scheme, images):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"{scheme}://127.0.0.1:{closed.getsockname()[1]}"
        with Client(url, "digits", retries=1) as client, pytest.raises(ConnectionError) as raised:
            client.predict(images[:1])
    assert url.partition("//")[2] in str(raised.value)
    assert "refused" in str(raised.value)


@pytest.mark.parametrize(
    ("url", "options", "says"),
    [
        ("localhost:8501", {}, "url is 'localhost:8501'; give http://HOST:PORT"),
        ("http://", {}, "url is 'http://'; give"),
        ("http://host:port", {}, "url is 'http://host:port'; give"),
        ("grpc://host", {}, "url is 'grpc://host'; give"),
        ("http://name:secret@host", {}, "url is .*; give"),
        ("http://host", {"model": ""}, "model is ''; give a name"),
        ("http://host", {"model": "a/b"}, "model is 'a/b'; give a name without / and :"),
        ("http://host", {"version": -1}, "version is -1; give the number of a version"),
        (
            "http://host",
            {"version": 1, "label": "stable"},
            "version is 1 and label is 'stable'; give at most one of them",
        ),
        ("http://host", {"timeout": 0.0}, "timeout is 0; give a positive number of seconds"),
        ("http://host", {"retries": 5}, "retries is 5; give 0 to 4"),
        ("http://host", {"certificates": __file__}, "certificates is .*; give a PEM file"),
    ],
)
def test_unusable_arguments_are_refused(url, options, says):
    with pytest.raises(ValueError, match=f"^{says}"):
        Client(url, **{"model": "digits"} | options)


def test_rest_loads_neither_tensorflow_nor_keras(server, images, tmp_path):
    (tmp_path / "digit.png").write_bytes(images[0])
    code = f"""
import sys
from keras_resnet.serving.client import Client
with Client({server.rest!r}, "digits") as client:
    assert client.predict(["digit.png"])[0].classes
    assert client.classify(["digit.png"])[0].classes
    assert client.status() and client.metadata().signatures
print(*{{name.split(".")[0] for name in sys.modules}})
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "keras_resnet" in loaded
    assert not loaded & {"tensorflow", "keras", "numpy", "grpc"}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A private key and a certificate of its own for `localhost`, as files."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "1", "-subj", "/CN=localhost", "-addext",
         "subjectAltName=DNS:localhost", "-keyout", folder / "key.pem", "-out",
         folder / "certificate.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder / "key.pem", folder / "certificate.pem"


@pytest.mark.slow
def test_grpc_with_tls(versions, certificate, images):
    key, chain = certificate
    tls = (key.read_bytes(), chain.read_bytes())
    with Server(config_of(digits=versions), tls=tls) as secured:
        with Client(secured.grpc, "digits", certificates=chain) as client:
            assert client.predict(images[:1])[0].classes
        # The system's authorities do not know it.
        with Client(secured.grpc, "digits", timeout=5.0, retries=0) as client:
            with pytest.raises(ConnectionError, match="UNAVAILABLE"):
                client.predict(images[:1])
