import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("NO_GCE_CHECK", "true")

import pytest  # noqa: E402
import tensorflow as tf  # noqa: E402

from keras_resnet.check import endpoints  # noqa: E402
from keras_resnet.cpp_loader import Call, Calls, read_calls, write_calls  # noqa: E402
from keras_resnet.export import export  # noqa: E402
from keras_resnet.recipe import RECIPES  # noqa: E402
from keras_resnet.run import Run  # noqa: E402
from keras_resnet.train import train  # noqa: E402


def pytest_configure() -> None:
    # Two devices, so that several replicas can be tested on any machine. Must come before anything runs.
    cpus = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2)


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A complete training of the smallest digits recipe."""
    return train(RECIPES["digits-tiny"], tmp_path_factory.mktemp("runs") / "digits-tiny")


@pytest.fixture(scope="session")
def exported(digits_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The version that the run above was exported as."""
    return export(digits_run.path, to=tmp_path_factory.mktemp("saved_models"))


@pytest.fixture(scope="session")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Call]]:
    """Puts calls to a SavedModel in the C++ loader, in a process of its own."""

    def ask(saved_model: Path, *calls: Call) -> list[Call]:
        folder = tmp_path_factory.mktemp("calls")
        write_calls(folder / "asked", Calls(endpoints=endpoints(saved_model), calls=list(calls)))
        command = [sys.executable, "-m", "keras_resnet.cpp_loader", saved_model, folder / "asked", folder / "answered"]
        subprocess.run([str(part) for part in command], check=True)
        return read_calls(folder / "answered").calls

    return ask
