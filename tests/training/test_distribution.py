"""Compare training on several replicas and workers with training on one device.

Tests that compare weights compute in float64. In float32 a difference in the last bit of one weight
is visible after twenty steps, on one device too (`scripts/benchmarks/bench_distribution.py` shows
it), so the comparison would prove nothing.
"""

import contextlib
import csv
import json
import os
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
from helpers import PROGRAMS

from keras_resnet import ResNet, data
from keras_resnet.data.dataset import Shard
from keras_resnet.data.pipeline import Augmentation, evaluation_batches, train_batches
from keras_resnet.data.preprocessing import per_channel_mean
from keras_resnet.evaluation.evaluate import predictions
from keras_resnet.networks.spec import ResNetSpec
from keras_resnet.runs.recipes import RECIPES
from keras_resnet.runs.run import Run
from keras_resnet.serving.export import export
from keras_resnet.training.callbacks import Checkpoints, History
from keras_resnet.training.distribution import (
    _cluster,
    assign_replica_values,
    rank,
    replica_values,
    require_divisible,
    strategy,
    workers,
)
from keras_resnet.training.keras_patches import prepare
from keras_resnet.training.loss import Accuracy, BinaryCrossEntropy
from keras_resnet.training.optimizer import Lamb
from keras_resnet.training.train import train

LAUNCH = Path(__file__).parents[2] / "scripts" / "launch_local.sh"
SMALL = ResNetSpec(stem="cifar", block="basic", blocks=(1, 1), width=4, shortcut="A")
REPLICAS = strategy(["CPU:0", "CPU:1"])
ALONE = tf.distribute.get_strategy()


@pytest.fixture
def float64():
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy("float32")


def photos(count, batch_size, drop_remainder=False):
    digits = data.load("digits").train
    pairs = tf.data.Dataset.from_tensor_slices(
        (digits.images[:count] / 16.0, digits.labels[:count])
    )
    return pairs.batch(batch_size, drop_remainder)


def compiled(within, *, spec=SMALL, **arguments):
    keras.utils.set_random_seed(1)
    with within.scope():
        model = prepare(
            ResNet(spec, input_shape=(8, 8, 3), classes=10, **arguments.pop("build", {}))
        )
        model.compile(
            keras.optimizers.SGD(0.1, momentum=0.9),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
            **arguments,
        )
    return model


def assert_same_weights(ours, theirs, tolerance):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


def statistics(model):
    """Yield every moving statistic, with one row per replica."""
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for norm in norms:
        for variable in (norm.moving_mean, norm.moving_variance):
            yield np.stack(
                [copy.numpy() for copy in REPLICAS.experimental_local_results(variable.value)]
            )


# The last batch has one image, fewer than replicas. The first can be uneven too.
@pytest.mark.slow
@pytest.mark.parametrize(("count", "batch_size", "steps_per_execution"), [(9, 64, 1), (129, 64, 2)])
@pytest.mark.usefixtures("float64")
def test_batches_that_are_not_divisible(count, batch_size, steps_per_execution):
    """Weights, loss and evaluation equal those of one device: every image counts once."""
    results = []
    for within, executed in ((ALONE, 1), (REPLICAS, steps_per_execution)):
        model = compiled(within, steps_per_execution=executed)
        history = model.fit(photos(count, batch_size), epochs=3, verbose=0).history["loss"]
        results.append(
            (
                history,
                model.evaluate(photos(101, 10), verbose=0),
                model.predict(photos(101, 10).map(lambda images, _: images), verbose=0),
                model.get_weights(),
            )
        )
    alone, replicas = results
    np.testing.assert_allclose(replicas[0], alone[0], rtol=1e-6)
    np.testing.assert_allclose(replicas[1], alone[1], rtol=1e-6)
    np.testing.assert_allclose(replicas[2], alone[2], atol=1e-6)
    assert_same_weights(replicas[3], alone[3], 1e-6)
    for rows in statistics(model):
        assert (rows == rows[0]).all()


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_stochastic_depth_dropout_and_shares_of_classes():
    """Weights and accuracy equal those of one device: masks depend on the position in the batch."""
    random = np.random.default_rng(0)
    images = random.normal(size=(64, 8, 8, 3))
    shares = random.dirichlet(np.full(10, 0.3), 64)
    results = []
    for within in (ALONE, REPLICAS):
        keras.utils.set_random_seed(1)
        with within.scope():
            model = ResNet(
                SMALL,
                input_shape=(8, 8, 3),
                classes=10,
                classifier_activation=None,
                stochastic_depth=0.5,
                dropout=0.3,
                zero_gamma=True,
            )
            prepare(model, seed=3).compile(
                Lamb(0.01, weight_decay=0.1), BinaryCrossEntropy(), metrics=[Accuracy()]
            )
        batches = tf.data.Dataset.from_tensor_slices((images, shares)).batch(16)
        history = model.fit(batches, epochs=3, verbose=0, shuffle=False).history
        results.append((history["loss"], history["accuracy"], model.get_weights()))
    alone, replicas = results
    np.testing.assert_allclose(replicas[0], alone[0], rtol=1e-6)
    np.testing.assert_allclose(replicas[1], alone[1], rtol=1e-6)
    assert_same_weights(replicas[2], alone[2], 1e-6)


