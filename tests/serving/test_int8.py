"""Test networks in int8 against NumPy, and against float32 with the same rounding.

Without the instructions of VNNI, oneDNN adds two products in 16 bits, which overflow if activations
need all of their 8 bits, and halves kernels for signed activations. So bounds are doubled here, and
the images of networks are positive.
"""

from collections import Counter

import keras
import numpy as np
import pytest
import tensorflow as tf
from folded_models import NAMES, SPECS, folded, mixed, network, spec
from keras import layers
from small_models import images_for

from keras_resnet.data.dataset import WHOLE, Arrays
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.networks.steps import Convolution, Dense, ReLU, Sum, in_float32, steps_of
from keras_resnet.serving import calibration
from keras_resnet.serving import int8_operations as int8
from keras_resnet.serving.calibration import calibrate
from keras_resnet.serving.int8 import fusions, int8_network
from keras_resnet.serving.labeled_images import Images
from keras_resnet.serving.quantization import CLIPPED, bounds, magnitudes, quantized_kernel


def graph(function, *inputs):
    """Run a function in a graph, where alone the operations exist."""
    found = tf.function(function, autograph=False)(*map(tf.constant, inputs))
    return tf.nest.map_structure(lambda tensor: tensor.numpy(), found)


def rounded(values, bound, signed):
    largest = 127 if signed else 255
    return np.clip(np.rint(values / bound * largest), -127 * signed, largest) * (bound / largest)


@pytest.mark.parametrize("signed", [False, True])
def test_quantizing_rounds_symmetrically_and_clips(signed):
    values = np.linspace(-3, 3, 1001, dtype=np.float32)
    found = graph(lambda x: int8.dequantize(int8.quantize(x, 2.0, signed)), values)
    np.testing.assert_allclose(found, rounded(values, 2.0, signed), atol=1e-6)
    assert found[500] == 0


@pytest.fixture(scope="module")
def layer():
    """A convolution with channels of very different sizes: its kernel, scale and bias."""
    random = np.random.default_rng(0)
    kernel = (random.normal(size=(3, 3, 8, 16)) * np.geomspace(1e-3, 1, 16)).astype(np.float32)
    integers, scale = quantized_kernel(kernel)
    assert (np.abs(integers).max(axis=(0, 1, 2)) == 127).all()
    np.testing.assert_allclose(integers * scale, kernel, atol=np.max(scale) / 2)
    assert (np.abs(integers * scale - kernel) <= scale * 0.5001).all()
    return integers, scale, random.normal(size=16).astype(np.float32)


PADDING = [[0, 0], [1, 0], [1, 2], [0, 0]]


def test_convolutions_are_exact_sums_of_integers(layer):
    integers, scale, bias = layer
    random = np.random.default_rng(1)
    images = random.integers(0, 128, (2, 7, 7, 8)).astype(np.float32)  # 1 stands for 1
    summand = random.integers(0, 256, (2, 3, 4, 16)).astype(np.float32) / 255 * 3
    exact = tf.nn.conv2d(images, integers.astype(np.float32), 2, PADDING).numpy()
    wanted = exact * scale + bias
    bound = float(np.quantile(wanted, 0.99))  # some results are clipped

    weights = tf.Variable(integers), scale, tf.Variable(bias)

    def run(images, summand):
        arguments = (int8.quantize(images, 255.0, signed=False), *weights, (2, 2), PADDING)
        return (
            int8.convolve_to_float32(*arguments),
            int8.dequantize(int8.convolve(*arguments, bound=bound)),
            int8.dequantize(
                int8.convolve(
                    *arguments, bound=bound, summand=int8.quantize(summand, 3.0, signed=False)
                )
            ),
        )

    real, positive, added = graph(run, images, summand)
    np.testing.assert_allclose(real, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())
    half = bound / 255 * 0.505
    np.testing.assert_allclose(positive, np.clip(wanted, 0, bound), rtol=0, atol=half)
    np.testing.assert_allclose(added, np.clip(wanted + summand, 0, bound), rtol=0, atol=half)


