"""Comparing two runs, against published tables and pairs that are counted by hand."""

import io
import json
import shutil
import subprocess
import sys
import zipfile
from dataclasses import asdict, replace

import numpy as np
import pytest

from keras_resnet import compare, evaluate
from keras_resnet.cli.commands import main
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.evaluation.compare import compared, paired_interval
from keras_resnet.evaluation.prediction_files import (
    Predictions,
    read_predictions,
    write_predictions,
)
from keras_resnet.files import write_text
from keras_resnet.runs.run import Run

NAMES = ("cat", "dog", "fish")


@pytest.mark.parametrize(
    ("counts", "interval"),
    [
        ((36, 12, 2, 0), (0.0569, 0.3404)),
        ((20, 12, 2, 16), (0.0562, 0.3292)),
        ((18, 12, 2, 18), (0.0562, 0.3290)),
        ((36, 14, 0, 0), (0.1528, 0.4167)),
        ((35, 14, 0, 1), (0.1461, 0.4175)),
        ((18, 14, 0, 18), (0.1441, 0.3963)),
        ((2, 97, 1, 0), (0.8721, 0.9854)),
        ((1, 97, 1, 1), (0.8736, 0.9850)),
        ((0, 29, 1, 0), (0.6666, 0.9882)),
        ((2, 98, 0, 0), (0.9178, 0.9945)),
        ((1, 98, 0, 1), (0.9171, 0.9916)),
        ((0, 30, 0, 0), (0.8395, 1.0000)),
        ((54, 0, 0, 0), (-0.0664, 0.0664)),
        ((53, 0, 0, 1), (-0.0729, 0.0729)),
        ((30, 0, 0, 24), (-0.0358, 0.0358)),
        ((29, 0, 0, 25), (-0.0354, 0.0354)),
        ((28, 0, 0, 26), (-0.0352, 0.0352)),
        ((27, 0, 0, 27), (-0.0351, 0.0351)),
    ],
)
def test_the_paired_interval_is_newcombes(counts, interval):
    """R. G. Newcombe, Statistics in Medicine 17 (1998) 2635-2650, Table III, method 10.

    The table has four digits, the last of which is cut off in one row.
    """
    found = paired_interval(*counts)
    assert found == pytest.approx([100 * end for end in interval], abs=0.01)


def test_a_comparison_against_fagerland():
    """Cavo et al. 2012 in Fagerland, Lydersen and Laake, Statistical Analysis of Contingency
    Tables (2017), chapter 8, with the numbers in the tests of their R package."""
    found = compared(both_wrong=59, only_second_right=16, only_first_right=6, both_right=80)
    assert found.images == 161
    assert found.difference == pytest.approx(-6.21, abs=0.005)
    assert found.difference_interval == pytest.approx([-11.86, -0.46], abs=0.005)
    assert found.p_value == pytest.approx(0.052479, abs=5e-7)


def test_the_exact_mcnemar_test_against_statsdirect():
    """Armitage and Berry, Statistical Methods in Medical Research (1994), page 127."""
    found = compared(both_right=20, only_first_right=12, only_second_right=2, both_wrong=16)
    assert found.p_value == pytest.approx(0.0129, abs=5e-5)


def test_the_exact_mcnemar_test_by_hand():
    """Of eight coins, at most one on one side: 2 (1 + 8) / 2^8."""
    found = compared(both_right=1, only_first_right=7, only_second_right=1, both_wrong=12)
    assert found.p_value == pytest.approx(18 / 256)
    for n in (0, 1, 2, 10):  # as many on either side
        same = compared(both_right=5, only_first_right=n, only_second_right=n, both_wrong=1)
        assert (same.p_value, same.difference) == (1, 0)


def test_the_other_way_round_has_the_other_sign():
    counts = {"both_right": 300, "both_wrong": 20}
    one = compared(only_first_right=30, only_second_right=10, **counts)
    other = compared(only_first_right=10, only_second_right=30, **counts)
    assert one.difference == -other.difference == pytest.approx(100 * 20 / 360)
    low, high = other.difference_interval
    assert one.difference_interval == pytest.approx([-high, -low])
    assert one.p_value == other.p_value
    assert one.first_error == other.second_error == pytest.approx(100 * 30 / 360)
    assert one.second_interval == other.first_interval


