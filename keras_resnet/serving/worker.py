"""Run an exported network in a process of its own, as a program without this package would.

The process imports neither Python TensorFlow nor Keras. It reads requests from its standard input,
one line of JSON each, and writes an answer per line. Arrays are in files. It ends when the pipe
closes, so it does not outlive the process that started it.
"""

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from .child import Child, answers, child, program
from .cpp_loader import TIME_LIMIT, Endpoint, resident_bytes
from .runtimes import Answer, Format, open_network


class Worker:
    """A process that runs one exported network. `worker` starts and ends it."""

    load_seconds: float
    """the time in seconds to load the network"""

    def __init__(self, process: Child, scratch: Path):
        self._process, self._scratch = process, scratch

    def ask(self, verb: str, **arguments: Any) -> Any:
        """Ask the process, and return its answer.

        Args:
            verb: the name of a method of `_Served`.
            **arguments: its arguments, as JSON has them.

        Raises:
            ValueError: the request fails, or the process died. The message is one line.
            TimeoutError: the time limit is exceeded.
        """
        answer = self._process.ask([verb, arguments])
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer["value"]

    def answer(self, images: np.ndarray) -> np.ndarray:
        """Return what the network answers.

        Args:
            images: the network's input, float32 `[N, H, W, 3]`.

        Raises:
            ValueError: the request fails.
        """
        asked, answered = self._scratch / "asked.npy", self._scratch / "answered.npy"
        np.save(asked, images)
        self.ask("answer", asked=str(asked), answered=str(answered))
        return np.load(answered)


@contextlib.contextmanager
def worker(
    format: Format,
    path: Path,
    endpoint: Endpoint | None = None,
    *,
    time_limit: float = TIME_LIMIT,
) -> Iterator[Worker]:
    """Start a process that loads an exported network, and end it at the end.

    Args:
        format: the format of the network.
        path: the file of the network, or the folder of `saved_model.pb`.
        endpoint: the signature of a SavedModel that takes the network's input.
        time_limit: the time in seconds that the process has for an answer.

    Raises:
        ValueError: the network cannot be loaded.
        TimeoutError: it is not loaded within the time limit.
    """
    with (
        tempfile.TemporaryDirectory() as scratch,
        child(*program(__name__), time_limit) as one,
    ):
        started = Worker(one, Path(scratch))
        place = {} if endpoint is None else {"endpoint": vars(endpoint)}
        started.load_seconds = started.ask(
            "open", format=format, path=str(path.absolute()), **place
        )
        yield started


class _Served:
    """The network of this process, and the answers to what `Worker` asks."""

    def open(self, format: Format, path: str, endpoint: dict[str, Any] | None = None) -> float:
        """Load the network, and return the seconds that it took."""
        place = None if endpoint is None else Endpoint(**endpoint)
        start = time.perf_counter()
        self._answerer: Callable[[], Answer] = open_network(format, Path(path), place)
        self._answer = self._answerer()
        seconds = time.perf_counter() - start
        assert not {"tensorflow", "keras"} & sys.modules.keys()
        return seconds

    def answer(self, asked: str, answered: str) -> None:
        np.save(answered, self._answer(np.load(asked)))

    def time(self, images: str, batch: int) -> float:
        """Return the seconds of one request with the first images of a file."""
        request = np.load(images)[:batch]
        start = time.perf_counter()
        self._answer(request)
        return time.perf_counter() - start

    def load(self, images: str, clients: int, seconds: float) -> float:
        """Return the images per second that clients get, each with one image per request."""
        request = np.load(images)[:1]
        answered = [0] * clients
        answers = [self._answerer() for _ in range(clients)]
        for answer in answers:
            answer(request)  # the first request of an interpreter is slow
        start = time.perf_counter()

        def ask(client: int) -> None:
            while time.perf_counter() < start + seconds:
                answers[client](request)
                answered[client] += 1

        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(ask, range(clients)))
        return sum(answered) / (time.perf_counter() - start)

    def memory(self) -> int:
        return resident_bytes()


def main() -> None:
    """Answer the requests that come in on standard input."""
    output, served = answers(), _Served()
    for line in sys.stdin:
        verb, arguments = json.loads(line)
        try:
            answer = {"value": getattr(served, verb)(**arguments)}
        except Exception as error:  # every runtime has classes of its own
            answer = {"error": " ".join(str(error).split()) or type(error).__name__}
        print(json.dumps(answer), file=output, flush=True)
