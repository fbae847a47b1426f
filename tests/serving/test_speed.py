"""Test what `check --speed` measures and advises."""

import json
import os
import shutil
from functools import partial

import pytest
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2

from keras_resnet.cli.commands import main
from keras_resnet.serving.needs import processor
from keras_resnet.serving.speed import AS_IT_IS, SETTINGS, Speed, advice, measure

pytestmark = pytest.mark.slow

FROZEN, ONE_THREAD, BFLOAT16 = (setting.name for setting in SETTINGS[1:])


def speed(one, four, sets=("avx2", "avx512f")):
    """Return measurements with these rates, one request at a time and four at once."""
    return Speed(
        processor="Some Processor",
        instruction_sets=None if sets is None else list(sets),
        cores=4,
        signature="serving_default",
        rates={1: one, 4: four},
    )


def test_settings_are_those_of_tf_serving():
    frozen = "TF_ONEDNN_ASSUME_FROZEN_WEIGHTS=1"
    assert [setting.name for setting in SETTINGS] == [
        AS_IT_IS,
        frozen,
        f"{frozen} --tensorflow_intra_op_parallelism=1",
        f"{frozen} --tensorflow_intra_op_parallelism=1 --mixed_precision=bfloat16",
    ]
    configs = [config_pb2.ConfigProto.FromString(setting.config()) for setting in SETTINGS]
    assert [config.intra_op_parallelism_threads for config in configs] == [0, 0, 1, 1]
    rewriting = [config.graph_options.rewrite_options for config in configs]
    on = [options.auto_mixed_precision_onednn_bfloat16 for options in rewriting]
    assert on == [0, 0, 0, 1]  # RewriterConfig.Toggle.ON


def test_the_fastest_setting_of_each_load_is_advised():
    """The gain is the median of the ratios of each round, 1.5 and 1.8, not that of the medians."""
    found = speed(
        {
            AS_IT_IS: [20.0, 40.0, 20.0],
            FROZEN: [30.0, 50.0, 32.0],
            ONE_THREAD: [19.0, 39.0, 19.0],
        },
        {
            AS_IT_IS: [100.0, 200.0, 100.0],
            FROZEN: [110.0, 220.0, 110.0],
            ONE_THREAD: [150.0, 360.0, 190.0],
        },
    )
    assert advice(found) == (
        "on Some Processor (4 cores; avx2 avx512f), one request at a time: "
        "TF_ONEDNN_ASSUME_FROZEN_WEIGHTS=1 is 1.50 times as fast (31.2 ms in place of 50.0); "
        "4 at once: TF_ONEDNN_ASSUME_FROZEN_WEIGHTS=1 --tensorflow_intra_op_parallelism=1 is 1.80"
        " times as fast (190.0 in place of 100.0 images/s)"
    )


def test_a_setting_that_loses_one_round_is_not_advised():
    rates = {AS_IT_IS: [20.0, 20.0, 20.0], FROZEN: [40.0, 40.0, 19.9], ONE_THREAD: [20.0] * 3}
    assert advice(speed(rates, rates)).endswith(
        "one request at a time: nothing is faster beyond the spread of the rounds; "
        "4 at once: nothing is faster beyond the spread of the rounds"
    )


def test_a_simpler_setting_is_advised_unless_another_wins_every_round():
    """bfloat16 has the larger median, and loses the last round to frozen weights alone."""
    rates = {AS_IT_IS: [10.0] * 3, FROZEN: [20.0, 20.0, 30.0], BFLOAT16: [40.0, 40.0, 29.0]}
    assert f"one request at a time: {FROZEN} is 2.00 times as fast" in advice(speed(rates, rates))


@pytest.mark.parametrize(("sets", "text"), [(None, "4 cores; unknown"), ((), "4 cores; no AVX2")])
def test_the_processor_is_described(sets, text):
    rates = {AS_IT_IS: [1.0]}
    assert f"({text}), one request" in advice(speed(rates, rates, sets))


def test_bfloat16_is_said_to_change_answers():
    rates = {AS_IT_IS: [10.0], FROZEN: [11.0], BFLOAT16: [40.0]}
    assert "(25.0 ms in place of 100.0, answers change slightly)" in advice(speed(rates, rates))


def test_an_export_is_measured_under_every_setting(exported, monkeypatch, capsys):
    """In processes whose environment is that of each setting; the answer is one line."""
    short = partial(measure, rounds=2, seconds=0.01)
    monkeypatch.setattr("keras_resnet.serving.speed.measure", short)
    monkeypatch.setenv("TF_ONEDNN_ASSUME_FROZEN_WEIGHTS", "1")  # not of the export as it is
    assert main(["check", str(exported), "--speed", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    found = report["speed"]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert (found["cores"], found["signature"]) == (cores, "serving_default")
    assert found["processor"] == processor().name
    assert found["rates"].keys() == {"1", str(cores)}
    for rates in found["rates"].values():
        assert list(rates) == [setting.name for setting in SETTINGS]
        assert all(len(each) == 2 and min(each) > 0 for each in rates.values())
    assert found["advice"].startswith(f"on {processor().name} ({cores} core")
    assert report["findings"] == []


def test_a_saved_model_that_fails_is_not_measured(tmp_path, capsys):
    assert main(["check", str(tmp_path), "--speed"]) == 2
    assert "is not a SavedModel" in capsys.readouterr().err


def test_a_saved_model_that_reads_files_is_not_run(tmp_path):
    module = tf.Module()
    spec = tf.TensorSpec([None], tf.string, name="x")
    module.function = tf.function(
        lambda x: {"y": tf.map_fn(tf.io.read_file, x)}, input_signature=[spec]
    )
    tf.saved_model.save(module, str(tmp_path), signatures=module.function)
    with pytest.raises(ValueError, match="is not run: it reads or writes files"):
        measure(tmp_path)


def test_a_process_that_fails_says_why_in_one_line(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "copy")
    for path in (tmp_path / "copy" / "variables").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="Could not find variable") as refused:
        measure(tmp_path / "copy", rounds=1, seconds=0.01)
    assert len(str(refused.value).splitlines()) == 1
