"""The gate of an export: requests with the answers that every signature must give."""

from functools import partial

import numpy as np
import tensorflow as tf

from ..data.decoding import decode
from ..data.preprocessing import normalize, resize_and_crop
from ..evaluation.errors import softmax
from ..networks.class_activation import MAPS, activation_map, with_maps
from ..runs.classifier import Classifier
from . import sidecars
from .cpp_loader import Call, strings
from .lowering import Lowered, in_float32, with_temperature
from .signatures import TOP_K

_HEAT = "heat"
"""the class activation maps of the most probable classes"""
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2, "int8": 1e-2}
"""the allowed error of a probability, and of logits and features relative to the largest one"""


def expected_calls(classifier: Classifier, network: Lowered) -> list[Call]:
    """Return calls with the answers of the model itself.

    Images are preprocessed by the functions that `evaluate` calls. In float32 the answers are those
    of the model before batch norm is folded, and probabilities come from its last layer. If the
    network has a temperature, they come from the model's logits, after it is verified that these
    give the probabilities of its last layer. In low precision the answers are those of the lowered
    network, which `agreement` compares with float32.

    Args:
        classifier: the exported model.
        network: the network in the precision of the export.

    Raises:
        ValueError: the last layer is not a softmax, but the outputs look like probabilities; or
            the probabilities of the last layer are not those of the logits.
    """
    random = np.random.default_rng(0)
    preprocessing, size = classifier.preprocessing, classifier.preprocessing.crop

    def smooth(height: int, width: int) -> np.ndarray:
        """Return a smooth image `[H, W, 3]`; a resize would turn noise gray."""
        coarse = random.uniform(0, 255, (4, 4, 3))
        image = tf.clip_by_value(tf.image.resize(coarse, (height, width), "bicubic"), 0, 255)
        return tf.cast(image, tf.uint8).numpy()

    def decoded(image_bytes: tf.Tensor) -> tf.Tensor:
        return decode(image_bytes, exif_orientation=preprocessing.exif_orientation)

    def view(image: np.ndarray) -> np.ndarray:
        return normalize(preprocessing, resize_and_crop(preprocessing, image[np.newaxis])).numpy()

    photos = [smooth(size + 7 * i, size + 11 * i * i) for i in range(3)]
    encoded = [tf.io.encode_jpeg(photos[0]), *map(tf.io.encode_png, photos[1:])]
    images = np.stack([smooth(size + 5, size + 9) for _ in range(2)])
    inputs = random.normal(size=(4, size, size, 3)).astype(np.float32)

    inputs_of_calls = [*(view(decoded(one)) for one in encoded), *map(view, images), inputs]
    all_inputs = np.concatenate(inputs_of_calls)
    of_encoded, of_images, of_inputs = slice(0, 3), slice(3, 5), slice(5, 9)
    _require_logits(
        classifier, classifier.split.model(all_inputs, training=False)["logits"].numpy()
    )
    if network.precision == "float32":
        model = classifier.split.model
        reference = in_float32(with_maps(model) if MAPS in network.outputs else model)
        reference = with_temperature(reference, network.temperature)
        run = reference.run
    else:
        reference = network
        run = tf.function(network.run)  # some of its operations exist in graphs only
    answer = _arrays(run(all_inputs))
    rounded = _arrays(run(_rounded(all_inputs, random)))

    def tolerance(name: str, rows: slice, at_least: float = 0.0) -> float:
        rounding = float(np.abs(answer[name] - rounded[name]).max())
        largest = max(at_least, float(np.abs(answer[name][rows]).max()))
        return TOLERANCE[network.precision] * largest + 2 * rounding

    # Rounding changes probabilities as much as logits, so large logits need a larger tolerance.
    of_probabilities = tolerance("logits", slice(None), at_least=1.0)
    probabilities = softmax(answer["logits"])
    if network.precision == "float32":
        own = classifier.own_probabilities(all_inputs)
        if network.temperature == 1:
            probabilities = own
        else:
            untempered = answer["logits"] * network.temperature
            _require_own(
                classifier, own, untempered, of_probabilities * max(1, network.temperature)
            )

    def scores(rows: np.ndarray) -> np.ndarray:
        return -np.sort(-rows, axis=1)[:, :TOP_K]

    requests = strings([encoded[0].numpy(), b"no image", *(one.numpy() for one in encoded[1:])])
    examples = strings(map(sidecars.example, requests))
    served = np.insert(probabilities[of_encoded], 1, 0, axis=0)
    no_image = {"probabilities": served[1:2], "scores": scores(served[1:2])}
    no_image["classes"] = np.full(no_image["scores"].shape, b"", object)
    calls = [
        Call(
            signature="serving_default",
            inputs={"image_bytes": requests},
            outputs={"probabilities": served, "scores": scores(served)},
            tolerance=of_probabilities,
        ),
        Call(signature="serving_default", inputs={"image_bytes": requests[1:2]}, outputs=no_image),
        Call(
            signature="classify",
            inputs={"inputs": examples},
            outputs={"scores": scores(served)},
            tolerance=of_probabilities,
        ),
        Call(
            signature="image_tensor",
            inputs={"images": images},
            outputs={"probabilities": probabilities[of_images]},
            tolerance=of_probabilities,
        ),
        Call(
            signature="tensor",
            inputs={"inputs": inputs},
            outputs={"logits": answer["logits"][of_inputs]},
            tolerance=tolerance("logits", of_inputs),
        ),
    ]
    if MAPS in answer:
        assert reference.class_weights is not None
        best = answer["logits"].argmax(axis=1)
        weights = reference.class_weights(best)
        for values in (answer, rounded):
            values[_HEAT] = activation_map(values[MAPS], weights).numpy()
        # Of two classes with nearly the same logit either can be the best one.
        second, first = np.sort(answer["logits"][of_encoded], axis=1)[:, -2:].T
        clear = np.flatnonzero(first - second > 2 * tolerance("logits", of_encoded))
        names = [classifier.class_names[index].encode() for index in best[of_encoded][clear]]
        scored = probabilities[of_encoded][clear].max(axis=1)
        calls.append(
            Call(
                signature="heat_map",
                inputs={"image_bytes": strings([b"no image", *requests[[0, 2, 3]][clear]])},
                outputs={
                    "classes": strings([b"", *names]),
                    "scores": np.insert(scored, 0, 0),
                    "maps": np.insert(answer[_HEAT][of_encoded][clear], 0, 0, axis=0),
                },
                tolerance=max(of_probabilities, tolerance(_HEAT, of_encoded)),
            )
        )
    if "features" in answer:
        calls.append(
            Call(
                signature="features",
                inputs={"images": images},
                outputs={"features": answer["features"][of_images]},
                tolerance=tolerance("features", of_images),
            )
        )
    return calls


