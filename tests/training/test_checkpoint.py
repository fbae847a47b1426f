import errno
import io
import random
import resource
import warnings
import zipfile

import keras
import numpy as np
import pytest

from keras_resnet.training import checkpoint


def compiled(width=3, seed=0):
    """Return a model of two layers, trained for a few steps with momentum."""
    keras.utils.set_random_seed(seed)
    dense, norm = (
        keras.layers.Dense(width, name="dense"),
        keras.layers.BatchNormalization(name="norm"),
    )
    model = keras.Sequential([keras.Input((4,)), dense, norm], name="model")
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", metrics=["mae"])
    rng = np.random.default_rng(seed)
    model.fit(rng.normal(size=(16, 4)), rng.normal(size=(16, width)), batch_size=4, verbose=0)
    return model


def state(model):
    return {name: keras.ops.convert_to_numpy(v.value) for name, v in checkpoint._variables(model)}


def same(a, b):
    return a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a)


@pytest.mark.slow
def test_the_complete_state_is_restored(tmp_path):
    model, other = compiled(), compiled(seed=1)
    notes = {"history": [{"loss": 0.1 + 0.2, "val_loss": float("inf")}], "more": [1, "two", None]}
    checkpoint.save(tmp_path, 12, model, notes)
    assert not same(state(model), state(other))
    assert checkpoint.restore(tmp_path, other) == (12, notes, None)
    assert same(state(model), state(other))
    groups = {name.split("/")[0] for name in state(model)}
    assert groups == {"model", "optimizer"}
    assert int(other.optimizer.iterations) == 4


@pytest.mark.slow
def test_the_best_weights_are_restored_too(tmp_path):
    model, best = compiled(), compiled(seed=1).get_weights()
    checkpoint.save(tmp_path, 12, model, {}, best)
    _, _, found = checkpoint.restore(tmp_path, compiled(seed=2))
    assert len(found) == len(best)
    for a, b in zip(found, best, strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    assert checkpoint.restore(tmp_path / "nowhere", compiled()) is None


def test_the_two_newest_checkpoints_are_kept(tmp_path):
    model = compiled()
    for step in (1, 20, 300):
        checkpoint.save(tmp_path, step, model, {})
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "step-00000020.npz",
        "step-00000300.npz",
    ]
    assert checkpoint.restore(tmp_path, model)[0] == 300


def cut(data, rng):
    return data[: rng.randrange(len(data))]


def flip_a_bit(data, rng):
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]


def zero_a_page(data, rng):
    place = rng.randrange(len(data))
    return (data[:place] + bytes(512) + data[place + 512 :])[: len(data)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [cut, *(pytest.param(how, marks=pytest.mark.slow) for how in (flip_a_bit, zero_a_page))],
)
def test_a_damaged_checkpoint_is_named_and_the_previous_one_restored(tmp_path, damage):
    """Either the damage is detected, or it hit unused bytes and all numbers are correct."""
    rng = random.Random(0)
    older, newer, model = compiled(), compiled(seed=1), compiled(seed=2)
    checkpoint.save(tmp_path, 1, older, {"is": "older"})
    path = checkpoint.save(tmp_path, 2, newer, {"is": "newer"})
    whole, seen = path.read_bytes(), 0
    for _ in range(200):
        path.write_bytes(damage(whole, rng))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step, notes, _ = checkpoint.restore(tmp_path, model)
        damaged = [w for w in caught if "is damaged" in str(w.message)]
        assert (step, notes) == ((1, {"is": "older"}) if damaged else (2, {"is": "newer"}))
        assert same(state(model), state(older if damaged else newer))
        seen += len(damaged)
    assert seen > 100


def test_if_all_are_damaged_training_starts_from_scratch(tmp_path):
    path = checkpoint.save(tmp_path, 2, compiled(), {})
    path.write_bytes(b"")
    with pytest.warns(UserWarning, match="step-00000002.npz is damaged"):
        assert checkpoint.restore(tmp_path, compiled()) is None


