import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_resnet import data
from keras_resnet.evaluate import test_probabilities as evaluated_probabilities
from keras_resnet.predict import predict


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    files = [folder / f"{number}.png" for number in range(3)]
    for file, image in zip(files, data.load("digits").test.images, strict=False):
        tf.io.write_file(str(file), tf.io.encode_png(image))
    return files


def test_a_run_and_its_export_say_what_evaluate_saw(digits_run, exported, pictures):
    version = exported
    wanted, _ = evaluated_probabilities(digits_run)
    for target in (digits_run.path, version, version.parent):
        answers = predict(target, pictures, top=10)
        assert [answer["image"] for answer in answers] == [str(file) for file in pictures]
        for answer, row in zip(answers, wanted, strict=False):
            assert answer["scores"] == sorted(answer["scores"], reverse=True)
            found = np.zeros(10)
            found[[int(label) for label in answer["classes"]]] = answer["scores"]
            np.testing.assert_allclose(found, row, atol=1e-5)
    assert [len(answer["classes"]) for answer in predict(version, pictures, top=2)] == [2, 2, 2]


def test_what_cannot_be_read_is_named(digits_run, pictures, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match="text.png is no picture"):
        predict(digits_run.path, [pictures[0], tmp_path / "text.png"])
    with pytest.raises(ValueError, match="gone.png cannot be read: No such file"):
        predict(digits_run.path, [tmp_path / "gone.png"])
    with pytest.raises(ValueError, match="neither a run .* nor an export"):
        predict(tmp_path, pictures)
    with pytest.raises(ValueError, match="top is 0"):
        predict(digits_run.path, pictures, top=0)


def test_a_kind_that_exports_do_not_take_is_named(digits_run, exported, tmp_path):
    """A server would answer with an empty label."""
    Image.new("RGB", (8, 8), "white").save(tmp_path / "digit.gif")
    assert len(predict(digits_run.path, [tmp_path / "digit.gif"])) == 1
    with pytest.raises(ValueError, match="digit.gif is refused by .*takes JPEG and PNG"):
        predict(exported, [tmp_path / "digit.gif"])
