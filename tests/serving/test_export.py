import errno
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import tensorflow as tf

from keras_resnet.cli.commands import main
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.networks.folding import fold_batch_norm
from keras_resnet.runs.classifier import open_run
from keras_resnet.runs.run import Run
from keras_resnet.serving.export import export
from keras_resnet.serving.gate import TOLERANCE
from keras_resnet.serving.lowering import in_float32
from keras_resnet.serving.model_card import write_card
from keras_resnet.serving.version_folders import versions

COMMAND = [sys.executable, "-m", "keras_resnet", "export"]


@pytest.mark.slow
def test_signatures(exported):
    signatures = tf.saved_model.load(str(exported)).signatures
    kinds = {
        name: (
            {
                key: (spec.dtype.name, spec.shape.as_list())
                for key, spec in s.structured_input_signature[1].items()
            },
            {
                key: (spec.dtype.name, spec.shape.as_list())
                for key, spec in s.structured_outputs.items()
            },
        )
        for name, s in signatures.items()
    }
    best = {"classes": ("string", [None, 5]), "scores": ("float32", [None, 5])}
    classified = best | {"probabilities": ("float32", [None, 10])}
    images = {"images": ("uint8", [None, None, None, 3])}
    assert kinds == {
        "serving_default": ({"image_bytes": ("string", [None])}, classified),
        "image_tensor": (images, classified),
        "features": (images, {"features": ("float32", [None, 64])}),
        "tensor": ({"inputs": ("float32", [None, 8, 8, 3])}, {"logits": ("float32", [None, 10])}),
        "classify": ({"inputs": ("string", [None])}, best),
    }


def test_every_weight_is_stored_once(digits_run, exported):
    """4 bytes per float32 weight, besides the metadata of the checkpoint."""
    count = fold_batch_norm(open_run(digits_run).split.model).count_params()
    size = (exported / "variables" / "variables.data-00000-of-00001").stat().st_size
    assert 4 * count <= size < 4 * count + 10_000
    checkpoint = tf.train.load_checkpoint(str(exported / "variables" / "variables"))
    shapes = checkpoint.get_variable_to_shape_map()
    stored = [
        tf.TensorShape(shape).num_elements()
        for name, shape in shapes.items()
        if "VARIABLE_VALUE" in name
    ]
    assert sum(stored) == count


def test_files(digits_run, exported):
    names = {str(path.relative_to(exported)) for path in exported.rglob("*") if path.is_file()}
    assert names == {
        "README.md",
        "assets/labels.txt",
        "assets.extra/preprocessing.json",
        "assets.extra/tf_serving_warmup_requests",
        "batching_params.pbtxt",
        "fingerprint.pb",
        "saved_model.pb",
        "variables/variables.data-00000-of-00001",
        "variables/variables.index",
    }
    assert (exported / "assets" / "labels.txt").read_text().splitlines() == list("0123456789")
    stated = Preprocessing.read(exported / "assets.extra" / "preprocessing.json")
    assert stated == Preprocessing.read(digits_run.preprocessing_file)
    raw = b"".join(path.read_bytes() for path in exported.rglob("*") if path.is_file())
    assert str(digits_run.path).encode() not in raw and os.getcwd().encode() not in raw