@pytest.mark.slow
def test_a_replica_without_images_in_float32():
    """With oneDNN's convolutions nothing fails, nothing is NaN, and evaluation counts every image
    once."""
    model = compiled(REPLICAS)
    history = model.fit(photos(129, 64), epochs=2, verbose=0).history["loss"]
    assert np.isfinite(history).all() and all(
        np.isfinite(weight).all() for weight in model.get_weights()
    )
    images, labels = map(np.concatenate, zip(*photos(101, 10).as_numpy_iterator(), strict=True))
    alone = ResNet(SMALL, input_shape=(8, 8, 3), classes=10)
    alone.set_weights(model.get_weights())
    wanted = alone.predict(images, verbose=0)
    np.testing.assert_allclose(
        model.predict(photos(101, 10).map(lambda i, _: i), verbose=0), wanted, atol=1e-6
    )
    losses = keras.losses.sparse_categorical_crossentropy(labels, wanted)
    loss, accuracy = model.evaluate(photos(101, 10), verbose=0)
    assert loss == pytest.approx(float(np.mean(losses)), rel=1e-5)
    assert accuracy == pytest.approx(np.mean(wanted.argmax(axis=1) == labels), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("half", [0, 1])
def test_all_replicas_skip_a_step_with_an_infinite_gradient_on_one(half):
    """The gradient 2 x 50 x 0.1 times the loss scale 2^15 exceeds float16's maximum of 65,504."""
    targets = np.zeros((8, 1), np.float32)
    targets[4 * half : 4 * half + 4] = 50
    with REPLICAS.scope():
        inputs = keras.Input((4,))
        outputs = keras.layers.Dense(1, dtype="mixed_float16")(inputs)
        model = prepare(
            keras.Model(inputs, keras.layers.Activation("linear", dtype="float32")(outputs))
        )
        model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01)), "mse")
    before = model.get_weights()[0]
    batch = tf.data.Dataset.from_tensors((np.full((8, 4), 0.1, np.float32), targets))
    model.fit(batch, verbose=0)
    np.testing.assert_array_equal(model.get_weights()[0], before)
    assert float(model.optimizer.dynamic_scale.numpy()) == 2**14
    model.fit(batch.repeat(20), verbose=0)
    after = model.get_weights()[0]
    assert np.isfinite(after).all() and (after != before).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("clip", "half"), [("global_clipnorm", True), ("clipnorm", True), ("clipvalue", False)]
)
def test_gradients_are_clipped_as_on_one_device(clip, half):
    """The limit is far below the gradients, so clipping determines the step."""

    def trained(within):
        keras.utils.set_random_seed(1)
        with within.scope():
            model = prepare(ResNet(SMALL, input_shape=(8, 8, 3), classes=10))
            optimizer = keras.optimizers.SGD(0.1, **{clip: 0.01})
            if half:
                optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=8.0)
            model.compile(optimizer, "sparse_categorical_crossentropy")
        before = model.get_weights()
        model.fit(photos(64, 64), verbose=0, shuffle=False)
        return before, model.get_weights()

    before, ours = trained(REPLICAS)
    _, theirs = trained(ALONE)
    assert_same_weights(ours, theirs, 1e-4)
    moved = np.sqrt(sum(np.square(a - b).sum() for a, b in zip(before, ours, strict=True)))
    assert moved > 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps is 2, which fails"),
        ({"use_ema": True, "ema_overwrite_frequency": 3}, "ema_overwrite_frequency is 3, which"),
    ],
)
def test_optimizers_that_fail_on_replicas_are_refused(arguments, says):
    with REPLICAS.scope():
        model = prepare(ResNet(SMALL, input_shape=(8, 8, 3), classes=10))
        model.compile(keras.optimizers.SGD(0.1, **arguments), "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=says):
        model.fit(photos(64, 64), verbose=0)


@pytest.mark.parametrize(
    "reduction", ["mean_with_sample_weight", pytest.param("sum", marks=pytest.mark.slow)]
)
def test_reductions_on_replicas(reduction):
    """Sums are exact, even if a batch is not divisible; "mean_with_sample_weight" is refused."""

    def trained(within):
        keras.utils.set_random_seed(1)
        with within.scope():
            model = prepare(ResNet(SMALL, input_shape=(8, 8, 3), classes=10))
            loss = keras.losses.SparseCategoricalCrossentropy(reduction=reduction)
            model.compile(keras.optimizers.SGD(0.001), loss)
        losses = model.fit(photos(67, 32), verbose=0, shuffle=False).history["loss"]
        return losses, model.get_weights()

    if reduction != "sum":
        with pytest.raises(ValueError, match="reduction is mean_with_sample_weight; on several"):
            trained(REPLICAS)
        return
    ours, theirs = trained(REPLICAS), trained(ALONE)
    assert_same_weights(ours[1], theirs[1], 1e-4)


def test_a_model_without_labels_computes_its_own_loss_on_replicas():
    """An autoencoder with its own `compute_loss`, on uneven batches."""

    def trained(within):
        keras.utils.set_random_seed(1)
        with within.scope():
            inputs = keras.Input((8, 8, 3))
            outputs = keras.layers.Conv2D(3, 3, padding="same")(inputs)
            model = prepare(OwnLoss(inputs, outputs))
            model.compile(keras.optimizers.SGD(0.01))
        images = photos(67, 32).map(lambda image, label: tf.cast(image, tf.float32))
        model.fit(images, verbose=0, shuffle=False)
        return model.get_weights()

    assert_same_weights(trained(REPLICAS), trained(ALONE), 1e-4)


class OwnLoss(keras.Model):
    """Learn to return the input."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.mean(keras.ops.square(y_pred - x)) / (
            tf.distribute.get_strategy().num_replicas_in_sync
        )


@pytest.mark.slow
def test_a_nan_loss_ends_the_training_of_replicas(tmp_path):
    recipe = replace(RECIPES["digits-tiny"], learning_rate=1e30)
    with pytest.raises(
        FloatingPointError, match="the loss is nan at step .* with learning rate 1e"
    ):
        train(recipe, tmp_path, devices=("CPU:0", "CPU:1"))


@pytest.mark.slow
def test_unsynchronized_batch_norm_keeps_the_mean_of_the_replicas_statistics():
    """With momentum 0.9, one step gives a tenth of the mean of the two halves' means."""
    model = compiled(REPLICAS, build={"synchronized": False})
    first = model.get_layer("conv1_conv")
    (images, labels), *_ = photos(64, 64)
    images = tf.cast(images, tf.float32)
    halves = [
        tf.nn.conv2d(half, first.kernel.numpy(), 1, "SAME").numpy() for half in tf.split(images, 2)
    ]
    model.fit(photos(64, 64, drop_remainder=True), verbose=0)
    wanted = 0.1 * np.mean([half.mean(axis=(0, 1, 2)) for half in halves], axis=0)
    np.testing.assert_allclose(model.get_layer("conv1_bn").moving_mean.numpy(), wanted, atol=1e-6)
    for rows in statistics(model):
        assert (rows == rows[0]).all()


def test_unsynchronized_batch_norm_refuses_batches_of_unknown_size():
    model = compiled(REPLICAS, build={"synchronized": False})
    with pytest.raises(
        ValueError, match="drop_remainder=True, or build the network with synchronized=True"
    ):
        model.fit(photos(65, 64), verbose=0)


def test_what_prepare_refuses(monkeypatch):
    model = ResNet(SMALL, input_shape=(8, 8, 3), classes=10)
    assert prepare(model) is model
    with REPLICAS.scope(), pytest.raises(ValueError, match="built outside of the strategy's scope"):
        prepare(model)
    monkeypatch.setattr(keras, "__version__", "3.16.0")
    with pytest.warns(UserWarning, match="batch norm is fast with Keras 3.15 only"):
        assert prepare(model) is model, "one device works with any version"
    with REPLICAS.scope():
        model = ResNet(SMALL, input_shape=(8, 8, 3), classes=10)
    with pytest.raises(
        ValueError, match=r"Keras is 3.16.0; .* Keras 3.15 only.*pip install 'keras==3.15"
    ):
        prepare(model)


def test_xla_is_refused():
    model = compiled(REPLICAS)
    # Set directly: `compile` ignores it if an earlier test has enabled op determinism.
    model._jit_compile = True
    with pytest.raises(ValueError, match="jit_compile is True"):
        model.fit(photos(64, 64), verbose=0)


@pytest.mark.slow
def test_a_prepared_network_is_saved_with_keras_layers(tmp_path):
    model = compiled(REPLICAS)
    model.fit(photos(64, 64), verbose=0)
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
    # Two replicas compute halves of the batch, which rounds differently; as for exports.
    np.testing.assert_allclose(np.load(files[2]), model.predict(images, verbose=0), atol=1e-5)


@pytest.mark.slow
def test_the_export_of_a_training_on_replicas_gives_the_evaluated_probabilities(tmp_path):
    """Up to 1e-5, and each weight is stored once."""
    run = train(
        replace(RECIPES["digits-tiny"], epochs=1), tmp_path / "run", devices=("CPU:0", "CPU:1")
    )
    wanted, _ = predictions(run)
    version = export(run, tmp_path / "saved_models")
    encoded = [tf.io.encode_png(image) for image in data.load("digits").test.images]
    answer = tf.saved_model.load(str(version)).signatures["serving_default"](
        image_bytes=tf.stack(encoded)
    )
    np.testing.assert_allclose(answer["probabilities"].numpy(), wanted, atol=1e-5)
    stored = tf.train.list_variables(str(version / "variables" / "variables"))
    values = sum(int(np.prod(shape)) for name, shape in stored if name.endswith("VARIABLE_VALUE"))
    assert values <= keras.models.load_model(run.model_file).count_params()


@pytest.mark.parametrize(("batch_size", "says"), [(63, "such as 62 or 64"), (1, "such as 2$")])
def test_a_batch_size_that_is_not_divisible_is_refused_with_the_nearest_valid_sizes(
    tmp_path, batch_size, says
):
    recipe = replace(RECIPES["digits-tiny"], batch_size=batch_size)
    with pytest.raises(
        ValueError,
        match=f"batch_size is {batch_size}, which is not divisible by 2 replicas.*{says}",
    ):
        train(recipe, tmp_path / "run", devices=("CPU:0", "CPU:1"))
    assert not (tmp_path / "run").exists()
    require_divisible(ALONE, 1)


@pytest.mark.parametrize(("steps", "executed", "says"), [
    (66, 4, "an epoch has 22 steps; give one of 1, 2, 11, 22"),
    (64, 11, "an epoch has 22 steps and the last one 20; give one of 1, 2$"),
    (64, 0, "steps_per_execution is 0"),
])  # fmt: skip
def test_steps_per_execution_that_do_not_divide_an_epoch_are_refused(
    tmp_path, steps, executed, says
):
    recipe = RECIPES["digits-tiny"].override(steps=steps)
    with pytest.raises(ValueError, match=says):
        train(recipe, tmp_path / "run", steps_per_execution=executed)


def rows_of(run):
    with open(run.history_file, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [
        {k: float(v) for k, v in row.items() if k not in ("seconds", "images_per_second")}
        for row in rows
    ]


def test_workers_that_do_not_share_the_folder_are_refused(tmp_path):
    """Another worker found the checkpoint of step 100, this one found none."""
    history = History(None, 22, 64)
    gather = lambda numbers: np.array([numbers, [100.0]])  # noqa: E731
    checkpoints = Checkpoints(tmp_path, history, 66, 60.0, lambda: False, gather, chief=False)
    with pytest.raises(
        ValueError, match=r"different checkpoints in .*steps 0, 100.*folder that all of them share"
    ):
        checkpoints.restore(compiled(ALONE))


def test_each_replicas_values_are_restored():
    """Their sum would not suffice: halves of it add up to different last bits."""
    means = {}
    for within in (REPLICAS, ALONE):
        with within.scope():
            means[within] = keras.metrics.Mean()

    def seen(batch):
        means[REPLICAS].update_state(batch)

    batches = REPLICAS.experimental_distribute_dataset(
        tf.data.Dataset.from_tensor_slices([0.1, 0.2, 0.7]).batch(3)
    )
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
    np.testing.assert_array_equal(
        replica_values(REPLICAS, means[REPLICAS].variables), [[0.25, 3], [0, 0]]
    )


@pytest.mark.slow
def test_steps_per_execution_changes_nothing(tmp_path):
    recipe = replace(RECIPES["digits-tiny"], deterministic=True, epochs=2)
    one = train(recipe, tmp_path / "one")
    many = train(recipe, tmp_path / "many", steps_per_execution=11)
    assert rows_of(one) == rows_of(many)
    for a, b in zip(
        *(keras.models.load_model(run.model_file).get_weights() for run in (one, many)), strict=True
    ):
        assert (a == b).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("augmentation", "lighting", "kind"),
    [("none", 0, "files"), ("pad-crop-flip", 0.1, "arrays"), ("scale-crop-flip", 0.1, "files")],
)
def test_shards_together_are_the_batch(tmp_path, kind, augmentation, lighting):
    """Images, order and augmentation do not depend on the number of hosts."""
    split = data.load("digits").train.take(np.arange(100))
    if kind == "files":
        for i, image in enumerate(split.images):
            path = tmp_path / str(split.labels[i]) / f"{i}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(tf.io.encode_png(image).numpy())
        with pytest.warns(UserWarning, match="no test split"):
            split = data.load(str(tmp_path)).train
    preprocessing = per_channel_mean(8)
    arguments = {
        "batch_size": 24,
        "augmentation": Augmentation(augmentation, lighting=lighting),
        "seed": 5,
        "first_step": 2,
    }

    def batches(**shard):
        return list(
            train_batches(split, preprocessing, **arguments, **shard).take(3).as_numpy_iterator()
        )

    whole, parts = batches(), [batches(shard=Shard(i, 3)) for i in range(3)]
    for number, (images, labels) in enumerate(whole):
        np.testing.assert_array_equal(np.concatenate([part[number][0] for part in parts]), images)
        np.testing.assert_array_equal(np.concatenate([part[number][1] for part in parts]), labels)
    tested = [evaluation_batches(split, preprocessing, 7, Shard(i, 3)) for i in range(3)]
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
def test_rank_and_workers_by_tf_config(monkeypatch, config, count, number):
    monkeypatch.setenv("TF_CONFIG", config)
    assert (workers(), rank()) == (count, number)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("{", "TF_CONFIG is not usable"),
        (cluster({"worker": ["a:1"], "ps": ["b:1"]}, "worker"), "jobs ps, worker"),
        (cluster({"worker": ["a:1", "b:1"]}, "evaluator"), "this process is a 'evaluator'"),
    ],
)
def test_a_cluster_of_other_jobs_is_refused(monkeypatch, config, says):
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(ValueError, match=says):
        strategy()


