"""Test the page of `keras-resnet demo` over HTTP; test_demo_page.py opens it in a browser."""

import base64
import io
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote, urlsplit

import numpy as np
import pytest
import urllib3
from helpers import STORED_BY_ORIENTATION
from model_server.core import config_of
from model_server.server import Server
from PIL import Image

import keras_resnet
from keras_resnet import Preprocessing, data
from keras_resnet.cli.commands import main
from keras_resnet.data.preprocessing import resize_and_crop
from keras_resnet.figures import viridis
from keras_resnet.serving import overlay
from keras_resnet.serving.client_values import SIGNATURE
from keras_resnet.serving.cpp_loader import Call, strings
from keras_resnet.serving.demo import allowed_hosts
from keras_resnet.serving.demo_answers import HEAT_MAP, SIDE, Export, opened, requests

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

ROOT = Path(keras_resnet.__file__).parents[1]
HTTP = urllib3.PoolManager(timeout=60.0, retries=False)


@pytest.fixture(scope="module")
def export(with_heat_map):
    with opened(with_heat_map) as one:
        yield one


@pytest.fixture(scope="module")
def url(export, serve_demo):
    with serve_demo(export) as one:
        yield one


@pytest.fixture(scope="module")
def photos():
    """Encoded digits."""
    return [encoded(Image.fromarray(image)) for image in data.load("digits").test.images[:12]]


def post(url, image, file="digit.png", **headers):
    """Return the status and the body of an answer."""
    place = f"{url}/answer?file={quote(file)}"
    sent = {"Content-Type": "application/octet-stream"} | headers
    answer = HTTP.request("POST", place, body=image, headers=sent)
    return answer.status, answer.json() if answer.data.startswith(b"{") else answer.data.decode()


