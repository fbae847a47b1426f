"""Ask a served export without pause while clients misbehave and versions change.

    python scripts/experiments/serving_load.py [--seconds 30]

Trains and exports `digits-tiny`, and serves it by the test double of TF Serving
(tests/model_server: the official protos, TensorFlow's C++ session). 1, 8 and 32 clients ask for
some time each, over REST and gRPC, for 1 to 3 images per request, some of them damaged. Then 8
clients ask while 1,000 junk requests arrive over each protocol, 200 clients vanish, and 100
requests name an unknown model; while a new version appears and a broken one; and while a label is
moved to a new version and back. Every answer is compared with `evaluate`'s probabilities, to 1e-5.
The speed of the double says nothing of the server's, so it is not reported. Exits with status 1 if
a request has failed or an answer is wrong. Writes scripts/results/serving_load.txt.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests"))

import grpc  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from model_server import junk  # noqa: E402
from model_server.clients import Counts, asking, wait_for  # noqa: E402
from model_server.core import config_of  # noqa: E402
from model_server.server import Server  # noqa: E402
from tensorflow_serving.apis import (  # noqa: E402
    model_management_pb2,
    model_service_pb2_grpc,
)

import keras_resnet  # noqa: E402
from keras_resnet import data  # noqa: E402
from keras_resnet.evaluation.evaluate import predictions  # noqa: E402
from keras_resnet.serving.client import Client  # noqa: E402
from keras_resnet.serving.export import export  # noqa: E402

RESULTS = ROOT / "scripts" / "results" / "serving_load.txt"
IMAGES, DAMAGED, CLIENTS, JUNK, OTHERS = 100, 10, (1, 8, 32), 1000, 100
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=30, help="per number of clients and protocol"
    )
    args = parser.parse_args()
    lines: list[tuple[str, Counts]] = []
    with tempfile.TemporaryDirectory() as name:
        run = keras_resnet.train("digits-tiny", Path(name) / "run")
        version = export(run, Path(name) / "export")
        images = data.load("digits").test.images[:IMAGES]
        encoded = [tf.io.encode_png(image).numpy() for image in images]
        right = np.asarray(predictions(run)[0])[:IMAGES]
        encoded += [image[:-20] for image in encoded[:DAMAGED]]
        right = np.concatenate([right, np.zeros_like(right[:DAMAGED])])
        folder = Path(name) / "served"
        add(version, folder, 1)
        with Server(config_of(digits=folder)) as server:
            for clients in CLIENTS:
                for protocol in ("rest", "grpc"):
                    urls = (getattr(server, protocol),)
                    with asking(urls, "digits", encoded, right, clients=clients) as counts:
                        time.sleep(args.seconds)
                    lines.append(
                        (f"{clients} {'client' if clients == 1 else 'clients'}, {protocol}", counts)
                    )
            both = (server.rest, server.grpc)
            with asking(both, "digits", encoded, right, clients=8) as counts:
                found = misbehave(server, encoded[0])
            lines.append((f"8 clients, and {found}", counts))
            with asking(both, "digits", encoded, right, clients=8) as counts:
                answering = replace(server, version, folder)
            lines.append((f"8 clients, a new version and a broken one; {answering}", counts))
        with Server(config_of(LABELED % (folder, 1))) as server:
            both = (server.rest, server.grpc)
            with asking(both, "digits", encoded, right, clients=8, label="stable") as counts:
                answering = move_label(server, folder)
            lines.append((f"8 clients, a label moved to version 2 and back; {answering}", counts))
    text = f"{IMAGES} images, and {DAMAGED} damaged ones among them\n" + "".join(
        f"{line}: {counts.requests:,} requests, {len(counts.errors)} errors,"
        f" {len(counts.wrong)} wrong answers\n"
        for line, counts in lines
    )
    print(text, end="")
    for _, counts in lines:
        for one in (*counts.errors[:3], *counts.wrong[:3]):
            print(f"  {one}", file=sys.stderr)
    RESULTS.write_text(text, encoding="utf-8")
    sys.exit(any(counts.errors or counts.wrong for _, counts in lines))


def add(version: Path, folder: Path, number: int) -> None:
    """Add a version to a folder as exports appear: whole."""
    unfinished = folder / f".writing-{number}"
    shutil.copytree(version, unfinished)
    unfinished.rename(folder / str(number))


def misbehave(server: Server, image: bytes) -> str:
    """Send junk, vanish, and ask for an unknown model; return the numbers."""
    rng = np.random.default_rng(0)
    for _ in range(JUNK):
        status = junk.answer_of(server.rest, junk.http_junk(rng, "digits", image))
        assert status != 500
    address = server.grpc.partition("//")[2]
    with grpc.insecure_channel(address) as channel:
        for _ in range(JUNK):
            code = junk.code_of(channel, *junk.grpc_junk(rng, "digits", image))
            assert code != grpc.StatusCode.UNKNOWN
        request = junk.post("/v1/models/digits:predict", b'{"instances": [' + b" " * 10_000)
        message = junk.predict_request("digits", [image]).SerializeToString()
        for _ in range(OTHERS):
            junk.cut_off(server.rest, request[: rng.integers(1, len(request))])
            channel.unary_unary(junk.PREDICT).future(message).cancel()
    for url in (server.rest, server.grpc):
        with Client(url, "digit") as client:
            for _ in range(OTHERS // 2):
                try:
                    client.predict([image])
                except ValueError as error:
                    assert "Servable not found" in str(error)
    return (
        f"{JUNK:,} junk requests per protocol, {2 * OTHERS} clients that vanish, {OTHERS} requests"
        " for an unknown model"
    )


def replace(server: Server, version: Path, folder: Path) -> str:
    """Add a version and then a broken one; return what answers before and afterwards."""
    begin = len(server.core.answered)
    add(version, folder, 2)
    wait_for(lambda: ("digits", 2) in server.core.answered[begin:], 600)
    broken = folder / ".writing-3"
    shutil.copytree(version, broken)
    (broken / "saved_model.pb").write_bytes(b"damaged")
    broken.rename(folder / "3")
    wait_for(lambda: 3 in server.core.models["digits"].versions, 600)
    before = len(server.core.answered)
    wait_for(lambda: len(server.core.answered) > before + 100, 600)
    return f"answered by {sorted({number for _, number in server.core.answered[begin:]})}"


def move_label(server: Server, folder: Path) -> str:
    """Move a label to version 2 and back; return the versions that answer afterwards."""
    with grpc.insecure_channel(server.grpc.partition("//")[2]) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        found = []
        for number in (1, 2, 1):
            config = config_of(LABELED % (folder, number))
            request = model_management_pb2.ReloadConfigRequest(config=config)
            status = stub.HandleReloadConfigRequest(request).status
            assert status.error_code == 0, status.error_message
            last = [("digits", number)] * 50
            wait_for(lambda last=last: server.core.answered[-50:] == last, 600)
            found.append(number)
    return f"answered by {found} in turn"


if __name__ == "__main__":
    main()
