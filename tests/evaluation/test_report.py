"""The report of runs: a valid page of its own, with the numbers of `evaluate` and `compare`."""

import base64
import importlib.util
import io
import json
import re
import shutil
import xml.etree.ElementTree as ET
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from pages import parsed, require_readable, require_self_contained, rows, text
from PIL import Image

from keras_resnet import compare, data, evaluate, report
from keras_resnet.cli.commands import main
from keras_resnet.data.dataset import Arrays
from keras_resnet.data.own_data import content_hashes
from keras_resnet.evaluation import report_gallery, report_images
from keras_resnet.evaluation.errors import softmax
from keras_resnet.evaluation.prediction_files import (
    Predictions,
    read_predictions,
    write_predictions,
)
from keras_resnet.evaluation.report_sections import Evaluated, curves
from keras_resnet.files import read_json, write_text
from keras_resnet.runs.classifier import open_run
from keras_resnet.runs.interval import with_interval
from keras_resnet.runs.recipe import Recipe
from keras_resnet.runs.recipes import RECIPES
from keras_resnet.runs.run import Run

figures = importlib.import_module("keras_resnet.evaluation.report_figures")

SVG = "{http://www.w3.org/2000/svg}"
DIGITS = data.load("digits")


@pytest.fixture(scope="module")
def tested(digits_run, tmp_path_factory):
    """A run that has been evaluated."""
    folder = tmp_path_factory.mktemp("tested") / "first"
    shutil.copytree(digits_run.path, folder)
    evaluate(folder)
    return Run(folder)


@pytest.fixture
def first(tested, tmp_path):
    return Run(shutil.copytree(tested.path, tmp_path / "first"))


@pytest.fixture
def bare(tested, tmp_path):
    """The run without data and network, of which a report needs no TensorFlow."""
    run = Run(shutil.copytree(tested.path, tmp_path / "bare"))
    write_text(run.recipe_file, replace(run.recipe(), dataset="gone/images").to_json())
    run.model_file.unlink()
    return run


@pytest.fixture
def second(bare, tmp_path):
    """The same run with other answers, a plain network by its recipe."""
    run = Run(shutil.copytree(bare.path, tmp_path / "second"))
    stored = read_predictions(run.predictions_file())
    noise = np.random.default_rng(0).normal(size=stored.logits.shape).astype(np.float32)
    write_predictions(run.predictions_file(), replace(stored, logits=stored.logits + noise))
    spec = replace(run.recipe().spec, shortcut=None)
    write_text(run.recipe_file, replace(run.recipe(), spec=spec, learning_rate=0.05).to_json())
    return run


@pytest.fixture(scope="module")
def page(tested, tmp_path_factory):
    return parsed(report(tested, tmp_path_factory.mktemp("report") / "one.html"))


def test_the_page_needs_nothing_else(page):
    require_self_contained(page)
    assert len(list(page.iter("img"))) > 20


def test_the_page_can_be_read_by_all(page):
    require_readable(page)


def luminance(color):
    """Of WCAG 2, of a color such as `#0072b2`."""
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_text_has_contrast(page):
    """At least 4.5 to 1 on white, level AA of WCAG 2."""
    style = "".join(style.text for style in page.iter("style"))
    colors = re.findall(r"(?<![-\w])color: (#\w{6})", style)
    assert len(colors) > 2
    assert all(1.05 / (luminance(color) + 0.05) >= 4.5 for color in colors)


def test_the_errors_are_those_of_evaluate(tested, page):
    result = tested.evaluation()
    found = dict(rows(page, "errors")[1:])
    assert found["top-1 error"] == with_interval(result["top1_error"], result["top1_interval"])
    assert found["top-5 error"] == with_interval(result["top5_error"], result["top5_interval"])
    assert found["expected calibration error"] == f"{result['calibration_error']:.2f} %"
    assert found["images"] == "360" and found["data set"] == "digits, test"
    assert f"{result['calibration_error']:.2f} %" in text(
        page.find(".//section[@id='calibration']//figcaption")
    )


def test_the_classes_are_those_of_evaluate(tested, page):
    """The recall of a class is what its error leaves of 100 %; the hardest class comes first."""
    errors = tested.evaluation()["class_errors"]
    _, *found = rows(page, "classes")
    assert {row[0]: row[3] for row in found} == {
        name: f"{1 - error / 100:.3f}" for name, error in errors.items()
    }
    scores = [float(row[4]) for row in found]
    assert scores == sorted(scores)