def encoded(image, kind="png", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def drawn(url):
    """Return the pixels of a PNG in a URL."""
    kind, _, content = url.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def test_it_answers_as_tf_serving_does(url, photos, with_heat_map, ask):
    """The same bytes in the same session: equal to the last bit."""
    version = with_heat_map / "1"
    inputs = [{"image_bytes": strings([photo])} for photo in photos[:3]]
    signatures = [SIGNATURE] * 3 + [HEAT_MAP] * 3
    calls = zip(signatures, inputs * 2, strict=True)
    answers = ask(version, *(Call(signature=name, inputs=one) for name, one in calls))
    preprocessing = Preprocessing.read(version / "assets.extra" / "preprocessing.json")
    for photo, served, mapped in zip(photos, answers[:3], answers[3:], strict=False):
        status, found = post(url, photo)
        assert status == 200
        assert found["classes"] == [name.decode() for name in served.outputs["classes"][0]]
        np.testing.assert_array_equal(np.float32(found["scores"]), served.outputs["scores"][0])
        layer = overlay.overlay(mapped.outputs["maps"][0], (SIDE, SIDE), preprocessing)
        np.testing.assert_array_equal(drawn(found["heat_map"]), np.asarray(layer))
        # 8 x 8 pixels, each enlarged to a square.
        step = SIDE // 8
        shown = drawn(found["image"]).reshape(8, step, 8, step, 3)
        np.testing.assert_array_equal(shown[:, 0, :, 0], np.asarray(Image.open(io.BytesIO(photo))))
        np.testing.assert_array_equal(shown, np.broadcast_to(shown[:, :1, :, :1], shown.shape))


def test_the_page_knows_the_export(url):
    assert HTTP.request("GET", f"{url}/export").json() == {
        "name": "digits, by heat",
        "version": "1",
        "has_heat_map": True,
        "max_bytes": 2**26,
    }
    for name, kind in {"": "html", "page.css": "css", "page.js": "javascript"}.items():
        answer = HTTP.request("GET", f"{url}/{name}")
        assert answer.status == 200 and f"text/{kind}" in answer.headers["content-type"]


def test_image_and_heat_map_agree_in_every_exif_orientation(url, export):
    """Browsers differ in this, so the page gets both as pixels."""
    upright = Image.fromarray(data.load("digits").test.images[3])
    upright = upright.resize((16, 24), Image.Resampling.BICUBIC)
    _, wanted = post(url, encoded(upright))
    for orientation, stored in enumerate(STORED_BY_ORIENTATION, 1):
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = upright if stored is None else upright.transpose(stored)
        photo = encoded(image, exif=exif)
        _, found = post(url, photo)
        assert found["classes"] == wanted["classes"]
        for layer in ("image", "heat_map"):
            np.testing.assert_array_equal(drawn(found[layer]), drawn(wanted[layer]))
    # An export that ignores the orientation, as those with public weights do.
    ignoring = Preprocessing(resize=8, crop=8, exif_orientation=False)
    served = {"classes": ["a"], "scores": [1.0]}
    process = SimpleNamespace(signatures=[SIGNATURE], ask=lambda image: {SIGNATURE: served})
    found = Export(Path("digits/1"), ignoring, process).answer(photo, "phone.png")
    assert drawn(found.image).shape == (SIDE * 16 // 24, SIDE, 3)


@pytest.mark.parametrize("size", [(40, 60), (90, 50), (64, 64)])
@pytest.mark.parametrize("aspect", ["keep", "stretch"])
def test_a_heat_map_lies_where_the_network_looks(size, aspect):
    """A hot cell covers the part of the image that becomes this part of the input."""
    preprocessing = Preprocessing(resize=36 if aspect == "keep" else 32, crop=32, aspect=aspect)
    for row, column in [(0, 0), (1, 3), (3, 2)]:
        heat = -np.ones((4, 4), np.float32)
        heat[row, column] = 5.0
        layer = np.asarray(overlay.overlay(heat, size, preprocessing))
        assert layer.shape == (size[1], size[0], 4)
        colors = layer[np.newaxis, ..., :3].astype(np.float32)
        # Red is 253 in the hottest color and 68 in the coldest.
        hot = np.repeat(np.maximum(colors[..., :1] - 150, 0), 3, axis=-1)
        view = resize_and_crop(preprocessing, hot)[0, ..., 0]
        cells = np.reshape(view, (4, 8, 4, 8)).mean(axis=(1, 3))
        assert np.unravel_index(cells.argmax(), cells.shape) == (row, column)
        assert cells.max() > 0.6 * cells.sum()
        seen = layer[..., 3] > 0
        share = 1 if aspect == "stretch" else (32 / 36 * min(size)) ** 2 / (size[0] * size[1])
        assert seen.mean() == pytest.approx(share, abs=0.04)


def test_an_image_without_evidence_for_its_class_is_cold():
    layer = overlay.overlay(np.full((2, 2), -3.0), (8, 8), Preprocessing(resize=8, crop=8))
    assert set(map(tuple, np.asarray(layer).reshape(-1, 4))) == {(68, 1, 84, 76)}


def test_the_colors_are_those_of_matplotlib():
    """`(255 * matplotlib.colormaps["viridis"](x)).round()` of Matplotlib 3.11.2.

    Its map has 256 colors, ours are interpolated between nine.
    """
    wanted = {
        0.0: (68, 1, 84), 0.1: (72, 36, 117), 0.3: (53, 95, 141), 0.5: (33, 145, 140),
        0.7: (68, 191, 112), 0.9: (189, 223, 38), 1.0: (253, 231, 37),
    }  # fmt: skip
    found = viridis(np.array(list(wanted)))
    np.testing.assert_allclose(found, list(wanted.values()), atol=10)


def large_png(width, height):
    """Return the beginning of a PNG of a declared size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    checked = struct.pack(">I", len(header) - 4) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + checked


BLACK = Image.new("RGB", (20, 20))
BAD = {
    "nothing": (b"", "empty"),
    "text": (b"no image", "no JPEG, PNG, GIF or BMP"),
    "webp": (encoded(BLACK, "webp"), "WebP; give JPEG, PNG, GIF or BMP"),
    "cut": (encoded(BLACK)[:-20], "a damaged PNG, or one that is cut off"),
    "head": (b"\xff\xd8\xff\xe0", "a damaged JPEG"),
    "pixels": (large_png(10_000, 10_000), "100,000,000 pixels; 67,108,864 at most"),
    "narrow": (large_png(10_000, 3), "10000 pixels long and 3 wide"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_sentence_and_the_next_is_answered(name, url, photos):
    content, says = BAD[name]
    wanted = {"error": f"is not an image that can be read: {says}"}
    assert post(url, content) == (422, wanted)
    assert post(url, photos[0])[0] == 200


def test_a_large_file_is_refused_before_it_is_read(export, serve_demo, photos, monkeypatch):
    monkeypatch.setattr("keras_resnet.serving.demo.MAX_IMAGE", 1000)
    with serve_demo(export) as url:
        assert post(url, bytes(1001)) == (413, "Content Too Large")
        assert post(url, iter([bytes(600)] * 2)) == (413, "Content Too Large")  # of unknown size
        assert len(photos[0]) < 1000 and post(url, photos[0])[0] == 200
        assert HTTP.request("GET", f"{url}/export").json()["max_bytes"] == 1000


def test_two_windows_ask_at_a_time(url, photos):
    alone = [post(url, photo) for photo in photos]
    with ThreadPoolExecutor(2) as pool:
        both = [pool.map(lambda photo: post(url, photo), photos) for _ in range(2)]
    assert [list(answers) for answers in both] == [alone, alone]


@pytest.mark.slow
def test_a_process_that_dies_has_a_successor(url, export, photos):
    export._process._running._process.kill()
    status, found = post(url, photos[0])
    assert status == 422 and found["error"].startswith("has no answer: signal 9 ended it")
    assert post(url, photos[0])[0] == 200


def test_scores_that_are_not_finite_are_no_answer(photos):
    found = {SIGNATURE: {"classes": ["a", "b"], "scores": [float("nan"), 0.5]}}
    process = SimpleNamespace(signatures=[SIGNATURE], ask=lambda image: found)
    with pytest.raises(ValueError, match="^has no answer: it has scores that are not finite"):
        Export(Path("digits/1"), None, process).answer(photos[0], "digit.png")


def test_other_sites_cannot_ask(url, photos):
    """By a name of theirs that leads to this machine (DNS rebinding), or by a form."""
    assert post(url, photos[0], Host="evil.example") == (400, "Invalid host header")
    assert post(url, photos[0], Host="127.0.0.1:80")[0] == 200
    assert HTTP.request("GET", url, headers={"Host": "evil.example"}).status == 400
    # The types that browsers send to other sites without a question.
    for kind in ("text/plain", "multipart/form-data", "application/x-www-form-urlencoded"):
        assert post(url, photos[0], **{"Content-Type": kind}) == (415, "")
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    answer = HTTP.request("OPTIONS", f"{url}/answer", headers=asked)
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", "::1"])
def test_the_loopback_interface_answers_to_its_own_names(address):
    name = f"[{address}]" if ":" in address else address
    assert set(allowed_hosts(address)) == {"localhost", "127.0.0.1", "[::1]", name}


@pytest.mark.parametrize("address", ["0.0.0.0", "192.0.2.7", "::", "fe80::1%eth0"])
def test_others_answer_to_any_name(address):
    assert allowed_hosts(address) == ("*",)


def test_files_outside_the_page_are_not_served(url):
    for path in ("../demo.py", "..%2fdemo.py", "%2e%2e/demo.py", "/etc/passwd"):
        with socket.create_connection((urlsplit(url).hostname, urlsplit(url).port)) as connection:
            request = f"GET /{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
            connection.sendall(request.encode())
            assert connection.makefile("rb").readline().split()[1] == b"404"


def test_a_client_that_goes_away_leaves_no_trace(url, photos, capfd):
    with socket.create_connection((urlsplit(url).hostname, urlsplit(url).port)) as connection:
        head = "POST /answer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n"
        connection.sendall(head.encode() + b"some")
    assert post(url, photos[0])[0] == 200
    assert capfd.readouterr() == ("", "")


NAMES = ["rose.jpg", "two words.png", "-n", 'it\'s $(touch run) `touch run` "x".png', "\\n.png"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("way", ["Shell", "Python"])
def test_the_shown_request_is_answered_by_a_server(way, served, photos, tmp_path):
    """Whatever the file is called, it is read and nothing else happens."""
    for name in NAMES:
        (tmp_path / name).write_bytes(photos[0])
    texts = [requests("digits", photos[0], name)[way] for name in NAMES]
    assert all("http://localhost:8501" in text for text in texts)
    with Server(config_of(digits=served)) as server:
        program = "\n".join(texts).replace("http://localhost:8501", server.rest)
        command = ["bash", "-ec"] if way == "Shell" else [sys.executable, "-P", "-c"]
        done = subprocess.run(
            [*command, program], cwd=tmp_path, capture_output=True, text=True, env=os.environ
        )
    assert done.returncode == 0, done.stderr
    answer = r'"probabilities": \[' if way == "Shell" else r"^\('\d', "
    assert len(re.findall(answer, done.stdout, re.MULTILINE)) == len(NAMES)
    assert not (tmp_path / "run").exists()


def test_the_request_of_a_large_image_is_shortened():
    text = requests("a b", bytes(30_000), "zeros.png")["REST"]
    assert text == (
        "POST http://localhost:8501/v1/models/a%20b:predict\n\n"
        f'{{"instances": [{{"b64": "{"A" * 40}... (40,000 characters)"}}]}}'
    )
    hostile = requests("digits", b"", "\x1b]0;title\x07.png")
    assert all("\x1b" not in text and "IMAGE" in text for text in list(hostile.values())[1:])


@pytest.mark.slow
def test_an_export_without_heat_maps_has_none(served, with_heat_map, photos, tmp_path):
    """Neither has one that does not say where they lie, as those of earlier versions."""
    older = shutil.copytree(with_heat_map / "1", tmp_path / "older")
    (older / "assets.extra" / "preprocessing.json").unlink()
    for target, name in ((served, "digits"), (older, "older")):
        with opened(target) as export:
            assert not export.has_heat_map and export.name == name
            found = export.answer(photos[0], "digit.png")
            assert found.heat_map is None and found.classes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["EMPTY"], "EMPTY is not an export (saved_model.pb, or numbered versions)"),
        (["DAMAGED"], "DAMAGED/saved_model.pb cannot be read: "),
        (["UNLOADABLE"], "UNLOADABLE does not load: "),
        (["UNSTATED"], "UNSTATED/assets.extra/preprocessing.json: not a preprocessing: "),
        (["EXPORT", "--port", "70000"], "--port is 70000; give one of 1 to 65535, or 0 for any"),
        (["EXPORT", "--port", "USED"], "--port is USED, which another program uses; give another"),
        (["EXPORT", "--host", "203.0.113.7"], "--host is '203.0.113.7' and --port is 8000; "),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_what_cannot_be_served_is_one_line(arguments, says, served, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("DAMAGED", "UNLOADABLE", "UNSTATED"):
        shutil.copytree(served / "1", name)
    Path("EMPTY").mkdir()
    Path("DAMAGED/saved_model.pb").write_bytes(b"\x0a\xff")
    Path("UNLOADABLE/variables/variables.index").write_bytes(b"short")
    Path("UNSTATED/assets.extra/preprocessing.json").write_text("{}")
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = str(used.getsockname()[1])
        values = {"EXPORT": str(served), "USED": port}
        assert main(["demo", *(values.get(one, one) for one in arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith(f"keras-resnet: {says.replace('USED', port)}")


def test_a_missing_package_is_one_line(served, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["demo", str(served)]) == 2
    assert capsys.readouterr().err == (
        "keras-resnet: starlette and uvicorn must be installed: pip install"
        " 'keras-residual[demo]'\n"
    )


@pytest.mark.slow
def test_an_interrupt_ends_it_quietly(served, photos):
    """While an image is being answered, too, and the process of the export ends with it."""
    command = [sys.executable, "-P", "-m", "keras_resnet", "demo", str(served), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, start_new_session=True,
    ) as process:  # fmt: skip
        line = process.stdout.readline()
        url = re.fullmatch(r"open (http://127.0.0.1:\d+) in a browser; Ctrl-C stops it\n", line)[1]
        assert post(url, photos[0])[0] == 200
        with ThreadPoolExecutor() as pool:
            large = encoded(Image.new("RGB", (6000, 6000)))
            answer = pool.submit(post, url, large)
            time.sleep(0.3)
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to the children as well
            assert process.wait(timeout=60) == 130
            assert answer.exception() or answer.result()[0] == 200
        assert process.stderr.read() == "keras-resnet: stopped\n"
        assert process.stdout.read() == ""
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)
