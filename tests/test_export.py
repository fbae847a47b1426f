import errno
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time

import keras
import pytest
import tensorflow as tf

from keras_resnet.cli import main
from keras_resnet.export import export, versions
from keras_resnet.fold import fold
from keras_resnet.run import Run

COMMAND = [sys.executable, "-m", "keras_resnet", "export"]


def test_signatures(exported):
    signatures = tf.saved_model.load(str(exported)).signatures
    kinds = {
        name: (
            {key: (spec.dtype.name, spec.shape.as_list()) for key, spec in s.structured_input_signature[1].items()},
            {key: (spec.dtype.name, spec.shape.as_list()) for key, spec in s.structured_outputs.items()},
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
    """float32, so four bytes a weight; the rest of the data file is a checkpoint's bookkeeping."""
    count = fold(keras.models.load_model(digits_run.model_file)).count_params()
    size = (exported / "variables" / "variables.data-00000-of-00001").stat().st_size
    assert 4 * count <= size < 4 * count + 10_000
    checkpoint = tf.train.load_checkpoint(str(exported / "variables" / "variables"))
    shapes = checkpoint.get_variable_to_shape_map()
    stored = [tf.TensorShape(shape).num_elements() for name, shape in shapes.items() if "VARIABLE_VALUE" in name]
    assert sum(stored) == count


def test_what_travels_with_it(digits_run, exported):
    names = {str(path.relative_to(exported)) for path in exported.rglob("*") if path.is_file()}
    assert names == {
        "README.md",
        "assets/labels.txt",
        "assets.extra/tf_serving_warmup_requests",
        "batching_params.pbtxt",
        "fingerprint.pb",
        "saved_model.pb",
        "variables/variables.data-00000-of-00001",
        "variables/variables.index",
    }
    assert (exported / "assets" / "labels.txt").read_text().splitlines() == list("0123456789")
    raw = b"".join(path.read_bytes() for path in exported.rglob("*") if path.is_file())
    assert str(digits_run.path).encode() not in raw and os.getcwd().encode() not in raw


def test_the_card_gives_the_measured_error_and_the_hashes(digits_run, tmp_path, monkeypatch):
    """The gate has been tested elsewhere, and takes its time."""
    monkeypatch.setattr("keras_resnet.export._require_passed", lambda *_: None)
    shutil.copytree(digits_run.path, tmp_path / "run", ignore=shutil.ignore_patterns("evaluation*"))
    result = {"top1_error": 12.3456, "top5_error": 1.0, "images": 360, "dataset": "digits", "split": "test"}
    Run(tmp_path / "run").evaluation_file().write_text(json.dumps(result))
    version = export(tmp_path / "run", to=tmp_path)
    card = (version / "README.md").read_text()
    assert "| single | 12.35 % | 1.00 % | 360, test of digits |" in card
    found = re.findall(r"\| `([\w./-]+)` \| ([\d,]+) \| `(\w{64})` \|", card)
    assert len(found) == 7
    for name, size, digest in found:
        done = subprocess.run(["sha256sum", version / name], capture_output=True, text=True, check=True)
        assert done.stdout.split()[0] == digest
        assert int(size.replace(",", "")) == (version / name).stat().st_size
    Run(tmp_path / "run").evaluation_file().unlink()
    assert "Not measured" in (export(tmp_path / "run", to=tmp_path) / "README.md").read_text()


def test_versions_count_up_and_nothing_else_is_left(digits_run, tmp_path, monkeypatch):
    monkeypatch.setattr("keras_resnet.export._require_passed", lambda *_: None)
    base = tmp_path / digits_run.name
    for name in ("2", "10", "not-a-version"):
        (base / name).mkdir(parents=True)
        (base / name / "saved_model.pb").touch()
    assert export(digits_run.path, to=tmp_path).name == "11"
    assert {path.name for path in base.iterdir()} == {"2", "10", "11", "not-a-version"}
    assert [path.name for path in versions(base)] == ["2", "10", "11"]
    assert (base / "11").stat().st_mode & 0o777 == 0o777 & ~current_umask(), "a server runs as another user"


def current_umask():
    umask = os.umask(0)
    os.umask(umask)
    return umask


def test_a_saved_model_that_disagrees_is_not_released(digits_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("keras_resnet.export.TOLERANCE", -1.0)
    assert main(["export", str(digits_run.path), "--to", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "does not pass" in error and "tensor: logits differ from the network's by" in error
    assert list((tmp_path / digits_run.name).iterdir()) == []


@pytest.mark.slow
def test_a_network_that_is_folded_wrongly_is_not_released(digits_run, tmp_path, monkeypatch):
    def wrong(model):
        folded = fold(model)
        layer = folded.get_layer("conv1_conv")
        layer.set_weights([weight * 1.001 for weight in layer.get_weights()])
        return folded

    monkeypatch.setattr("keras_resnet.export.fold", wrong)
    with pytest.raises(ValueError, match="probabilities differ from the network's by"):
        export(digits_run.path, to=tmp_path)
    assert list((tmp_path / digits_run.name).iterdir()) == []


def test_a_full_disk_is_one_clear_line_and_leaves_nothing(digits_run, tmp_path, capsys):
    """A write beyond 100 kB fails as on a full disk; the weights have 300 kB."""
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
def test_a_killed_export_leaves_no_version_and_the_next_one_clears_up(digits_run, tmp_path):
    base = tmp_path / digits_run.name
    process = subprocess.Popen([*COMMAND, str(digits_run.path), "--to", str(tmp_path)], stdout=subprocess.DEVNULL)
    while not list(base.glob("*/version/saved_model.pb")):
        time.sleep(0.05)
        assert process.poll() is None
    process.kill()
    process.wait()
    assert versions(base) == [] and len(list(base.iterdir())) == 1
    assert export(digits_run.path, to=tmp_path).name == "1"
    assert [path.name for path in base.iterdir()] == ["1"]


@pytest.mark.slow
def test_two_exports_at_once_are_two_versions(digits_run, tmp_path):
    command = [*COMMAND, str(digits_run.path), "--to", str(tmp_path), "--json"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    made = [json.loads(process.communicate()[0])["export"] for process in both]
    base = tmp_path / digits_run.name
    assert sorted(made) == [str(base / "1"), str(base / "2")]
    assert {path.name for path in base.iterdir()} == {"1", "2"}
    assert (base / "1" / "saved_model.pb").is_file() and (base / "2" / "saved_model.pb").is_file()


def test_an_untrained_run_is_refused(digits_run, tmp_path):
    shutil.copytree(digits_run.path, tmp_path / "run")
    Run(tmp_path / "run").model_file.unlink()
    with pytest.raises(ValueError, match="not trained to its end"):
        export(tmp_path / "run", to=tmp_path)