def hashes(*images):
    """Return a hash per image, which differs from others in its last byte alone."""
    rows = np.zeros((len(images), 32), np.uint8)
    rows[:, 31] = images
    return rows


def stored(run, images, labels, answers, names=NAMES):
    """Store predictions whose most probable classes are the answers."""
    logits = np.eye(len(names), dtype=np.float32)[list(answers)]
    predictions = Predictions(
        logits=logits,
        labels=np.array(labels, np.int32),
        hashes=hashes(*images),
        class_names=names,
    )
    write_predictions(run.predictions_file(), predictions)
    return run


def four(found):
    return (
        found.both_right, found.only_first_right, found.only_second_right, found.both_wrong
    )  # fmt: skip


@pytest.fixture
def runs(tmp_path):
    return Run(tmp_path / "a"), Run(tmp_path / "b")


def test_images_are_paired_in_any_order(runs):
    a = stored(runs[0], [1, 2, 3, 4, 5, 6], [0, 1, 2, 0, 1, 2], [0, 1, 2, 0, 0, 0])
    b = stored(runs[1], [6, 4, 1, 5, 3, 2], [2, 0, 0, 1, 2, 1], [0, 0, 0, 1, 0, 2])
    # In the order of a, b says 0 2 0 0 1 0.
    found = compare(a, b)
    assert four(found) == (2, 2, 1, 1)
    assert found.first_error == pytest.approx(200 / 6)
    assert found.second_error == pytest.approx(300 / 6)


def test_the_order_of_many_images_changes_nothing(runs):
    """Bit for bit, with hashes and answers at random, and every image three times."""
    random = np.random.default_rng(0)
    unique = random.integers(0, 256, (500, 32), dtype=np.uint8)
    labels = random.integers(0, 3, 500).astype(np.int32)
    logits = [random.normal(size=(500, 3)).astype(np.float32) for _ in runs]
    wanted = [row.argmax(axis=1) == labels for row in logits]
    for run, rows in zip(runs, logits, strict=True):
        order = random.permutation(np.repeat(np.arange(500), 3))
        predictions = Predictions(
            logits=rows[order], labels=labels[order], hashes=unique[order], class_names=NAMES
        )
        write_predictions(run.predictions_file(), predictions)
    a, b = wanted
    found = compare(*runs)
    assert four(found) == tuple(3 * int(np.sum(both)) for both in (a & b, a & ~b, ~a & b, ~a & ~b))


def test_an_image_that_occurs_twice_is_paired_twice(runs):
    a = stored(runs[0], [1, 1, 2], [0, 0, 1], [0, 0, 0])
    b = stored(runs[1], [2, 1, 1], [1, 0, 0], [1, 2, 2])
    assert four(compare(a, b)) == (0, 2, 1, 0)


def test_an_image_with_two_labels_is_paired_by_label(runs):
    """It lies in the folders of two classes; the first run says the one, the second the other."""
    a = stored(runs[0], [7, 7], [0, 1], [0, 0])
    b = stored(runs[1], [7, 7], [1, 0], [1, 1])
    assert four(compare(a, b)) == (0, 1, 1, 0)


def test_a_tie_is_wrong_as_in_evaluate(runs):
    for run in runs:
        stored(run, [1], [0], [0])
        predictions = replace(
            read_predictions(run.predictions_file()), logits=np.ones((1, 3), np.float32)
        )
        write_predictions(run.predictions_file(), predictions)
    assert four(compare(*runs)) == (0, 0, 0, 1)


