"""Measure what batching buys: throughput and latency of an export, with and without.

    keras-resnet export scripts/results/cifar10-resnet20
    keras-resnet export scripts/results/cifar10-resnet20 --precision int8
    python scripts/benchmarks/bench_batching.py saved_models/cifar10-resnet20/1 \\
        saved_models/cifar10-resnet20-int8/1

Batches are formed by the op of `tf.nondifferentiable_batch_function`, which runs the scheduler that
TF Serving instantiates, by the parameters in each export's batching_params.pbtxt and by others. It
is put around the signature `serving_default`, and TensorFlow's C++ session answers requests of one
image each, from 1, 2, 8 and 32 threads that ask again as soon as they have an answer. Every
contender has a process of its own. They take turns, with the environment of
scripts/serving/serve.sh. A contender whose batches have one image each shows the cost of the op
itself. Run it on an idle machine. Its output is kept in scripts/results/bench_batching.txt.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_ONEDNN_ASSUME_FROZEN_WEIGHTS", "1")
# Child processes import nothing from the working directory.
os.environ.setdefault("PYTHONSAFEPATH", "1")

import numpy as np  # noqa: E402

from keras_resnet.serving.cpp_loader import (  # noqa: E402
    Calls,
    SavedModel,
    read_calls,
    strings,
    write_calls,
)

CORES, WAITING = 2, (1, 2, 8, 32)
OWN, ALONE = "batches", "no batches"
VARIANTS: dict[str, dict[str, Any] | None] = {
    ALONE: None,
    "batches of one": {"max_batch_size": 1, "allowed_batch_sizes": [1]},
    OWN: {},
    "batches without timeout": {"batch_timeout_micros": 0},
    "batches by one thread": {"num_batch_threads": 1},
}
"""what differs from an export's own parameters; None: no batching"""

Turn = tuple[float, list[float]]
"""the seconds of a turn, and those that each of its requests took"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("exports", nargs="+", type=Path, help="folders of saved_model.pb")
    parser.add_argument("--rounds", type=int, default=11, help="measured turns of each contender")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn")
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        # Child processes and threads inherit it.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    context = multiprocessing.get_context("spawn")
    from keras_resnet.serving.needs import processor  # not above: workers must not load TensorFlow

    print(f"{processor()}, {CORES} cores\n")
    for export in args.exports:
        with tempfile.TemporaryDirectory() as name:
            # TensorFlow writes the file in a separate process.
            maker = context.Process(target=make, args=(export, Path(name)))
            maker.start()
            maker.join()
            if maker.exitcode:
                sys.exit(maker.exitcode)
            workers = {variant: Worker(context, Path(name), variant) for variant in VARIANTS}
            agree(workers)
            print_table(export, measured(workers, args.rounds, args.seconds))
            for worker in workers.values():
                worker.end()


def make(export: Path, folder: Path) -> None:
    """Write the export with a signature per variant, each `serving_default` in a batch function."""
    import tensorflow as tf

    from keras_resnet.serving.check import endpoints

    module = tf.Module()
    module.export = tf.saved_model.load(str(export))
    serving_default = module.export.signatures["serving_default"]
    parameters = own_parameters(export)

    def probabilities(image_bytes: Any) -> Any:
        return serving_default(image_bytes=image_bytes)["probabilities"]

    functions = {}
    for variant, changes in VARIANTS.items():
        compute = probabilities
        if changes is not None:
            batched = tf.nondifferentiable_batch_function(**parameters | changes)
            compute = batched(probabilities)

        def answer(image_bytes: Any, compute: Callable = compute) -> Any:
            return {"probabilities": compute(image_bytes)}

        function = tf.function(answer, autograph=False)
        images = tf.TensorSpec([None], tf.string, "image_bytes")
        functions[variant.replace(" ", "_")] = function.get_concrete_function(images)
    tf.saved_model.save(module, str(folder), signatures=functions)
    write_calls(folder / "endpoints.npz", Calls(endpoints=endpoints(folder), calls=[]))


def own_parameters(export: Path) -> dict[str, Any]:
    """Return the parameters of an export as arguments of `nondifferentiable_batch_function`."""
    from keras_resnet.serving.sidecars import batching_parameters

    found = batching_parameters(export)
    return {
        "num_batch_threads": CORES,  # by default the server's cores
        "max_batch_size": found.max_batch_size.value,
        "batch_timeout_micros": found.batch_timeout_micros.value,
        "allowed_batch_sizes": list(found.allowed_batch_sizes),
        "max_enqueued_batches": found.max_enqueued_batches.value,
        "autograph": False,
    }


class Worker:
    """One variant of an export, in its own process."""

    def __init__(self, context: Any, path: Path, variant: str):
        self._pipe, end_of_worker = context.Pipe()
        signature = variant.replace(" ", "_")
        self._process = context.Process(target=work, args=(path, signature, end_of_worker))
        self._process.start()

    def ask(self, *what: Any) -> Any:
        self._pipe.send(what)
        return self._pipe.recv()

    def end(self) -> None:
        self._pipe.send(None)
        self._process.join()


def work(path: Path, signature: str, pipe: Any) -> None:
    model = SavedModel(path, read_calls(path / "endpoints.npz").endpoints)
    requests = [strings([image]) for image in images()]

    def run(number: int) -> np.ndarray:
        inputs = {"image_bytes": requests[number % len(requests)]}
        return model.run(signature, inputs)["probabilities"]

    while (asked := pipe.recv()) is not None:
        clients, seconds = asked
        if seconds:
            pipe.send(turn(run, clients, seconds))
        else:
            pipe.send(in_threads(run, clients))


def images() -> list[bytes]:
    """Return PNG files of noise, as long as those of CIFAR-10's images."""
    from io import BytesIO

    from PIL import Image

    files = []
    for pixels in np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), np.uint8):
        file = BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        files.append(file.getvalue())
    return files


