"""Choose the devices and hosts of a training, and split each batch among them.

Replicas get consecutive rows of each batch, in their order.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.distribute.cluster_resolver.slurm_cluster_resolver import (
    expand_hostlist,
    expand_tasks_per_node,
)

from ..data.scan import ALONE, Hosts

CLUSTER_VARIABLES = {"TF_CONFIG", "SLURM_STEP_NUM_TASKS"}
"""the environment variables that describe several workers"""


def strategy(devices: Sequence[str] = ()) -> tf.distribute.Strategy:
    """Return the strategy for the devices and workers of the environment.

    - `TF_CONFIG` or a SLURM job step of several tasks: `MultiWorkerMirroredStrategy` over all
      devices of all workers.
    - Several devices, either named ("GPU:0", "GPU:2") or all GPUs of this machine:
      `MirroredStrategy`.
    - The first device: TensorFlow's default strategy, which has no overhead.
    - Another single device: `OneDeviceStrategy`.

    Call it before TensorFlow has computed anything. GPU memory is allocated as needed. Equal
    arguments return the same strategy object.

    Args:
        devices: names such as "GPU:0"; empty for all available devices.

    Raises:
        ValueError: a device is not available, devices are given to one of several workers, or
            `TF_CONFIG` does not describe workers.
    """
    if _cluster() is not None and devices:
        raise ValueError(
            f"devices are {', '.join(devices)}, and the environment describes several workers; "
            "a worker takes all devices that it sees: choose them by CUDA_VISIBLE_DEVICES"
        )
    return _strategy(tuple(devices))


# A second strategy over the same devices would give its collectives the same numbers as the first,
# and TensorFlow would confuse them.
@functools.cache
def _strategy(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if (cluster := _cluster()) is not None:
        return tf.distribute.MultiWorkerMirroredStrategy(cluster)
    if not devices:
        return tf.distribute.MirroredStrategy() if len(gpus) > 1 else tf.distribute.get_strategy()
    available = [
        device.name.removeprefix("/device:") for device in tf.config.list_logical_devices()
    ]
    for device in devices:
        if device not in available or devices.count(device) > 1:
            raise ValueError(
                f"devices are {', '.join(devices)}; choose from {', '.join(available)}, each once"
            )
    if len(devices) > 1:
        return tf.distribute.MirroredStrategy(devices)
    if devices[0] == ("GPU:0" if gpus else "CPU:0"):
        return tf.distribute.get_strategy()  # the device that TensorFlow uses by default
    return tf.distribute.OneDeviceStrategy(devices[0])


def _cluster() -> Any:
    """Return the resolver of the environment's cluster, or None for a single process."""
    resolvers = tf.distribute.cluster_resolver
    if "TF_CONFIG" in os.environ:
        resolver = resolvers.TFConfigClusterResolver()
        try:
            jobs = resolver.cluster_spec().as_dict()
        except (TypeError, ValueError) as error:  # not JSON, or JSON without a cluster
            raise ValueError(f"TF_CONFIG is not usable: {error}") from None
        if not jobs:
            return None
        if set(jobs) - {"chief", "worker"} or resolver.task_type not in jobs:
            raise ValueError(
                f"TF_CONFIG has the jobs {', '.join(sorted(jobs))} and this process is a"
                f" {resolver.task_type!r}; give workers and at most one chief"
            )
        return resolver if sum(map(len, jobs.values())) > 1 else None
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        # SlurmClusterResolver sorts hosts as text (node10 before node2) and assigns GPUs itself.
        # Here a task uses the GPUs that SLURM makes visible to it.
        hosts = expand_hostlist(os.environ["SLURM_STEP_NODELIST"])
        tasks = expand_tasks_per_node(os.environ["SLURM_STEP_TASKS_PER_NODE"])
        port = 20_000 + int(os.environ["SLURM_JOB_ID"]) % 20_000  # two jobs may share a host
        addresses = [
            f"{host}:{port + i}" for host, n in zip(hosts, tasks, strict=True) for i in range(n)
        ]
        return resolvers.SimpleClusterResolver(
            tf.train.ClusterSpec({"worker": addresses}),
            task_type="worker",
            task_id=int(os.environ["SLURM_PROCID"]),
            num_accelerators={"GPU": len(tf.config.list_physical_devices("GPU"))},
            rpc_layer="grpc",
        )
    return None


def workers() -> int:
    """Return the number of processes that train together."""
    cluster = _cluster()
    return 1 if cluster is None else sum(map(len, cluster.cluster_spec().as_dict().values()))


def rank() -> int:
    """Return this process's rank. Rank 0 is the chief, the only process that writes files."""
    cluster = _cluster()
    if cluster is None:
        return 0
    jobs = cluster.cluster_spec().as_dict()
    return cluster.task_id + (cluster.task_type == "worker") * len(jobs.get("chief", ()))


