"""Ask a child process by lines of JSON, within a time limit.

The child reads requests from its standard input and writes an answer per line. It ends when the
pipe closes, so it does not outlive the process that started it.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from .cpp_loader import python_path, reason

_PROGRAM = "import sys; sys.path.append(sys.argv.pop(1)); from {} import main; main(*sys.argv[1:])"


class Child:
    """A running child process. `child` starts and ends it."""

    def __init__(self, process: "subprocess.Popen[str]", messages: Path, time_limit: float):
        self._process, self._messages, self._time_limit = process, messages, time_limit

    def ask(self, request: Any) -> Any:
        """Send a request, and return the answer.

        Args:
            request: any value of JSON.

        Raises:
            ValueError: the process has ended. The message is one line.
            TimeoutError: the time limit is exceeded.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `answer` says why it has ended
            print(json.dumps(request), file=self._process.stdin, flush=True)
        return self.answer()

    def answer(self) -> Any:
        """Return the next answer.

        Raises:
            ValueError: the process has ended. The message is one line.
            TimeoutError: the time limit is exceeded.
        """
        assert self._process.stdout is not None
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(self._time_limit, stop)
        timer.start()
        line = self._process.stdout.readline()
        timer.cancel()
        if late.is_set():
            raise TimeoutError(f"it has not answered within {self._time_limit:g} seconds")
        if not line:
            with open(self._messages, "rb") as messages:
                raise ValueError(reason(self._process.wait(), messages))
        return json.loads(line)


def program(module: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """Return the command line and the environment that run `main` of a module of this package.

    Nothing is imported from the working directory.

    Args:
        module: its full name.
        arguments: those of `main`.
    """
    # The package comes last on the path of imports, as its folder may hold others.
    folder = str(Path(__file__).parents[2])
    command = [sys.executable, "-P", "-c", _PROGRAM.format(module), folder, *arguments]
    return command, os.environ | {"PYTHONPATH": python_path(), "TF_CPP_MIN_LOG_LEVEL": "3"}


@contextlib.contextmanager
def child(
    command: Sequence[str], environment: Mapping[str, str], time_limit: float
) -> Iterator[Child]:
    """Start a child process in an empty folder, and kill it at the end.

    Args:
        command: its command line.
        environment: all its environment variables.
        time_limit: the time in seconds that it has for an answer.
    """
    with tempfile.TemporaryDirectory() as scratch:
        messages = Path(scratch) / "messages"
        with open(messages, "wb") as file:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                cwd=scratch,
                env=environment,
                text=True,
                start_new_session=True,  # Ctrl-C in a terminal is for this process, which ends it
            )
        with process:
            try:
                yield Child(process, messages, time_limit)
            finally:
                process.kill()
                assert process.stdin is not None
                with contextlib.suppress(BrokenPipeError):  # of what it has not read
                    process.stdin.close()


def answers() -> IO[str]:
    """Return the file for this child's answers.

    Anything else that is printed goes to the messages, not between the answers.
    """
    file = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return file
