"""Several replicas and several workers against one device.

Where weights are compared, networks compute in float64: in float32 two trainings that differ in the last bit of one
weight differ visibly after twenty steps, on one device too (`scripts/bench_distribution.py` shows it), and so say
nothing.
"""

import contextlib
import csv
import json
import os
import random
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_resnet import ResNet, data
from keras_resnet.callbacks import Checkpoints, History
from keras_resnet.distribution import (
    _cluster,
    assign_replica_values,
    replica_values,
    require_even,
    strategy,
    worker,
    workers,
)
from keras_resnet.evaluate import test_probabilities as probabilities_of  # not a test
from keras_resnet.export import export
from keras_resnet.recipe import RECIPES
from keras_resnet.replicas import prepare
from keras_resnet.run import Run
from keras_resnet.spec import ResNetSpec
from keras_resnet.train import train

LAUNCH = Path(__file__).parent.parent / "scripts" / "launch_local.sh"
SMALL = ResNetSpec(stem="cifar", block="basic", blocks=(1, 1), width=4, shortcut="A")
REPLICAS = strategy(["CPU:0", "CPU:1"])
ALONE = tf.distribute.get_strategy()


@pytest.fixture
def float64():
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy("float32")


def pictures(count, batch_size, drop_remainder=False):
    digits = data.load("digits").train
    pairs = tf.data.Dataset.from_tensor_slices((digits.images[:count] / 16.0, digits.labels[:count]))
    return pairs.batch(batch_size, drop_remainder)


def compiled(within, *, spec=SMALL, **arguments):
    keras.utils.set_random_seed(1)
    with within.scope():
        model = prepare(ResNet(spec, input_shape=(8, 8, 3), classes=10, **arguments.pop("build", {})))
        model.compile(
            keras.optimizers.SGD(0.1, momentum=0.9),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
            **arguments,
        )
    return model


def same_weights(ours, theirs, tolerance):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


def statistics(model):
    """Every moving statistic, a row a replica."""
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for norm in norms:
        for variable in (norm.moving_mean, norm.moving_variance):
            yield np.stack([copy.numpy() for copy in REPLICAS.experimental_local_results(variable.value)])


# Last batches of one picture, of fewer pictures than replicas, and first batches that do not divide.
RAGGED = [(129, 64), (9, 64), (1, 64), (67, 32)]
FAST = [(9, 64, 1), (129, 64, 2)]
SLOW = [(*sizes, executed) for sizes in RAGGED for executed in (1, 2) if (*sizes, executed) not in FAST]


@pytest.mark.parametrize(
    ("count", "batch_size", "steps_per_execution"),
    FAST + [pytest.param(*case, marks=pytest.mark.slow) for case in SLOW],
)
@pytest.mark.usefixtures("float64")
def test_batches_that_do_not_divide(count, batch_size, steps_per_execution):
    """The same weights, loss and evaluation as one device, every picture counted once."""
    results = []
    for within, executed in ((ALONE, 1), (REPLICAS, steps_per_execution)):
        model = compiled(within, steps_per_execution=executed)
        history = model.fit(pictures(count, batch_size), epochs=3, verbose=0).history["loss"]
        results.append(
            (
                history,
                model.evaluate(pictures(101, 10), verbose=0),
                model.predict(pictures(101, 10).map(lambda images, _: images), verbose=0),
                model.get_weights(),
            )
        )
    alone, replicas = results
    np.testing.assert_allclose(replicas[0], alone[0], rtol=1e-6)
    np.testing.assert_allclose(replicas[1], alone[1], rtol=1e-6)
    np.testing.assert_allclose(replicas[2], alone[2], atol=1e-6)
    same_weights(replicas[3], alone[3], 1e-6)
    for rows in statistics(model):
        assert (rows == rows[0]).all()


