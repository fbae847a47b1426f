"""What a training shows on a terminal and in a log."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from keras_resnet.training import progress
from keras_resnet.training.progress import MAX_SILENCE, ProgressBar


@pytest.fixture
def clock(monkeypatch):
    """The time, which only a test moves on."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock.now)
    return clock


def made(terminal, total=40, steps_per_epoch=20, step=0, execution=1):
    """Return a progress bar that shows into a text, and the text."""
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=100)
    bar = ProgressBar(
        console, total, steps_per_epoch, batch_size=64, step=step, validation_images=10
    )
    bar.set_model(SimpleNamespace(steps_per_execution=execution))
    return bar, text


def train(bar, clock, seconds, steps, loss=0.5):
    for step in range(steps):
        clock.now += seconds
        bar.on_train_batch_end(step, {"loss": loss})


def test_a_log_has_a_line_at_least_every_minute(clock):
    bar, text = made(terminal=False)
    bar.on_epoch_begin(0)
    last, times = 0, []
    for _ in range(20):
        train(bar, clock, seconds=7.0, steps=1)
        lines = len(text.getvalue().splitlines())
        times += [clock.now] * (lines - last)
        last = lines
    assert times == [1056.0, 1112.0]  # a step later it would be 63 s
    bar.on_epoch_end(0, {"loss": 0.25, "accuracy": 0.875, "val_accuracy": 0.5})
    *_, second, epoch = text.getvalue().splitlines()
    assert second.startswith("epoch 1/2  step 16 of 40  loss 0.5000  ")
    assert (
        epoch == "epoch 1/2  loss 0.2500  error 12.50 %  validation error 50.00 % (23.66 to 76.34)"
    )


def test_a_line_of_an_epoch_breaks_the_silence_too(clock):
    bar, text = made(terminal=False)
    bar.on_epoch_begin(0)
    train(bar, clock, 2.0, 20)
    bar.on_epoch_end(0, {"loss": 0.25, "accuracy": 0.875})
    bar.on_epoch_begin(1)
    train(bar, clock, 2.0, 20)
    assert len(text.getvalue().splitlines()) == 1
    clock.now += MAX_SILENCE
    train(bar, clock, 0.0, 1)
    assert len(text.getvalue().splitlines()) == 2


def test_a_long_validation_is_not_silent(clock):
    bar, text = made(terminal=False, execution=5)
    bar.on_epoch_begin(0)
    train(bar, clock, 1.0, 4)
    bar.on_test_begin()
    for batch in range(40):
        clock.now += 5.0
        bar.on_test_batch_end(batch)
    lines = text.getvalue().splitlines()
    assert len(lines) == 3
    assert all(
        line.startswith("epoch 1/2 validating  step 20 of 40  loss 0.5000") for line in lines
    )


def test_short_epochs_have_one_line_each(clock):
    bar, text = made(terminal=False)
    for epoch in range(2):
        bar.on_epoch_begin(epoch)
        train(bar, clock, 0.1, 20)
        bar.on_epoch_end(epoch, {"loss": 0.25, "accuracy": 0.875})
    bar.on_train_end()
    assert text.getvalue().splitlines() == [
        "epoch 1/2  loss 0.2500  error 12.50 %",
        "epoch 2/2  loss 0.2500  error 12.50 %",
    ]


def test_a_terminal_shows_the_loss_in_a_bar_and_a_line_per_epoch(clock):
    bar, text = made(terminal=True, step=10)
    bar.on_epoch_begin(0)
    train(bar, clock, 90.0, 10, loss=0.12345)
    bar.bar.refresh()
    assert "20/40" in text.getvalue() and "loss 0.1235" in text.getvalue()
    assert "images/s" in text.getvalue()
    before = text.getvalue().count("\n")
    bar.on_epoch_end(0, {"loss": 0.25, "accuracy": 0.875})
    bar.stop()
    assert "epoch 1/2  loss 0.2500  error 12.50 %" in text.getvalue()
    assert "step" not in text.getvalue()
    assert before == 0