def test_devices_are_refused_in_a_cluster(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", cluster({"worker": ["a:1", "b:1"]}, "worker"))
    with pytest.raises(ValueError, match="CUDA_VISIBLE_DEVICES"):
        strategy(["GPU:0"])


@pytest.mark.parametrize("task", [0, 3, 23])
def test_rank_and_workers_by_slurm(monkeypatch, task):
    """Two tasks on each of twelve nodes, with srun's variables (slurm.schedmd.com/srun.html,
    output environment variables)."""
    variables = {
        "JOB_ID": 7,
        "STEP_NUM_TASKS": 24,
        "PROCID": task,
        "STEP_NODELIST": "node[1-12]",
        "STEP_TASKS_PER_NODE": "2(x12)",
    }
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    assert (workers(), rank()) == (24, task)
    resolver = _cluster()
    node, port = task // 2 + 1, 20_007 + task % 2
    assert resolver.cluster_spec().task_address("worker", task) == f"node{node}:{port}"
    assert resolver.num_accelerators() == {"GPU": 0}, "the GPUs that the task sees"
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert (workers(), rank()) == (1, 0)


# A process can have only one number of replicas: TensorFlow cannot form its collectives twice.


# A training with every random and every validation-dependent ingredient.
TODAY = (
    "digits-tiny",
    {
        "mixup": 0.2,
        "cutmix": 1.0,
        "repeated_augmentation": 2,
        "erasing": 0.2,
        "stochastic_depth": 0.3,
        "dropout": 0.2,
        "zero_gamma": True,
        "optimizer": "lamb",
        "learning_rate": 0.01,
        "schedule": "cosine",
        "loss": "binary_cross_entropy",
        "weigh_classes": True,
        "ema": 0.9,
        "holdout": 100,
        "keep": "best",
        "patience": 2,
    },
)


def train_on(folder, recipe, changes, *devices):
    command = [sys.executable, str(PROGRAMS / "train.py"), str(folder), recipe, json.dumps(changes)]
    subprocess.run([*command, *devices], check=True, capture_output=True)
    return Run(folder)


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    """Train for two epochs with augmentation on one device."""
    return train_on(tmp_path_factory.mktemp("one"), *TODAY, "CPU:0")


def stock(file, *devices, environment=None):
    """Train a factory's network with `prepare` and Keras' own `fit`, without `train`."""
    command = [sys.executable, str(PROGRAMS / "stock_fit.py"), str(file), *devices]
    return subprocess.Popen(
        command, env=os.environ | (environment or {}), stderr=subprocess.PIPE, text=True
    )


def configs_of_local_workers(number):
    """Return the TF_CONFIG of each of several workers on this machine."""
    with contextlib.ExitStack() as stack:  # holds all ports at once, so that they differ
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)
        ]
        addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    return [cluster({"worker": addresses}, "worker", i) for i in range(number)]