def expected_probabilities(classifier: Classifier, inputs: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the probabilities of the model itself, and the allowed difference from them.

    Args:
        classifier: the exported model.
        inputs: the network's input, float32 `[N, crop, crop, 3]`.

    Raises:
        ValueError: the last layer is not a softmax, but the outputs look like probabilities.
    """
    run = partial(classifier.split.model, training=False)
    logits = run(inputs)["logits"].numpy()
    _require_logits(classifier, logits)
    rounded = run(_rounded(inputs, np.random.default_rng(0)))["logits"].numpy()
    largest = max(1.0, float(np.abs(logits).max()))
    tolerance = TOLERANCE["float32"] * largest + 2 * float(np.abs(logits - rounded).max())
    return classifier.own_probabilities(inputs), tolerance


def _rounded(inputs: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Round inputs once; an ill-conditioned model changes its answer."""
    changes = 1 + 2**-23 * random.choice([-1, 1], inputs.shape)
    return (inputs * changes).astype(np.float32)


def _arrays(answer: dict[str, tf.Tensor]) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in answer.items()}


def _require_own(
    classifier: Classifier, own: np.ndarray, logits: np.ndarray, tolerance: float
) -> None:
    """Raise `ValueError` if logits do not give the probabilities of the model's last layer."""
    difference = np.abs(softmax(logits) - own).max()
    if not difference <= tolerance:  # true for NaN too
        raise ValueError(
            f"the logits of {classifier.model.name} give other probabilities than its last layer,"
            f" by {difference:.1e}; export it without `calibrate`"
        )


def _require_logits(classifier: Classifier, logits: np.ndarray) -> None:
    """Raise `ValueError` if outputs that are treated as logits look like probabilities."""
    sums = logits.sum(axis=1)
    if classifier.split.scores == "logits" and (logits >= 0).all() and (abs(sums - 1) < 1e-3).all():
        raise ValueError(
            f"the outputs of {classifier.model.name} look like probabilities, but its last layer is"
            " not a softmax; end it in a softmax layer or in logits"
        )
