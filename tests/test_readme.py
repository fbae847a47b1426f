"""Every Python block of the READMEs runs as it is printed, in order, in an empty folder."""

import importlib.util
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from keras_resnet import ResNet20, data
from keras_resnet.networks import applications

ROOT = Path(__file__).parents[1]
READMES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in (ROOT, ROOT / "keras_resnet", ROOT / "scripts")
    for path in folder.glob("README.md" if folder == ROOT else "**/README.md")
)
LINK = re.compile(r"\]\((?!http|#)([^)#]+)(?:#[^)]*)?\)")


def blocks(readme):
    return re.findall(
        r"^```python\n(.*?)^```", (ROOT / readme).read_text(encoding="utf-8"), re.DOTALL | re.M
    )


def run_blocks(readme):
    """Run every Python block of a README, and return the variables."""
    scope = {}
    for block in blocks(readme):
        exec(compile(block, readme, "exec"), scope)
    return scope


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)


def test_every_readme_with_python_has_a_test():
    """Those of data and serving are tests/data/test_readme.py and tests/serving/test_readme.py."""
    assert {readme for readme in READMES if blocks(readme)} == {
        "README.md",
        "keras_resnet/data/README.md",
        "keras_resnet/evaluation/README.md",
        "keras_resnet/networks/README.md",
        "keras_resnet/serving/README.md",
        "keras_resnet/training/README.md",
    }


@pytest.mark.slow
def test_the_top_readme():
    scope = run_blocks("README.md")
    served = tf.saved_model.load("saved_models/mine/1").signatures["image_tensor"]
    digits = data.load("digits").test
    classes = served(images=tf.constant(digits.images))["classes"].numpy()[:, 0]
    assert np.mean(classes.astype(int) == digits.labels) > 0.5
    assert scope["model"].output_shape == (None, 37)
    assert scope["backbone"].output_shape == (None, 2048)


def test_the_top_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= 12_000


@pytest.mark.slow
def test_the_networks_readme(monkeypatch):
    """Public weights are files of the same layouts with random numbers."""
    script = ROOT / "scripts" / "golden_torchvision.py"
    spec = importlib.util.spec_from_file_location("golden_torchvision", script)
    golden = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(golden)
    shapes = golden.shapes("resnet18")
    tensors = {key: golden.tensor(key, shape) for key, shape in shapes.items()}
    safetensors.numpy.save_file(tensors, "model.safetensors")
    theirs = keras.applications.ResNet50(weights=None)
    theirs.save_weights("published.weights.h5")
    monkeypatch.setattr(applications, "fetch", lambda *_, **__: Path("published.weights.h5"))
    building, public, trained, fine_tuning, detecting = blocks("keras_resnet/networks/README.md")
    scope = {}
    exec(building, scope)
    assert scope["model"].output_shape == (None, 100)
    assert scope["features"].output_shape == (None, 2048)
    with pytest.warns(UserWarning, match="the backbone is loaded"):
        exec(public, scope)
    photographs = scope["images"]
    prepared = keras.applications.resnet.preprocess_input(photographs.astype("float32"))
    wanted = theirs.predict(prepared, verbose=0)
    np.testing.assert_allclose(scope["probabilities"], wanted, atol=1e-5)
    assert scope["model"].output_shape == (None, 37)
    exec(trained, scope)
    np.testing.assert_allclose(scope["probabilities"].sum(axis=1), [1, 1], rtol=1e-5)
    with pytest.warns(UserWarning, match="the backbone is loaded"):
        exec(fine_tuning, scope)
    pretrained = ResNet20(weights="pretrained.weights.h5", classes=10).get_layer("conv1_bn")
    frozen = scope["model"].get_layer("conv1_bn")
    for got, wanted in zip(frozen.get_weights(), pretrained.get_weights(), strict=True):
        np.testing.assert_array_equal(got, wanted)
    scope["images"] = photographs
    exec(detecting, scope)
    shapes = {name: tuple(value.shape) for name, value in scope["stages"].items()}
    assert shapes == {
        "C2": (2, 56, 56, 256),
        "C3": (2, 28, 28, 512),
        "C4": (2, 14, 14, 1024),
        "C5": (2, 7, 7, 2048),
    }


@pytest.mark.slow
def test_the_training_readme(monkeypatch):
    # TensorFlow numbers the collectives of every strategy of a process from the same start.
    monkeypatch.setattr(tf.distribute.MirroredStrategy, "_collective_key_base", 1000)
    run_blocks("keras_resnet/training/README.md")
    assert Path("runs/further/model.keras").is_file()
    assert keras.saving.load_model("mine.keras").optimizer.learning_rate is not None
    assert keras.saving.load_model("resnet20.keras").output_shape == (None, 10)


@pytest.mark.slow
def test_the_evaluation_readme(capsys):
    own, calibration, two, shown, depth, other, stored = blocks("keras_resnet/evaluation/README.md")
    scope = {}
    exec(own, scope)
    error = scope["result"]["top1_error"]
    exec(calibration, scope)
    # Where tanh(b / 2) = 4 / (1 + exp(4 b)) + 3 / (1 + exp(3 b)), b = 1 / T.
    assert scope["temperature"] == pytest.approx(1.227, abs=0.005)
    exec(two, scope)
    assert scope["found"].images == 360 and 0 < scope["found"].p_value <= 1
    exec(other, scope)
    assert scope["result"]["images"] == 24 and scope["result"]["views"] == "ten-crop"
    capsys.readouterr()
    exec(stored, scope)
    assert f"{error:.2f} % are wrong" in capsys.readouterr().out
    assert scope["wrong"].mean() == pytest.approx(error / 100)
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    exec(shown, scope)
    assert Path("seeds.html").stat().st_size < 2e6
    exec(depth, scope)
    assert scope["maps"].shape == (4, 8, 8)
    # Of 9 units of ResNet-20 with option A, 7 have an identity for a shortcut.
    assert capsys.readouterr().out.count("None None") == 2


@pytest.mark.parametrize("readme", READMES)
def test_links_and_named_files_exist(readme):
    text = (ROOT / readme).read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```|`[^`]*`", "", text, flags=re.DOTALL | re.M)
    for link in LINK.findall(prose):
        assert ((ROOT / readme).parent / link).exists(), link
    for name in re.findall(r"`((?:scripts|tests|keras_resnet)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), name
