"""Measure a SavedModel under the settings of TF Serving that can make it faster on this machine."""

import contextlib
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2

from ..training.hardware import FROZEN_WEIGHTS
from . import sidecars
from .audit import file_operations, read_graph, signatures_of
from .check import endpoints
from .child import Child, child
from .cpp_loader import TIME_LIMIT, Call, Calls, python_path, write_calls
from .needs import needs_of, processor
from .probes import probe, takes_batches

ROUNDS = 7
SECONDS = 0.4
"""the time of one measurement"""

ONE_THREAD = "--tensorflow_intra_op_parallelism=1"
BFLOAT16 = "--mixed_precision=bfloat16"
_THREADS = "TF_NUM_INTRAOP_THREADS"
AS_IT_IS = "as it is"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Settings of a server."""

    environment: Mapping[str, str] = field(default_factory=dict)
    flags: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What an operator sets."""
        parts = [*(f"{name}={value}" for name, value in self.environment.items()), *self.flags]
        return " ".join(parts) or AS_IT_IS

    def config(self) -> bytes:
        """Return the ConfigProto that TF Serving makes of the flags."""
        config = config_pb2.ConfigProto()
        if ONE_THREAD in self.flags:
            config.intra_op_parallelism_threads = 1
        if BFLOAT16 in self.flags:
            options = config.graph_options.rewrite_options
            options.auto_mixed_precision_onednn_bfloat16 = rewriter_config_pb2.RewriterConfig.ON
        return config.SerializeToString()


_FROZEN = {FROZEN_WEIGHTS: "1"}
SETTINGS = (
    Setting(),
    Setting(environment=_FROZEN),
    Setting(environment=_FROZEN, flags=(ONE_THREAD,)),
    Setting(environment=_FROZEN, flags=(ONE_THREAD, BFLOAT16)),
)
"""the settings that are compared; the last one only of a graph in float32"""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """The speed of a SavedModel on this machine, in requests of one image if it takes them."""

    processor: str
    instruction_sets: list[str] | None
    """those on which the speed of convolutions depends; None if unknown"""
    cores: int
    signature: str
    rates: dict[int, dict[str, list[float]]]
    """images per second in each round, by the requests at a time and the name of the setting"""


def measure(
    path: str | os.PathLike[str],
    *,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    time_limit: float = TIME_LIMIT,
) -> Speed:
    """Measure a SavedModel as it is and under other settings of a server.

    Each setting has a process of its own with TensorFlow's C++ loader, and all of them are in
    memory. They take turns, so that a drift of the machine's speed favors none. Requests have one
    image; they come one at a time, and as many at once as there are cores.

    A SavedModel is a program: run only those you trust, after `check`.

    Args:
        path: the folder of `saved_model.pb`.
        rounds: the number of turns.
        seconds: the time of one turn of one setting.
        time_limit: the time in seconds that a process has to load it, and for each turn.

    Raises:
        ValueError: `path` holds no readable SavedModel, it reads or writes files, or it fails.
        TimeoutError: a process does not answer in time.
    """
    path = Path(path)
    graph = read_graph(path)
    if files := file_operations(graph):
        raise ValueError(f"{path} is not run: it reads or writes files ({', '.join(files)})")
    signature, calls = _calls(path, graph)
    settings = SETTINGS if needs_of(graph) is None else SETTINGS[:-1]
    cores = _cores()
    rates: dict[int, dict[str, list[float]]] = {
        clients: {setting.name: [] for setting in settings} for clients in sorted({1, cores})
    }
    with contextlib.ExitStack() as stack:
        file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "calls.npz"
        write_calls(file, calls)
        servers = {
            setting.name: stack.enter_context(_server(path, file, setting, time_limit))
            for setting in settings
        }
        for number in range(rounds):
            order = [*servers]
            order = order[number % len(order) :] + order[: number % len(order)]
            for clients, found in rates.items():
                for name in order:
                    found[name].append(servers[name].ask([clients, seconds]))
    here = processor()
    return Speed(
        processor=here.name,
        instruction_sets=here.fast_sets,
        cores=cores,
        signature=signature,
        rates=rates,
    )


def advice(speed: Speed) -> str:
    """Say in one line what would be faster on this machine, and by how much.

    A setting is better than a simpler one, which comes before it, if it was faster in every round.
    The gain is the median over the rounds.

    Args:
        speed: the measurements.
    """
    sets = "unknown" if speed.instruction_sets is None else " ".join(speed.instruction_sets)
    clauses = []
    for clients, by_name in speed.rates.items():
        load = "one request at a time" if clients == 1 else f"{clients} at once"
        clauses.append(f"{load}: {_fastest(clients, by_name)}")
    return f"on {speed.processor} ({speed.cores} cores; {sets or 'no AVX2'}), {'; '.join(clauses)}"


def _fastest(clients: int, by_name: Mapping[str, list[float]]) -> str:
    """Return the fastest setting under one load, and its gain."""
    best = AS_IT_IS
    for name, rates in by_name.items():
        if all(rate > other for rate, other in zip(rates, by_name[best], strict=True)):
            best = name
    if best == AS_IT_IS:
        return "nothing is faster beyond the spread of the rounds"
    gain = statistics.median(
        rate / own for rate, own in zip(by_name[best], by_name[AS_IT_IS], strict=True)
    )
    old, new = (statistics.median(by_name[name]) for name in (AS_IT_IS, best))
    amounts = f"{new:.1f} in place of {old:.1f} images/s"
    if clients == 1:
        amounts = f"{1000 / new:.1f} ms in place of {1000 / old:.1f}"
    changed = ", answers change slightly" if BFLOAT16 in best else ""
    return f"{best} is {gain:.2f} times as fast ({amounts}{changed})"


def _cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _calls(path: Path, graph: Any) -> tuple[str, Calls]:
    """Return a signature, its warm-up and, last, a request of one image.

    Raises:
        ValueError: no request can be made.
    """
    signatures = signatures_of(graph)
    if not signatures:
        raise ValueError(f"{path} has no signatures")
    name = "serving_default" if "serving_default" in signatures else next(iter(signatures))
    inputs = {key: probe(name, key, info) for key, info in signatures[name].inputs.items()}
    if takes_batches(signatures[name]):
        inputs = {key: value[-1:] for key, value in inputs.items()}
    request = Call(signature=name, inputs=inputs)
    warm_up = []
    if (path / sidecars.WARM_UP).is_file():
        warm_up = [
            Call(signature=one, inputs=inputs)
            for one, inputs in sidecars.read_warm_up(path)
            if one == name
        ]
    return name, Calls(endpoints=endpoints(path), calls=[*warm_up, request])


@contextlib.contextmanager
def _server(path: Path, calls: Path, setting: Setting, time_limit: float) -> Iterator[Child]:
    """Start a process that has loaded the SavedModel, and end it at the end."""
    environment = {k: v for k, v in os.environ.items() if k not in (FROZEN_WEIGHTS, _THREADS)}
    # The package itself may be found by the working directory only, which is left out.
    paths = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), python_path()]))
    environment |= {"PYTHONPATH": paths, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [
        *(sys.executable, "-P", "-m", "keras_resnet.serving.speed_process"),
        *(str(path.absolute()), str(calls), setting.config().hex()),
    ]
    with child(command, environment | dict(setting.environment), time_limit) as server:
        assert server.answer() == "ready"
        yield server