@pytest.fixture(scope="module")
def evaluated(digits_run, tmp_path_factory):
    """The smallest run twice, the second time with a mean image that it was not trained with."""
    runs = []
    for name, mean in (("a", None), ("b", (90.0, 90.0, 90.0))):
        path = tmp_path_factory.mktemp("evaluated") / name
        # Other tests may have evaluated the run.
        ignored = shutil.ignore_patterns("evaluation*", "predictions*")
        shutil.copytree(digits_run.path, path, ignore=ignored)
        run = Run(path)
        if mean:
            trained = Preprocessing.read(run.preprocessing_file)
            write_text(run.preprocessing_file, replace(trained, mean=mean).to_json())
        for views in ("single", "ten-crop"):
            evaluate(run, views=views)
        runs.append(run)
    return runs


@pytest.mark.slow
@pytest.mark.parametrize("views", ["single", "ten-crop"])
def test_two_runs(evaluated, views):
    """The errors are exactly those of `evaluate`; the pairs are counted in the order of images."""
    results = [json.loads(run.evaluation_file(views).read_text()) for run in evaluated]
    found = compare(*evaluated, views=views)
    assert found.images == 360
    assert [found.first_error, found.second_error] == [r["top1_error"] for r in results]
    assert [found.first_interval, found.second_interval] == [r["top1_interval"] for r in results]
    right = []
    for run in evaluated:
        with np.load(run.predictions_file(views)) as arrays:
            right.append(arrays["logits"].argmax(axis=1) == arrays["labels"])
    a, b = right
    assert found.only_first_right == np.sum(a & ~b) > 0
    assert found.only_second_right == np.sum(~a & b)
    same = compare(evaluated[0].path, str(evaluated[0].path), views=views)
    assert (same.difference, same.p_value) == (0, 1)
    assert same.only_first_right == same.only_second_right == 0


