import random
import warnings
import zipfile

import keras
import numpy as np
import pytest

from keras_resnet import checkpoint


def compiled(width=3, seed=0):
    """A model of two layers that has been trained for a few steps, with momentum in its state."""
    keras.utils.set_random_seed(seed)
    dense, norm = keras.layers.Dense(width, name="dense"), keras.layers.BatchNormalization(name="norm")
    model = keras.Sequential([keras.Input((4,)), dense, norm], name="model")
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", metrics=["mae"])
    rng = np.random.default_rng(seed)
    model.fit(rng.normal(size=(16, 4)), rng.normal(size=(16, width)), batch_size=4, verbose=0)
    return model


def state(model):
    return {name: keras.ops.convert_to_numpy(v.value) for name, v in checkpoint._variables(model)}


def same(a, b):
    return a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a)


def test_everything_comes_back(tmp_path):
    model, other = compiled(), compiled(seed=1)
    notes = {"history": [{"loss": 0.1 + 0.2, "val_loss": float("inf")}], "more": [1, "two", None]}
    checkpoint.save(tmp_path, 12, model, notes)
    assert not same(state(model), state(other))
    assert checkpoint.restore(tmp_path, other) == (12, notes)
    assert same(state(model), state(other))
    groups = {name.split("/")[0] for name in state(model)}
    assert groups == {"model", "optimizer"}
    assert int(other.optimizer.iterations) == 4


def test_nothing_there(tmp_path):
    assert checkpoint.restore(tmp_path / "nowhere", compiled()) is None


def test_the_newest_two_are_kept(tmp_path):
    model = compiled()
    for step in (1, 20, 300):
        checkpoint.save(tmp_path, step, model, {})
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-00000020.npz", "step-00000300.npz"]
    assert checkpoint.restore(tmp_path, model)[0] == 300


def cut(data, rng):
    return data[: rng.randrange(len(data))]


def flip_a_bit(data, rng):
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]


def zero_a_page(data, rng):
    place = rng.randrange(len(data))
    return (data[:place] + bytes(512) + data[place + 512 :])[: len(data)]


@pytest.mark.parametrize("damage", [cut, flip_a_bit, zero_a_page])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(tmp_path, damage):
    """Either the damage is seen, or it hit bytes without meaning and all numbers are right."""
    rng = random.Random(0)
    older, newer, model = compiled(), compiled(seed=1), compiled(seed=2)
    checkpoint.save(tmp_path, 1, older, {"is": "older"})
    path = checkpoint.save(tmp_path, 2, newer, {"is": "newer"})
    whole, seen = path.read_bytes(), 0
    for _ in range(200):
        path.write_bytes(damage(whole, rng))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step, notes = checkpoint.restore(tmp_path, model)
        damaged = [w for w in caught if "is damaged" in str(w.message)]
        assert (step, notes) == ((1, {"is": "older"}) if damaged else (2, {"is": "newer"}))
        assert same(state(model), state(older if damaged else newer))
        seen += len(damaged)
    assert seen > 100


def test_all_damaged_means_from_the_start(tmp_path):
    path = checkpoint.save(tmp_path, 2, compiled(), {})
    path.write_bytes(b"")
    with pytest.warns(UserWarning, match="step-00000002.npz is damaged"):
        assert checkpoint.restore(tmp_path, compiled()) is None


def test_another_models_checkpoint_is_refused_and_changes_nothing(tmp_path):
    checkpoint.save(tmp_path, 1, compiled(width=5), {})
    model = compiled()
    before = state(model)
    with pytest.raises(ValueError, match=r"another model: model/00000/.*kernel is \(4, 5\) there and \(4, 3\) here"):
        checkpoint.restore(tmp_path, model)
    assert same(before, state(model))


def test_nothing_is_pickled(tmp_path):
    path = checkpoint.save(tmp_path, 1, compiled(), {"text": "é"})
    with np.load(path, allow_pickle=False) as archive:
        assert all(archive[name].dtype != object for name in archive.files)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
