"""Write the graph of an export: signatures that preprocess images as `evaluate` does."""

import contextlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import keras
import tensorflow as tf

from ..data.decoding import decode, require_bounds
from ..data.preprocessing import Preprocessing, normalize, resize_and_crop
from ..networks.class_activation import MAPS, activation_map
from .lowering import Answer, Lowered

TOP_K = 5
"""the largest number of classes in an answer"""
DECODERS = 4
"""the number of images of one request that are decoded in parallel"""

# Autograph would rewrite the source of every function that a signature calls, which takes seconds.
_traced = partial(tf.function, autograph=False)


def write_saved_model(
    network: Lowered, preprocessing: Preprocessing, class_names: tuple[str, ...], folder: Path
) -> tuple[str, ...]:
    """Write a SavedModel of a network, and return the names of its signatures.

    The first dimension of every output is the batch, N:

        serving_default  image_bytes: JPEG, PNG, GIF or BMP, string [N]
                         probabilities [N, classes], classes [N, k] (names), scores [N, k]
        image_tensor     images: uint8 [N, H, W, 3]
                         the same
        features         images: uint8 [N, H, W, 3]
                         features [N, C], the input of the classifier
        tensor           inputs: float32 [N, crop, crop, 3], preprocessed
                         logits [N, classes]
        classify         inputs: tf.Example with image/encoded, string [N]
                         classes, scores
        heat_map         image_bytes: as serving_default
                         classes [N] (names), scores [N], maps [N, h, w]: the class activation map
                         of the most probable class

    The k best classes are sorted by score; k is 5, or the number of classes if that is less. Bytes
    that `decoding.decode` refuses, and bytes that are not a tf.Example, get scores and maps of zero
    and empty class names. Other rows are not affected.

    Args:
        network: the network, whose outputs are `logits` `[N, classes]` and, for the signatures
            `features` and `heat_map`, `features` `[N, C]` and `maps` `[N, h, w, C]`.
        preprocessing: the preprocessing of the network.
        class_names: the class names in the order of the logits.
        folder: the folder to write.
    """
    size, k = preprocessing.crop, min(TOP_K, len(class_names))

    @_traced(input_signature=[tf.TensorSpec([None, size, size, 3], tf.float32)])
    def run(images: tf.Tensor) -> Answer:
        """Run the network; traced once and called by all signatures."""
        return network.run(images)

    def classified(views: tf.Tensor, readable: tf.Tensor | None = None) -> Answer:
        probabilities = tf.nn.softmax(run(normalize(preprocessing, views))["logits"])
        scores, indices = tf.math.top_k(probabilities, k)
        classes = tf.gather(tf.constant(class_names), indices)
        if readable is not None:
            probabilities, scores = (
                tf.where(readable, values, 0.0) for values in (probabilities, scores)
            )
            classes = tf.where(readable, classes, "")
        return {"probabilities": probabilities, "classes": classes, "scores": scores}

    def viewed(images: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies([require_bounds(tf.shape(images)[1:3])]):
            return resize_and_crop(preprocessing, tf.identity(images))

    def image_bytes_of(example: tf.Tensor) -> tf.Tensor:
        feature = tf.io.FixedLenFeature([], tf.string, default_value="")
        return tf.io.parse_single_example(example, {"image/encoded": feature})["image/encoded"]

    @_traced(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def serving_default(image_bytes: tf.Tensor) -> Answer:
        return classified(*decoded(preprocessing, image_bytes))

    @_traced(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")])
    def image_tensor(images: tf.Tensor) -> Answer:
        return classified(viewed(images))

    @_traced(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")])
    def features(images: tf.Tensor) -> Answer:
        return {"features": run(normalize(preprocessing, viewed(images)))["features"]}

    @_traced(input_signature=[tf.TensorSpec([None, size, size, 3], tf.float32, name="inputs")])
    def tensor(inputs: tf.Tensor) -> Answer:
        return {"logits": run(inputs)["logits"]}

    @_traced(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def classify(inputs: tf.Tensor) -> Answer:
        answer = classified(*decoded(preprocessing, inputs, image_bytes_of))
        return {name: answer[name] for name in ("classes", "scores")}

    @_traced(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def heat_map(image_bytes: tf.Tensor) -> Answer:
        views, readable = decoded(preprocessing, image_bytes)
        answer = run(normalize(preprocessing, views))
        probabilities = tf.nn.softmax(answer["logits"])
        best = tf.argmax(probabilities, axis=1)
        assert network.class_weights is not None
        maps = activation_map(answer[MAPS], network.class_weights(best))
        return {
            "classes": tf.where(readable[:, 0], tf.gather(tf.constant(class_names), best), ""),
            "scores": tf.where(readable[:, 0], tf.reduce_max(probabilities, axis=1), 0.0),
            "maps": tf.where(readable[:, tf.newaxis], maps, 0.0),
        }

    signatures = [serving_default, image_tensor, features, tensor, classify, heat_map]
    if "features" not in network.outputs:
        signatures.remove(features)
    if MAPS not in network.outputs:
        signatures.remove(heat_map)
    archive = keras.export.ExportArchive()
    # The functions track the network's variables; tracking the network too would store them twice.
    for signature in signatures:
        archive.add_endpoint(signature.__name__, signature)
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):  # it prints signatures
        archive.write_out(str(folder))
    return tuple(signature.__name__ for signature in signatures)


def decoded(
    preprocessing: Preprocessing,
    requests: tf.Tensor,
    image_bytes_of: Callable[[tf.Tensor], tf.Tensor] = tf.identity,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decode images of any sizes to a batch of test views.

    Args:
        preprocessing: the preprocessing of the network.
        requests: the requests, string `[N]`.
        image_bytes_of: a function from a request to its encoded image.

    Returns:
        The views, float32 `[N, crop, crop, 3]`, black for rows that are not images, and whether
        each row is an image, bool `[N, 1]`.
    """
    size = preprocessing.crop
    count = tf.size(requests, out_type=tf.int64)

    def view(row: tf.Tensor, request: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = decode(image_bytes_of(request), exif_orientation=preprocessing.exif_orientation)
        return row, resize_and_crop(preprocessing, image[tf.newaxis])[0]

    options = tf.data.Options()
    # Both would cost time in every request.
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False

    def read(decoders: int | None) -> tuple[tf.Tensor, tf.Tensor]:
        # Only a data set can drop failing rows, so each image is paired with the number of its row.
        images = tf.data.Dataset.from_tensor_slices((tf.range(count), requests))
        images = images.map(view, num_parallel_calls=decoders).ignore_errors()
        # A black image at the end replaces all dropped ones.
        images = images.concatenate(
            tf.data.Dataset.from_tensors((count, tf.zeros([size, size, 3])))
        )
        return images.batch(count + 1).with_options(options).get_single_element()

    # Handing one image to another thread costs more than it saves.
    rows, views = tf.cond(count > 1, partial(read, DECODERS), partial(read, None))
    black = tf.size(rows, out_type=tf.int64) - 1
    indices = tf.tensor_scatter_nd_update(
        tf.fill([count], black), rows[:-1, tf.newaxis], tf.range(black)
    )
    views = tf.ensure_shape(tf.gather(views, indices), [None, size, size, 3])
    return views, (indices < black)[:, tf.newaxis]