def test_other_data_is_found_by_the_name_it_was_evaluated_with(runs, tmp_path, monkeypatch):
    """`test_evaluate.py` shows that `evaluate` writes files of these names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some photos").mkdir()
    for run in runs:
        file = stored(run, [1, 2], [0, 1], [0, 0]).predictions_file()
        for name in ("digits-train", "some-photos", "validation-ten-crop"):
            shutil.copy(file, run.path / f"predictions-{name}.npz")
        file.unlink()
    assert compare(*runs, data="digits", split="train").images == 2
    assert compare(*runs, data="some photos/").images == 2
    assert compare(*runs, split="validation", views="ten-crop").images == 2
    with pytest.raises(ValueError, match="has no predictions-digits-validation-ten-crop.npz; "):
        compare(*runs, data="digits", split="validation", views="ten-crop")


@pytest.mark.slow
def test_the_command_line_prints_a_comparison(evaluated, capsys):
    a, b = (str(run.path) for run in evaluated)
    found = compare(a, b)
    assert main(["evaluate", a, b]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{a}: top-1 error {found.first_error:.2f} % (")
    assert lines[1].startswith(f"{b}: top-1 error {found.second_error:.2f} % (")
    assert lines[2] == (
        f"of the same 360 images both have {found.both_right} right, {a} alone "
        f"{found.only_first_right}, {b} alone {found.only_second_right}, neither {found.both_wrong}"
    )
    assert f"{found.difference:+.2f} percentage points (" in lines[3]
    assert lines[4] == f"exact McNemar test of equal errors: p = {found.p_value:.3g}"
    assert "spread over seeds" in lines[5]
    assert main(["evaluate", a, b, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer == {"first": a, "second": b} | asdict(found)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--scores", "logits"], "--scores is 'logits'; two runs are compared by what they"),
        (["--batch-size", "8"], "--batch-size is 8; two runs are compared by what they"),
        (["--views", "multi-scale"], "has no predictions-multi-scale.npz; evaluate it first, with"),
        (["--split", "validation"], "the same --dataset, --split and --views"),
    ],
)
def test_the_command_line_refuses_in_one_line(evaluated, flags, says, capsys):
    assert main(["evaluate", *(str(run.path) for run in evaluated), *flags]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_comparing_loads_no_tensorflow():
    code = "import sys, keras_resnet; keras_resnet.compare; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_what_cannot_be_compared(runs, tmp_path):
    a = stored(runs[0], [1, 2, 2], [0, 1, 1], [0, 0, 0])
    with pytest.raises(ValueError, match="b is not a run: it has no recipe.json"):
        compare(a, runs[1])
    runs[1].path.mkdir()
    with pytest.raises(ValueError, match="b has no predictions.npz; evaluate it first"):
        compare(a, runs[1])
    b = stored(runs[1], [1, 2, 3, 4], [0, 1, 1, 1], [0, 0, 0, 0])
    with pytest.raises(
        ValueError,
        match="a and .*b were not tested on the same images: 1 of 3 are only in the first, 2 of 4"
        " only in the second; evaluate both on the same data",
    ):
        compare(a, b)
    b = stored(runs[1], [1, 2, 2], [0, 1, 2], [0, 0, 0])
    with pytest.raises(ValueError, match="b were tested with different labels of 1 images"):
        compare(a, b)
    b = stored(runs[1], [1, 2, 2], [0, 1, 1], [0, 0, 0], ("cat", "fish", "dog"))
    with pytest.raises(ValueError, match="different classes: class 1 is 'dog' and 'fish'"):
        compare(a, b)
    b = stored(runs[1], [1, 2, 2], [0, 1, 1], [0, 0, 0], (*NAMES, "bird"))
    with pytest.raises(ValueError, match="different classes: 3 and 4 of them"):
        compare(a, b)


def test_a_file_that_is_cut_off_is_named(runs):
    """At every length."""
    a = stored(runs[0], [1, 2, 3], [0, 1, 1], [0, 0, 0])
    shutil.copytree(a.path, runs[1].path)
    file = runs[1].predictions_file()
    content = file.read_bytes()
    for length in range(0, len(content), 7):
        file.write_bytes(content[:length])
        with pytest.raises(
            ValueError, match=r"b/predictions.npz is damaged \(.+\); evaluate again"
        ):
            compare(a, runs[1])
    file.write_bytes(content)
    assert compare(a, runs[1]).images == 3


WHOLE = {
    "logits": np.zeros((2, 3), np.float32),
    "labels": np.zeros(2, np.int32),
    "hashes": hashes(1, 2),
    "class_names": np.array(NAMES),
}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hashes": None}, "has no hashes; an earlier version wrote it: evaluate again"),
        ({"class_names": None}, "has no class_names"),
        ({"logits": np.zeros((2, 4), np.float32)}, "logits is float32 of shape"),
        ({"logits": np.zeros((2, 3), np.int32)}, "logits is int32"),
        ({"logits": np.array([["a"] * 3] * 2, object)}, "Object arrays cannot be loaded"),
        ({"labels": np.zeros((2, 1), np.int32)}, "labels is int32 of shape"),
        ({"labels": np.array([0, 3], np.int32)}, "its labels are not those of 3 classes"),
        ({"labels": np.array([0, -1], np.int32)}, "its labels are not those of 3 classes"),
        ({"hashes": hashes(1, 2)[:, :16]}, "hashes is uint8 of shape"),
        ({"class_names": np.array(5)}, "is damaged"),
        ({"labels": np.array(5, np.int32)}, "is damaged"),
    ],
)
def test_a_file_that_holds_something_else_is_named(tmp_path, changes, says):
    file = tmp_path / "predictions.npz"
    np.savez_compressed(file, **WHOLE)
    assert read_predictions(file).class_names == NAMES
    arrays = {name: array for name, array in (WHOLE | changes).items() if array is not None}
    np.savez_compressed(file, **arrays)
    with pytest.raises(ValueError, match=f"predictions.npz .*{says}"):
        read_predictions(file)


def test_a_file_that_declares_more_than_it_holds_is_not_read(tmp_path):
    """Sixteen terabytes in the header of an array."""
    file = tmp_path / "predictions.npz"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in WHOLE.items():
            content = io.BytesIO()
            shape = (2**42, 1) if name == "logits" else array.shape
            header = np.lib.format.header_data_from_array_1_0(array) | {"shape": shape}
            np.lib.format.write_array_header_1_0(content, header)
            archive.writestr(f"{name}.npy", content.getvalue() + array.tobytes())
    with pytest.raises(ValueError, match="logits.npy declares more than it holds"):
        read_predictions(file)
