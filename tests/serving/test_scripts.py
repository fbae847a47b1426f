"""The files of scripts/serving: parsed by the official protos, and run against the double."""

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
)
from model_server.core import config_of
from model_server.server import Server

import keras_resnet
from keras_resnet.serving.client import Client

SCRIPTS = Path(keras_resnet.__file__).parents[1] / "scripts" / "serving"
WITHOUT_WARM_UP = shutil.ignore_patterns("tf_serving_warmup_requests")


def flags(text):
    return set(re.findall(r"--\w*_\w+=\S+", text))


def test_models_config_is_one():
    config = config_of((SCRIPTS / "models.config").read_text())
    flowers, int8 = config.model_config_list.config
    assert dict(flowers.version_labels) == {"stable": 1, "canary": 2}
    assert set(flowers.version_labels.values()) <= set(
        flowers.model_version_policy.specific.versions
    )
    assert [one.base_path for one in (flowers, int8)] == [
        f"/models/{one.name}" for one in (flowers, int8)
    ]
    with pytest.raises(text_format.ParseError):
        config_of((SCRIPTS / "models.config").read_text().replace("base_path", "basepath"))


def test_monitoring_config_is_one():
    """By the message of monitoring_config.proto, which tensorflow-serving-api lacks."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="monitoring_config.proto", syntax="proto3")
    prometheus = file.message_type.add(name="PrometheusConfig")
    prometheus.field.add(name="enable", number=1, label=1, type=field.TYPE_BOOL)
    prometheus.field.add(name="path", number=2, label=1, type=field.TYPE_STRING)
    monitoring = file.message_type.add(name="MonitoringConfig")
    monitoring.field.add(
        name="prometheus_config", number=1, label=1, type=field.TYPE_MESSAGE,
        type_name=".PrometheusConfig",
    )  # fmt: skip
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    message = message_factory.GetMessageClass(pool.FindMessageTypeByName("MonitoringConfig"))()
    text_format.Parse((SCRIPTS / "monitoring.config").read_text(), message)
    assert message.prometheus_config.enable
    assert message.prometheus_config.path == "/monitoring/prometheus/metrics"


def test_the_script_compose_and_kubernetes_start_the_same_server():
    script, *others = (
        flags((SCRIPTS / name).read_text())
        for name in ("serve.sh", "compose.yaml", "deployment.yaml")
    )
    assert "--enable_per_model_batching_parameters=true" in script and len(script) == 7
    assert others == [script, script]


def test_the_script_starts_the_container(tmp_path):
    """With a docker that prints its arguments."""
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    docker.chmod(0o755)
    (tmp_path / "my models").mkdir()
    done = subprocess.run(
        ["bash", SCRIPTS / "serve.sh", "my models"], cwd=tmp_path, capture_output=True, text=True,
        env={"PATH": f"{docker.parent}:/usr/bin:/bin"}, check=True,
    )  # fmt: skip
    arguments = done.stdout.splitlines()
    assert arguments[0] == "run"
    assert f"{tmp_path / 'my models'}:/models:ro" in arguments
    assert "TF_ONEDNN_ASSUME_FROZEN_WEIGHTS=1" in arguments
    assert arguments.index("tensorflow/serving") < arguments.index(
        "--model_config_file=/configs/models.config"
    )


def documents(name):
    """Return the documents of a YAML file."""
    return list(pytest.importorskip("yaml").safe_load_all((SCRIPTS / name).read_text()))


def typed(kind, values):
    """Return values as Kubernetes has them after it has parsed them as a kind.

    lightkube's types are generated from the OpenAPI of Kubernetes. A wrong type and a missing field
    raise, and an unknown field is left out.
    """
    module, _, name = kind.partition(".")
    models = pytest.importorskip(f"lightkube.models.{module}")
    return getattr(models, name).from_dict(values).to_dict()


def test_the_deployment_fits_the_types_of_kubernetes():
    service, deployment = documents("deployment.yaml")
    assert typed("core_v1.Service", service) == service
    assert typed("apps_v1.Deployment", deployment) == deployment
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {port["name"]: port["port"] for port in service["spec"]["ports"]}
    assert deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"]
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()
    container["argument"] = container.pop("args")
    assert typed("apps_v1.Deployment", deployment) != deployment


def test_the_inference_service_fits_its_types():
    """By hand what is KServe's, by Kubernetes' types what is a container's.

    KServe publishes its schema, a CRD, in its repository alone. Its fields as types are in the
    package `kserve` (checked by hand with version 0.21), which brings a web server along.
    """
    (service,) = documents("kserve.yaml")
    metadata, spec = service.pop("metadata"), service.pop("spec")
    assert service == {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService"}
    assert typed("meta_v1.ObjectMeta", metadata) == metadata
    model = spec["predictor"].pop("model")
    assert spec == {"predictor": {"minReplicas": 1, "maxReplicas": 4}}
    assert model.pop("modelFormat") == {"name": "tensorflow"}
    assert model.pop("protocolVersion") == "v1"
    assert model.pop("storageUri").startswith("pvc://")
    container = {"name": "kserve-container"} | model
    assert typed("core_v1.Container", container) == container


def test_the_compose_file_fits_the_compose_specification(tmp_path):
    """By its JSON schema, which check-jsonschema carries."""
    pytest.importorskip("check_jsonschema")
    compose = (SCRIPTS / "compose.yaml").read_text()
    (tmp_path / "good.yaml").write_text(compose)
    (tmp_path / "bad.yaml").write_text(compose.replace("healthcheck:", "health:"))
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    good, bad = (
        subprocess.run([*command, tmp_path / name], capture_output=True, text=True)
        for name in ("good.yaml", "bad.yaml")
    )
    assert good.returncode == 0, good.stdout
    assert bad.returncode == 1 and "'health' was unexpected" in bad.stdout
    (server,) = documents("compose.yaml")[0]["services"].values()
    assert server["read_only"] is True


@pytest.fixture(scope="module")
def folder(exported, tmp_path_factory):
    """Two versions, and a third that does not load."""
    folder = tmp_path_factory.mktemp("served") / "flowers"
    for number in ("1", "2"):
        shutil.copytree(exported, folder / number, ignore=WITHOUT_WARM_UP)
    (folder / "3").mkdir()
    (folder / "3" / "saved_model.pb").write_bytes(b"damaged")
    return folder


def test_roll_out_canary_roll_back_and_removal(folder, tmp_path, monkeypatch, capsys):
    """By the commands of the README, in this process, since each new one imports TensorFlow."""
    commands = re.findall(r"`ROLLOUT (.*?)`", (SCRIPTS / "README.md").read_text())
    assert len(commands) == 4
    text = (SCRIPTS / "models.config").read_text().replace("/models/flowers", str(folder))
    text = text.replace(" versions: 2", "").replace('version_labels { key: "canary" value: 2 }', "")
    file = tmp_path / "models.config"
    file.write_text(text)
    main = runpy.run_path(str(SCRIPTS / "rollout.py"))["main"]
    with Server(config_of(text)) as server, Client(server.rest, "flowers") as client:

        def roll(command):
            """Return the labels and the states of versions afterwards."""
            arguments = ["rollout.py", server.grpc, str(file), "flowers", *command.split()]
            monkeypatch.setattr(sys, "argv", arguments)
            main()
            labels = dict(config_of(file.read_text()).model_config_list.config[0].version_labels)
            assert labels == server.core.models["flowers"].labels
            return labels, {one.version: one.state for one in client.status()}

        both = {1: "AVAILABLE", 2: "AVAILABLE"}
        assert roll(commands[0]) == ({"stable": 1, "canary": 2}, both)
        assert roll(commands[1]) == ({"stable": 2, "canary": 2}, both)
        with pytest.raises(SystemExit, match="2"):
            roll("--versions 2 3 --labels stable=3")
        assert "version 3 does not load" in capsys.readouterr().err
        assert server.core.models["flowers"].labels == {"stable": 2, "canary": 2}
        assert roll(commands[2])[0] == {"stable": 1, "canary": 2}
        labels, states = roll(commands[3])
        assert labels == {"stable": 2, "canary": 2}
        assert (states[1], states[2]) == ("END", "AVAILABLE")


def test_the_health_check_asks_for_a_model_that_answers(folder):
    with Server(config_of(flowers=folder / "..")) as empty:
        port = empty.rest.rpartition(":")[2]
        assert subprocess.run(["bash", SCRIPTS / "healthy.sh", "flowers", port]).returncode
    text = (SCRIPTS / "models.config").read_text().replace("/models/flowers", str(folder))
    with Server(config_of(text)) as server:
        port = server.rest.rpartition(":")[2]
        assert not subprocess.run(["bash", SCRIPTS / "healthy.sh", "flowers", port]).returncode
        assert subprocess.run(["bash", SCRIPTS / "healthy.sh", "daisies", port]).returncode
    assert subprocess.run(["bash", SCRIPTS / "healthy.sh", "flowers", port]).returncode
