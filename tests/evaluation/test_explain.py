"""Test the page that explains depth."""

import shutil
import xml.etree.ElementTree as ET
from dataclasses import replace

import keras
import numpy as np
import pytest
from pages import parsed, require_readable, require_self_contained, rows
from PIL import Image

from keras_resnet import data, evaluate, explain
from keras_resnet.cli.commands import main
from keras_resnet.evaluation import page
from keras_resnet.evaluation.depth import measure, with_depth
from keras_resnet.files import write_text
from keras_resnet.networks.build import build
from keras_resnet.networks.paper import NETWORKS
from keras_resnet.networks.spec import ResNetSpec
from keras_resnet.runs.run import Run

PLAIN = ResNetSpec(stem="cifar", block="basic", blocks=(2, 1), width=4, shortcut=None)


def untrained(run, spec, path):
    """Copy a run, with another network of random weights."""
    copy = Run(shutil.copytree(run.path, path))
    write_text(copy.recipe_file, replace(run.recipe(), spec=spec).to_json())
    keras.utils.set_random_seed(0)
    build(spec, input_shape=(8, 8, 3), classes=10, classifier_activation=None).save(copy.model_file)
    return copy


@pytest.fixture(scope="module")
def plain(digits_run, tmp_path_factory):
    return untrained(digits_run, PLAIN, tmp_path_factory.mktemp("explained") / "plain <b>")


@pytest.fixture(scope="module")
def explained(digits_run, plain, tmp_path_factory):
    """The page on a residual and a plain network, and the folder of its figures."""
    folder = tmp_path_factory.mktemp("explanation")
    return explain(
        [digits_run, plain],
        folder / "depth.html",
        depths=[8, 14],
        landscape=True,
        figures=folder / "figures",
    )


def test_the_page_needs_nothing_else_and_can_be_read_by_all(explained):
    found = parsed(explained)
    require_self_contained(found)
    require_readable(found)
    assert explained.stat().st_size < 1_000_000
    assert "plain <b>" in explained.with_name("depth.html").read_text().replace(
        "&lt;", "<"
    ).replace("&gt;", ">")


def test_the_errors_are_those_of_evaluate(explained, digits_run, plain, tmp_path):
    """All 360 test images of the digits are measured."""
    head, residual, without_shortcuts = rows(parsed(explained), "lesions")
    assert head == ["run", "whole network", "median without one unit", "worst"]
    for row, run in ((residual, digits_run), (without_shortcuts, plain)):
        wanted = evaluate(run, directory=tmp_path)["top1_error"]
        assert row[:2] == [run.name, f"{wanted:.2f}"]


def test_each_figure_is_a_file_with_a_line_per_network(explained):
    figures = explained.parent / "figures"
    assert sorted(path.name for path in figures.glob("*.svg")) == [
        "gradient-parts.svg",
        "gradients-depths-without-batch-norm.svg",
        "gradients-depths.svg",
        "gradients-initial.svg",
        "gradients-shattered.svg",
        "gradients-trained.svg",
        "landscape-0.svg",
        "landscape-1.svg",
        "lesions.svg",
        "responses-sorted.svg",
        "responses.svg",
    ]
    assert len(list(figures.glob("*.png"))) == 2 * 4 * 3, "an image and two maps"
    for path in figures.glob("*.svg"):
        drawn = ET.parse(path).getroot()
        texts = {element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")}
        assert ("digits-tiny" in texts) == (path.name != "landscape-1.svg")
        only_residual = ("gradient-parts.svg", "landscape-0.svg")
        assert ("plain <b>" in texts) == (path.name not in only_residual)


def test_depths_are_those_of_the_paper():
    for depth in (20, 56, 110):  # n = 3, 9, 18 of Table 6
        assert with_depth(NETWORKS["resnet20"], depth) == NETWORKS[f"resnet{depth}"]
        assert with_depth(NETWORKS["plain20"], depth).depth == depth


def test_each_depth_is_named_beside_its_line(explained):
    """Two stages of basic blocks have 4n + 2 layers."""
    drawn = ET.parse(explained.parent / "figures" / "gradients-depths.svg").getroot()
    texts = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("14") == 2, "one per run"


@pytest.mark.slow
def test_without_identity_shortcuts_no_parts_are_shown(plain, tmp_path):
    file = explain(plain, tmp_path / "depth.html", depths=())
    assert parsed(file).find(".//section[@id='depths']") is None
    assert parsed(file).find(".//section[@id='parts']") is None


def test_images_are_spread_over_the_test_split(digits_run):
    found = measure(digits_run, images=100, depths=())
    assert found.images == 90, "every fourth of 360"
    labels = data.load("digits").test.labels
    assert set(labels[::4]) == set(range(10))
    blocks = [block for stage in found.spec.stages() for block in stage]
    assert [row.unit for row in found.trained] == [block.name for block in blocks]
    assert len(found.initial) == len(found.initial_without_batch_norm) == len(found.lesions)
    assert len(found.responses) == 1 + 2 * len(blocks)
    assert all(np.isfinite(row.total) and row.total > 0 for row in found.initial)


def test_the_command_writes_into_the_run(digits_run, tmp_path, capsys):
    Image.new("RGB", (9, 12), "red").save(tmp_path / "red.png")
    run = Run(shutil.copytree(digits_run.path, tmp_path / "run"))
    arguments = ["--images", "50", "--depths", "8", "--maps-of", str(tmp_path / "red.png")]
    assert main(["explain", str(run.path), *arguments]) == 0
    file = run.path / "explained.html"
    assert file.is_file() and str(file) in capsys.readouterr().out
    alts = [image.get("alt") or "" for image in parsed(file).iter("img")]
    assert sum("red.png" in alt for alt in alts) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "1"], "--images is 1; give a number of at least 2"),
        (["--depths", "2"], "--depths is 2; give numbers of layers of at least 3"),
        (["RUN"], "--to is None"),
        (["--to", "."], "--to is '.', a folder"),
    ],
)
def test_mistakes_are_named(digits_run, arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = str(digits_run.path)
    assert main(["explain", run, *(run if each == "RUN" else each for each in arguments)]) == 2
    assert message in capsys.readouterr().err


def test_what_is_missing_is_named(digits_run, tmp_path, monkeypatch):
    gone = Run(shutil.copytree(digits_run.path, tmp_path / "gone"))
    write_text(gone.recipe_file, replace(gone.recipe(), dataset="gone/images").to_json())
    with pytest.raises(ValueError, match="gone/images"):
        explain(gone)
    (gone.path / "text.png").write_text("text")
    with pytest.raises(ValueError, match="text.png is not an image that can be read"):
        explain(gone, maps_of=[gone.path / "text.png"])
    gone.model_file.unlink()
    with pytest.raises(ValueError, match="not fully trained"):
        explain(gone)
    monkeypatch.setattr(page, "PACKAGES", ("jinja2", "a_package_of_no_one"))
    with pytest.raises(ValueError, match=r"an explanation needs a_package_of_no_one; pip install"):
        explain(digits_run)
    assert not (gone.path / "explained.html").exists()
