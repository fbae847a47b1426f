"""Run the examples of the READMEs about serving, against the double where a server is needed."""

import ast
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from model_server.core import config_of
from model_server.server import Server

import keras_resnet.serving
from keras_resnet import data
from keras_resnet.cli.commands import main
from keras_resnet.serving.audit import audit, read_graph
from keras_resnet.serving.predict import predict

README = Path(keras_resnet.serving.__file__).with_name("README.md")

ROOT = README.parents[2]
GUIDES = (README, ROOT / "scripts/serving/README.md", ROOT / "README.md")


def lines_of(pattern):
    """Return the commands in all guides that match, on lines of their own or in backticks."""
    pattern = rf"(?:^|`)({pattern}(?:[^`\n]*\\\n)*[^`\n]*)"
    texts = (guide.read_text(encoding="utf-8") for guide in GUIDES)
    return [line for text in texts for line in re.findall(pattern, text, re.MULTILINE)]


CLIENT_LINES = lines_of("keras-resnet client ")


def block_with(text):
    """Return the block of Python that contains a text."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (found,) = (block for block in blocks if text in block)
    return found


@pytest.mark.slow
def test_the_example_asks_a_server(exported, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    image = data.load("digits").test.images[0]
    tf.io.write_file("rose.jpg", tf.io.encode_jpeg(image, quality=100))
    with Server(config_of(flowers=exported.parent)) as server:
        block = block_with("Client").replace("http://localhost:8501", server.rest)
        exec(compile(block, str(README), "exec"), {})
    (answer,) = predict(exported, ["rose.jpg"], top=3)
    classes, scores = re.fullmatch(r"(\(.*\)) (\(.*\))\n", capsys.readouterr().out).groups()
    assert ast.literal_eval(classes) == tuple(answer["classes"])
    np.testing.assert_allclose(ast.literal_eval(scores), answer["scores"], atol=1e-5)


@pytest.fixture(scope="module")
def flowers(served):
    """A server of the guides' model, with the label `stable`."""
    config = config_of(flowers=served)
    (model,) = config.model_config_list.config
    model.version_labels["stable"] = 1
    with Server(config) as server:
        yield server


def test_the_guides_ask_a_server_in_every_way():
    text = " ".join(CLIENT_LINES)
    for word in ("http://", "grpc://", "--label", "--json", "--load"):
        assert word in text, word


@pytest.mark.slow
@pytest.mark.parametrize("line", CLIENT_LINES)
def test_the_line_asks_a_server(line, flowers, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tf.io.write_file("rose.jpg", tf.io.encode_jpeg(data.load("digits").test.images[0]))
    line = line.replace("http://localhost:8501", flowers.rest)
    line = line.replace("grpc://localhost:8500", flowers.grpc)
    args = shlex.split(re.sub(r"--seconds \d+", "--seconds 0.5", line))[1:]
    assert main(args) == 0, capsys.readouterr().err
    assert capsys.readouterr().out
    if "--load" in args:
        folder = Path(args[args.index("--load") + 1])
        assert {file.name for file in folder.iterdir()} == {"load.csv", "load.svg"}


@pytest.mark.parametrize("line", lines_of("docker run "))
def test_the_line_starts_a_container(line, tmp_path):
    """With a docker that prints its arguments."""
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    docker.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
    )  # fmt: skip
    arguments = done.stdout.splitlines()
    values = dict(zip(arguments, arguments[1:], strict=False))
    folder, _, mount = values["-v"].partition(":")
    assert folder.startswith(f"{tmp_path}/saved_models/")
    assert mount == f"/models/{values['-e'].removeprefix('MODEL_NAME=')}"
    assert values["-p"] == "8501:8501"
    flags = arguments[arguments.index("tensorflow/serving") + 1 :]
    known = (ROOT / "scripts/serving/serve.sh").read_text()
    assert all(flag.partition("=")[0] in known for flag in flags)


@pytest.mark.slow
def test_the_example_exports_a_model(tmp_path, monkeypatch, capsys):
    block = block_with("export(")
    monkeypatch.chdir(tmp_path)
    exec(compile(block, str(README), "exec"), {})
    assert capsys.readouterr().out.strip() == "saved_models/flowers/1"
    version = tmp_path / "saved_models" / "flowers" / "1"
    assert (version / "assets" / "labels.txt").read_text() == "daisy\nrose\ntulip\n"
    assert list(audit(version, read_graph(version))) == []
