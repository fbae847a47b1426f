"""Time a SavedModel in the C++ loader, in a process of its own, under the settings of a server.

The process imports neither Python TensorFlow nor Keras. After its warm-up it writes a line; then,
for each line `[clients, seconds]` that it reads, it writes the images answered per second. It ends
when its standard input closes, so it does not outlive the process that started it.
"""

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .child import answers
from .cpp_loader import SavedModel, read_calls


def answers_per_second(ask: Callable[[], object], clients: int, seconds: float) -> float:
    """Return how many requests are answered per second.

    Args:
        ask: sends one request and waits for its answer.
        clients: the number of threads that ask at the same time, each one request at a time.
        seconds: the time in which requests begin; each client begins at least one.
    """
    start = time.perf_counter()

    def client() -> int:
        count = 0
        while not count or time.perf_counter() < start + seconds:
            ask()
            count += 1
        return count

    with ThreadPoolExecutor(clients) as pool:
        counts = [pool.submit(client) for _ in range(clients)]
    return sum(count.result() for count in counts) / (time.perf_counter() - start)


def main(saved_model: str, calls_file: str, config: str) -> None:
    """Time the last call of a file, after all its calls have been run."""
    output = answers()
    asked = read_calls(Path(calls_file))
    model = SavedModel(saved_model, asked.endpoints, bytes.fromhex(config))
    for call in (*asked.calls, asked.calls[-1]):
        model.run(call.signature, call.inputs)
    print(json.dumps("ready"), file=output, flush=True)
    for line in sys.stdin:
        clients, seconds = json.loads(line)
        found = answers_per_second(lambda: model.run(call.signature, call.inputs), clients, seconds)
        print(json.dumps(found), file=output, flush=True)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except ValueError as failure:
        print(" ".join(str(failure).split()), file=sys.stderr)
        sys.exit(1)