def in_threads(run: Callable[[int], np.ndarray], clients: int) -> np.ndarray:
    """Return the answers to one request per thread, sent together."""
    answers: list[np.ndarray] = [np.empty(0)] * clients

    def ask(number: int) -> None:
        answers[number] = run(number)

    start_and_join([threading.Thread(target=ask, args=(number,)) for number in range(clients)])
    return np.concatenate(answers)


def turn(run: Callable[[int], np.ndarray], clients: int, seconds: float) -> Turn:
    """Measure threads that ask without pause."""
    found: list[float] = []  # a list's append is atomic
    begin = time.perf_counter()
    end = begin + seconds

    def ask(number: int) -> None:
        while (start := time.perf_counter()) < end:
            run(number)
            found.append(time.perf_counter() - start)
            number += clients

    start_and_join([threading.Thread(target=ask, args=(number,)) for number in range(clients)])
    return time.perf_counter() - begin, found


def start_and_join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def agree(workers: dict[str, Worker]) -> None:
    """Require the same answers, however requests are batched."""
    first, *others = (worker.ask(16, 0.0) for worker in workers.values())
    for other in others:
        # In int8 batches of other sizes are computed by the same integers; float sums may differ.
        np.testing.assert_allclose(other, first, atol=1e-5)


def measured(
    workers: dict[str, Worker], rounds: int, seconds: float
) -> dict[tuple[str, int], list[Turn]]:
    """Return all turns, by variant and number of waiting requests."""
    turns: dict[tuple[str, int], list[Turn]] = {}
    for number in range(-1, rounds):
        for waiting in WAITING:
            for variant, worker in workers.items():
                taken = worker.ask(waiting, seconds)
                if number >= 0:  # the first round warms up
                    turns.setdefault((variant, waiting), []).append(taken)
        print(f"  round {number + 1} of {rounds}", file=sys.stderr)
    return turns


def print_table(export: Path, turns: dict[tuple[str, int], list[Turn]]) -> None:
    print(f"{export.parent.name}: requests of one image; medians of turns")
    print()
    print("| waiting | | images/s (quartiles) | times | median, ms | 95th percentile, ms |")
    print("|---|---|---|---|---|---|")
    for waiting in WAITING:
        alone = rates(turns[ALONE, waiting])
        for variant in VARIANTS:
            taken = turns[variant, waiting]
            low, middle, high = np.percentile(rates(taken), [25, 50, 75])
            times = np.median(rates(taken) / alone)
            half, most = (
                np.median([1000 * np.percentile(latencies, share) for _, latencies in taken])
                for share in (50, 95)
            )
            print(
                f"| {waiting} | {variant} | {middle:.0f} ({low:.0f}-{high:.0f}) | {times:.2f}"
                f" | {half:.2f} | {most:.2f} |"
            )
    print()


def rates(turns: list[Turn]) -> np.ndarray:
    """Return the requests per second of each turn."""
    return np.array([len(latencies) / seconds for seconds, latencies in turns])


if __name__ == "__main__":
    main()