def gather(strategy: tf.distribute.Strategy, numbers: Sequence[float] | np.ndarray) -> np.ndarray:
    """Gather numbers from every worker.

    All workers must call it, and each waits for the others.

    Args:
        strategy: the strategy of the training.
        numbers: this worker's numbers, equally many on every worker.

    Returns:
        float64 `[workers, len(numbers)]`.
    """
    rows = np.zeros((workers(), len(numbers)))
    rows[rank()] = numbers
    return total(strategy, rows)


def total(strategy: tf.distribute.Strategy, numbers: np.ndarray) -> np.ndarray:
    """Return the sum of every worker's numbers.

    All workers must call it, and each waits for the others.

    Args:
        strategy: the strategy of the training.
        numbers: this worker's numbers; shape and dtype are equal on every worker.
    """
    count = workers()
    if count == 1:
        return numbers
    # The sum over replicas counts each worker once: its first replica has its numbers, the others
    # have zeros.
    replicas_per_worker = strategy.num_replicas_in_sync // count
    contributions = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(
            numbers * (context.replica_id_in_sync_group % replicas_per_worker == 0)
        )
    )
    return strategy.reduce("SUM", contributions, axis=None).numpy()


def hosts(strategy: tf.distribute.Strategy) -> Hosts:
    """Return the workers as hosts that load data together."""
    if workers() == 1:
        return ALONE
    return Hosts(rank(), workers(), functools.partial(total, strategy))


def replica_values(
    strategy: tf.distribute.Strategy, scalars: Sequence[keras.Variable]
) -> np.ndarray:
    """Return each replica's values of variables that differ between replicas, such as metrics.

    All workers must call it.

    Args:
        strategy: the strategy of the training.
        scalars: the variables.

    Returns:
        float64 `[replicas, len(scalars)]`.
    """
    local = zip(
        *(map(float, strategy.experimental_local_results(scalar.value)) for scalar in scalars),
        strict=True,
    )
    return gather(strategy, np.array(list(local)).ravel()).reshape(
        strategy.num_replicas_in_sync, len(scalars)
    )


def assign_replica_values(
    strategy: tf.distribute.Strategy, scalars: Sequence[keras.Variable], values: np.ndarray
) -> None:
    """Assign the values that `replica_values` returned.

    If they come from a different number of replicas, the first replica gets their sums.

    Args:
        strategy: the strategy of the training.
        scalars: the variables.
        values: float64 `[replicas, len(scalars)]`.
    """
    replicas = strategy.num_replicas_in_sync
    if len(values) != replicas:
        values = np.pad(values.sum(axis=0, keepdims=True), ((0, replicas - 1), (0, 0)))
    for scalar, of_replicas in zip(scalars, values.T, strict=True):
        for own, value in zip(
            strategy.experimental_local_results(scalar.value),
            np.split(of_replicas, workers())[rank()],
            strict=True,
        ):
            own.assign(value)


@contextlib.contextmanager
def peers() -> Iterator[None]:
    """Translate the errors TensorFlow raises when another worker dies into a `ConnectionError`."""
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.InternalError) as error:
        if workers() == 1 or (
            isinstance(error, tf.errors.InternalError) and "ollective" not in error.message
        ):
            raise
        raise ConnectionError(
            "another worker died or cannot be reached; the same command on all of them resumes from"
            " the last checkpoint"
        ) from error


def require_divisible(strategy: tf.distribute.Strategy, batch_size: int) -> None:
    """Raise `ValueError`, naming the nearest valid sizes, if the replicas do not divide the batch.

    Args:
        strategy: the strategy of the training.
        batch_size: the global batch size.
    """
    replicas = strategy.num_replicas_in_sync
    if batch_size % replicas:
        below = batch_size // replicas * replicas
        sizes = [size for size in (below, below + replicas) if size]
        raise ValueError(
            f"batch_size is {batch_size}, which is not divisible by {replicas} replicas;"
            f" give a multiple of {replicas}, such as {' or '.join(map(str, sizes))}"
        )


def distribute(
    strategy: tf.distribute.Strategy,
    batches: Callable[[int, int], tf.data.Dataset],
    batch_size: int,
) -> tf.data.Dataset | tf.distribute.DistributedDataset:
    """Return a dataset for `fit` in which each host prepares the batches of its own devices.

    Args:
        strategy: the strategy of the training.
        batches: a function of `(index, count)` that returns part `index` of `count` equal parts of
            the data. If all batches are full, these are the part's rows of each batch, otherwise
            batches of the part's images.
        batch_size: the global batch size.
    """
    if strategy.num_replicas_in_sync == 1:
        return batches(0, 1)

    def of_host(context: tf.distribute.InputContext) -> tf.data.Dataset:
        part = batches(context.input_pipeline_id, context.num_input_pipelines)
        full = part.element_spec[1].shape[0] is not None
        return part.rebatch(context.get_per_replica_batch_size(batch_size), drop_remainder=full)

    return strategy.distribute_datasets_from_function(of_host)
