"""The devices and hosts that train together, and how a batch is shared out: the first gets what comes first."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.distribute.cluster_resolver.slurm_cluster_resolver import expand_hostlist, expand_tasks_per_node

CLUSTER_VARIABLES = {"TF_CONFIG", "SLURM_STEP_NUM_TASKS"}
"""what describes several workers in the environment"""


def strategy(devices: Sequence[str] = ()) -> tf.distribute.Strategy:
    """The strategy that the environment asks for. Call it before TensorFlow has computed anything.

    - `TF_CONFIG` or a SLURM job step of several tasks: `MultiWorkerMirroredStrategy` over all devices of all workers.
    - Several devices, named ("GPU:0", "GPU:2") or else all GPUs of this machine: `MirroredStrategy`.
    - One device: TensorFlow's default, which costs nothing, or `OneDeviceStrategy` for another than the first.

    GPU memory is taken as it is needed, not all at once.

    The same devices give the same strategy for the life of the process.

    Raises `ValueError` where a device is not there, or the environment describes something else than workers.
    """
    if _cluster() is not None and devices:
        raise ValueError(
            f"devices are {', '.join(devices)}, and the environment describes several workers; "
            "a worker takes all devices that it sees: choose them by CUDA_VISIBLE_DEVICES"
        )
    return _strategy(tuple(devices))


# A second strategy over the same devices would number what they do together like the first, and TensorFlow takes one
# for the other.
@functools.cache
def _strategy(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if (cluster := _cluster()) is not None:
        return tf.distribute.MultiWorkerMirroredStrategy(cluster)
    if not devices:
        return tf.distribute.MirroredStrategy() if len(gpus) > 1 else tf.distribute.get_strategy()
    there = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices()]
    for device in devices:
        if device not in there or devices.count(device) > 1:
            raise ValueError(f"devices are {', '.join(devices)}; choose from {', '.join(there)}, each once")
    if len(devices) > 1:
        return tf.distribute.MirroredStrategy(devices)
    if devices[0] == ("GPU:0" if gpus else "CPU:0"):
        return tf.distribute.get_strategy()  # the device that it takes by itself
    return tf.distribute.OneDeviceStrategy(devices[0])


def _cluster() -> Any:
    """The resolver of the cluster that the environment describes, or None where this process is alone."""
    resolvers = tf.distribute.cluster_resolver
    if "TF_CONFIG" in os.environ:
        resolver = resolvers.TFConfigClusterResolver()
        try:
            jobs = resolver.cluster_spec().as_dict()
        except (TypeError, ValueError) as error:  # no JSON, or no cluster in it
            raise ValueError(f"TF_CONFIG is not usable: {error}") from None
        if not jobs:
            return None
        if set(jobs) - {"chief", "worker"} or resolver.task_type not in jobs:
            raise ValueError(
                f"TF_CONFIG has the jobs {', '.join(sorted(jobs))} and this process is a {resolver.task_type!r}; "
                "give workers and at most one chief"
            )
        return resolver if sum(map(len, jobs.values())) > 1 else None
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        # Not SlurmClusterResolver: it sorts hosts as text, so that node10 comes before node2, and shares out GPUs
        # itself, where here a task takes those that SLURM lets it see.
        hosts = expand_hostlist(os.environ["SLURM_STEP_NODELIST"])
        tasks = expand_tasks_per_node(os.environ["SLURM_STEP_TASKS_PER_NODE"])
        port = 20_000 + int(os.environ["SLURM_JOB_ID"]) % 20_000  # two jobs may be on one host
        there = [f"{host}:{port + i}" for host, n in zip(hosts, tasks, strict=True) for i in range(n)]
        return resolvers.SimpleClusterResolver(
            tf.train.ClusterSpec({"worker": there}),
            task_type="worker",
            task_id=int(os.environ["SLURM_PROCID"]),
            num_accelerators={"GPU": len(tf.config.list_physical_devices("GPU"))},
            rpc_layer="grpc",
        )
    return None


def workers() -> int:
    """Processes that train together."""
    cluster = _cluster()
    return 1 if cluster is None else sum(map(len, cluster.cluster_spec().as_dict().values()))


def worker() -> int:
    """The number of this process among them. The first is the chief, who alone writes."""
    cluster = _cluster()
    if cluster is None:
        return 0
    jobs = cluster.cluster_spec().as_dict()
    return cluster.task_id + (cluster.task_type == "worker") * len(jobs.get("chief", ()))


def gather(strategy: tf.distribute.Strategy, numbers: Sequence[float] | np.ndarray) -> np.ndarray:
    """The numbers that each worker gives: float64 `[workers, len(numbers)]`.

    Where there are several workers all of them must call it, and each waits for the last.
    """
    rows = np.zeros((workers(), len(numbers)))
    rows[worker()] = numbers
    if len(rows) == 1:
        return rows
    here = strategy.num_replicas_in_sync // len(rows)  # replicas, of which one speaks for the worker
    brought = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(rows * (context.replica_id_in_sync_group % here == 0))
    )
    return strategy.reduce("SUM", brought, axis=None).numpy()


def replica_values(strategy: tf.distribute.Strategy, scalars: Sequence[keras.Variable]) -> np.ndarray:
    """What each replica has in variables that differ among them, as metrics do: float64 `[replicas, len(scalars)]`.

    Where there are several workers all of them must call it.
    """
    here = zip(*(map(float, strategy.experimental_local_results(scalar.value)) for scalar in scalars), strict=True)
    return gather(strategy, np.array(list(here)).ravel()).reshape(strategy.num_replicas_in_sync, len(scalars))


def assign_replica_values(
    strategy: tf.distribute.Strategy, scalars: Sequence[keras.Variable], values: np.ndarray
) -> None:
    """Puts back what `replica_values` gave. Where it came of another number of replicas, the first gets the sums."""
    replicas = strategy.num_replicas_in_sync
    if len(values) != replicas:
        values = np.pad(values.sum(axis=0, keepdims=True), ((0, replicas - 1), (0, 0)))
    for scalar, of_replicas in zip(scalars, values.T, strict=True):
        for own, value in zip(
            strategy.experimental_local_results(scalar.value), np.split(of_replicas, workers())[worker()], strict=True
        ):
            own.assign(value)


@contextlib.contextmanager
def peers() -> Iterator[None]:
    """Errors that come of another worker's end become a `ConnectionError` that says so."""
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.InternalError) as error:
        if workers() == 1 or (isinstance(error, tf.errors.InternalError) and "ollective" not in error.message):
            raise
        raise ConnectionError(
            "another worker has ended, or cannot be reached; the same command for all goes on from the last checkpoint"
        ) from error


