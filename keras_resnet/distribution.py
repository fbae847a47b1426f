"""Training on many devices and hosts with the numbers of one device.

A batch is shared out: the first host and the first device on it get what comes first, and every device computes the
same as one device would with the whole batch. Keras 3.15 alone does not: `prepare` says what it mends.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from types import MethodType
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.distribute.cluster_resolver.slurm_cluster_resolver import expand_hostlist, expand_tasks_per_node

CLUSTER_VARIABLES = {"TF_CONFIG", "SLURM_STEP_NUM_TASKS"}
"""what describes several workers in the environment"""

TESTED_KERAS = "3.15"
"""the minor version whose private parts `prepare` replaces"""


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


def gather(strategy: tf.distribute.Strategy, numbers: Sequence[float]) -> np.ndarray:
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


def prepare(model: keras.Model) -> keras.Model:
    """Makes `compile`, `fit`, `evaluate` and `predict` of a model right on several replicas; returns the same model.

    Build the model in the scope of a `tf.distribute` strategy, then call this once. On one device it does nothing. Its
    class stays what it was: what `save` writes opens where this package is not installed. What Keras 3.15 does
    otherwise, and what becomes of it:

    - A batch that does not divide: the mean is over all its pictures, not over the means of the replicas. A replica
      that gets none of the last batch has no part in it; Keras makes every weight NaN. (For losses that are means over
      the batch, as all are by default, and synchronised batch norm, as the networks of this package have on several
      replicas.) An uneven first batch no longer fails. What callbacks see after such a step is the mean over replicas;
      the logs of the epoch and of `evaluate` are exact.
    - In half precision a gradient that is infinite on one replica makes all of them leave out the step; in Keras the
      others go on, with weights that are infinite or a job that hangs.
    - `steps_per_execution` no longer fails.
    - `MultiWorkerMirroredStrategy` no longer fails.
    - Batch norm that is not synchronised keeps the mean of the replicas' moving statistics; in Keras they drift apart
      and the first replica's are saved. It takes batches of one known size only (`drop_remainder=True`).

    Raises `ValueError` where the model was built outside of the scope, or Keras is of another version than was tested;
    `fit` does so for what Keras computes on each replica alone: clipped gradients, and `jit_compile`.
    """
    if model._distribute_strategy is None and tf.distribute.get_strategy().num_replicas_in_sync > 1:
        raise ValueError(f"{model.name} was built outside of the strategy's scope; build it in there")
    if model.distribute_strategy.num_replicas_in_sync == 1:
        return model
    if keras.__version__.split(".")[:2] != TESTED_KERAS.split("."):
        raise ValueError(
            f"Keras is {keras.__version__}; several replicas are right with Keras {TESTED_KERAS} only, "
            f"whose private parts are replaced: pip install 'keras=={TESTED_KERAS}.*'"
        )
    for norm in _own_statistics(model):
        for statistic in (norm.moving_mean, norm.moving_variance):
            statistic.value._aggregation = tf.VariableAggregation.MEAN
    for function in (_maybe_symbolic_build, _make_function, compute_loss):
        setattr(model, function.__name__, MethodType(function, model))
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Conv2D):
            layer.convolution_op = MethodType(convolution_op, layer)
    return model


def _own_statistics(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """The batch norms whose statistics are of their replica alone."""
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    return [norm for norm in norms if not norm.synchronized]


# What follows takes the place of methods of the same names in keras/src: backend/tensorflow/trainer.py,
# trainers/trainer.py, layers/convolutional/base_conv.py and optimizers/loss_scale_optimizer.py.


def _maybe_symbolic_build(model: Any, iterator: Any = None, data_batch: Any = None) -> None:
    """Keras takes the mean of the replicas' first batches, which need not have the same shape; one of them will do."""
    if all(part is None or part.built for part in (model._compile_metrics, model._compile_loss, model.optimizer)):
        return
    strategy = model.distribute_strategy
    if iterator is not None:
        for _, _, batches in iterator:
            data_batch = keras.tree.map_structure(
                lambda value: strategy.experimental_local_results(value)[0], next(batches)
            )
            break
    with strategy.scope():
        model._symbolic_build(data_batch=data_batch)


