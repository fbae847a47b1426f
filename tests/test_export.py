import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_resnet import data
from keras_resnet.evaluate import test_probabilities as evaluated_probabilities
from keras_resnet.export import export, versions
from keras_resnet.run import Run

# What a server does: no Keras code of ours can be imported in this process.
SERVE = """
import sys
sys.modules["keras_resnet"] = None
import numpy as np, tensorflow as tf
folder, pictures, answers = sys.argv[1:]
with np.load(pictures) as archive:
    encoded = [archive[name].tobytes() for name in archive.files]
signature = tf.saved_model.load(folder).signatures["serving_default"]
answer = signature(image_bytes=tf.constant(encoded))
answer["classes"] = answer["classes"].numpy().astype("S9")
np.savez(answers, **answer)
"""


@pytest.fixture(scope="module")
def exported(digits_run, tmp_path_factory):
    return export(digits_run.path, to=tmp_path_factory.mktemp("saved_models"))


def ask(folder, encoded, tmp_path):
    pictures, answers = tmp_path / "pictures.npz", tmp_path / "answers.npz"
    np.savez(pictures, *[np.frombuffer(one, np.uint8) for one in encoded])
    subprocess.run(
        [sys.executable, "-I", "-c", SERVE, str(folder), str(pictures), str(answers)], cwd=tmp_path, check=True
    )
    return dict(np.load(answers))


def test_a_fresh_process_answers_with_the_probabilities_that_evaluate_saw(digits_run, exported, tmp_path):
    encoded = [tf.io.encode_png(image).numpy() for image in data.load("digits").test.images]
    answer = ask(exported, encoded, tmp_path)
    wanted, _ = evaluated_probabilities(digits_run)
    np.testing.assert_allclose(answer["probabilities"], wanted, atol=1e-5)
    best = np.argsort(-answer["probabilities"], axis=1, kind="stable")[:, :5]
    assert (answer["classes"].astype(int) == best).all()
    np.testing.assert_array_equal(answer["scores"], np.take_along_axis(answer["probabilities"], best, axis=1))


def test_pictures_of_different_sizes_and_kinds_in_one_request(digits_run, exported, tmp_path):
    digit = data.load("digits").test.images[0]
    large = tf.cast(tf.image.resize(digit, (80, 120), "nearest"), tf.uint8)
    encoded = [tf.io.encode_png(digit), tf.io.encode_jpeg(large, quality=100), tf.io.encode_png(large[..., :1])]
    answer = ask(exported, [one.numpy() for one in encoded], tmp_path)
    assert answer["probabilities"].shape == (3, 10)
    np.testing.assert_allclose(answer["probabilities"].sum(axis=1), 1, atol=1e-5)


def test_signatures(exported):
    signatures = tf.saved_model.load(str(exported)).signatures
    assert set(signatures) == {"serving_default", "tensor"}
    spec = signatures["serving_default"].structured_input_signature[1]["image_bytes"]
    assert spec.dtype == tf.string and spec.shape.as_list() == [None]
    spec = signatures["tensor"].structured_input_signature[1]["inputs"]
    assert spec.dtype == tf.float32 and spec.shape.as_list() == [None, 8, 8, 3]
    for signature in signatures.values():
        assert all(output.shape[0] is None for output in signature.structured_outputs.values())


def test_every_weight_is_stored_once(digits_run, exported):
    """float32, so four bytes a weight; the rest of the data file is a checkpoint's bookkeeping."""
    count = keras.models.load_model(digits_run.model_file).count_params()
    size = (exported / "variables" / "variables.data-00000-of-00001").stat().st_size
    assert 4 * count <= size < 4 * count + 20_000


@pytest.mark.slow
def test_versions_count_up_and_nothing_else_is_left(digits_run, tmp_path):
    assert [export(digits_run.path, to=tmp_path).name for _ in range(2)] == ["1", "2"]
    (tmp_path / digits_run.name / "10").mkdir()
    (tmp_path / digits_run.name / "not-a-version").mkdir()
    assert export(digits_run.path, to=tmp_path).name == "11"
    names = {path.name for path in (tmp_path / digits_run.name).iterdir()}
    assert names == {"1", "2", "10", "11", "not-a-version"}
    assert [path.name for path in versions(tmp_path / digits_run.name)] == ["1", "2", "10", "11"]


def test_labels_travel_with_it(exported):
    assert (exported / "assets" / "labels.txt").read_text().splitlines() == list("0123456789")


def test_a_saved_model_that_disagrees_is_not_released(digits_run, tmp_path, monkeypatch):
    monkeypatch.setattr("keras_resnet.export.TOLERANCE", -1.0)
    with pytest.raises(ValueError, match="logits differ"):
        export(digits_run.path, to=tmp_path)
    assert list((tmp_path / digits_run.name).iterdir()) == []


def test_an_untrained_run_is_refused(digits_run, tmp_path):
    shutil.copytree(digits_run.path, tmp_path / "run")
    Run(tmp_path / "run").model_file.unlink()
    with pytest.raises(ValueError, match="not trained to its end"):
        export(tmp_path / "run", to=tmp_path)