@pytest.fixture(scope="module")
def stock_on_one_device(tmp_path_factory):
    file = tmp_path_factory.mktemp("stock") / "one.npz"
    process = stock(file, "CPU:0")
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    return dict(np.load(file))


@pytest.mark.slow
def test_fit_of_a_prepared_network_on_two_processes_is_the_same_as_on_one_device(
    stock_on_one_device, tmp_path
):
    file = tmp_path / "found.npz"
    processes = [
        stock(file, environment={"TF_CONFIG": config}) for config in configs_of_local_workers(2)
    ]
    for process in processes:
        _, stderr = process.communicate(timeout=500)
        assert process.returncode == 0, stderr
    losses, evaluated, predicted, *weights = dict(np.load(file)).values()
    wanted_losses, wanted_evaluated, wanted_predicted, *wanted_weights = (
        stock_on_one_device.values()
    )
    np.testing.assert_allclose(losses, wanted_losses, atol=1e-5)
    np.testing.assert_allclose(evaluated, wanted_evaluated, rtol=1e-6)
    np.testing.assert_allclose(predicted, wanted_predicted, atol=1e-6)
    assert_same_weights(weights, wanted_weights, 1e-4)


@pytest.mark.slow
def test_all_workers_skip_a_step_with_an_infinite_gradient_on_one(tmp_path):
    """The gradient of the second worker is infinite."""
    processes = [
        subprocess.Popen(
            [sys.executable, str(PROGRAMS / "half_precision.py"), str(tmp_path / "found")],
            env=os.environ | {"TF_CONFIG": config},
            stderr=subprocess.PIPE,
            text=True,
        )
        for config in configs_of_local_workers(2)
    ]
    for process in processes:
        _, stderr = process.communicate(timeout=300)
        assert process.returncode == 0, stderr
    for worker_number in "01":
        scale, before, then, after = np.load(tmp_path / f"found{worker_number}.npz").values()
        assert scale == 2**14 and (then == before).all()
        assert np.isfinite(after).all() and (after != before).all()


