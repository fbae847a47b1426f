"""Testing a run, against a network in numpy, resizes by PIL, and counts by hand."""

import csv
import hashlib
import json
import shutil
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_resnet import data
from keras_resnet.data.crops import VIEWS
from keras_resnet.data.pipeline import evaluation_batches
from keras_resnet.data.preprocessing import Preprocessing, normalize
from keras_resnet.evaluation.errors import (
    class_errors,
    confusion_matrix,
    softmax,
    top_k_error,
)
from keras_resnet.evaluation.evaluate import evaluate, predictions
from keras_resnet.files import write_text
from keras_resnet.runs.run import Run

DIGITS = data.load("digits").test
SIDES = (
    8,
    9,
    14,
    17,
    23,
)  # of a network for 8 px: 8 * 256 / 224 = 9.1, 8 * 384 / 224 = 13.7, 17.1, 22.9


def numpy_network(model, image):
    """Logits of the 8-layer CIFAR network in float64, for one image `[h, w, 3]` of any size.

    Weights are the saved network's, by name; the shortcuts are option A's. Fully convolutional but
    for the last
    product: the average is over whatever map there is.
    """

    def weights(name):
        return [w.astype(np.float64) for w in model.get_layer(name).get_weights()]

    def conv_bn(x, name, stride=1):
        (kernel,) = weights(f"{name}_conv")
        padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))[
            ::stride, ::stride
        ]
        gamma, beta, mean, variance = weights(f"{name}_bn")
        return (np.einsum("hwikl,klio->hwo", windows, kernel) - mean) / np.sqrt(
            variance + 1e-5
        ) * gamma + beta

    x = np.maximum(conv_bn(image.astype(np.float64), "conv1"), 0)
    for stage, stride in ((2, 1), (3, 2), (4, 2)):
        y = np.maximum(conv_bn(x, f"conv{stage}_block1_1", stride), 0)
        y = conv_bn(y, f"conv{stage}_block1_2")
        shortcut = x[::stride, ::stride]
        shortcut = np.pad(shortcut, ((0, 0), (0, 0), (0, y.shape[2] - shortcut.shape[2])))
        x = np.maximum(y + shortcut, 0)
    kernel, bias = weights("predictions")
    return x.mean(axis=(0, 1)) @ kernel + bias