@pytest.mark.slow
@pytest.mark.parametrize(("count", "batch_size"), [(129, 64), (65, 64)])
def test_a_replica_without_pictures_in_float32(count, batch_size):
    """Where oneDNN convolves: no failure, no number that is none, and an evaluation that counts every picture once."""
    model = compiled(REPLICAS)
    history = model.fit(pictures(count, batch_size), epochs=2, verbose=0).history["loss"]
    assert np.isfinite(history).all() and all(np.isfinite(weight).all() for weight in model.get_weights())
    images, labels = map(np.concatenate, zip(*pictures(101, 10).as_numpy_iterator(), strict=True))
    alone = ResNet(SMALL, input_shape=(8, 8, 3), classes=10)
    alone.set_weights(model.get_weights())
    wanted = alone.predict(images, verbose=0)
    np.testing.assert_allclose(model.predict(pictures(101, 10).map(lambda i, _: i), verbose=0), wanted, atol=1e-6)
    losses = keras.losses.sparse_categorical_crossentropy(labels, wanted)
    loss, accuracy = model.evaluate(pictures(101, 10), verbose=0)
    assert loss == pytest.approx(float(np.mean(losses)), rel=1e-5)
    assert accuracy == pytest.approx(np.mean(wanted.argmax(axis=1) == labels), rel=1e-6)


@pytest.mark.parametrize("half", [0, 1])
def test_a_gradient_that_is_infinite_on_one_replica_is_left_out_by_all(half):
    """The gradient 2 x 50 x 0.1, times the loss scale of 2^15, is more than float16's 65,504."""
    targets = np.zeros((8, 1), np.float32)
    targets[4 * half : 4 * half + 4] = 50
    with REPLICAS.scope():
        inputs = keras.Input((4,))
        outputs = keras.layers.Dense(1, dtype="mixed_float16")(inputs)
        model = prepare(keras.Model(inputs, keras.layers.Activation("linear", dtype="float32")(outputs)))
        model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01)), "mse")
    before = model.get_weights()[0]
    batch = tf.data.Dataset.from_tensors((np.full((8, 4), 0.1, np.float32), targets))
    model.fit(batch, verbose=0)
    np.testing.assert_array_equal(model.get_weights()[0], before)
    assert float(model.optimizer.dynamic_scale.numpy()) == 2**14
    model.fit(batch.repeat(20), verbose=0)
    after = model.get_weights()[0]
    assert np.isfinite(after).all() and (after != before).all()