@pytest.mark.slow
def test_workers_share_the_scan_of_a_folder(tmp_path):
    for number in range(24):
        path = tmp_path / "pets" / f"class {number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        keras.utils.save_img(path, np.full((9, 9, 3), number), scale=False)
    processes = [
        subprocess.Popen(
            [sys.executable, str(PROGRAMS / "scan.py"), str(tmp_path / "pets")],
            env=os.environ | {"TF_CONFIG": config, "XDG_CACHE_HOME": str(tmp_path / "caches")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for config in configs_of_local_workers(2)
    ]
    found = []
    for process in processes:
        stdout, stderr = process.communicate(timeout=300)
        assert process.returncode == 0, stderr
        found.append(json.loads(stdout))
    assert [len(one["decoded"]) for one in found] == [12, 12]
    assert not set(found[0]["decoded"]) & set(found[1]["decoded"])
    assert found[0]["fingerprints"] == found[1]["fingerprints"]
    # 63 bits: a sum in float64 would round them.
    assert len(set(found[0]["fingerprints"])) == 24 and max(found[0]["fingerprints"]) > 2**53


def launch(workers, *arguments, **options):
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    }
    return subprocess.Popen(
        [LAUNCH, str(workers), *arguments], env=environment, start_new_session=True, **options
    )


def workers_of(process):
    """Return the process IDs of the workers of a launched job."""
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=True
    )
    return [int(number) for number in found.stdout.split()]


