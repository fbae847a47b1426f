"""What TensorBoard shows of a training, also of one that was interrupted."""

import csv
import ctypes
from dataclasses import replace
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorboard.backend.event_processing import event_accumulator

from keras_resnet import RECIPES
from keras_resnet.training.callbacks import History
from keras_resnet.training.curves import Curves
from keras_resnet.training.event_files import EventFile, cut
from keras_resnet.training.schedule import Schedule
from keras_resnet.training.train import train


def read(folder):
    """Return the steps and values of each tag, in the order in which they were written."""
    found = {}
    for file in sorted(folder.glob("events*")):
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                kind = value.WhichOneof("value")
                assert kind in ("simple_value", "image")
                found.setdefault(value.tag, []).append((event.step, getattr(value, kind)))
    return found


def test_tensorboard_shows_the_history_under_the_tags_of_keras(digits_run):
    with digits_run.history_file.open() as file:
        rows = list(csv.DictReader(file))
    for part, columns in {
        "train": {
            "epoch_loss": "loss",
            "epoch_accuracy": "accuracy",
            "epoch_learning_rate": "learning_rate",
            "epoch_seconds": "seconds",
            "epoch_images_per_second": "images_per_second",
        },
        "validation": {"epoch_loss": "val_loss", "epoch_accuracy": "val_accuracy"},
    }.items():
        found = {
            tag: points
            for tag, points in read(digits_run.tensorboard / part).items()
            if tag.startswith("epoch_")
        }
        assert {
            tag: [step for step, _ in points] for tag, points in found.items()
        } == dict.fromkeys(columns, [0, 1, 2])
        for tag, column in columns.items():
            expected = [np.float32(row[column]) for row in rows]
            assert [value for _, value in found[tag]] == expected, tag


def test_tensorboard_shows_each_step(digits_run):
    """1437 images in batches of 64: 22 steps per epoch, whose mean loss is the epoch's."""
    found = read(digits_run.tensorboard / "train")
    steps, losses = zip(*found["step_loss"], strict=True)
    assert steps == tuple(range(1, 67))
    for epoch, (_, mean) in enumerate(found["epoch_loss"]):
        assert np.mean(losses[22 * epoch : 22 * (epoch + 1)]) == pytest.approx(mean, rel=1e-4)
    steps, rates = zip(*found["step_learning_rate"], strict=True)
    assert steps == tuple(range(1, 67))
    # The paper's drops at 1/2 and 3/4 of the training.
    assert rates == pytest.approx([0.1] * 33 + [0.01] * 17 + [0.001] * 16)


def test_tensorboard_shows_the_first_augmented_images_once(digits_run):
    ((step, image),) = read(digits_run.tensorboard / "train")["augmentation"]
    assert step == 0 and image.encoded_image_string == digits_run.augmentation_figure.read_bytes()
    with Image.open(digits_run.augmentation_figure) as figure:
        assert figure.size == (image.width, image.height)


def test_tensorboard_reads_the_files(digits_run):
    """Its own reader, which the pages are made from."""
    accumulator = event_accumulator.EventAccumulator(str(digits_run.tensorboard / "train"))
    accumulator.Reload()
    tags = accumulator.Tags()
    assert {"step_loss", "step_learning_rate", "epoch_loss"} < set(tags["scalars"])
    assert tags["images"] == ["augmentation"]
    assert [event.step for event in accumulator.Scalars("step_loss")] == list(range(1, 67))


class Failing(keras.callbacks.Callback):
    """End the training after a step, as a kill does: nothing is saved."""

    def __init__(self, step):
        super().__init__()
        self.left = step

    def on_train_batch_end(self, batch, logs=None):
        self.left -= self.model.steps_per_execution
        if self.left <= 0:
            raise RuntimeError("killed")