def test_clipped_gradients_are_refused():
    with REPLICAS.scope():
        model = prepare(ResNet(SMALL, input_shape=(8, 8, 3), classes=10))
        model.compile(keras.optimizers.SGD(0.1, global_clipnorm=1.0), "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="clips gradients"):
        model.fit(pictures(64, 64), verbose=0)


@pytest.mark.slow
def test_a_loss_that_is_no_number_ends_the_training_of_replicas(tmp_path):
    recipe = replace(RECIPES["digits-tiny"], learning_rate=1e30)
    with pytest.raises(FloatingPointError, match="the loss is nan at step .* with learning rate 1e"):
        train(recipe, tmp_path, devices=("CPU:0", "CPU:1"))


def test_batch_norm_of_each_replica_keeps_the_mean_of_their_statistics():
    """Momentum 0.9: after one step a tenth of the mean over replicas of their halves' means."""
    model = compiled(REPLICAS, build={"synchronized": False})
    first = model.get_layer("conv1_conv")
    (images, labels), *_ = pictures(64, 64)
    images = tf.cast(images, tf.float32)
    halves = [tf.nn.conv2d(half, first.kernel.numpy(), 1, "SAME").numpy() for half in tf.split(images, 2)]
    model.fit(pictures(64, 64, drop_remainder=True), verbose=0)
    wanted = 0.1 * np.mean([half.mean(axis=(0, 1, 2)) for half in halves], axis=0)
    np.testing.assert_allclose(model.get_layer("conv1_bn").moving_mean.numpy(), wanted, atol=1e-6)
    for rows in statistics(model):
        assert (rows == rows[0]).all()


def test_such_batch_norm_refuses_batches_of_unknown_size():
    model = compiled(REPLICAS, build={"synchronized": False})
    with pytest.raises(ValueError, match="drop_remainder=True, or build the network with synchronized=True"):
        model.fit(pictures(65, 64), verbose=0)


def test_what_prepare_refuses(monkeypatch):
    model = ResNet(SMALL, input_shape=(8, 8, 3), classes=10)
    assert prepare(model) is model
    with REPLICAS.scope(), pytest.raises(ValueError, match="built outside of the strategy's scope"):
        prepare(model)
    monkeypatch.setattr(keras, "__version__", "3.16.0")
    assert prepare(model) is model, "one device needs nothing of Keras' private parts"
    with REPLICAS.scope():
        model = ResNet(SMALL, input_shape=(8, 8, 3), classes=10)
    with pytest.raises(ValueError, match=r"Keras is 3.16.0; .* Keras 3.15 only.*pip install 'keras==3.15"):
        prepare(model)


def test_xla_is_refused():
    model = compiled(REPLICAS, jit_compile=True)
    with pytest.raises(ValueError, match="jit_compile is True"):
        model.fit(pictures(64, 64), verbose=0)


@pytest.mark.slow
def test_a_prepared_network_is_saved_as_one_of_stock_layers(tmp_path):
    model = compiled(REPLICAS)
    model.fit(pictures(64, 64), verbose=0)
    model.save(tmp_path / "model.keras")
    code = """
import sys
sys.modules["keras_resnet"] = None
import keras, numpy
images = numpy.load(sys.argv[2])
numpy.save(sys.argv[3], keras.models.load_model(sys.argv[1]).predict(images, verbose=0))
"""
    images = data.load("digits").test.images[:20].astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    files = [str(tmp_path / name) for name in ("model.keras", "images.npy", "outputs.npy")]
    subprocess.run([sys.executable, "-I", "-c", code, *files], check=True, capture_output=True)
    np.testing.assert_allclose(np.load(files[2]), model.predict(images, verbose=0), atol=1e-6)


@pytest.mark.slow
def test_the_export_of_replicas_answers_as_they_were_evaluated(tmp_path):
    """To 1e-5, each weight stored once."""
    run = train(replace(RECIPES["digits-tiny"], epochs=1), tmp_path / "run", devices=("CPU:0", "CPU:1"))
    wanted, _ = probabilities_of(run)
    version = export(run.path, to=tmp_path)
    encoded = [tf.io.encode_png(image) for image in data.load("digits").test.images]
    answer = tf.saved_model.load(str(version)).signatures["serving_default"](image_bytes=tf.stack(encoded))
    np.testing.assert_allclose(answer["probabilities"].numpy(), wanted, atol=1e-5)
    stored = tf.train.list_variables(str(version / "variables" / "variables"))
    values = sum(int(np.prod(shape)) for name, shape in stored if name.endswith("VARIABLE_VALUE"))
    assert values <= keras.models.load_model(run.model_file).count_params()


@pytest.mark.parametrize(("batch_size", "says"), [(63, "such as 62 or 64"), (1, "such as 2$")])
def test_a_batch_that_cannot_be_shared_is_refused_with_those_that_can(tmp_path, batch_size, says):
    recipe = replace(RECIPES["digits-tiny"], batch_size=batch_size)
    with pytest.raises(ValueError, match=f"batch_size is {batch_size}, which 2 replicas cannot share alike.*{says}"):
        train(recipe, tmp_path / "run", devices=("CPU:0", "CPU:1"))
    assert not (tmp_path / "run").exists()
    require_even(ALONE, 1)


@pytest.mark.parametrize(("steps", "executed", "says"), [
    (66, 4, "an epoch has 22 steps; give one of 1, 2, 11, 22"),
    (64, 11, "an epoch has 22 steps and the last one 20; give one of 1, 2$"),
    (64, 0, "steps_per_execution is 0"),
])  # fmt: skip
def test_executions_that_do_not_fit_an_epoch(tmp_path, steps, executed, says):
    recipe = RECIPES["digits-tiny"].override(steps=steps)
    with pytest.raises(ValueError, match=says):
        train(recipe, tmp_path / "run", steps_per_execution=executed)


def rows_of(run):
    with open(run.history_file, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{k: float(v) for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows]


def test_workers_that_do_not_share_the_folder_are_told(tmp_path):
    """One found the checkpoint of step 100, this one none."""
    history = History(None, 22, 64)
    gather = lambda numbers: np.array([numbers, [100.0]])  # noqa: E731
    checkpoints = Checkpoints(tmp_path, history, 66, 60.0, lambda: False, gather, chief=False)
    with pytest.raises(ValueError, match=r"different checkpoints in .*steps 0, 100.*folder that all of them share"):
        checkpoints.restore(compiled(ALONE))


def test_what_each_replica_has_comes_back():
    """Their sum alone would not do: halves of it add up to other last bits."""
    means = {}
    for within in (REPLICAS, ALONE):
        with within.scope():
            means[within] = keras.metrics.Mean()

    def seen(batch):
        means[REPLICAS].update_state(batch)

    batches = REPLICAS.experimental_distribute_dataset(tf.data.Dataset.from_tensor_slices([0.1, 0.2, 0.7]).batch(3))
    for batch in batches:
        REPLICAS.run(seen, args=(batch,))
    totals = [np.float32(0.1) + np.float32(0.2), np.float32(0.7)]
    for within, wanted in (
        (REPLICAS, [[totals[0], 2], [totals[1], 1]]),
        (ALONE, [[sum(totals), 3]]),
    ):
        rows = replica_values(REPLICAS, means[REPLICAS].variables)
        means[within].reset_state()
        assign_replica_values(within, means[within].variables, rows)
        np.testing.assert_array_equal(replica_values(within, means[within].variables), wanted)
    assign_replica_values(REPLICAS, means[REPLICAS].variables, np.array([[0.25, 3]]))
    np.testing.assert_array_equal(replica_values(REPLICAS, means[REPLICAS].variables), [[0.25, 3], [0, 0]])


def test_steps_per_execution_changes_nothing(tmp_path):
    recipe = replace(RECIPES["digits-tiny"], deterministic=True, epochs=2)
    one = train(recipe, tmp_path / "one")
    many = train(recipe, tmp_path / "many", steps_per_execution=11)
    assert rows_of(one) == rows_of(many)
    for a, b in zip(*(keras.models.load_model(run.model_file).get_weights() for run in (one, many)), strict=True):
        assert (a == b).all()


@pytest.mark.parametrize("kind", ["arrays", "files"])
@pytest.mark.parametrize(("augmentation", "lighting"), [("none", 0), ("pad-crop-flip", 0.1), ("scale-crop-flip", 0.1)])
def test_shards_together_are_the_batch(tmp_path, kind, augmentation, lighting):
    """Which picture, in which order, with which augmentation: the same whatever the number of hosts."""
    split = data.load("digits").train.take(np.arange(100))
    if kind == "files":
        for i, image in enumerate(split.images):
            path = tmp_path / str(split.labels[i]) / f"{i}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(tf.io.encode_png(image).numpy())
        with pytest.warns(UserWarning, match="no test split"):
            split = data.load(str(tmp_path)).train
    preprocessing = data.per_channel_mean(8)
    arguments = {"batch_size": 24, "augmentation": augmentation, "lighting": lighting, "seed": 5, "first_step": 2}

    def batches(**shard):
        return list(data.train_batches(split, preprocessing, **arguments, **shard).take(3).as_numpy_iterator())

    whole, parts = batches(), [batches(shard=data.Shard(i, 3)) for i in range(3)]
    for number, (images, labels) in enumerate(whole):
        np.testing.assert_array_equal(np.concatenate([part[number][0] for part in parts]), images)
        np.testing.assert_array_equal(np.concatenate([part[number][1] for part in parts]), labels)
    tested = [data.test_batches(split, preprocessing, 7, data.Shard(i, 3)) for i in range(3)]
    found = sorted(int(label) for part in tested for _, labels in part for label in labels)
    assert found == sorted(split.labels.tolist())


def test_devices(monkeypatch):
    assert strategy() is strategy(["CPU:0"]) is ALONE
    assert strategy(["CPU:1"]).num_replicas_in_sync == 1
    assert strategy(["CPU:0", "CPU:1"]).num_replicas_in_sync == 2
    for devices in (["GPU:7"], ["CPU:0", "CPU:0"]):
        with pytest.raises(ValueError, match=r"choose from CPU:0, CPU:1.*each once"):
            strategy(devices)


def cluster(jobs, kind, index=0):
    return json.dumps({"cluster": jobs, "task": {"type": kind, "index": index}})


@pytest.mark.parametrize(
    ("config", "count", "number"),
    [
        (cluster({"worker": ["a:1", "b:1", "c:1"]}, "worker", 2), 3, 2),
        (cluster({"chief": ["a:1"], "worker": ["b:1", "c:1"]}, "worker", 0), 3, 1),
        (cluster({"chief": ["a:1"], "worker": ["b:1"]}, "chief"), 2, 0),
        (cluster({"worker": ["a:1"]}, "worker"), 1, 0),
        ("{}", 1, 0),
    ],
)
def test_who_is_who_by_tf_config(monkeypatch, config, count, number):
    monkeypatch.setenv("TF_CONFIG", config)
    assert (workers(), worker()) == (count, number)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("{", "TF_CONFIG is not usable"),
        (cluster({"worker": ["a:1"], "ps": ["b:1"]}, "worker"), "jobs ps, worker"),
        (cluster({"worker": ["a:1", "b:1"]}, "evaluator"), "this process is a 'evaluator'"),
    ],
)
def test_a_cluster_of_something_else(monkeypatch, config, says):
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(ValueError, match=says):
        strategy()