@pytest.mark.slow
@pytest.mark.parametrize("which", ["2 replicas", "2 processes"])
def test_training_equals_that_of_one_device(one_device, tmp_path, which):
    recipe, changes = TODAY
    run = Run(tmp_path / "run")
    if which == "2 replicas":
        train_on(run.path, recipe, changes, "CPU:0", "CPU:1")
    else:
        flags = [
            f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
            for name, value in changes.items()
        ]
        process = launch(
            2, recipe, "--precision", "float64", "--epochs", "2", *flags,
            "--run-dir", str(run.path),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        out, err = process.communicate(timeout=500)
        assert process.returncode == 0, err
        assert out.count("trained: ") == 1 and err.count("epoch 2/2") == 1, "only the chief prints"
        files = list(run.tensorboard.glob("train/events*"))
        assert len(files) == 1, "only the chief writes for TensorBoard"
    for ours, theirs in zip(rows_of(run), rows_of(one_device), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
        for name in ("accuracy", "val_loss", "val_accuracy"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-6)
    ours, theirs = (keras.models.load_model(r.model_file).get_weights() for r in (run, one_device))
    assert_same_weights(ours, theirs, 1e-4)


def start_job(folder):
    arguments = [
        "digits-tiny",
        "--epochs",
        "6",
        "--deterministic",
        "--checkpoint-seconds",
        "0.2",
        "--run-dir",
    ]
    return launch(
        2, *arguments, str(folder), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_job_whose_workers_are_killed_resumes_to_the_same_result(tmp_path):
    """kill -9 of the other worker, then of the chief; then the same command to its end."""
    unbroken_job, run = Run(tmp_path / "unbroken"), Run(tmp_path / "run")
    _, stderr = (whole := start_job(unbroken_job.path)).communicate(timeout=300)
    assert whole.returncode == 0, stderr
    for epoch, worker in ((1, 1), (3, 0)):
        process = start_job(run.path)
        for line in process.stderr:
            if line.startswith(f"epoch {epoch}/"):
                break
        time.sleep(0.3)
        os.kill(sorted(workers_of(process))[worker], 9)
        _, stderr = process.communicate(timeout=300)
        # Python may report at exit that a thread pool of TensorFlow was not closed.
        stderr = stderr.partition("Exception ignored in: <function Pool.__del__")[0]
        assert process.returncode != 0 and "Traceback" not in stderr
        assert not run.model_file.exists()
    again = start_job(run.path)
    _, stderr = again.communicate(timeout=300)
    assert again.returncode == 0, stderr
    assert "resuming from step" in stderr
    ours, wanted = (
        keras.models.load_model(one.model_file).get_weights() for one in (run, unbroken_job)
    )
    assert all((a == b).all() for a, b in zip(ours, wanted, strict=True))
    assert rows_of(run) == rows_of(unbroken_job)


@pytest.mark.slow
def test_sigterm_to_one_worker_stops_all(tmp_path):
    """Both workers save the same step and end, and the job resumes from that step."""
    arguments = [
        "digits-tiny",
        "--epochs",
        "40",
        "--checkpoint-seconds",
        "1000",
        "--run-dir",
        str(tmp_path / "run"),
    ]
    process = launch(2, *arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith("epoch 2/"):
            break
    os.kill(workers_of(process)[-1], 15)
    assert process.wait(timeout=60) == 130
    assert process.stderr.read().count("keras-resnet: stopped; `keras-resnet train ") == 2
    (saved,) = Run(tmp_path / "run").checkpoints.glob("step-*.npz")
    process = launch(2, *arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if "resuming from step" in line:
            break
    process.terminate()
    assert process.wait(timeout=120) in (130, 143)
    assert f"resuming from step {int(saved.stem.removeprefix('step-'))} of 880" in line
