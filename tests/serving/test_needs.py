"""Test what low-precision graphs need of TensorFlow and of the processor."""

import pytest
import tensorflow as tf
from folded_models import network, spec

from keras_resnet.networks.steps import steps_of
from keras_resnet.serving import check as module
from keras_resnet.serving import needs as needs_module
from keras_resnet.serving.audit import audit, read_graph
from keras_resnet.serving.check import check
from keras_resnet.serving.int8 import int8_network
from keras_resnet.serving.lowering import in_bfloat16, in_float32
from keras_resnet.serving.needs import (
    Needs,
    Processor,
    judge_needs,
    missing_operators,
    needs_of,
    processor,
)


@pytest.fixture(scope="module")
def saved_models(tmp_path_factory):
    """A network with a max pool in every precision, with one signature."""
    folder = tmp_path_factory.mktemp("precisions")
    model = network(spec("B", "post", stem="imagenet"))
    steps = steps_of(model)
    runs = {
        "float32": in_float32(model).run,
        "bfloat16": in_bfloat16(model).run,
        "int8": int8_network(steps, dict.fromkeys(steps.before(), 8.0)),
    }
    for precision, run in runs.items():
        module, images = tf.Module(), tf.TensorSpec((None, 16, 16, 3))
        module.run = tf.function(run, autograph=False)
        graph = module.run.get_concrete_function(images)
        module.weights = graph.variables
        tf.saved_model.save(module, str(folder / precision), signatures=graph)
    return folder


@pytest.mark.parametrize(
    ("precision", "operators"),
    [
        ("bfloat16", ("Conv2D",)),
        ("int8", ("_FusedQuantizedConv2D", "QuantizeV2", "QuantizedMaxPool")),
    ],
)
def test_needs_are_read_from_the_graph(saved_models, precision, operators):
    needs = needs_of(read_graph(saved_models / precision))
    assert needs == Needs(precision, operators)
    assert missing_operators(needs) == ()
    assert needs_of(read_graph(saved_models / "float32")) is None


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_low_precision_weights_are_not_stored_again(saved_models, precision):
    version = saved_models / precision
    findings = [finding.text for finding in audit(version, read_graph(version))]
    assert not any("stored again" in text for text in findings)


@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.int8])
def test_low_precision_weights_that_are_stored_again_are_found(dtype, tmp_path):
    module = tf.Module()
    module.one, module.two = (tf.Variable(tf.cast(tf.range(50), dtype)) for _ in range(2))
    module.run = tf.function(lambda x: x + tf.cast(module.one[0], tf.float32))
    signature = module.run.get_concrete_function(tf.TensorSpec([None], tf.float32))
    tf.saved_model.save(module, str(tmp_path), signatures=signature)
    findings = [finding.text for finding in audit(tmp_path, read_graph(tmp_path))]
    size = 50 * dtype.size
    assert any(f"{size:,} are stored again" in text for text in findings), findings


def test_a_graph_without_its_operators_is_not_run(saved_models, monkeypatch):
    def fail(*_):
        raise AssertionError("it was run")

    monkeypatch.setattr(module, "run_calls", fail)
    monkeypatch.setattr(needs_module, "_is_available", lambda *_: False)
    report = check(saved_models / "int8")
    assert report.errors == [
        "it is not run: it computes in int8 by _FusedQuantizedConv2D, QuantizeV2, QuantizedMaxPool,"
        " which this build of TensorFlow lacks; serve the export in float32"
    ]


def test_operators_that_tensorflow_lacks_are_missing():
    needs = Needs("int8", ("_NoSuchOperator", "QuantizeV2"))
    assert missing_operators(needs) == ("_NoSuchOperator",)
    # TensorFlow computes the determinant in floating point, but not in bfloat16.
    assert missing_operators(Needs("bfloat16", ("MatMul", "MatrixDeterminant"))) == (
        "MatrixDeterminant",
    )


CPUINFO = """processor\t: 0
model name\t: Some Processor @ 2.00GHz
flags\t\t: fpu avx512f {}
bugs\t\t: none

processor\t: 1
model name\t: Some Processor @ 2.00GHz
flags\t\t: fpu avx512f {}
"""


@pytest.mark.parametrize(
    ("flag", "fast"),
    [
        ("avx2", set()),
        ("avx512_vnni", {"int8"}),
        ("avx_vnni", {"int8"}),
        ("avx512_bf16", {"bfloat16"}),
        ("amx_bf16 amx_int8", {"bfloat16", "int8"}),
    ],
)
def test_instructions_of_the_processor_decide(tmp_path, flag, fast):
    (tmp_path / "cpuinfo").write_text(CPUINFO.replace("{}", flag))
    found = processor(tmp_path / "cpuinfo")
    assert found.name == "Some Processor @ 2.00GHz"
    for precision in ("bfloat16", "int8"):
        needs = Needs(precision, ())
        assert found.is_fast(needs) == (precision in fast)
        findings = list(judge_needs(needs, (), found))
        assert [finding.severity for finding in findings] == ["warning"] * (precision not in fast)
        for finding in findings:
            assert finding.text.startswith(
                f"it computes in {precision}, for which Some Processor @ 2.00GHz has no"
            )
            assert finding.text.endswith("float32 is faster there")


def test_nothing_is_said_of_an_unknown_processor(tmp_path):
    found = processor(tmp_path / "none")
    assert found.instruction_sets is None
    assert list(judge_needs(Needs("int8", ()), (), found)) == []
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nFeatures\t: fp asimd bf16\n")
    assert processor(tmp_path / "cpuinfo").instruction_sets is None


@pytest.mark.parametrize(
    ("sets", "text"),
    [
        ({"sse2", "avx512f", "avx2"}, "Some (avx2 avx512f)"),
        ({"sse2"}, "Some (no AVX2)"),
        (None, "Some (unknown)"),
    ],
)
def test_tables_name_the_processor_and_its_fast_instructions(sets, text):
    assert str(Processor("Some", None if sets is None else frozenset(sets))) == text


def test_check_warns_where_float32_is_faster(saved_models, monkeypatch):
    slow = Processor("Slow", frozenset({"avx2"}))
    monkeypatch.setattr(module, "processor", lambda: slow)
    report = check(saved_models / "int8")
    assert report.errors == []
    assert any("for which Slow has no instructions" in one.text for one in report.findings)
