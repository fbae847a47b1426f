"""Change the versions and labels of a model in a running TF Serving, and in its models.config.

    python scripts/serving/rollout.py grpc://localhost:8500 scripts/serving/models.config flowers \\
        --versions 1 2 --labels stable=1 canary=2

New versions are loaded first. Only when all of them answer are the labels moved and the versions
that are not named unloaded; where one does not load, the server keeps what it had. A label moves in
one step, so no request fails. The file is rewritten last, for the next start of the server.
"""

import argparse
import sys
import time
from pathlib import Path

import grpc
from google.protobuf import text_format
from tensorflow_serving.apis import model_management_pb2, model_service_pb2_grpc
from tensorflow_serving.config import model_server_config_pb2

from keras_resnet.files import read_text, write_text
from keras_resnet.serving.client import Client


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url", help="grpc://HOST:PORT")
    parser.add_argument("config", type=Path, help="the server's models.config")
    parser.add_argument("model")
    parser.add_argument("--versions", type=int, nargs="+", required=True)
    parser.add_argument("--labels", nargs="*", default=[], metavar="LABEL=VERSION")
    parser.add_argument("--seconds", type=float, default=600, help="to wait for new versions")
    args = parser.parse_args()
    try:
        labels = {name: int(number) for name, number in (one.split("=") for one in args.labels)}
        roll_out(args.url, args.config, args.model, args.versions, labels, args.seconds)
    except (ValueError, OSError) as error:
        print(f"rollout: {error}", file=sys.stderr)
        sys.exit(2)


def roll_out(url, file, model, versions, labels, seconds):
    if unknown := {name: number for name, number in labels.items() if number not in versions}:
        raise ValueError(f"labels is {unknown}; give versions of {versions}")
    before = text_format.Parse(read_text(file), model_server_config_pb2.ModelServerConfig())
    with Client(url, model) as client, grpc.insecure_channel(url.partition("//")[2]) as channel:
        service = model_service_pb2_grpc.ModelServiceStub(channel)
        running = [one.version for one in client.status() if one.state == "AVAILABLE"]
        both = changed(before, model, sorted({*running, *versions}), None)
        reload(service, both)
        try:
            wait(client, versions, seconds)
            after = changed(before, model, versions, labels)
            reload(service, after)
        except (ValueError, OSError):
            reload(service, before)
            raise
    write_text(file, text_format.MessageToString(after))
    print(f"{model}: versions {versions}, labels {labels}")


def changed(config, model, versions, labels):
    """Return a configuration with these versions of a model, and these labels or those it had."""
    config = model_server_config_pb2.ModelServerConfig.FromString(config.SerializeToString())
    chosen = [one for one in config.model_config_list.config if one.name == model]
    if not chosen:
        raise ValueError(f"the configuration has no model {model!r}")
    chosen[0].model_version_policy.specific.versions[:] = versions
    if labels is not None:
        chosen[0].version_labels.clear()
        chosen[0].version_labels.update(labels)
    return config


def reload(service, config):
    request = model_management_pb2.ReloadConfigRequest(config=config)
    try:
        status = service.HandleReloadConfigRequest(request, timeout=600).status
    except grpc.RpcError as error:
        raise ConnectionError(f"the server does not reload: {error.details()}") from None
    if status.error_code:
        raise ValueError(f"the server refuses it: {status.error_message}")


def wait(client, versions, seconds):
    """Wait until all versions answer."""
    end = time.monotonic() + seconds
    while True:
        states = {one.version: one for one in client.status()}
        found = [states[number] for number in versions if number in states]
        for one in found:
            if one.error:
                raise ValueError(f"version {one.version} does not load: {one.error}")
        if len(found) == len(versions) and all(one.state == "AVAILABLE" for one in found):
            return
        if time.monotonic() > end:
            raise TimeoutError(f"versions {versions} have not loaded within {seconds:g} seconds")
        time.sleep(0.5)


if __name__ == "__main__":
    main()
