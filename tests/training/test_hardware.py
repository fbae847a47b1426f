import io

import keras
import pytest
import tensorflow as tf
from rich.console import Console

from keras_resnet import prepare, search, train
from keras_resnet.training import convolution, hardware


def processor(monkeypatch, tmp_path, flags):
    """Simulate a processor with these flags; None for a system without /proc/cpuinfo."""
    file = tmp_path / "cpuinfo"
    if flags is not None:
        file.write_text(f"processor : 0\nflags\t\t: {flags}\nbugs :\nflags : avx512f\n")
    monkeypatch.setattr(hardware, "CPU_FLAGS", file)
    hardware.instruction_sets.cache_clear()


@pytest.fixture(autouse=True)
def clear_cache():
    yield
    hardware.instruction_sets.cache_clear()


@pytest.mark.parametrize(
    ("flags", "avx512", "fast"),
    [
        ("fpu sse avx2", False, None),
        ("fpu avx512f avx512bw", True, None),
        ("avx512f avx512_bf16", True, "avx512_bf16"),
        ("avx512f avx512_bf16 amx_bf16", True, "amx_bf16"),
        (None, False, None),
    ],
)
def test_processor_flags(monkeypatch, tmp_path, flags, avx512, fast):
    processor(monkeypatch, tmp_path, flags)
    assert hardware.has_avx512() == avx512
    for machine in ("x86_64", "aarch64"):
        monkeypatch.setattr(convolution.platform, "machine", lambda machine=machine: machine)
        assert convolution.flipping_pays() == (machine == "x86_64" and not avx512)
    advice = hardware.fast_half_precision()
    assert advice == (fast and ("mixed_bfloat16", f"the processor has {fast}"))


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [([(6, 1)], None), ([(7, 5)], "mixed_float16"), ([(8, 0), (9, 0)], "mixed_bfloat16")],
)
def test_compute_capabilities(monkeypatch, capabilities, precision):
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda _: list(range(len(capabilities))))
    monkeypatch.setattr(
        tf.config.experimental,
        "get_device_details",
        lambda gpu: {"compute_capability": capabilities[gpu]},
    )
    advice = hardware.fast_half_precision()
    assert (advice and advice[0]) == precision


@pytest.mark.slow
def test_precision_is_advised_once_and_only_in_float32(monkeypatch, tmp_path):
    processor(monkeypatch, tmp_path, "avx512f avx512_bf16")
    advice = "the processor has avx512_bf16: with `precision` mixed_bfloat16 training may be faster"

    def count_advice(**changes):
        output = io.StringIO()
        folder = tmp_path / changes.get("precision", "float32")
        train("digits-tiny", folder, steps=2, console=Console(file=output, width=200), **changes)
        return output.getvalue().count(advice)

    assert count_advice() == 1
    (tmp_path / "float32" / "model.keras").unlink()
    assert count_advice() == 0, "a resumed run is not advised again"
    assert count_advice(precision="float64") == 0


@pytest.mark.parametrize("value", ["1", "true", "TRUE", "yes"])
def test_frozen_weights_are_refused_in_every_training(monkeypatch, tmp_path, value):
    """The setting makes oneDNN ignore updates of the weights."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    monkeypatch.setenv("TF_ONEDNN_ASSUME_FROZEN_WEIGHTS", value)
    says = f"TF_ONEDNN_ASSUME_FROZEN_WEIGHTS is '{value}'; unset it"
    for call in (
        lambda: train("digits-tiny", tmp_path / "run"),
        lambda: search("digits-tiny", tmp_path / "search", trials=1),
        lambda: prepare(model),
    ):
        with pytest.raises(ValueError, match=says):
            call()
    assert list(tmp_path.iterdir()) == []
    for harmless in ("", "0", "false"):
        monkeypatch.setenv("TF_ONEDNN_ASSUME_FROZEN_WEIGHTS", harmless)
        assert prepare(model) is model