def _make_function(model: Any, step_function: Callable[..., Any]) -> Callable[..., Any]:
    """Keras passes batches through the loop as optionals, and takes a mean along axis 0 of what has no axes."""
    if model.jit_compile:
        raise ValueError("jit_compile is True, which fails on several replicas; leave it at 'auto'")
    optimizer = model.optimizer
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer.apply = MethodType(apply, optimizer)
        optimizer = optimizer.inner_optimizer
    if optimizer is not None and (optimizer.clipnorm or optimizer.global_clipnorm or optimizer.clipvalue):
        raise ValueError(
            "the optimizer clips gradients, which Keras does on each replica alone, before they are summed: "
            "train without, or on one device"
        )
    strategy = model.distribute_strategy
    needs_one_size = step_function == model.train_step and bool(_own_statistics(model))

    def one_step(batch: Any) -> Any:
        logs = strategy.run(step_function, args=(batch,))
        return keras.tree.map_structure(lambda value: strategy.reduce("MEAN", value, axis=None), logs)

    if not model.run_eagerly:
        one_step = tf.function(one_step, reduce_retracing=True, autograph=False)
    one_step = model._autoconvert_optionals(one_step)

    with tf.device("CPU"):
        done = tf.Variable(0, trainable=False)

    def steps(iterator: Any) -> Any:
        # In a condition on whether there is a next batch, what replicas do together fails.
        logs = one_step(next(iterator))
        for _ in tf.range(model.steps_per_execution - 1):
            done.assign_add(1)
            logs = one_step(next(iterator))
        return logs

    if not model.run_eagerly:
        steps = tf.function(steps, reduce_retracing=True)

    def function(iterator: Any) -> Any:
        if not isinstance(iterator, tf.data.Iterator | tf.distribute.DistributedIterator):
            return one_step(next(iterator))  # train_on_batch and test_on_batch
        if needs_one_size and any(part.shape[0] is None for part in _tensors(iterator.element_spec)):
            raise ValueError(
                f"{model.name} has batch norm that is not synchronised, which needs batches of one known size: "
                "batch with drop_remainder=True, or build the network with synchronized=True"
            )
        done.assign(0)
        try:
            return steps(iterator)
        except tf.errors.OutOfRangeError:
            if done == 0:
                raise  # nothing was left, and so fit ends the epoch
            return model.get_metrics_result()  # what was left has been trained on

    return function


def _tensors(specs: Any) -> list[tf.TensorSpec]:
    return tf.nest.flatten(specs, expand_composites=True)


def compute_loss(
    model: Any, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
) -> Any:
    """Keras' own, whose gradient counts each picture of the whole batch alike, whichever replica it is on."""
    loss = type(model).compute_loss(model, x, y, y_pred, sample_weight, training=training)
    replica = tf.distribute.get_replica_context()
    if not training or replica is None:
        return loss
    if keras.tree.flatten(y)[0].shape[0] is not None and not model.run_eagerly:
        return loss  # of one known size on all of them
    count = tf.cast(tf.shape(keras.tree.flatten(y)[0])[0], loss.dtype)
    share = count * replica.num_replicas_in_sync / replica.all_reduce("SUM", count)
    # The value stays: Keras' mean of the losses weighs it by the number of pictures already.
    return share * loss + tf.stop_gradient(loss - share * loss)


def convolution_op(layer: Any, inputs: Any, kernel: Any) -> Any:
    """Keras' own, but where there are no pictures: oneDNN then gives back as many channels as there were."""
    keras_own = functools.partial(type(layer).convolution_op, layer)
    if inputs.shape[0]:
        return keras_own(inputs, kernel)
    count = tf.shape(inputs)[0]
    blank = functools.partial(tf.zeros, tf.concat([[1], tf.shape(inputs)[1:]], axis=0), inputs.dtype)
    some = tf.ensure_shape(tf.cond(count > 0, lambda: inputs, blank), [None, *inputs.shape[1:]])
    return keras_own(some, kernel)[:count]


def apply(optimizer: Any, gradients: Sequence[Any], variables: Any = None) -> Any:
    """Keras asks the first replica of each host whether its gradients are finite, before they are summed."""
    replica = tf.distribute.get_replica_context()
    here = tf.cast(optimizer.check_finite(gradients), tf.float32)
    everywhere = replica.all_reduce("SUM", here) >= replica.num_replicas_in_sync
    poisoned = [g if g is None else tf.where(everywhere, g, tf.constant(np.inf, g.dtype)) for g in gradients]
    return type(optimizer).apply(optimizer, poisoned, variables)
