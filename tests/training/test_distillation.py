"""Test distillation: the loss, the teacher, and the gain in accuracy."""

import json
import shutil
import signal
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import network_of

from keras_resnet import data
from keras_resnet.data.pipeline import evaluation_batches, train_batches
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.runs.recipes import RECIPES
from keras_resnet.runs.run import Run
from keras_resnet.training import initial_weights
from keras_resnet.training.distillation import Student, answers_of, divergence, find
from keras_resnet.training.distribution import strategy
from keras_resnet.training.keras_patches import prepare
from keras_resnet.training.optimizer import compile_for
from keras_resnet.training.train import train

TINY = replace(RECIPES["digits-tiny"], epochs=1)
REPLICAS = strategy(["CPU:0", "CPU:1"])
ALONE = tf.distribute.get_strategy()


@pytest.fixture
def float64():
    keras.config.set_dtype_policy("float64")
    keras.config.set_floatx("float64")
    yield
    keras.config.set_dtype_policy("float32")
    keras.config.set_floatx("float32")


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def weights_of(run):
    return keras.models.load_model(run.model_file).get_weights()


def same(a, b):
    return len(a) == len(b) and all((x == y).all() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    ("share", "temperature"), [(0.9, 4.0), (0.3, 1.0), (1.0, 20.0), (0.0, 2.0)]
)
@pytest.mark.usefixtures("float64")
def test_the_loss_and_its_gradient_in_numpy(share, temperature):
    """The gradient is (1 - d) CE' + d T (softmax(s / T) - softmax(t / T)) / N (section 2.1).

    The kernel's penalty is not scaled. The teacher mirrors its images, to show which ones it gets.
    """
    images = keras.Input((3,))
    layer = keras.layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.5))
    network = keras.Model(images, layer(images))
    student = Student(network, lambda images: images[:, ::-1], share, temperature)
    student.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    rng = np.random.default_rng(0)
    x, logits, labels = rng.normal(size=(5, 3)), rng.normal(size=(5, 3)), np.array([0, 2, 1, 1, 0])
    s, t = softmax(logits / temperature), softmax(x[:, ::-1] / temperature)
    of_labels = -np.log(softmax(logits))[np.arange(5), labels].mean()
    of_answers = temperature**2 * (t * np.log(t / s)).sum(axis=1).mean()
    penalty = 0.5 * np.square(layer.kernel.numpy()).sum()
    given = {"x": tf.constant(x), "y": tf.constant(labels)}
    with tf.GradientTape() as tape:
        y_pred = tf.constant(logits)
        tape.watch(y_pred)
        loss = student.compute_loss(**given, y_pred=y_pred, training=True)
    wanted = (1 - share) * of_labels + share * of_answers + penalty
    assert float(loss) == pytest.approx(wanted, rel=1e-9)
    gradient = (1 - share) * (softmax(logits) - np.eye(3)[labels]) + share * temperature * (s - t)
    np.testing.assert_allclose(tape.gradient(loss, y_pred), gradient / 5, rtol=1e-7, atol=1e-12)
    validated = student.compute_loss(**given, y_pred=y_pred, training=False)
    assert float(validated) == pytest.approx(of_labels + penalty, rel=1e-9)


def test_a_perfect_student_has_no_loss():
    logits = tf.constant(np.random.default_rng(0).normal(size=(4, 10)) * 30, tf.float32)
    np.testing.assert_allclose(divergence(logits, logits, 4.0), np.zeros(4), atol=1e-6)
    assert (divergence(logits, logits[::-1], 4.0).numpy() > 1).all()