def test_bytes_are_padded_pooled_and_subsampled_exactly():
    images = np.random.default_rng(0).integers(0, 256, (2, 7, 7, 8)).astype(np.float32)
    zeros = [[0, 0], [1, 0], [0, 2], [0, 3]]

    def run(images):
        tensor = int8.quantize(images, 255.0, signed=False)
        parts = (
            int8.pad(tensor, zeros),
            int8.max_pool(tensor, (3, 3), (2, 2), "VALID"),
            int8.subsample(tensor, (2, 3)),
        )
        return [int8.dequantize(part) for part in parts]

    padded, pooled, sampled = graph(run, images)
    np.testing.assert_array_equal(padded, np.pad(images, zeros))
    np.testing.assert_array_equal(pooled, tf.nn.max_pool2d(images, 3, 2, "VALID"))
    np.testing.assert_array_equal(sampled, images[:, ::2, ::3])


def fake_quantized(network, bounds, float32, images):
    """Compute a network in float32, with tensors and kernels rounded as in int8."""
    fused, values = fusions(network, float32), {network.input: images}
    shifted = {fusion.shifted for fusion in fused.values()}
    summands = {fusion.summand for fusion in fused.values()} - shifted
    for step in network.steps:
        inputs = [np.asarray(values[name], np.float32) for name in step.sources]
        value = np.asarray(in_float32(step, *inputs))
        if isinstance(step, Sum) and summands & set(step.sources):
            added = [
                rounded(one, bounds[name], one.min() < 0) if name in summands else one
                for name, one in zip(step.sources, inputs, strict=True)
            ]
            value = np.sum(added, axis=0)
        if isinstance(step, Convolution | Dense) and step.name not in float32:
            integers, scale = quantized_kernel(step.kernel)
            tensor = rounded(inputs[0], bounds[step.sources[0]], inputs[0].min() < 0)
            value = np.asarray(in_float32(step, np.float32(tensor), integers * scale, step.bias))
        bound = bounds[step.name]
        if step.name in shifted:
            value = rounded(value + bound, 2 * bound, False) - bound
        if step.name in fused:
            value = rounded(value, bound, False)
        values[step.name] = value
    return {output: values[name] for output, name in network.outputs.items()}


@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS, ids=NAMES)
def test_networks_in_int8_are_those_of_rounded_numbers(spec):
    model = network(spec)
    images, steps = images_for(model), steps_of(model)
    stem = frozenset(calibration._parts(steps)["stem"])
    doubled = {name: 2 * b for name, b in bounds(magnitudes(steps, [images]), 0.0).items()}
    answer = graph(int8_network(steps, doubled, stem), images)
    wanted = fake_quantized(steps, doubled, stem, images)
    exact = model(images, training=False)
    for name, value in answer.items():
        # The order of two roundings can change one step of 255.
        error, rounding = (np.abs(value - other[name]) for other in (wanted, exact))
        assert error.max() <= 0.02 * np.abs(exact[name]).max()
        assert error.mean() <= 0.2 * rounding.mean()


@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS, ids=NAMES)
def test_every_relu_and_sum_of_order_post_is_fused(spec):
    steps = steps_of(network(spec))
    fused = fusions(steps)
    kinds = {step.name: type(step) for step in steps.steps}
    assert {kinds[name] for name in fused} == {ReLU}
    sums = [fusion for fusion in fused.values() if fusion.summand]
    if spec.order == "post":
        assert len(fused) == list(kinds.values()).count(ReLU)
        assert len(sums) == list(kinds.values()).count(Sum)
        projections = {"A": 0, "B": 1 if spec.stem == "cifar" else 2, "C": 3, None: 0}
        assert sum(fusion.shifted is not None for fusion in sums) == projections[spec.shortcut]
    else:
        assert not sums  # no ReLU follows a sum
    assert not any(fusion.copied for fusion in fused.values())

    types = Counter(operation.type for operation in operations(steps))
    linear = [step for step in steps.steps if isinstance(step, Convolution | Dense)]
    assert types[int8.CONVOLUTION] == len(linear)
    assert not types.keys() & {"Conv2D", "MatMul", "DeepCopy"}
    if spec.order == "post":
        assert types["QuantizeV2"] == 2  # of the images and of the features


def operations(steps, float32=frozenset()):
    ones = dict.fromkeys(steps.before(), 1.0)
    run = tf.function(int8_network(steps, ones, float32), autograph=False)
    images = tf.TensorSpec((None, 16, 16, 3))
    return run.get_concrete_function(images).graph.get_operations()