def test_the_worst_mistakes_are_shown_with_image_and_heat_map(tested, page):
    """The first is the wrong image whose label is the least probable."""
    stored = read_predictions(tested.predictions_file())
    probabilities = softmax(stored.logits)
    own = probabilities[np.arange(360), stored.labels]
    worst = np.flatnonzero(~stored.right())[own[~stored.right()].argmin()]
    items = page.findall(".//section[@id='mistakes']//li")
    assert len(items) == 12
    assert [text(name) for name in items[0].iter("strong")] == [
        str(stored.labels[worst]),
        str(probabilities[worst].argmax()),
    ]
    assert text(items[0]).endswith(f"image {worst}")
    assert all(len(list(item.iter("img"))) == 2 for item in items)


def test_label_errors_are_called_candidates(page):
    section = page.find(".//section[@id='labels']")
    assert "Candidates" in text(section) and "answers of one network" in text(section)
    assert len(list(section.iter("img"))) == len(list(section.iter("li"))) > 0


def test_recipe_and_provenance_are_complete(tested, page):
    found = dict(rows(page, "recipe")[1:])
    assert found["learning_rate"] == "0.1" and found["spec.width"] == "16"
    assert {name.partition(".")[0] for name in found} == set(Recipe.__dataclass_fields__)
    origin = dict(rows(page, "provenance")[1:])
    assert origin["packages.keras"] == keras.__version__
    assert len(origin["SHA-256 of model.keras"]) == 64
    assert origin["images, test"] == "360"
    assert page.find(".//section[@id='augmentation']//img") is not None


def test_several_runs_stand_side_by_side(first, second, tmp_path):
    """With the numbers of `compare`, the data of the one that has it, and pictures as files."""
    file = report([second, first], tmp_path / "two.html", figures=tmp_path / "figures")
    page = parsed(file)
    require_self_contained(page)
    assert file.stat().st_size < 2e6
    expected = compare(second, first)
    (cells,) = rows(page, "comparison")[1:]
    assert cells[2:6] == [
        str(count)
        for count in (
            expected.both_right,
            expected.only_first_right,
            expected.only_second_right,
            expected.both_wrong,
        )
    ]
    low, high = expected.difference_interval
    assert cells[6] == f"{expected.difference:+.2f} points ({low:+.2f} to {high:+.2f})"
    assert cells[7] == f"{expected.p_value:.3g}"
    assert rows(page, "errors")[0] == ["", "second", "first"]
    differing = {row[0] for row in rows(page, "recipe")} & {"learning_rate", "spec.shortcut"}
    assert differing == {"learning_rate", "spec.shortcut"}
    assert "training split of first" in text(page.find(".//section[@id='duplicates']"))
    assert len(page.findall(".//section[@id='mistakes']//img")) == 12 + 2 * 12
    pictures = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert {"curves.svg", "run1-confusion.svg", "run2-reliability.svg"} <= set(pictures)
    for path in (tmp_path / "figures").iterdir():
        if path.suffix == ".svg":
            assert ET.parse(path).getroot().tag == f"{SVG}svg"
        else:
            with Image.open(path) as image:
                image.load()


def test_runs_of_different_images_are_refused(bare, second, tmp_path):
    stored = read_predictions(second.predictions_file())
    hashes = stored.hashes.copy()
    hashes[0] = 0
    write_predictions(second.predictions_file(), replace(stored, hashes=hashes))
    with pytest.raises(ValueError, match="were not tested on the same images"):
        report([bare, second], tmp_path / "two.html")
    assert not (tmp_path / "two.html").exists()


def test_runs_of_one_name_are_told_apart(bare, tmp_path):
    folders = [shutil.copytree(bare.path, tmp_path / name / "run") for name in "ab"]
    page = parsed(report(folders, tmp_path / "two.html"))
    assert rows(page, "errors")[0] == ["", *map(str, folders)]