def require_even(strategy: tf.distribute.Strategy, batch_size: int) -> None:
    """Raises `ValueError` where a batch cannot be shared out alike, naming the nearest that can."""
    replicas = strategy.num_replicas_in_sync
    if batch_size % replicas:
        below = batch_size // replicas * replicas
        sizes = [size for size in (below, below + replicas) if size]
        raise ValueError(
            f"batch_size is {batch_size}, which {replicas} replicas cannot share alike; "
            f"give a multiple of {replicas}, such as {' or '.join(map(str, sizes))}"
        )


def distribute(
    strategy: tf.distribute.Strategy, batches: Callable[[int, int], tf.data.Dataset], batch_size: int
) -> tf.data.Dataset | tf.distribute.DistributedDataset:
    """What `fit` takes: `batches(index, count)`, of which each host makes its own part, shared out to its devices.

    `batches` gives the part `index` of `count` equal parts of the data: of batches that are all full its rows of each,
    else as many pictures at a time, of which the last may be fewer. `batch_size` is of all replicas together.
    """
    if strategy.num_replicas_in_sync == 1:
        return batches(0, 1)

    def of_host(context: tf.distribute.InputContext) -> tf.data.Dataset:
        part = batches(context.input_pipeline_id, context.num_input_pipelines)
        full = part.element_spec[1].shape[0] is not None
        return part.rebatch(context.get_per_replica_batch_size(batch_size), drop_remainder=full)

    return strategy.distribute_datasets_from_function(of_host)
