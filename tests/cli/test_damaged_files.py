"""Files of a run that are damaged: one line that names the file, and exit status 2."""

import json
import math
import shutil

import numpy as np
import pytest

from keras_resnet.cli.commands import main
from keras_resnet.files import MAX_TEXT, parse_json, read_table, read_text
from keras_resnet.runs.dataset import load_dataset, require_recorded
from keras_resnet.runs.run import Run
from keras_resnet.tuning.folder import Search, begin

NESTED = "[" * 100_000


@pytest.fixture
def run(digits_run, tmp_path):
    return Run(shutil.copytree(digits_run.path, tmp_path / "run"))


def with_values(**values):
    """Return a change of a JSON file."""
    return lambda text: json.dumps(json.loads(text) | values)


ANY_JSON = [
    lambda text: text[: len(text) // 2],
    lambda text: "",
    lambda text: NESTED,
    lambda text: '{"a": ' * 100_000,
    lambda text: "5",
    lambda text: "[1]",
    lambda text: "null",
    lambda text: "\N{SNOWMAN}",
    lambda text: '{"resize": ' + "9" * 5000 + "}",
    lambda text: " " * (MAX_TEXT + 1),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "change"),
    [
        *((name, change) for name in ("recipe.json", "preprocessing.json") for change in ANY_JSON),
        ("recipe.json", with_values(epochs="3")),
        ("recipe.json", with_values(schedule={"a": 1})),
        ("recipe.json", with_values(seed=10**400)),
        ("recipe.json", with_values(name="../../x")),
        ("preprocessing.json", with_values(scale=[0, 1, 1])),
        ("preprocessing.json", with_values(scale=[math.nan, 1, 1])),
        ("preprocessing.json", with_values(scale=[1e-50, 1, 1])),  # 0 in float32
        ("preprocessing.json", with_values(mean=[1e300, 1, 1])),  # infinite in float32
        ("preprocessing.json", with_values(mean=[10**400, 1, 1])),
        ("preprocessing.json", with_values(mean=[[1], 2])),
        ("preprocessing.json", with_values(mean={"a": 1})),
        ("preprocessing.json", with_values(crop=10**9, resize=10**9, mean=[0, 0, 0])),
        ("preprocessing.json", with_values(crop=10**400)),
        ("labels.txt", lambda text: ""),
        ("labels.txt", lambda text: text + "\n"),
        ("provenance.json", with_values(directory=5)),
        ("provenance.json", with_values(environment=[1])),
        ("provenance.json", lambda text: NESTED),
    ],
)
def test_a_damaged_file_is_one_line_that_names_it(run, name, change, tmp_path, capsys):
    file = run.path / name
    text = file.read_text()
    file.write_text(change(text))
    # A run on a folder of images looks where it was started.
    if name == "provenance.json":
        run.recipe_file.write_text(with_values(dataset="images")(run.recipe_file.read_text()))
    assert main(["evaluate", str(run.path)]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"keras-resnet: {file}") and len(shown.err) < 1000
    assert len(shown.err.splitlines()) == 1 and shown.out == ""


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "file").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="file is damaged: 'utf-8' codec"):
        read_text(tmp_path / "file")
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json(NESTED)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("labels.txt", "0\n1\n", "labels.txt has 2 names"),
        ("preprocessing.json", '{"resize": 9, "crop": 9}', "images of 9 px"),
    ],
)
def test_files_of_different_runs_are_refused(run, name, text, says, capsys):
    (run.path / name).write_text(text)
    assert main(["evaluate", str(run.path)]) == 2
    error = capsys.readouterr().err
    assert "files of different runs" in error and says in error


def test_names_keep_the_characters_that_some_take_for_ends_of_lines(run):
    names = tuple(f"{i}\x85\u2028\x1c" for i in range(10))
    run.class_names_file.write_text("".join(f"{name}\n" for name in names), "utf-8")
    assert run.class_names() == names


@pytest.mark.parametrize("change", ANY_JSON)
def test_a_damaged_record_of_the_data_is_named(run, change):
    dataset = load_dataset(run.recipe())
    require_recorded(run, dataset)
    run.data_file.write_text(change(run.data_file.read_text()))
    with pytest.raises(ValueError, match="data.json is damaged"):
        require_recorded(run, dataset)


@pytest.mark.parametrize(
    "splits", [5, {"train": 5}, {"train": {"images": []}}, [["train"]], {"train": [1]}]
)
def test_a_record_of_the_data_of_other_types_is_named(run, splits):
    run.data_file.write_text(json.dumps({"splits": splits}))
    with pytest.raises(ValueError, match="data.json is damaged|has changed since"):
        require_recorded(run, load_dataset(run.recipe()))


@pytest.mark.parametrize(
    "change",
    [
        *ANY_JSON,
        with_values(top1_error="5"),
        with_values(top1_error=None),
        with_values(images=1e3),
        with_values(images=10**400),
        with_values(top5_error=True),
        with_values(top1_error=100.5),
        with_values(top5_error=float("nan")),
        with_values(top1_error=-1),
        with_values(images=0),
        with_values(split=5),
    ],
)
def test_a_damaged_evaluation_is_named(run, change):
    whole = {"top1_error": 1, "top5_error": 0.5, "images": 3, "dataset": "d", "split": "test"}
    run.evaluation_file().write_text(json.dumps(whole))
    assert run.evaluation() == run.evaluation() | whole
    run.evaluation_file().write_text(change(json.dumps(whole)))
    with pytest.raises(ValueError, match="evaluation.json is damaged"):
        run.evaluation()


@pytest.mark.parametrize("change", [*ANY_JSON, with_values(recipe=5), with_values(over=None)])
def test_damaged_settings_of_a_search_are_named(tmp_path, change):
    wanted = {"recipe": {"seed": 1}, "over": ["depth"], "algorithm": "random"}
    found = Search(tmp_path)
    begin(found, wanted)
    begin(found, wanted)
    found.search_file.write_text(change(found.search_file.read_text()))
    with pytest.raises(ValueError, match="search.json is damaged|holds a search with over=None"):
        begin(found, wanted)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "epoch,loss\n",
        "epoch,loss\n1\n",
        "epoch,loss\n1,2,3\n",
        "epoch,loss\n1,low\n",
        f"epoch,loss\n1,{'9' * 200_000}\n",
    ],
)
def test_a_damaged_history_is_named(tmp_path, text):
    Run(tmp_path).history_file.write_text(text)
    with pytest.raises(ValueError, match="history.csv is damaged"):
        Run(tmp_path).history()


def test_the_history_of_a_run(digits_run):
    rows = digits_run.history()
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert all(0 <= row["val_accuracy"] <= 1 and np.isfinite(row["loss"]) for row in rows)


def test_a_table_keeps_its_text(tmp_path):
    (tmp_path / "table.csv").write_bytes(b'a,b\n"x\ny","\xc3\xa9"\n')
    assert read_table(tmp_path / "table.csv") == [{"a": "x\ny", "b": "é"}]