def test_foreign_texts_do_not_become_html(bare, tmp_path):
    """Names of classes and folders, and what is in the files of a run."""
    evil = '<script>alert("&")</script>'
    run = Run(shutil.copytree(bare.path, tmp_path / "<script>x<\x1b[2J\u202e$\\frac{"))
    stored = read_predictions(run.predictions_file())
    names = (evil, "$x_{", "--><b>", '" onload="x', "\u732b", *stored.class_names[5:])
    write_predictions(run.predictions_file(), replace(stored, class_names=names))
    origin = read_json(run.provenance_file) | {"command": evil, "packages": {evil: evil}}
    write_text(run.provenance_file, json.dumps(origin))
    file = report(run, figures=tmp_path / "figures")
    assert file == run.path / "report.html"
    page = parsed(file)
    require_self_contained(page)
    assert evil in [row[0] for row in rows(page, "classes")]
    assert dict(rows(page, "provenance")[1:])["command"] == evil
    content = file.read_text(encoding="utf-8")
    assert "\x1b" not in content and "\u202e" not in content and r"\x1b[2J\u202e" in content
    for name in ("curves.svg", "run1-confusion.svg"):
        root = ET.parse(tmp_path / "figures" / name).getroot()
        assert {element.tag for element in root.iter()}.isdisjoint({f"{SVG}script", f"{SVG}b"})
    shown = [element.text for element in root.iter(f"{SVG}text")]
    assert "\u732b" in shown and "$x_{" in shown


def test_without_the_data_the_page_says_so(bare):
    page = parsed(report(bare))
    mistakes = page.find(".//section[@id='mistakes']")
    assert "Images are missing" in text(mistakes) and "gone/images" in text(mistakes)
    assert list(mistakes.iter("img")) == []
    assert len(list(mistakes.iter("li"))) == 12
    assert "training split was not searched" in text(page.find(".//section[@id='duplicates']"))


def test_without_a_class_activation_map_the_page_says_so(first):
    inputs = keras.Input((8, 8, 3))
    logits = keras.layers.Dense(10)(keras.layers.Flatten()(inputs))
    keras.Model(inputs, logits).save(first.model_file)
    mistakes = parsed(report(first)).find(".//section[@id='mistakes']")
    assert "Without heat maps:" in text(mistakes) and "Flatten" in text(mistakes)
    assert len(list(mistakes.iter("img"))) == len(list(mistakes.iter("li")))


def test_without_history_and_figures_the_page_says_so(first):
    first.history_file.unlink()
    first.augmentation_figure.unlink()
    first.model_file.unlink()
    page = parsed(report(first))
    assert "not in the folder" in text(page.find(".//section[@id='curves']"))
    assert "not in the folder" in text(page.find(".//section[@id='augmentation']"))
    assert "is not fully trained" in text(page.find(".//section[@id='mistakes']"))


def test_curves_are_drawn_by_iterations_if_their_number_is_known(bare):
    """1,437 digits are 22 batches of 64, and the recipe trains for three epochs."""
    evaluated = Evaluated(
        bare,
        "bare",
        bare.recipe(),
        bare.evaluation(),
        read_predictions(bare.predictions_file()),
    )
    (curve,), unit = curves([evaluated])
    assert unit == "iterations"
    assert [x for x, _ in curve.training] == [22, 44, 66]
    bare.data_file.unlink()
    (curve,), unit = curves([evaluated])
    assert unit == "epochs" and [x for x, _ in curve.test] == [1, 2, 3]


def test_without_validation_only_training_is_drawn(bare):
    write_text(bare.history_file, "epoch,accuracy\n1,0.5\n2,0.75\n")
    page = parsed(report(bare))
    assert "Without validation, training errors only: bare" in text(
        page.find(".//section[@id='curves']")
    )
    assert dict(rows(page, "errors")[1:])["last training error"] == "25.00 %"


def test_copies_in_both_splits_are_found(monkeypatch, bare):
    """Test images 3 and 4 are made copies of each other, and image 5 is added to training."""
    test, train = DIGITS.test, DIGITS.train
    images = test.images.copy()
    images[4] = images[3]
    changed = replace(
        DIGITS,
        test=Arrays(images, test.labels),
        train=Arrays(np.concatenate([train.images, images[5:6]]), np.append(train.labels, 0)),
    )
    monkeypatch.setattr(report_gallery, "load_dataset", lambda *_: changed)
    stored = read_predictions(bare.predictions_file())
    every = np.concatenate([content_hashes(split) for split in (test, train)])
    assert len(np.unique(every, axis=0)) == len(every), "the digits themselves have no copies"
    write_predictions(bare.predictions_file(), replace(stored, hashes=content_hashes(changed.test)))
    section = parsed(report(bare)).find(".//section[@id='duplicates']")
    found = text(section)
    assert "Copied within the test split: 1 image," in found
    assert "In the training split, too: 1 test image (5)." in found
    (item,) = section.iter("li")
    labels = ", ".join(str(label) for label in stored.labels[3:5])
    assert text(item) == f"images 3, 4; labeled {labels}"
    assert item.find(".//img") is not None