@pytest.mark.slow
def test_an_interrupted_training_leaves_the_events_of_an_unbroken_one(tmp_path):
    """Killed before any checkpoint, within an epoch, and after one; each event is there once."""
    recipe = replace(RECIPES["digits-tiny"], deterministic=True, validate_every=2)
    unbroken = train(recipe, tmp_path / "unbroken")
    folder = tmp_path / "broken"
    for kill, checkpoint_seconds in ((10, 1e9), (30, 0.0), (20, 1e9)):
        with pytest.raises(RuntimeError, match="killed"):
            train(
                recipe,
                folder,
                checkpoint_seconds=checkpoint_seconds,
                callbacks=[Failing(kill)],
            )
    broken = train(recipe, folder)
    for part in ("train", "validation"):
        found, wanted = read(broken.tensorboard / part), read(unbroken.tensorboard / part)
        for tag in ("epoch_seconds", "epoch_images_per_second"):
            steps = [[step for step, _ in each.pop(tag, [])] for each in (found, wanted)]
            assert steps[0] == steps[1]
        assert found == wanted
        assert set(found) >= {"epoch_loss", "epoch_accuracy"}


def made(folder, steps_per_epoch=10, execution=1):
    """Return curves of a model that does nothing."""
    history = History(None, steps_per_epoch, 1)
    curves = Curves(folder, history, Schedule(0.1, "cosine", 100_000, 10))
    curves.set_model(SimpleNamespace(steps_per_execution=execution))
    curves.resume(0)
    return curves


def test_of_several_steps_in_one_execution_the_mean_is_shown(tmp_path):
    """The losses 1 to 6, two at a time; Keras gives the mean since the epoch began."""
    curves = made(tmp_path, steps_per_epoch=6, execution=2)
    curves.on_epoch_begin(0)
    for batch, mean in ((0, 1.5), (2, 2.5), (4, 3.5)):
        curves.on_train_batch_begin(batch)
        curves.on_train_batch_end(batch, {"loss": mean})
    curves.close()
    found = read(tmp_path / "train")
    assert found["step_loss"] == [(2, 1.5), (4, 3.5), (6, 5.5)]
    assert found["step_learning_rate"] == [
        (step, pytest.approx(0.1 * step / 10, rel=1e-6)) for step in (2, 4, 6)
    ]


def test_an_event_that_is_half_written_is_cut_off(tmp_path):
    written = EventFile(tmp_path / "train")
    for step in range(1, 6):
        written.add(step, step_loss=step)
    written.close()
    (file,) = (tmp_path / "train").iterdir()
    whole = file.read_bytes()
    for end in range(1, 30, 7):
        file.write_bytes(whole[:-end])
        cut(tmp_path, 9, 0)
        assert [step for step, _ in read(tmp_path / "train")["step_loss"]] == [1, 2, 3, 4]
    for damage in (b"\xff" * 12, b"\x05" + bytes(11) + b"\xff" * 9):
        file.write_bytes(whole + damage)
        cut(tmp_path, 9, 0)
        assert file.read_bytes() == whole
    cut(tmp_path, 3, 0)
    assert [step for step, _ in read(tmp_path / "train")["step_loss"]] == [1, 2, 3]
    cut(tmp_path, 0, 0)
    assert not list((tmp_path / "train").iterdir())


def test_events_leave_nothing_in_memory(tmp_path):
    if bytes_in_use() is None:
        pytest.skip("the C library has no mallinfo2")
    curves = made(tmp_path)

    def train(epochs):
        for epoch in epochs:
            curves.on_epoch_begin(epoch)
            for step in range(10):
                curves.on_train_batch_begin(step)
                curves.on_train_batch_end(step, {"loss": 10 * epoch + step + 1 / 3})
            curves.history.rows = [
                {"epoch": epoch, "loss": epoch + 1 / 3, "val_loss": epoch + 1 / 7}
            ]
            curves.on_epoch_end(epoch)

    train(range(100))
    before = bytes_in_use()
    train(range(100, 400))
    # Python numbers would leave 2,000 bytes per epoch, and as many per step.
    assert bytes_in_use() - before < 300 * 1000
    curves.close()


def bytes_in_use():
    """Return the bytes allocated by `malloc`, or None without glibc's `mallinfo2`."""
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"

    class Info(ctypes.Structure):
        _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

    mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo2 is None:
        return None
    mallinfo2.restype = Info
    info = mallinfo2()
    return info.uordblks + info.hblkhd
