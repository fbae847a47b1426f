"""Test the measurement of exports, of a tiny run and with few requests."""

import csv
import json
import shutil
from dataclasses import fields

import numpy as np
import pytest

from keras_resnet import data
from keras_resnet.cli.commands import main
from keras_resnet.evaluation.evaluate import predictions
from keras_resnet.serving import benchmark as module
from keras_resnet.serving.benchmark import Row, benchmark
from keras_resnet.serving.turns import in_turns

pytestmark = pytest.mark.slow

FEW = {"rounds": 2, "seconds": 0.05}
MEASURED = [one.name for one in fields(Row) if one.name not in ("variant", "problem")]


@pytest.fixture
def exports(exported, tmp_path):
    """An export, and a copy of it as one in bfloat16."""
    for name in ("digits", "digits-bfloat16"):
        shutil.copytree(exported, tmp_path / name / "3")
    return tmp_path / "digits"


def test_an_export_and_those_beside_it_are_measured(exports, digits_run, tmp_path, capsys):
    command = ["benchmark", str(exports), "--run", str(digits_run.path), "--rounds", "2"]
    command += ["--seconds", "0.05", "--to", str(tmp_path / "measured")]
    (tmp_path / "digits-int8" / "1").mkdir(parents=True)
    (tmp_path / "digits-int8" / "1" / "saved_model.pb").write_bytes(b"no graph")
    assert main(command) == 0
    shown = capsys.readouterr().out
    found = json.loads((tmp_path / "measured" / "benchmark.json").read_text())
    rows = {row["variant"]: row for row in found["rows"]}
    assert list(rows) == ["float32", "bfloat16", "int8"]
    assert "saved_model.pb" in rows["int8"]["problem"]
    assert f"int8: {rows['int8']['problem']}" in shown
    assert all(rows["int8"][name] is None for name in MEASURED)
    wanted, labels = predictions(digits_run)
    for row in (rows["float32"], rows["bfloat16"]):
        assert row["error"] == pytest.approx(100 * np.mean(wanted.argmax(axis=1) != labels))
        assert row["changed"] == 0
        assert row["interval"][0] < row["error"] < row["interval"][1]
        assert 0 < row["batch1_ms"] <= row["batch1_p95_ms"] < 1000 * row["load_seconds"] * 100
        assert row["batch8_ms"] > 0 and row["first_ms"] > 0 and row["images_per_second"] > 0
        assert row["resident_bytes"] > 10**7
    files = [path for path in (exports / "3").rglob("*") if path.is_file()]
    assert rows["float32"]["bytes_on_disk"] == sum(path.stat().st_size for path in files)
    assert (found["images"], found["count"]) == ("test of digits", 360)
    assert found["cores"] >= 1 and found["processor"] in shown
    with open(tmp_path / "measured" / "benchmark.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["variant"] for row in table] == list(rows)
    names = [name for name in MEASURED if name != "interval"]
    assert list(table[0]) == ["variant", "problem", *names, "interval_low", "interval_high"]
    assert float(table[0]["error"]) == rows["float32"]["error"]
    assert table[2]["error"] == ""


def test_a_run_is_exported_in_each_variant_that_is_possible(
    digits_run, exported, monkeypatch, tmp_path
):
    """The exports are stand-ins: a copy of float32, and an error."""
    asked = []

    def export(run, directory, *, tolerance, **how):
        asked.append(how)
        if how.get("precision") != "float32":
            raise ValueError("it cannot be")
        return exported

    monkeypatch.setattr(module, "export", export)
    monkeypatch.setattr(module, "missing_packages", lambda format: format != "onnx")
    found = benchmark(digits_run, **FEW)
    precisions = [{"precision": name} for name in ("float32", "bfloat16", "int8")]
    assert asked == [*precisions, {"format": "onnx"}]
    assert [row.problem for row in found.rows] == ["", *["it cannot be"] * 3]
    assert found.rows[0].changed == 0 and found.count == len(data.load("digits").test)


def test_without_a_run_there_is_no_error(exported):
    """A version stands for its folder."""
    (row,) = benchmark(exported, **FEW).rows
    assert row.problem == "" and row.batch1_ms > 0
    assert (row.error, row.interval, row.changed) == (None, None, None)


def test_a_named_version_is_measured_and_not_the_newest(exports):
    """The newest of those beside it are measured, too."""
    for folder in (exports, exports.with_name("digits-bfloat16")):
        newer = shutil.copytree(folder / "3", folder / "10")
        (newer / "more").write_bytes(bytes(10**6))
    old, beside = benchmark(exports / "3", **FEW).rows
    new, _ = benchmark(exports, **FEW).rows
    assert new.bytes_on_disk == beside.bytes_on_disk == old.bytes_on_disk + 10**6


def test_an_export_of_other_classes_is_not_judged(exports, digits_run):
    labels = exports.with_name("digits-bfloat16") / "3" / "assets" / "labels.txt"
    labels.write_text("cat\ndog\n")
    first, second = benchmark(exports, run=digits_run, **FEW).rows
    assert first.error is not None
    assert "whose classes are not those of" in second.problem and "bfloat16" in second.problem
    (exports / "3" / "assets" / "labels.txt").write_text("cat\n")
    with pytest.raises(ValueError, match=f"run is {digits_run.path.name}, whose classes"):
        benchmark(exports, run=digits_run, **FEW)


def test_the_table_is_printed_even_if_it_cannot_be_written(exports, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    command = ["benchmark", str(exports), "--rounds", "1", "--seconds", "0.05"]
    assert main([*command, "--to", str(tmp_path / "file" / "folder")]) == 2
    shown = capsys.readouterr()
    assert "bfloat16" in shown.out and len(shown.err.splitlines()) == 1


def test_a_variant_that_dies_is_a_row_that_says_so(exports, monkeypatch):
    started = module._start

    def start(stack, kind, version):
        process, shape = started(stack, kind, version)
        if kind == "bfloat16":
            ask = process.ask

            def dies(verb, **arguments):
                if verb == "load":
                    process._process._process.kill()
                return ask(verb, **arguments)

            monkeypatch.setattr(process, "ask", dies)
        return process, shape

    monkeypatch.setattr(module, "_start", start)
    first, second = benchmark(exports, **FEW).rows
    assert first.problem == "" and first.images_per_second > 0
    assert "signal 9 ended it" in second.problem and second.batch1_ms is None


def test_contenders_take_turns():
    calls = []
    values = in_turns(["a", "b"], 2, lambda name: calls.append(name) or len(calls))
    assert "".join(calls) == "ab" + "ba" + "ab"
    assert values == {"a": [4, 5], "b": [3, 6]}  # the first round does not count


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is neither a run (recipe.json) nor an export"),
        (["nowhere", "--rounds", "0"], "--rounds is 0; give a positive number"),
        (["nowhere", "--seconds", "nan"], "--seconds is nan; give a positive number"),
        (["RUN", "--run", "RUN"], "--run is given; the target is a run"),
    ],
)
def test_mistakes_are_one_line(arguments, message, digits_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = [str(digits_run.path) if one == "RUN" else one for one in arguments]
    assert main(["benchmark", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