@pytest.mark.slow
def test_the_card_states_the_measured_error_and_the_hashes(digits_run, tmp_path, unchecked):
    shutil.copytree(digits_run.path, tmp_path / "run", ignore=shutil.ignore_patterns("evaluation*"))
    result = {
        "top1_error": 100 * 81 / 263,
        "top5_error": 100 * 3 / 263,
        "images": 263,
        "dataset": "digits",
        "split": "test",
    }
    Run(tmp_path / "run").evaluation_file().write_text(json.dumps(result))
    version = export(tmp_path / "run", tmp_path / "export")
    card = (version / "README.md").read_text()
    # The interval of 81 in 263 is in Table I of Newcombe 1998.
    assert "| views | top-1 error | top-5 error | images |" in card
    assert "| single | 30.80 % (25.53 to 36.62) | 1.14 % (" in card
    assert "263, test of digits |" in card and "not the spread over seeds" in card
    found = re.findall(r"\| `([\w./-]+)` \| ([\d,]+) \| `(\w{64})` \|", card)
    assert len(found) == 8
    for name, size, digest in found:
        done = subprocess.run(
            ["sha256sum", version / name], capture_output=True, text=True, check=True
        )
        assert done.stdout.split()[0] == digest
        assert int(size.replace(",", "")) == (version / name).stat().st_size
    Run(tmp_path / "run").evaluation_file().unlink()
    version = export(tmp_path / "run", tmp_path / "export")
    assert "Not measured" in (version / "README.md").read_text()
    assert "An EXIF orientation is applied first." in card


def test_the_card_of_five_classes_has_no_top_5_error(digits_run, tmp_path):
    """An evaluation by an earlier version has one, which is always 0."""
    run = Run(shutil.copytree(digits_run.path, tmp_path / "run"))
    result = {"top1_error": 50.0, "top5_error": 0.0, "images": 4, "dataset": "pets"}
    run.evaluation_file().write_text(json.dumps(result | {"split": "test"}))
    few = replace(open_run(run), class_names=tuple("abcde"))
    write_card(tmp_path, few, in_float32(few.split.model), ["serving_default"], [])
    card = (tmp_path / "README.md").read_text()
    assert "top-5" not in card
    assert "| views | top-1 error | images |\n|---|---|---|\n| single | 50.00 % (" in card


@pytest.mark.slow
def test_the_next_version_has_the_next_number(digits_run, tmp_path, unchecked):
    base = tmp_path / digits_run.name
    for name in ("2", "10", "not-a-version"):
        (base / name).mkdir(parents=True)
        (base / name / "saved_model.pb").touch()
    assert export(digits_run, base) == base / "11"
    assert {path.name for path in base.iterdir()} == {"2", "10", "11", "not-a-version"}
    assert [path.name for path in versions(base)] == ["2", "10", "11"]
    assert (base / "11").stat().st_mode & 0o777 == 0o777 & ~current_umask(), (
        "a server runs as another user"
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "link", "broken link"])
def test_files_and_links_keep_their_numbers(digits_run, tmp_path, unchecked, kind):
    base = tmp_path / "export"
    base.mkdir()
    (tmp_path / "target").touch()
    if kind == "file":
        (base / "1").write_text("mine")
    else:
        (base / "1").symlink_to(tmp_path / ("target" if kind == "link" else "nowhere"))
    (base / "\N{ARABIC-INDIC DIGIT SEVEN}").mkdir()  # not a version to a server
    (base / ("9" * 30)).mkdir()  # exceeds a server's int64
    assert export(digits_run, base) == base / "2"
    assert (base / "1").is_symlink() or (base / "1").read_text() == "mine"
    assert [path.name for path in versions(base)] == ["2"]


@pytest.mark.slow
def test_folders_that_cannot_be_opened_are_not_flushed(
    digits_run, tmp_path, unchecked, monkeypatch
):
    """Windows cannot open folders."""
    opened = []

    def windows(path, flags, *rest, **more):
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        opened.append(Path(path).name)
        return original(path, flags, *rest, **more)

    original = os.open
    monkeypatch.setattr("keras_resnet.serving.version_folders._flush", flush_with(windows))
    assert export(digits_run, tmp_path / "export").name == "1"
    assert {"saved_model.pb", "labels.txt", "variables.index"} <= set(opened)


def flush_with(open_):
    def flush(path, flags):
        os.close(open_(path, flags))

    return flush


def current_umask():
    umask = os.umask(0)
    os.umask(umask)
    return umask


