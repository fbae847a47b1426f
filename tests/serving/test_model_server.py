"""The double of TF Serving itself: what operators rely on, while clients ask without pause."""

import json
import re
import shutil
import subprocess
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from model_server.clients import asking, wait_for
from model_server.core import config_of
from model_server.server import Server
from tensorflow_serving.apis import model_management_pb2, model_service_pb2_grpc

import keras_resnet
from keras_resnet import data
from keras_resnet.evaluation.evaluate import predictions as evaluated
from keras_resnet.serving.client import Client

LABELED = """
model_config_list {
  config {
    name: "digits"
    base_path: "%s"
    model_platform: "tensorflow"
    model_version_policy { specific { versions: 1 versions: 2 } }
    version_labels { key: "stable" value: %d }
  }
}
"""


@pytest.fixture(scope="module")
def image():
    return tf.io.encode_png(data.load("digits").test.images[0]).numpy()


@pytest.fixture(scope="module")
def probabilities(digits_run):
    """Of the image, by `evaluate`: `[1, classes]`."""
    return np.asarray(evaluated(digits_run)[0])[:1]


WITHOUT_WARM_UP = shutil.ignore_patterns("tf_serving_warmup_requests")
"""of a copy that is to be loaded soon"""


@pytest.fixture
def folder(exported, tmp_path):
    """A folder of one version."""
    shutil.copytree(exported, tmp_path / "digits" / "1", ignore=WITHOUT_WARM_UP)
    return tmp_path / "digits"


def add_version(folder, exported, number, damage=False):
    """Add a version as exports appear: whole."""
    unfinished = folder / f".writing-{number}"
    shutil.copytree(exported, unfinished, ignore=WITHOUT_WARM_UP)
    if damage:
        (unfinished / "saved_model.pb").write_bytes(b"damaged")
    unfinished.rename(folder / str(number))


@contextmanager
def asked_without_pause(server, image, probabilities, **chosen):
    """Ask over both protocols, and require a right answer to every request."""
    urls = (server.rest, server.grpc)
    with asking(urls, "digits", [image], probabilities, clients=2, **chosen) as counts:
        yield
    assert counts.requests and counts.errors == counts.wrong == []


@pytest.mark.slow
def test_a_new_version_takes_over_and_a_broken_one_does_not(folder, exported, image, probabilities):
    with (
        Server(config_of(digits=folder)) as server,
        Client(server.rest, "digits", timeout=300) as client,
    ):
        with asked_without_pause(server, image, probabilities):
            add_version(folder, exported, 2)
            wait_for(lambda: ("digits", 2) in server.core.answered)
            add_version(folder, exported, 10, damage=True)
            wait_for(lambda: len(client.status()) == 3)
            before = len(server.core.answered)
            wait_for(lambda: len(server.core.answered) > before + 5)
        old, new, broken = client.status()
        assert [one.state for one in (old, new, broken)] == ["END", "AVAILABLE", "END"]
        assert broken.error and not new.error
        assert {number for _, number in server.core.answered} == {1, 2}


@pytest.mark.slow
def test_a_version_goes_live_only_after_its_warm_up(folder, exported, image):
    with (
        Server(config_of(digits=folder)) as server,
        Client(server.rest, "digits", timeout=300) as client,
    ):
        broken = folder / ".writing-2"
        shutil.copytree(exported, broken)
        (broken / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"damaged" * 9)
        broken.rename(folder / "2")
        wait_for(lambda: len(client.status()) == 2 and client.status()[1].state == "END")
        assert "warmup_requests is damaged" in client.status()[1].error
        client.predict([image])
        assert server.core.answered == [("digits", 1)]


def reload(server, text):
    """Reload the configuration as the management API does, and return its answer's status."""
    request = model_management_pb2.ReloadConfigRequest(config=config_of(text))
    with grpc.insecure_channel(server.grpc.partition("//")[2]) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        return stub.HandleReloadConfigRequest(request).status


@pytest.mark.slow
def test_a_label_is_moved_without_a_failed_request(folder, exported, image, probabilities):
    add_version(folder, exported, 2)
    with Server(config_of(LABELED % (folder, 1))) as server:
        with asked_without_pause(server, image, probabilities, label="stable"):
            wait_for(lambda: len(server.core.answered) > 3)
            for number in (2, 1):
                assert reload(server, LABELED % (folder, number)).error_code == 0
                # Requests that were under way may still be answered by the other version.
                wait_for(
                    lambda number=number: (
                        [version for _, version in server.core.answered[-10:]] == [number] * 10
                    )
                )
            refused = reload(server, LABELED % (folder, 3))
            assert "version 3 of model digits, which is not currently available" in (
                refused.error_message
            )


def test_junk_does_not_stop_it(folder, image):
    with (
        Server(config_of(digits=folder)) as server,
        Client(server.rest, "digits", timeout=300) as client,
    ):
        junk = [b"", b"{", b"[]", b"{}", b'{"instances": []}', b'{"instances": 3}', b"\xff" * 99,
                b'{"instances": [{"b64": "?"}]}', b'{"instances": [{"c": 1}]}', b"[" * 9999,
                b'{"inputs": {"image_bytes": 1.5}}', b'{"signature_name": 1, "instances": [1]}',
                b'{"signature_name": "x", "instances": [1]}', b'{"examples": [1]}']  # fmt: skip
        for path in ("digits:predict", "digits:classify", "digits:regress", "digits/a:predict"):
            for body in junk:
                request = urllib.request.Request(f"{server.rest}/v1/models/{path}", body)
                with pytest.raises(urllib.error.HTTPError) as raised:
                    urllib.request.urlopen(request)
                assert raised.value.code in (400, 501), body
                assert raised.value.read().startswith(b'{ "error": "')
        assert client.predict([image])[0].classes


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_lines_of_the_readmes_are_answered(folder, image, probabilities, tmp_path):
    """Of the top README and that of serving, with their model's and their file's names."""
    package = Path(keras_resnet.__file__).parent
    (tmp_path / "runs").mkdir()
    for name in ("rose.jpg", "runs/digit.png"):
        (tmp_path / name).write_bytes(image)
    texts = [
        path.read_text() for path in (package.parent / "README.md", package / "serving/README.md")
    ]
    lines = [line for text in texts for line in re.findall(r"^curl (?:.*\\\n)*.*$", text, re.M)]
    assert len(lines) == 2
    with Server(config_of(digits=folder, flowers=folder)) as server:
        for line in lines:
            command = re.sub(r"(http://)?localhost:8501", server.rest, line)
            done = subprocess.run(
                ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True
            )
            (answer,) = json.loads(done.stdout)["predictions"]
            np.testing.assert_allclose(answer["probabilities"], probabilities[0], atol=1e-5)