@pytest.mark.slow
def test_a_thousand_classes_stay_below_two_megabytes(tmp_path):
    """Two runs without data: 10,000 images, of which a quarter are wrong at random."""
    rng = np.random.default_rng(0)
    names = tuple(f"class number {number}" for number in range(1000))
    labels = np.repeat(np.arange(1000, dtype=np.int32), 10)
    hashes = rng.integers(0, 256, (len(labels), 32), dtype=np.uint8)
    for folder in ("a", "b"):
        run = Run(tmp_path / folder)
        others = rng.integers(0, 1000, len(labels))
        answers = np.where(rng.random(len(labels)) < 0.75, labels, others)
        logits = np.zeros((len(labels), 1000), np.float32)
        logits[np.arange(len(labels)), answers] = 9
        write_predictions(
            run.predictions_file(),
            Predictions(logits=logits, labels=labels, hashes=hashes, class_names=names),
        )
        recipe = replace(RECIPES["imagenet-tiny"], dataset=str(tmp_path / "no"))
        write_text(run.recipe_file, recipe.to_json())
        result = {"top1_error": 25.0, "images": len(labels), "dataset": "no", "split": "test"}
        write_text(run.evaluation_file(), json.dumps(result))
    file = report([tmp_path / "a", tmp_path / "b"], tmp_path / "two.html")
    page = parsed(file)
    assert file.stat().st_size < 2e6
    table = page.find(".//section[@id='classes']/details")
    assert table.get("open") is None
    assert len(list(table.iter("tr"))) == 1002


def test_a_page_beyond_the_limit_is_refused(bare, monkeypatch):
    monkeypatch.setattr("keras_resnet.evaluation.page.MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="the page has .* MB, and .*; give fewer runs"):
        report(bare)
    assert not (bare.path / "report.html").exists()


def test_a_run_that_is_not_evaluated_is_refused(digits_run, tmp_path, capsys):
    tested = shutil.ignore_patterns("evaluation*", "predictions*")  # by other tests
    folder = shutil.copytree(digits_run.path, tmp_path / "my run", ignore=tested)
    assert main(["report", str(folder)]) == 2
    error = capsys.readouterr().err
    assert error == (
        f"keras-resnet: {folder} has no predictions.npz; `keras-resnet evaluate '{folder}'` writes"
        " it\n"
    )


@pytest.mark.slow
def test_the_command_writes_the_same_page_into_the_run(bare, tmp_path, capsys):
    """The same to the byte: a page has no dates, and pictures no random names."""
    assert main(["report", str(bare.path)]) == 0
    file = bare.path / "report.html"
    size = f"{file.stat().st_size / 1e6:.2f} MB"
    assert capsys.readouterr().out == f"report: {file} ({size})\n"
    assert report(bare, tmp_path / "again.html").read_bytes() == file.read_bytes()


def test_mistaken_arguments_are_refused(bare, second, tmp_path, capsys):
    assert main(["report", str(bare.path), str(second.path)]) == 2
    assert "--to is None; give the file" in capsys.readouterr().err
    assert main(["report", str(bare.path), "--to", str(tmp_path)]) == 2
    assert "a folder; give a file in it" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no run is given"):
        report([])
    result = read_json(bare.evaluation_file())
    write_text(bare.evaluation_file(), json.dumps(result | {"images": 7}))
    with pytest.raises(ValueError, match="360 images and evaluation.json 7; evaluate again"):
        report(bare)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("data.json", '{"splits": {"train": 3}}'),
        ("figures/augmentation.png", "no image"),
        ("history.csv", "epoch,accuracy\n1,many\n"),
    ],
)
def test_damaged_files_are_named(name, content, bare):
    write_text(bare.path / name, content)
    with pytest.raises(ValueError, match=rf"{name}( is damaged|: )"):
        report(bare)


def test_missing_packages_are_named(bare, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else found(name)
    )
    with pytest.raises(
        ValueError, match=r"needs matplotlib; pip install 'keras-residual\[report\]'"
    ):
        report(bare)


def lines(svg, color):
    """Return the width of each line of a color within the axes, and whether it is dashed."""
    styles = [
        path.get("style", "")
        for path in ET.fromstring(svg).iter(f"{SVG}path")
        if path.get("clip-path")
    ]
    return [
        (float((re.search(r"stroke-width: ([\d.]+)", style) or [0, 1])[1]), "dasharray" in style)
        for style in styles
        if f"stroke: {color}" in style and "fill: none" in style
    ]