def test_a_summand_that_is_read_again_is_copied():
    """The sum is written over its summand, which would change what the later reader gets."""
    model = mixed()
    images, steps = images_for(model), steps_of(model)
    found = [fusion for fusion in fusions(steps).values() if fusion.summand]
    assert [fusion.copied for fusion in found] == [True]
    assert [operation.type for operation in operations(steps)].count("DeepCopy") == 1
    answer = graph(int8_network(steps, bounds(magnitudes(steps, [images]), 0.0)), images)
    exact = model(images, training=False)["logits"]
    np.testing.assert_allclose(answer["logits"], exact, atol=0.1 * np.abs(exact).max())


@pytest.mark.parametrize("part", ["stem", "classifier"])
def test_a_part_in_float32_has_float32_weights(part):
    steps = steps_of(network(spec("B", "post")))
    names = calibration._parts(steps)[part]
    assert names == {{"stem": "conv1_conv", "classifier": "predictions"}[part]}
    types = Counter(operation.type for operation in operations(steps, frozenset(names)))
    assert types["Conv2D" if part == "stem" else "MatMul"] == 1
    linear = [step for step in steps.steps if isinstance(step, Convolution | Dense)]
    assert types[int8.CONVOLUTION] == len(linear) - 1


def test_bounds_leave_out_the_largest_magnitudes():
    images = np.zeros((1, 100, 100, 3), np.float32)
    images.flat[:30_000] = np.linspace(-1, 1, 30_000)
    images.flat[0], images.flat[1] = -1000, 100
    inputs = keras.Input((100, 100, 3))
    pooled = layers.GlobalAveragePooling2D()(inputs)
    steps = steps_of(folded(keras.Model(inputs, layers.Dense(2)(pooled))))
    counts = magnitudes(steps, [images, images])
    assert counts[steps.input].sum() == 60_000
    found = {share: bounds(counts, share)[steps.input] for share in (0.0, 1e-4, 1e-3, 0.5)}
    # bfloat16 has 8 significant bits, and bounds are rounded up.
    wanted = {0.0: 1000, 1e-4: 1.0, 1e-3: 0.999, 0.5: 0.5}
    for share, bound in found.items():
        assert wanted[share] <= bound * 1.0001 <= wanted[share] * (1 + 2**-7) * 1.0001


def _right(wrong, images=1000):
    return np.arange(images) >= wrong


@pytest.mark.slow
@pytest.mark.parametrize(("saved", "stays"), [(5, False), (6, True)])
def test_the_fewest_errors_choose_and_else_the_distance(saved, stays, monkeypatch):
    """Six images that one alone has right are no chance (2 / 2**6 = 0.031), five are (0.063)."""
    steps, judged = steps_of(network(spec("A", "post"))), []
    # The first is nearest and has six more wrong; the second has the fewest wrong; the third has
    # five more and is nearer; the fourth is the farthest.
    answers = dict(zip(CLIPPED, [(36, 1.0), (30, 9.0), (35, 7.0), (30, 10.0)], strict=True))
    answers |= {"stem": (35 - saved, 9.0), "classifier": (36, 1.0)}

    def scores(network, candidates, batches):
        judged.append(sum(len(labels) for _, labels in batches))
        return {
            name: calibration._Score(_right(answers[name][0]), answers[name][1])
            for name in candidates
        }

    monkeypatch.setattr(calibration, "_scores", scores)
    random = np.random.default_rng(0)
    images = Arrays(random.integers(0, 256, (60, 16, 16, 3), np.uint8), np.zeros(60, np.int32))
    given = Images(split=images, part=WHOLE, name="mine", classes=5)
    found = calibrate(steps, given, Preprocessing(resize=16, crop=16))
    assert found.method == list(CLIPPED)[2]
    assert found.in_float32 == (("stem",) if stays else ())
    assert (found.calibrated, found.judged) == (20, 40) and judged == [40, 40]
    assert found.errors[f"{found.method}, stem in float32"] == pytest.approx(3.5 - saved / 10)
    assert found.distances == {name: answers[name][1] for name in CLIPPED}
