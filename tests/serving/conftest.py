import contextlib
import shutil
import threading
import time
from types import SimpleNamespace

import pytest

from keras_resnet.serving.export import export


def pass_unchecked(patch):
    passed = SimpleNamespace(errors=[], findings=[])
    patch.setattr("keras_resnet.serving.export.verify", lambda *_: passed)


@pytest.fixture
def unchecked(monkeypatch):
    """Export without the check, which starts a process and is tested elsewhere."""
    pass_unchecked(monkeypatch)


@pytest.fixture(scope="session")
def served(exported, tmp_path_factory):
    """A folder of one version, without the warm-up, which takes seconds."""
    folder = tmp_path_factory.mktemp("served") / "digits"
    ignored = shutil.ignore_patterns("tf_serving_warmup_requests")
    shutil.copytree(exported, folder / "1", ignore=ignored)
    return folder


@pytest.fixture(scope="session")
def with_heat_map(digits_run, tmp_path_factory):
    """A folder of one version that answers with heat maps."""
    folder = tmp_path_factory.mktemp("heat") / "digits, by heat"
    with pytest.MonkeyPatch.context() as patch:
        pass_unchecked(patch)
        export(digits_run, folder, heat_map=True)
    return folder


@pytest.fixture(scope="session")
def serve_demo():
    """Serve the page of an opened export on a free port, and yield its URL."""

    @contextlib.contextmanager
    def serve(export, hosts=("127.0.0.1",)):
        import uvicorn

        from keras_resnet.serving.demo import application

        config = uvicorn.Config(application(export, hosts), port=0, lifespan="off", log_level=40)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join()

    return serve