def declare(path, shape):
    """Rewrite the newest checkpoint with another declared shape of its last array."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name, content = list(members.items())[-1]
    array = np.lib.format.read_array(io.BytesIO(content))
    file = io.BytesIO()
    header = np.lib.format.header_data_from_array_1_0(array) | {"shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    members[name] = file.getvalue() + array.tobytes()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2**44,), (2**31, 2**31, 2**31), (10**9,)])
def test_an_array_that_declares_more_than_the_file_holds_is_skipped(tmp_path, shape):
    """16 TB of float32, and a size beyond any address space."""
    checkpoint.save(tmp_path, 1, compiled(), {"is": "older"})
    declare(checkpoint.save(tmp_path, 2, compiled(), {}), shape)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.warns(UserWarning, match="00000002.npz is damaged .* declares more than it holds"):
        assert checkpoint.restore(tmp_path, compiled(seed=1))[:2] == (1, {"is": "older"})
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


@pytest.mark.slow
def test_a_header_that_is_not_python_is_skipped(tmp_path):
    """NumPy parses headers as Python before the checksum of the array is verified."""
    checkpoint.save(tmp_path, 1, compiled(), {"is": "older"})
    path = checkpoint.save(tmp_path, 2, compiled(), {})
    content = path.read_bytes()
    assert content.count(b"}  ") > 1
    path.write_bytes(content.replace(b"}  ", b"} ("))
    with pytest.warns(UserWarning, match="00000002.npz is damaged"):
        assert checkpoint.restore(tmp_path, compiled())[:2] == (1, {"is": "older"})


@pytest.mark.slow
def test_an_archive_that_expands_is_skipped(tmp_path):
    checkpoint.save(tmp_path, 1, compiled(), {"is": "older"})
    path = checkpoint.save(tmp_path, 2, compiled(), {})
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.npy", bytes(10**8))
    assert path.stat().st_size < 10**6
    with pytest.warns(UserWarning, match="it declares more than it holds"):
        assert checkpoint.restore(tmp_path, compiled())[:2] == (1, {"is": "older"})


@pytest.mark.slow
def test_an_unreadable_file_is_skipped(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, compiled(), {"is": "older"})
    path = checkpoint.save(tmp_path, 2, compiled(), {})
    original = zipfile.ZipFile.open

    def failing(archive, *args, **kwargs):
        if archive.filename == str(path):
            raise OSError(errno.EIO, "Input/output error")
        return original(archive, *args, **kwargs)

    monkeypatch.setattr(zipfile.ZipFile, "open", failing)
    with pytest.warns(UserWarning, match="is damaged .*Input/output error"):
        assert checkpoint.restore(tmp_path, compiled())[:2] == (1, {"is": "older"})
    monkeypatch.undo()
    path.unlink()
    path.mkdir()
    with pytest.warns(UserWarning, match="is damaged .*Is a directory"):
        assert checkpoint.restore(tmp_path, compiled())[:2] == (1, {"is": "older"})


def test_the_newest_has_the_largest_step(tmp_path):
    """From a hundred million steps on, the newest is not the last in alphabetical order."""
    model = compiled()
    (tmp_path / "step-x.npz").touch()
    for step in (99_999_999, 100_000_000):
        checkpoint.save(tmp_path, step, model, {})
    assert checkpoint.restore(tmp_path, model)[0] == 100_000_000


def test_another_models_checkpoint_is_refused_and_changes_nothing(tmp_path):
    checkpoint.save(tmp_path, 1, compiled(width=5), {})
    model = compiled()
    before = state(model)
    with pytest.raises(
        ValueError,
        match=r"another model: model/00000/.*kernel is \(4, 5\) in it and \(4, 3\) in this one",
    ):
        checkpoint.restore(tmp_path, model)
    assert same(before, state(model))


def test_nothing_is_pickled(tmp_path):
    path = checkpoint.save(tmp_path, 1, compiled(), {"text": "é"})
    with np.load(path, allow_pickle=False) as archive:
        assert all(archive[name].dtype != object for name in archive.files)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