def test_curves_are_drawn_as_in_the_paper():
    """Figure 6: thin for plain networks, bold for residual ones; training dashed, test solid."""
    points = [(1.0, 50.0), (2.0, 8.0)]
    drawn = [
        figures.Curve(name="plain", plain=True, training=points, test=[]),
        figures.Curve(name="_residual", plain=False, training=[], test=points),
        figures.Curve(name="residual", plain=False, training=points, test=points),
    ]
    svg = figures.training_curves(drawn, "iterations")
    first, second, third = (lines(svg, color) for color in figures.COLORS[:3])
    (thin, _), (bold, _) = first[0], second[0]
    assert 2 * thin <= bold
    assert first == [(thin, True)]
    assert second == [(bold, False)]
    assert third == [(bold, True), (bold, False)]
    texts = [element.text for element in ET.fromstring(svg).iter(f"{SVG}text")]
    assert {"plain", "_residual", "iterations", "error (%)"} <= set(texts)
    assert texts.count("residual") == 2, "in the legend and at the end of its line"


def test_a_single_confusion_is_seen_among_a_thousand_classes():
    """The matrix in the SVG is a picture; a point of it stands for four by four classes."""
    confusion = 20 * np.eye(1000, dtype=int)
    confusion[702, 201] = 10
    svg = ET.fromstring(figures.confusion_image(confusion, [str(i) for i in range(1000)]))
    pictures = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("L"))
        for image in svg.iter(f"{SVG}image")
        if (uri := image.get("{http://www.w3.org/1999/xlink}href"))
    ]
    matrix = max(pictures, key=lambda picture: picture.shape[1])[::-1]  # SVG turns it over
    height, width = matrix.shape
    rows, columns = np.nonzero(matrix < 200)
    beside = np.abs(rows / height - columns / width) > 0.05  # the diagonal
    assert beside.any()
    assert rows[beside] / height == pytest.approx(0.7, abs=0.01)
    assert columns[beside] / width == pytest.approx(0.2, abs=0.01)


def test_colors_differ_for_color_blind_people():
    """In lightness or hue for each kind of blindness; here by the names of Okabe and Ito.

    K. Ito and M. Okabe, Color Universal Design (2008): blue, vermillion, bluish green, reddish
    purple and black are (0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167) and 0.
    """
    published = [(0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (0, 0, 0)]
    assert [
        tuple(int(color[at : at + 2], 16) for at in (1, 3, 5)) for color in figures.COLORS
    ] == published


def test_heat_maps_sum_to_the_logits(tested):
    """Section 2 of Zhou et al.: the mean of a map and the bias of its class are its logit."""
    classifier = open_run(tested)
    images = list(DIGITS.test.images[:6])
    inputs = report_images.views_of(images, classifier.preprocessing)
    classes = np.arange(6)
    maps = report_images.heat_maps(classifier, inputs, classes)
    bias = classifier.model.get_layer("predictions").bias.numpy()
    logits = classifier.model.predict(inputs, verbose=0)[np.arange(6), classes]
    assert maps.mean(axis=(1, 2)) + bias[classes] == pytest.approx(logits, abs=1e-4)


def test_a_heat_map_is_bright_where_its_values_are_large():
    heat = np.array([[-5.0, 0.0], [0.0, 3.0]])
    image = report_images.overlay(np.full((8, 8, 3), 128, np.uint8), heat)
    assert image.shape == (64, 64, 3)
    brightness = image.astype(int).sum(axis=2)
    assert np.unravel_index(brightness.argmax(), (64, 64)) >= (40, 40)
    assert brightness[-1, -1] > 1.5 * brightness[0, 0]


@pytest.mark.parametrize("encoded", [False, True])
def test_images_are_found_by_their_content(encoded):
    """Of pixels and of files, in any order, as the network sees them."""
    run = data.preprocessing.Preprocessing(resize=8, crop=8, scale=(255, 255, 255))
    images = DIGITS.test.images[:5]
    split = Arrays(images, np.zeros(5, np.int32))
    if encoded:
        files = []
        for image in images:
            file = io.BytesIO()
            Image.fromarray(image).save(file, "PNG")
            files.append(file.getvalue())
        examples = tf.data.Dataset.from_tensor_slices((files, np.zeros(5, int)))
        split = data.own_data.as_split(examples)
    hashes = [row.tobytes() for row in content_hashes(split)]
    found = report_images.contents_of(split, [hashes[4], hashes[1], bytes(32)])
    assert found.keys() == {hashes[1], hashes[4]}
    inputs = report_images.views_of([found[hashes[4]], found[hashes[1]]], run)
    np.testing.assert_allclose(inputs, images[[4, 1]] / 255, atol=1e-6)