def test_devices_are_not_named_in_a_cluster(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", cluster({"worker": ["a:1", "b:1"]}, "worker"))
    with pytest.raises(ValueError, match="CUDA_VISIBLE_DEVICES"):
        strategy(["GPU:0"])


@pytest.mark.parametrize("task", [0, 3, 23])
def test_who_is_who_by_slurm(monkeypatch, task):
    """Two tasks on each of twelve nodes, as srun sets it: slurm.schedmd.com/srun.html, output environment variables."""
    variables = {
        "JOB_ID": 7,
        "STEP_NUM_TASKS": 24,
        "PROCID": task,
        "STEP_NODELIST": "node[1-12]",
        "STEP_TASKS_PER_NODE": "2(x12)",
    }
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    assert (workers(), worker()) == (24, task)
    resolver = _cluster()
    node, port = task // 2 + 1, 20_007 + task % 2
    assert resolver.cluster_spec().task_address("worker", task) == f"node{node}:{port}"
    assert resolver.num_accelerators() == {"GPU": 0}, "those that the task sees"
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert (workers(), worker()) == (1, 0)


# One process has one number of replicas: TensorFlow's collectives cannot be formed anew.
TRAIN = """
import sys
import tensorflow as tf
devices = sys.argv[2:]
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)
from dataclasses import replace
from keras_resnet.train import train
from keras_resnet.recipe import RECIPES
recipe = replace(RECIPES["digits-resnet20"], precision="float64", epochs=2)
train(recipe, sys.argv[1], devices=devices)
"""


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    """ResNet-20 for 44 steps with its augmentation, learning rate 0.1 and 0.01."""
    folder = tmp_path_factory.mktemp("one")
    subprocess.run([sys.executable, "-c", TRAIN, str(folder), "CPU:0"], check=True, capture_output=True)
    return Run(folder)


# The same with nothing of `train`: a factory's network, `prepare`, and Keras' own compile, fit, evaluate and predict.
STOCK = """
import sys
import keras
import numpy as np
import tensorflow as tf
from keras_resnet import ResNet20, data, distribution, prepare
devices = sys.argv[2:]
if devices:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)
strategy = distribution.strategy(devices)
keras.config.set_dtype_policy("float64")
keras.config.set_floatx("float64")
keras.utils.set_random_seed(1)
with strategy.scope():
    model = prepare(ResNet20(input_shape=(8, 8, 3), classes=10))
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        steps_per_execution=1 if devices == ["CPU:0"] else 5,
    )
digits = data.load("digits")
preprocessing = data.preprocessing_for(digits, None)
options = tf.data.Options()
options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
train = data.train_batches(digits.train, preprocessing, batch_size=64, augmentation="pad-crop").with_options(options)
test = data.test_batches(digits.test, preprocessing, 37).with_options(options)
losses = model.fit(train, steps_per_epoch=5, epochs=5, shuffle=False, verbose=0).history["loss"]
evaluated = model.evaluate(test, verbose=0)
predicted = model.predict(test, verbose=0)
if distribution.worker() == 0:
    np.savez(sys.argv[1], losses, evaluated, predicted, *model.get_weights())
"""


def stock(file, *devices, environment=None):
    command = [sys.executable, "-c", STOCK, str(file), *devices]
    return subprocess.Popen(command, env=os.environ | (environment or {}), stderr=subprocess.PIPE, text=True)


def workers_here(number):
    """TF_CONFIG of each of as many workers on this machine."""
    with contextlib.ExitStack() as held:  # all at once, so that they differ
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        there = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    return [cluster({"worker": there}, "worker", i) for i in range(number)]


@pytest.fixture(scope="module")
def stock_on_one_device(tmp_path_factory):
    file = tmp_path_factory.mktemp("stock") / "one.npz"
    process = stock(file, "CPU:0")
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return dict(np.load(file))


@pytest.mark.slow
@pytest.mark.parametrize("which", ["2 replicas", "4 replicas", "2 processes"])
def test_fit_of_a_prepared_network_is_the_same_as_on_one_device(stock_on_one_device, tmp_path, which):
    number, kind = int(which.split()[0]), which.split()[1]
    file = tmp_path / "found.npz"
    if kind == "replicas":
        processes = [stock(file, *(f"CPU:{i}" for i in range(number)))]
    else:
        processes = [stock(file, environment={"TF_CONFIG": config}) for config in workers_here(number)]
    for process in processes:
        _, said = process.communicate(timeout=500)
        assert process.returncode == 0, said
    losses, evaluated, predicted, *weights = dict(np.load(file)).values()
    wanted_losses, wanted_evaluated, wanted_predicted, *wanted_weights = stock_on_one_device.values()
    np.testing.assert_allclose(losses, wanted_losses, atol=1e-5)
    np.testing.assert_allclose(evaluated, wanted_evaluated, rtol=1e-6)
    np.testing.assert_allclose(predicted, wanted_predicted, atol=1e-6)
    same_weights(weights, wanted_weights, 1e-4)


HALF_PRECISION = """
import sys
import keras
import numpy as np
import tensorflow as tf
from keras_resnet import distribution, prepare
strategy = distribution.strategy()
targets = np.zeros((8, 1), np.float32)
targets[4:] = 50
with strategy.scope():
    inputs = keras.Input((4,))
    outputs = keras.layers.Dense(1, dtype="mixed_float16")(inputs)
    model = prepare(keras.Model(inputs, keras.layers.Activation("linear", dtype="float32")(outputs)))
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01)), "mse")
options = tf.data.Options()
options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
pairs = tf.data.Dataset.from_tensor_slices((np.full((8, 4), 0.1, np.float32), targets))
weights = [model.get_weights()[0]]
for steps in (1, 20):
    model.fit(pairs.repeat(steps).batch(8).with_options(options), shuffle=False, verbose=0)
    weights.append(model.get_weights()[0])
    if steps == 1:
        scale = model.optimizer.dynamic_scale.numpy()
np.savez(sys.argv[1] + str(distribution.worker()), scale, *weights)
"""


@pytest.mark.slow
def test_a_gradient_that_is_infinite_on_one_worker_is_left_out_by_all(tmp_path):
    """As on one replica of a process; the second worker's is."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HALF_PRECISION, str(tmp_path / "found")],
            env=os.environ | {"TF_CONFIG": config},
            stderr=subprocess.PIPE,
            text=True,
        )
        for config in workers_here(2)
    ]
    for process in processes:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
    for worker_number in "01":
        scale, before, then, after = np.load(tmp_path / f"found{worker_number}.npz").values()
        assert scale == 2**14 and (then == before).all()
        assert np.isfinite(after).all() and (after != before).all()


def launch(workers, *arguments, **options):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.Popen([LAUNCH, str(workers), *arguments], env=environment, start_new_session=True, **options)


def workers_of(process):
    """The process numbers of the workers that a launched job has."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=True)
    return [int(number) for number in found.stdout.split()]


@pytest.mark.slow
@pytest.mark.parametrize("which", ["2 replicas", "4 replicas", "2 processes"])
def test_the_same_training_as_on_one_device(one_device, tmp_path, which):
    number, kind = which.split()
    run = Run(tmp_path / "run")
    if kind == "replicas":
        devices = [f"CPU:{i}" for i in range(int(number))]
        subprocess.run([sys.executable, "-c", TRAIN, str(run.path), *devices], check=True, capture_output=True)
    else:
        process = launch(
            2, "digits-resnet20", "--precision", "float64", "--epochs", "2", "--run-dir", str(run.path),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        out, err = process.communicate(timeout=500)
        assert process.returncode == 0, err
        assert out.count("trained: ") == 1 and err.count("epoch 2/2") == 1, "the chief alone speaks"
    for ours, theirs in zip(rows_of(run), rows_of(one_device), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
        for name in ("accuracy", "val_loss", "val_accuracy"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-6)
    ours, theirs = (keras.models.load_model(r.model_file).get_weights() for r in (run, one_device))
    same_weights(ours, theirs, 1e-4)


def start_job(folder):
    arguments = ["digits-tiny", "--epochs", "6", "--deterministic", "--checkpoint-seconds", "0.2", "--run-dir"]
    return launch(2, *arguments, str(folder), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def unbroken_job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    process = start_job(folder)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return Run(folder)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_job_whose_worker_is_killed_goes_on_to_the_same_end(unbroken_job, tmp_path, seed):
    """Either of the two, kill -9, at a random step; then the job is started again with the same command."""
    chance, run = random.Random(seed), Run(tmp_path / "run")
    process = start_job(run.path)
    last = chance.randrange(1, 6)
    for line in process.stderr:
        if line.startswith(f"epoch {last}/"):
            break
    time.sleep(chance.uniform(0, 0.5))
    os.kill(chance.choice(workers_of(process)), 9)
    _, said = process.communicate(timeout=120)
    assert process.returncode != 0 and "Traceback" not in said
    assert not run.model_file.exists()
    again = start_job(run.path)
    _, said = again.communicate(timeout=300)
    assert again.returncode == 0, said
    assert "going on from step" in said or last == 1
    ours, wanted = (keras.models.load_model(one.model_file).get_weights() for one in (run, unbroken_job))
    assert all((a == b).all() for a, b in zip(ours, wanted, strict=True))
    assert rows_of(run) == rows_of(unbroken_job)


@pytest.mark.slow
def test_one_worker_that_is_asked_to_stop_stops_all(tmp_path):
    """SIGTERM to either of them: both save the same step and end, and the job goes on from there."""
    arguments = ["digits-tiny", "--epochs", "40", "--checkpoint-seconds", "1000", "--run-dir", str(tmp_path / "run")]
    process = launch(2, *arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith("epoch 2/"):
            break
    os.kill(workers_of(process)[-1], 15)
    assert process.wait(timeout=60) == 130
    assert process.stderr.read().count("stopped; a training goes on") == 2
    (saved,) = Run(tmp_path / "run").checkpoints.glob("step-*.npz")
    process = launch(2, *arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if "going on from step" in line:
            break
    process.terminate()
    assert process.wait(timeout=120) in (130, 143)
    assert f"going on from step {int(saved.stem.removeprefix('step-'))} of 880" in line
