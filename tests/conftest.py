import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("NO_GCE_CHECK", "true")
# Tests neither read nor write the user's caches; children inherit the folder.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="caches-")

import pytest  # noqa: E402
import tensorflow as tf  # noqa: E402

from keras_resnet.runs.recipes import RECIPES  # noqa: E402
from keras_resnet.runs.run import Run  # noqa: E402
from keras_resnet.serving.check import endpoints  # noqa: E402
from keras_resnet.serving.cpp_loader import Call, run_calls  # noqa: E402
from keras_resnet.serving.export import export  # noqa: E402
from keras_resnet.training.train import train  # noqa: E402


def pytest_configure() -> None:
    # Two devices, so that several replicas can be tested on any machine. Must come before anything
    # runs.
    cpus = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    # The names of failed tests come at the end. A run stopped at a time limit has no end.
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        print(f"\nFAILED {report.nodeid} after {report.duration:.0f} s", file=sys.stderr)


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A complete training of the smallest digits recipe."""
    return train(RECIPES["digits-tiny"], tmp_path_factory.mktemp("runs") / "digits-tiny")


@pytest.fixture(scope="session")
def exported(digits_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The version that the run above was exported as."""
    return export(digits_run, tmp_path_factory.mktemp("saved_models") / digits_run.name)


@pytest.fixture(scope="session")
def ask() -> Callable[..., list[Call]]:
    """Run calls of a SavedModel in the C++ loader, in a process of its own."""

    def ask(saved_model: Path, *calls: Call) -> list[Call]:
        return run_calls(saved_model, endpoints(saved_model), calls).calls

    return ask
