"""The verb `client`, against the double of TF Serving."""

import json
import re
from xml.etree import ElementTree

import pytest
import tensorflow as tf
from model_server.core import config_of
from model_server.server import Server

from keras_resnet import data
from keras_resnet.cli.commands import main
from keras_resnet.files import read_table
from keras_resnet.serving.predict import predict

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(exported):
    with Server(config_of(digits=exported.parent)) as started:
        yield started


@pytest.fixture
def images(tmp_path):
    files = [tmp_path / f"{number}.png" for number in range(2)]
    for file, image in zip(files, data.load("digits").test.images, strict=False):
        tf.io.write_file(str(file), tf.io.encode_png(image))
    return [str(file) for file in files]


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_it_prints_what_predict_does(server, exported, images, protocol, tmp_path, capsys):
    url, corrupt = getattr(server, protocol), str(tmp_path / "text.png")
    (tmp_path / "text.png").write_text("text")
    wanted = predict(exported, images, top=2)
    assert main(["client", url, *images, "--model", "digits", "--top", "2"]) == 0
    for line, answer in zip(capsys.readouterr().out.splitlines(), wanted, strict=True):
        scores = zip(answer["classes"], answer["scores"], strict=True)
        assert line == f"{answer['image']}: {'  '.join(f'{c} {s:.4f}' for c, s in scores)}"
    files = [images[0], corrupt, images[1]]
    assert main(["client", url, *files, "--model", "digits", "--json"]) == 2
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["image"] for row in rows] == files
    assert list(rows[1]) == ["image", "error"]
    assert [row["classes"][:2] for row in rows[::2]] == [row["classes"] for row in wanted]
    assert err == (
        f"keras-resnet: {corrupt} is not an image that the server reads\n"
        "keras-resnet: 1 of 3 files have no answer\n"
    )


def test_without_images_it_describes_the_model(server, capsys):
    assert main(["client", server.rest, "--model", "digits", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["versions"] == [{"version": 1, "state": "AVAILABLE", "error": ""}]
    assert found["answering"] == 1
    assert found["signatures"]["tensor"]["outputs"] == {"logits": "float [?, 10]"}
    assert main(["client", server.rest, "--model", "digits"]) == 0
    out = capsys.readouterr().out
    assert "AVAILABLE" in out and "image_bytes: string [?]" in out


def test_a_model_without_an_available_version_is_an_error(tmp_path, capsys):
    (tmp_path / "broken" / "7").mkdir(parents=True)
    with Server(config_of(broken=tmp_path / "broken")) as server:
        assert main(["client", server.rest, "--model", "broken"]) == 2
    out, err = capsys.readouterr()
    assert "END" in out
    assert re.search(rf"^version 7: .*{tmp_path}/broken/7", out, re.MULTILINE)
    assert err == "keras-resnet: no version is available\n"


@pytest.mark.parametrize(("protocol", "code"), [("rest", "404"), ("grpc", "NOT_FOUND")])
def test_an_unknown_model_is_one_line(server, images, protocol, code, capsys):
    assert main(["client", getattr(server, protocol), images[0], "--model", "digit"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.endswith(
        f"refuses the request ({code}): Servable not found for request: Latest(digit)\n"
    )


@pytest.mark.parametrize(
    ("flags", "loads"),
    [
        (["--clients", "1", "3"], [(1, None), (3, None)]),
        (["--clients", "2", "--rates", "5", "10"], [(2, 5.0), (2, 10.0)]),
    ],
)
def test_load_is_measured_and_written(server, images, flags, loads, tmp_path, capsys):
    folder = tmp_path / "measured"
    arguments = ["client", server.rest, *images, "--model", "digits", "--load", str(folder)]
    assert main([*arguments, "--seconds", "1", *flags, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["clients"], row["rate"]) for row in rows] == loads
    written = read_table(folder / "load.csv")
    assert [float(row["p99_ms"]) for row in written] == [row["p99_ms"] for row in rows]
    for row in rows:
        assert row["errors"] == 0 and row["throughput"] * row["seconds"] == row["answers"]
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"] <= row["max_ms"]
    chart = ElementTree.parse(folder / "load.svg").getroot()
    assert len(chart.findall("{*}circle")) == 3 * len(rows)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--clients", "4"], "--clients is (4,); give `load` too"),
        (["--load", "here", "--clients", "0"], "--clients is 0; give a positive number"),
        (["--load", "here", "--seconds", "0"], "--seconds is 0; give a positive number"),
        (["--load", "here", "--rates", "0"], "--rates is 0; give a positive number of requests"),
    ],
)
def test_unusable_loads_are_refused(server, images, flags, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["client", server.rest, *images, "--model", "digits", *flags]) == 2
    assert capsys.readouterr().err.startswith(f"keras-resnet: {says.replace('`load`', '--load')}")
    assert not (tmp_path / "here").exists()
