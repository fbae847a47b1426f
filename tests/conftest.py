import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("NO_GCE_CHECK", "true")

import pytest  # noqa: E402
import tensorflow as tf  # noqa: E402

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