@pytest.mark.slow
def test_the_teacher_is_unchanged_and_not_part_of_the_student(digits_run):
    """Its statistics are unchanged too, on images far from its training images."""
    answers = answers_of(digits_run)
    images = np.random.default_rng(0).normal(3, 2, (32, 8, 8, 3)).astype(np.float32)
    before = answers(tf.constant(images)).numpy()
    wanted = keras.models.load_model(digits_run.model_file).predict(images, verbose=0)
    np.testing.assert_allclose(before, wanted, rtol=1e-4, atol=1e-4)
    network = network_of(TINY, 8, 10)
    student = Student(network, answers, 0.9, 4.0)
    compile_for(TINY, prepare(student), 10)
    first = student.get_weights()
    student.fit(images, np.arange(32) % 10, epochs=2, verbose=0)
    assert (answers(tf.constant(images)).numpy() == before).all()
    assert [w.path for w in student.weights] == [w.path for w in network.weights]
    assert not any((a == b).all() for a, b in zip(first, student.get_weights(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("count", [33, pytest.param(27, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("float64")
def test_replicas_learn_as_one_device(count):
    """With 33 images in batches of 16, the second replica has no image in the last step."""
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(count, 3)), rng.integers(0, 3, count)
    found = []
    for within in (ALONE, REPLICAS):
        keras.utils.set_random_seed(1)
        with within.scope():
            inputs = keras.Input((3,))
            network = keras.Model(inputs, keras.layers.Dense(3)(inputs))
            student = prepare(Student(network, lambda images: 3 * images[:, ::-1], 0.7, 3.0))
            compile_for(TINY, student, 3)
        batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(16)
        losses = student.fit(batches, epochs=3, shuffle=False, verbose=0).history["loss"]
        found.append((losses, student.get_weights()))
    (wanted, theirs), (losses, ours) = found
    np.testing.assert_allclose(losses, wanted, rtol=1e-10)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_a_run_on_replicas_equals_one_on_one_device(digits_run, tmp_path):
    recipe = replace(TINY, teacher=str(digits_run.path), precision="float64")
    one = train(recipe, tmp_path / "one")
    two = train(recipe, tmp_path / "two", devices=("CPU:0", "CPU:1"))
    for a, b in zip(weights_of(two), weights_of(one), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * np.abs(b).max())


class Stop(keras.callbacks.Callback):
    """Interrupt the training in the middle of the second epoch, as Ctrl-C does."""

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations.numpy()) == 30:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.slow
def test_a_run_with_a_teacher_resumes_exactly_from_any_working_directory(
    digits_run, tmp_path, monkeypatch
):
    (tmp_path / "here").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    shutil.copytree(digits_run.path, "teacher")
    recipe = replace(TINY, teacher="teacher", epochs=2, deterministic=True)
    unbroken = train(recipe, tmp_path / "unbroken")
    run, teacher = Run(tmp_path / "run"), tmp_path / "here" / "teacher" / "model.keras"
    with pytest.raises(KeyboardInterrupt):
        train(recipe, run.path, callbacks=[Stop()])
    assert run.provenance()["teacher"] == initial_weights.fingerprint(teacher)
    monkeypatch.chdir(tmp_path / "elsewhere")
    kept = teacher.read_bytes()
    teacher.write_bytes(kept + b"more")
    with pytest.raises(ValueError, match=r"model.keras has changed since .*run began; restore it"):
        train(run)
    teacher.write_bytes(kept)
    train(run)
    assert same(weights_of(run), weights_of(unbroken))
    losses = [[row["loss"] for row in one.history()] for one in (run, unbroken)]
    assert losses[0] == losses[1] and len(losses[0]) == 2


@pytest.mark.slow
def test_a_frozen_student_trains_only_its_head(digits_run, tmp_path):
    run = train(
        replace(
            TINY, weights=str(digits_run.path), teacher=str(digits_run.path), freeze="backbone"
        ),
        tmp_path / "run",
    )
    before = keras.models.load_model(digits_run.model_file).weights
    after = keras.models.load_model(run.model_file).weights
    moved = {a.path for a, b in zip(after, before, strict=True) if (a.numpy() != b.numpy()).any()}
    assert moved == {"predictions/kernel", "predictions/bias"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "precision", ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)]
)
def test_the_teacher_computes_in_float32_for_a_student_in_half_precision(digits_run, precision):
    keras.config.set_dtype_policy(precision)
    try:
        network = network_of(TINY, 8, 10)
        answers = answers_of(digits_run)
        student = prepare(Student(network, answers, 1.0, 4.0))
        compile_for(TINY, student, 10)
    finally:
        keras.config.set_dtype_policy("float32")
    scaled = isinstance(student.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (precision == "mixed_float16")
    images = tf.constant(np.random.default_rng(0).normal(size=(16, 8, 8, 3)), tf.float32)
    assert answers(images).dtype == tf.float32
    logits = student(images, training=True)
    assert student.get_layer("conv1_conv").compute_dtype == precision.removeprefix("mixed_")
    loss = student.compute_loss(images, tf.zeros(16, tf.int32), logits, training=True)
    t, s = (softmax(v.numpy().astype(np.float64) / 4) for v in (answers(images), logits))
    assert float(loss) == pytest.approx(16 * (t * np.log(t / s)).sum(axis=1).mean(), rel=1e-5)
    student.fit(images, np.arange(16) % 10, verbose=0)
    assert all(np.isfinite(weight).all() for weight in student.get_weights())


def changed(run, folder, **files):
    """Copy a run, with changes in its JSON or text files."""
    shutil.copytree(run.path, folder)
    for name, change in files.items():
        path = getattr(Run(folder), f"{name}_file")
        path.write_text(change(path.read_text()))
    return folder


def other(**values):
    return lambda text: json.dumps(json.loads(text) | values)


def without_exif_orientation(text):
    values = json.loads(text)
    assert values.pop("exif_orientation")
    return json.dumps(values)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (
            {"class_names": lambda text: text.replace("7", "seven")},
            "differs from this run in the name of class 7 ('seven', not '7'); give",
        ),
        (
            {"class_names": lambda text: text + "10\n"},
            "differs from this run in the number of classes (11, not 10); give",
        ),
        (
            {"preprocessing": other(scale=[1, 1, 1])},
            "the scale of images ((1.0, 1.0, 1.0), not (255.0, 255.0, 255.0)); give",
        ),
        ({"preprocessing": other(mean=[0, 0, 0])}, "in the mean of images; give"),
        (
            {"preprocessing": other(crop=16, resize=16, mean=[0, 0, 0])},
            "the crop of images (16, not 8); give",
        ),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused_before_anything_is_written(
    digits_run, tmp_path, files, says
):
    teacher = changed(digits_run, tmp_path / "teacher", **files)
    with pytest.raises(ValueError) as error:
        train(replace(TINY, teacher=str(teacher)), tmp_path / "run")
    assert says in str(error.value) and str(error.value).startswith(f"teacher is '{teacher}'")
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {".lock"}


def test_a_teacher_that_is_not_a_finished_run_is_refused(digits_run, tmp_path):
    preprocessing = Preprocessing.read(digits_run.preprocessing_file)
    arguments = Run(tmp_path / "run"), digits_run.class_names(), preprocessing
    with pytest.raises(ValueError, match="teacher is 'nowhere'; give the folder of a finished run"):
        find(replace(TINY, teacher="nowhere"), *arguments)
    teacher = changed(digits_run, tmp_path / "teacher")
    (teacher / "model.keras").unlink()
    with pytest.raises(ValueError, match="teacher is not fully trained"):
        find(replace(TINY, teacher=str(teacher)), *arguments)
    assert find(TINY, *arguments) is None
    # From before that field.
    older = changed(digits_run, tmp_path / "older", preprocessing=without_exif_orientation)
    assert find(replace(TINY, teacher=str(older)), *arguments) == Run(older)
    assert find(replace(TINY, teacher=str(digits_run.path)), *arguments) == digits_run


@pytest.mark.slow
def test_a_student_of_few_images_is_better_with_a_teacher(tmp_path):
    """100 of the 1,437 digits, two seeds, equal images and initial weights within each pair."""
    teacher = train(replace(RECIPES["digits-tiny"], epochs=15), tmp_path / "teacher")
    digits, preprocessing = data.load("digits"), Preprocessing.read(teacher.preprocessing_file)
    recipe = replace(TINY, epochs=None, steps=200, batch_size=50)
    errors = {}
    for seed in range(2):
        few = digits.train.take(np.random.default_rng(seed).permutation(1437)[:100])
        for share in (0.0, 0.9):
            keras.utils.set_random_seed(seed)
            network = network_of(recipe, 8, 10, weight_decay=1e-4)
            student = prepare(Student(network, answers_of(teacher), share, 4.0))
            compile_for(recipe, student, 2)
            batches = train_batches(few, preprocessing, batch_size=50, seed=seed)
            student.fit(batches, steps_per_epoch=200, verbose=0)
            test = evaluation_batches(digits.test, preprocessing, 100)
            errors[seed, share] = 100 * (1 - student.evaluate(test, verbose=0)[1])
    assert all(errors[seed, 0.9] < errors[seed, 0.0] for seed in range(2)), errors