@pytest.mark.slow
def test_a_saved_model_with_different_answers_is_not_exported(
    digits_run, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(TOLERANCE, "float32", -1.0)
    assert main(["export", str(digits_run.path), "--to", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "does not pass" in error and "tensor: logits differ from the model's by" in error
    assert list((tmp_path / digits_run.name).iterdir()) == []


@pytest.mark.slow
def test_an_incorrectly_folded_network_is_not_exported(digits_run, tmp_path, monkeypatch):
    def incorrect(model):
        folded = fold_batch_norm(model)
        layer = folded.get_layer("conv1_conv")
        layer.set_weights([weight * 1.001 for weight in layer.get_weights()])
        return folded

    monkeypatch.setattr("keras_resnet.serving.export.fold_batch_norm", incorrect)
    with pytest.raises(ValueError, match="probabilities differ from the model's by"):
        export(digits_run, tmp_path / "export")
    assert list((tmp_path / "export").iterdir()) == []


@pytest.mark.slow
def test_a_full_disk_gives_one_clear_line_and_leaves_nothing(digits_run, tmp_path, capsys):
    """Files cannot exceed 100 kB, as on a full disk; the weights have 300 kB."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        assert main(["export", str(digits_run.path), "--to", str(tmp_path)]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("keras-resnet: ") and os.strerror(errno.EFBIG) in lines[-1]
    assert list((tmp_path / digits_run.name).iterdir()) == []


@pytest.mark.slow
def test_a_killed_export_leaves_no_version_and_the_next_one_removes_its_files(digits_run, tmp_path):
    base = tmp_path / digits_run.name
    process = subprocess.Popen(
        [*COMMAND, str(digits_run.path), "--to", str(tmp_path)], stdout=subprocess.DEVNULL
    )
    while not list(base.glob("*/version/saved_model.pb")):
        time.sleep(0.05)
        assert process.poll() is None
    process.kill()
    process.wait()
    assert versions(base) == [] and len(list(base.iterdir())) == 1
    assert export(digits_run, base).name == "1"
    assert [path.name for path in base.iterdir()] == ["1"]


@pytest.mark.slow
def test_two_simultaneous_exports_are_two_versions(digits_run, tmp_path):
    command = [*COMMAND, str(digits_run.path), "--to", str(tmp_path), "--json"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    exported = [json.loads(process.communicate()[0])["export"] for process in processes]
    base = tmp_path / digits_run.name
    assert sorted(exported) == [str(base / "1"), str(base / "2")]
    assert {path.name for path in base.iterdir()} == {"1", "2"}
    assert (base / "1" / "saved_model.pb").is_file() and (base / "2" / "saved_model.pb").is_file()


def test_an_untrained_run_is_refused(digits_run, tmp_path):
    shutil.copytree(digits_run.path, tmp_path / "run")
    Run(tmp_path / "run").model_file.unlink()
    with pytest.raises(ValueError, match="not fully trained"):
        export(tmp_path / "run", tmp_path / "export")
    assert not (tmp_path / "export").exists()


@pytest.mark.slow
def test_a_run_is_exported_to_saved_models(digits_run, tmp_path, monkeypatch, unchecked):
    monkeypatch.chdir(tmp_path)
    assert str(export(digits_run)) == f"saved_models/{digits_run.name}/1"


@pytest.mark.parametrize("argument", ["class_names", "preprocessing"])
def test_class_names_and_preprocessing_of_a_run_cannot_be_given(digits_run, tmp_path, argument):
    with pytest.raises(ValueError, match=f"^{argument} is given; a run has its own"):
        export(digits_run, tmp_path / "export", **{argument: ["cat", "dog"]})


@pytest.mark.slow
def test_the_check_starts_one_process(digits_run, tmp_path, monkeypatch):
    started = []

    def run(command, **settings):
        started.append(command)
        return original(command, **settings)

    original = subprocess.run
    monkeypatch.setattr(subprocess, "run", run)
    export(digits_run, tmp_path / "export")
    assert [Path(command[2]).name for command in started] == ["cpp_loader.py"]