def pil_resize(image, shorter):
    """PIL's bilinear resize is antialiased; in mode F it does not round to grey values."""
    height, width = (side * shorter // min(image.shape[:2]) for side in image.shape[:2])
    channels = [Image.fromarray(np.float32(image[..., c])) for c in range(3)]
    return np.stack(
        [np.asarray(c.resize((width, height), Image.Resampling.BILINEAR)) for c in channels],
        axis=-1,
    )


def slow_normalize(preprocessing, image):
    assert preprocessing.channels == "RGB"
    return (image - np.array(preprocessing.mean)) / np.array(preprocessing.scale)


def slow_views(preprocessing, image, views):
    """Every view of one image `[h, w, 3]`, for a crop of 8 px."""
    resized = (
        pil_resize(image, preprocessing.resize)
        if min(image.shape[:2]) != preprocessing.resize
        else image
    )
    height, width = resized.shape[:2]
    top, left = (height - 8) // 2, (width - 8) // 2
    center = slow_normalize(preprocessing, resized[top : top + 8, left : left + 8])
    if views == "single":
        return [center]
    if views == "multi-scale":
        if np.shape(preprocessing.mean) == (3,):
            return [slow_normalize(preprocessing, pil_resize(image, side)) for side in SIDES]
        return [pil_resize(center, side) for side in SIDES]
    if preprocessing.resize == 8:
        around = np.pad(center, ((1, 1), (1, 1), (0, 0)))
    else:
        around = slow_normalize(preprocessing, resized)
        assert np.shape(preprocessing.mean) == (3,), "a mean image would not fit"
    height, width = around.shape[:2]
    corners = [(0, 0), (0, width - 8), (height - 8, 0), (height - 8, width - 8)]
    corners.append(((height - 8) // 2, (width - 8) // 2))
    crops = [around[y : y + 8, x : x + 8] for y, x in corners]
    return crops + [crop[:, ::-1] for crop in crops]


def slow_probabilities(network, preprocessing, image, views, scores):
    def softmax(z):
        return np.exp(z - z.max()) / np.exp(z - z.max()).sum()

    logits = [network(view) for view in slow_views(preprocessing, image, views)]
    if scores == "logits":
        return softmax(sum(logits) / len(logits))
    return sum(map(softmax, logits)) / len(logits)


def network_of(run, views):
    """The saved network where images have its size, else the one in numpy."""
    model = keras.models.load_model(run.model_file)
    if views == "multi-scale":
        return lambda view: numpy_network(model, view)
    return lambda view: (
        model(view[np.newaxis].astype(np.float32), training=False).numpy()[0].astype(np.float64)
    )


def run_on(digits_run, folder, *, preprocessing=None, dataset=None):
    """The same network as a run with other images, or another view of them."""
    run = Run(folder)
    folder.mkdir()
    for file in (digits_run.model_file, digits_run.class_names_file, digits_run.preprocessing_file):
        shutil.copy(file, folder)
    recipe = digits_run.recipe()
    write_text(
        run.recipe_file,
        (recipe if dataset is None else replace(recipe, dataset=str(dataset))).to_json(),
    )
    if preprocessing is not None:
        write_text(run.preprocessing_file, preprocessing.to_json())
    return run


def image_folder(folder, images, labels):
    """PNG files as `data.load` reads them; returns the images in the order of their paths."""
    for number in range(10):
        (folder / "train" / str(number)).mkdir(parents=True)
        image = np.full_like(images[0], number)  # no copy of one that is tested on
        Image.fromarray(image).save(folder / "train" / str(number) / "any.png")
    order = sorted(range(len(labels)), key=lambda i: (labels[i], i))
    for i in order:
        place = folder / "test" / str(labels[i])
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[i]).save(place / f"{i:04d}.png")
    return np.array(order)


def test_the_network_in_numpy_is_the_saved_one(digits_run):
    saved, slow = network_of(digits_run, "single"), network_of(digits_run, "multi-scale")
    preprocessing = Preprocessing.read(digits_run.preprocessing_file)
    for image in DIGITS.images[:3]:
        (view,) = slow_views(preprocessing, image, "single")
        np.testing.assert_allclose(slow(view), saved(view), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("scores", ["probabilities", "logits"])
@pytest.mark.parametrize("views", VIEWS)
def test_views_against_slow_ones(digits_run, views, scores):
    """A mean image and no room around the crop: the networks of section 4.2."""
    preprocessing = Preprocessing.read(digits_run.preprocessing_file)
    network = network_of(digits_run, views)
    found, labels = predictions(digits_run, views=views, scores=scores)
    assert (labels == DIGITS.labels).all()
    for image, row in zip(DIGITS.images[:12], found, strict=False):
        np.testing.assert_allclose(
            row, slow_probabilities(network, preprocessing, image, views, scores), atol=1e-5
        )


@pytest.mark.slow
@pytest.mark.parametrize("views", VIEWS)
def test_image_files_of_any_size_against_slow_views(digits_run, views, tmp_path):
    """A mean color, and crops of 8 out of 10 px: as the networks of section 3.4 are tested."""
    mean_color = Preprocessing(
        resize=10, crop=8, mean=(60.0, 70.0, 80.0), scale=(255.0, 250.0, 245.0)
    )
    sizes = [(10, 10), (10, 16), (21, 10), (33, 24), (9, 40), (7, 8)]
    images = [
        np.random.default_rng(n).integers(0, 256, (*size, 3), dtype=np.uint8)
        for n, size in enumerate(sizes)
    ]
    labels = np.array([3, 1, 3, 0, 9, 1])
    order = image_folder(tmp_path / "images", images, labels)
    run = run_on(
        digits_run, tmp_path / "run", preprocessing=mean_color, dataset=tmp_path / "images"
    )
    found, numbers = predictions(run, views=views)
    assert (numbers == labels[order]).all()
    network = network_of(run, views)
    for i, row in zip(order, found, strict=True):
        wanted = slow_probabilities(network, mean_color, images[i], views, "probabilities")
        np.testing.assert_allclose(row, wanted, atol=1e-5)
    result = evaluate(run.path, views=views)
    assert list(result["class_errors"]) == ["0", "1", "3", "9"], "classes that have images"


@pytest.mark.slow
@pytest.mark.parametrize("views", VIEWS)
def test_image_files_are_tested_as_the_same_images_in_memory(digits_run, views, tmp_path):
    order = image_folder(tmp_path / "images", DIGITS.images, DIGITS.labels)
    run = run_on(digits_run, tmp_path / "run", dataset=tmp_path / "images")
    found, labels = predictions(run, views=views)
    wanted, _ = predictions(digits_run, views=views)
    assert (labels == DIGITS.labels[order]).all()
    np.testing.assert_allclose(found, wanted[order], atol=1e-6)
    ours, theirs = evaluate(run.path, views=views), evaluate(digits_run.path, views=views)
    assert ours | {"dataset": "digits"} == up_to_rounding(theirs)


@pytest.mark.slow
@pytest.mark.parametrize("views", VIEWS)
def test_the_batch_size_does_not_matter(digits_run, views):
    """Of views: 7 are one image with all its views, and 70 are seven ten crops."""
    wanted, labels = predictions(digits_run, views=views)
    assert len(wanted) == 360
    for batch_size in (7, 70):
        found, again = predictions(digits_run, views=views, batch_size=batch_size)
        np.testing.assert_allclose(found, wanted, atol=1e-6)
        assert (again == labels).all()


def test_the_single_view_is_what_keras_predicts(digits_run):
    """To rounding: `evaluate` computes batch norm by the fused kernel."""
    preprocessing = Preprocessing.read(digits_run.preprocessing_file)
    logits = keras.models.load_model(digits_run.model_file).predict(
        evaluation_batches(DIGITS, preprocessing, 100), verbose=0
    )
    for scores in ("probabilities", "logits"):
        found, _ = predictions(digits_run, scores=scores, batch_size=100)
        np.testing.assert_allclose(found, softmax(logits), rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_every_image_counts_once_whatever_the_batch_size(digits_run):
    results = [evaluate(digits_run.path, batch_size=size) for size in (1, 7, 360, 1000)]
    assert all(result == up_to_rounding(results[0]) for result in results)
    assert results[0]["images"] == 360
    assert json.loads(digits_run.evaluation_file().read_text()) == results[-1]


def up_to_rounding(result):
    """Return a result whose calibration error, a mean of probabilities, may differ by rounding."""
    error = pytest.approx(result["calibration_error"], abs=1e-4)
    return result | {"calibration_error": error}


@pytest.mark.slow
def test_the_errors_against_a_slow_count(digits_run):
    """One image at a time through the saved network, ranks counted by sorting."""
    model = keras.models.load_model(digits_run.model_file)
    preprocessing = Preprocessing.read(digits_run.preprocessing_file)
    wrong = {1: 0, 5: 0}
    for image, label in zip(DIGITS.images, DIGITS.labels, strict=True):
        logits = model(
            np.asarray(normalize(preprocessing, image))[np.newaxis], training=False
        ).numpy()[0]
        order = list(np.argsort(-logits))
        for k in wrong:
            wrong[k] += label not in order[:k]
    result = evaluate(digits_run.path)
    assert result["top1_error"] == pytest.approx(100 * wrong[1] / 360)
    assert result["top5_error"] == pytest.approx(100 * wrong[5] / 360)


def test_top_k_error_by_hand():
    probabilities = np.array([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [0.1, 0.8, 0.1]])
    labels = np.array([0, 1, 0])
    assert top_k_error(probabilities, labels, 1) == pytest.approx(200 / 3)
    # The third label ties with another class for the second place, which counts against it.
    assert top_k_error(probabilities, labels, 2) == pytest.approx(100 / 3)
    assert top_k_error(probabilities, labels, 3) == 0


def test_a_network_that_says_nothing_gets_nothing():
    assert top_k_error(np.full((4, 10), 0.1), np.arange(4), 5) == 100
    assert top_k_error(np.full((4, 10), np.nan), np.arange(4), 5) == 100


def test_softmax_of_large_logits():
    np.testing.assert_allclose(softmax(np.array([[1000.0, 1000.0, -1000.0]])), [[0.5, 0.5, 0.0]])


def test_the_confusion_matrix_by_hand():
    """Seven images of three classes; the last class has none, and is never named."""
    probabilities = np.array(
        [
            [0.7, 0.2, 0.1, 0.0],  # class 0, taken for 0
            [0.2, 0.7, 0.1, 0.0],  # class 0, taken for 1
            [0.4, 0.4, 0.1, 0.1],  # class 0, a tie with 1, which counts before it
            [0.4, 0.4, 0.2, 0.0],  # class 1, a tie with 0, which counts before it
            [0.0, 0.9, 0.1, 0.0],  # class 1, taken for 1
            [0.1, 0.0, 0.9, 0.0],  # class 2, taken for 2
            [0.6, 0.1, 0.3, 0.0],  # class 2, taken for 0
        ]
    )
    labels = np.array([0, 0, 0, 1, 1, 2, 2])
    confusion = confusion_matrix(probabilities, labels)
    assert confusion.tolist() == [[1, 2, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    assert class_errors(confusion, ("a", "b", "c", "d")) == {
        "a": pytest.approx(200 / 3),
        "b": 50,
        "c": 50,
    }
    assert top_k_error(probabilities, labels, 1) == pytest.approx(100 * 4 / 7)


@pytest.mark.parametrize("value", [0.1, np.nan])
def test_the_confusion_matrix_gives_nothing_to_a_network_that_says_nothing(value):
    confusion = confusion_matrix(np.full((10, 10), value), np.arange(10))
    assert confusion.sum() == 10 and confusion.trace() == 0


def test_the_confusion_matrix_agrees_with_the_errors():
    """Coarse random numbers, among which ties are many; the slow count knows nothing of either."""
    random = np.random.default_rng(0)
    probabilities, labels = random.integers(0, 4, (500, 5)) / 10, random.integers(0, 5, 500)
    confusion = confusion_matrix(probabilities, labels)
    right = [
        all(p < row[label] for c, p in enumerate(row) if c != label)
        for row, label in zip(probabilities, labels, strict=True)
    ]
    assert 100 * (1 - np.mean(right)) == pytest.approx(top_k_error(probabilities, labels, 1))
    for number, error in enumerate(class_errors(confusion, tuple("abcde")).values()):
        mine = np.array(right)[labels == number]
        assert error == pytest.approx(100 * (1 - mine.mean()))
        assert confusion[number].sum() == len(mine)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("views", "ending"),
    [("single", ""), ("ten-crop", "-ten-crop"), ("multi-scale", "-multi-scale")],
)
def test_what_is_written(digits_run, views, ending, tmp_path):
    run = run_on(digits_run, tmp_path / "run")
    before = {path.name for path in run.path.iterdir()}
    result = evaluate(run.path, views=views, scores="logits")
    written = {path.name for path in run.path.iterdir()} - before
    names = (f"evaluation{ending}.json", f"confusion{ending}.csv", f"predictions{ending}.npz")
    assert written == set(names)
    assert json.loads((run.path / f"evaluation{ending}.json").read_text()) == result
    assert result["views"] == views and result["scores"] == "logits" and result["images"] == 360
    with open(run.path / f"confusion{ending}.csv", newline="") as file:
        (_, *header), *rows = csv.reader(file)
    assert header == [row[0] for row in rows] == list("0123456789")
    confusion = np.array([row[1:] for row in rows], int)
    assert (confusion.sum(axis=1) == np.bincount(DIGITS.labels)).all()
    assert 100 * (1 - confusion.trace() / 360) == pytest.approx(result["top1_error"])
    assert result["class_errors"] == class_errors(confusion, tuple(header))
    assert list(result["class_intervals"]) == list(result["class_errors"])
    for name, (low, high) in result["class_intervals"].items():
        assert 0 <= low <= result["class_errors"][name] <= high <= 100
    # The slow way to the same matrix; float scores of a trained network have no ties.
    probabilities, labels = predictions(run, views=views, scores="logits")
    slow = np.zeros((10, 10), int)
    for row, label in zip(probabilities, labels, strict=True):
        slow[label, row.tolist().index(max(row))] += 1
    assert (confusion == slow).all()
    with np.load(run.path / f"predictions{ending}.npz") as stored:
        assert (softmax(stored["logits"]) == probabilities).all()
        assert (stored["labels"] == labels).all()
        assert stored["class_names"].tolist() == header
        # SHA-256 by hashlib, of the pixels of each image.
        digests = [hashlib.sha256(image.tobytes()).digest() for image in DIGITS.images]
        assert [row.tobytes() for row in stored["hashes"]] == digests


def test_predictions_of_files_carry_the_hashes_of_the_files(digits_run, tmp_path):
    """So that two runs can be compared on the images that both have seen."""
    image_folder(tmp_path / "images", DIGITS.images[:12], DIGITS.labels[:12])
    run = run_on(digits_run, tmp_path / "run", dataset=tmp_path / "images")
    evaluate(run)
    files = sorted((tmp_path / "images" / "test").rglob("*.png"))
    with np.load(run.predictions_file()) as stored:
        assert [row.tobytes() for row in stored["hashes"]] == [
            hashlib.sha256(file.read_bytes()).digest() for file in files
        ]


@pytest.mark.slow
@pytest.mark.parametrize("head", [pytest.param("logits", marks=pytest.mark.slow), "softmax"])
def test_any_keras_classifier_is_evaluated_like_the_run_it_came_from(digits_run, head, tmp_path):
    """The run's own network within a model of the user's, with logits and with a softmax."""
    network = keras.models.load_model(digits_run.model_file)
    model = keras.Sequential([keras.Input((8, 8, 3)), network])
    if head == "softmax":
        model.add(keras.layers.Softmax())
    arguments = {
        "preprocessing": Preprocessing.read(digits_run.preprocessing_file),
        "class_names": digits_run.class_names(),
    }
    for views in ("single", "ten-crop"):
        wanted = evaluate(digits_run, views=views)
        assert evaluate(model, "digits", views=views, **arguments) == up_to_rounding(wanted)
    pairs = tf.data.Dataset.from_tensor_slices((DIGITS.images, DIGITS.labels))
    for data_ in ((DIGITS.images, DIGITS.labels), DIGITS, pairs, pairs.batch(50)):
        found = evaluate(model, data_, directory=tmp_path / "found", **arguments)
        assert found == up_to_rounding(evaluate(digits_run)) | {"dataset": "data"}
    assert {path.name for path in (tmp_path / "found").iterdir()} == {
        "evaluation.json",
        "confusion.csv",
        "predictions.npz",
    }


def test_a_sigmoid_unit_is_two_classes():
    """The share of images on the wrong side of one half, counted by hand."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (50, 8, 8, 3), dtype=np.uint8)
    labels = random.integers(0, 2, 50)
    inputs = keras.Input((8, 8, 3))
    outputs = keras.layers.Dense(1, "sigmoid")(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, outputs)
    plain = Preprocessing(resize=8, crop=8, mean=(128.0,) * 3, scale=(128.0,) * 3)
    found = evaluate(model, (images, labels), preprocessing=plain, class_names=["no", "yes"])
    yes = model.predict((images - 128.0) / 128.0, verbose=0)[:, 0] > 0.5
    assert found["top1_error"] == pytest.approx(100 * np.mean(yes != (labels == 1)))


@pytest.mark.parametrize("classes", [2, 5, 6])
def test_five_classes_or_fewer_have_no_top_5_error(classes):
    """It would be 0 whatever the network. A network that gives nothing gets nothing."""
    inputs = keras.Input((8, 8, 3))
    outputs = keras.layers.Dense(classes, kernel_initializer="zeros")(
        keras.layers.Flatten()(inputs)
    )
    images, labels = np.zeros((20, 8, 8, 3), np.uint8), np.zeros(20, int)
    found = evaluate(
        keras.Model(inputs, outputs),
        (images, labels),
        preprocessing=Preprocessing(resize=8, crop=8),
        class_names=list("abcdef"[:classes]),
    )
    assert found["top1_error"] == 100
    # Newcombe 1998, Table I, method 3: 0 in 20 are 0 to 0.1611.
    assert found["top1_interval"] == pytest.approx([100 - 16.11, 100], abs=0.005)
    assert found["class_intervals"] == {"a": found["top1_interval"]}
    assert ("top5_error" in found) == ("top5_interval" in found) == (classes == 6)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"preprocessing": None}, "preprocessing is None; give a Preprocessing or one of 'caffe'"),
        ({"preprocessing": "coffee"}, "no preprocessing is called 'coffee'; the nearest is caffe"),
        ({"preprocessing": "torch"}, "images of 224 x 224 px; digits takes 8 x 8"),
        ({"class_names": None}, "class_names is None; give one name per class"),
        ({"class_names": list("abc")}, "class_names has 3 names; digits has 10 classes"),
        ({"class_names": ["a"] * 10}, "class_names has 'a'; give every class a unique name"),
        ({"data": None}, "data is None; give what to test the model on"),
        ({"data": "synthetic", "class_names": tuple("abcdefghij")}, "it has '0' too"),
        ({"views": "multi-scale"}, "takes images of one size"),
        ({"data": (DIGITS.images, DIGITS.labels + 5)}, "labels go from 5 to 14; digits has 10"),
    ],
)
def test_arguments_that_do_not_fit_a_model(arguments, says):
    inputs = keras.Input((8, 8, 3))
    outputs = keras.layers.Dense(10)(keras.layers.Flatten()(inputs))
    usual = {
        "data": (DIGITS.images, DIGITS.labels),
        "preprocessing": Preprocessing(resize=8, crop=8),
        "class_names": tuple("0123456789"),
    }
    with pytest.raises(ValueError, match=says):
        evaluate(keras.Model(inputs, outputs, name="digits"), **usual | arguments)


@pytest.mark.slow
def test_other_data_has_files_of_its_own_and_leaves_the_original(digits_run, tmp_path):
    run = run_on(digits_run, tmp_path / "run")
    evaluate(run)
    before = run.evaluation_file().read_bytes()
    image_folder(tmp_path / "photos of digits", DIGITS.images[:20], DIGITS.labels[:20])
    other = evaluate(run, str(tmp_path / "photos of digits"))
    train = evaluate(run, split="train")
    assert other["images"] == 20 and other["dataset"] == "photos of digits"
    assert train["images"] == 1437 and train["split"] == "train"
    assert run.evaluation_file().read_bytes() == before
    assert {path.name for path in run.path.glob("evaluation*")} == {
        "evaluation.json",
        "evaluation-photos-of-digits.json",
        "evaluation-train.json",
    }
    with pytest.raises(ValueError, match="split is 'validation'; digits has test, train"):
        evaluate(run, split="validation")
    with pytest.raises(ValueError, match="preprocessing is 'caffe'; a run has its own"):
        evaluate(run, preprocessing="caffe")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            {"views": "five-crop"},
            "views is 'five-crop'; choose one of 'single', 'ten-crop', 'multi-scale'",
        ),
        ({"scores": "votes"}, "scores is 'votes'; choose one of 'probabilities', 'logits'"),
        ({"batch_size": 0}, "batch_size is 0; give a positive number"),
    ],
)
def test_what_cannot_be_tested(digits_run, arguments, says):
    with pytest.raises(ValueError, match=says):
        evaluate(digits_run.path, **arguments)


def test_a_data_set_that_has_changed_its_classes(digits_run, tmp_path):
    image_folder(tmp_path / "images", DIGITS.images[:3], DIGITS.labels[:3])
    renamed = DIGITS.labels[0]
    for split in ("train", "test"):
        (tmp_path / "images" / split / str(renamed)).rename(tmp_path / "images" / split / "eleven")
    run = run_on(digits_run, tmp_path / "run", dataset=tmp_path / "images")
    with pytest.raises(
        ValueError, match="images has other classes than those .*run was trained on"
    ):
        evaluate(run.path)


def test_a_run_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="is not a run"):
        evaluate(tmp_path / "nothing")


def test_the_probabilities_are_those_of_the_labels_split(digits_run):
    probabilities, labels = predictions(Run(digits_run.path))
    assert probabilities.shape == (360, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-12)
    assert (labels == DIGITS.labels).all()
