"""The graph of an export: the signatures that TF Serving offers, over the test view that `evaluate` uses."""

import contextlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import keras
import tensorflow as tf

from . import data

TOP_K = 5
DECODERS = 4
"""pictures of one request that are decoded at a time"""

Answer = dict[str, tf.Tensor]


def write_saved_model(
    network: keras.Model, preprocessing: data.Preprocessing, labels: tuple[str, ...], folder: Path
) -> None:
    """Writes a SavedModel of `network`, images `[N, crop, crop, 3]` to logits `[N, classes]`, with five signatures.

    Every output's first dimension is the batch:

        serving_default  image_bytes: JPEG or PNG, string [N]             probabilities [N, classes],
                                                                          classes [N, k] (labels), scores [N, k]
        image_tensor     images: uint8 [N, H, W, 3]                       the same
        features         images: uint8 [N, H, W, 3]                       features [N, C], before the classifier
        tensor           inputs: float32 [N, crop, crop, 3], preprocessed logits [N, classes]
        classify         inputs: tf.Example with image/encoded, [N]       classes, scores

    The best k = 5 classes come best first. Bytes that are no picture, or one beyond `data.MAX_PIXELS` or
    `data.MAX_ASPECT`, get scores of zero and empty labels, and leave the other rows of the batch alone; so do bytes
    that are no tf.Example.
    """
    size, k = preprocessing.crop, min(TOP_K, len(labels))
    both = keras.Model(network.inputs, [network.layers[-1].input, network.output])

    @tf.function(input_signature=[tf.TensorSpec([None, size, size, 3], tf.float32)])
    def run(images: tf.Tensor) -> list[tf.Tensor]:
        """Traced once, called by all signatures."""
        return both(images, training=False)

    def classified(views: tf.Tensor, readable: tf.Tensor | None = None) -> Answer:
        probabilities = tf.nn.softmax(run(data.normalize(preprocessing, views))[1])
        scores, indices = tf.math.top_k(probabilities, k)
        classes = tf.gather(tf.constant(labels), indices)
        if readable is not None:
            probabilities, scores = (tf.where(readable, values, 0.0) for values in (probabilities, scores))
            classes = tf.where(readable, classes, "")
        return {"probabilities": probabilities, "classes": classes, "scores": scores}

    def shown(images: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies([data.require_bounds(tf.shape(images)[1:3])]):
            return data.test_view(preprocessing, tf.identity(images))

    def image_bytes_of(example: tf.Tensor) -> tf.Tensor:
        feature = tf.io.FixedLenFeature([], tf.string, default_value="")
        return tf.io.parse_single_example(example, {"image/encoded": feature})["image/encoded"]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def serving_default(image_bytes: tf.Tensor) -> Answer:
        return classified(*decoded(preprocessing, image_bytes))

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")])
    def image_tensor(images: tf.Tensor) -> Answer:
        return classified(shown(images))

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")])
    def features(images: tf.Tensor) -> Answer:
        return {"features": run(data.normalize(preprocessing, shown(images)))[0]}

    @tf.function(input_signature=[tf.TensorSpec([None, size, size, 3], tf.float32, name="inputs")])
    def tensor(inputs: tf.Tensor) -> Answer:
        return {"logits": run(inputs)[1]}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def classify(inputs: tf.Tensor) -> Answer:
        answer = classified(*decoded(preprocessing, inputs, image_bytes_of))
        return {name: answer[name] for name in ("classes", "scores")}

    archive = keras.export.ExportArchive()
    # The model is not tracked: the functions bring its variables along, and tracking would store them twice.
    for signature in (serving_default, image_tensor, features, tensor, classify):
        archive.add_endpoint(signature.__name__, signature)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # it prints its signatures
        archive.write_out(str(folder))


def decoded(
    preprocessing: data.Preprocessing,
    requests: tf.Tensor,
    image_bytes_of: Callable[[tf.Tensor], tf.Tensor] = tf.identity,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The test views of encoded pictures of any sizes: float32 `[N, crop, crop, 3]`, and bool `[N, 1]`.

    Where the second is False, the row was no picture and its view is black.
    """
    size = preprocessing.crop
    count = tf.size(requests, out_type=tf.int64)

    def view(row: tf.Tensor, request: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        picture = data.decode_untrusted(image_bytes_of(request))
        return row, data.test_view(preprocessing, picture[tf.newaxis])[0]

    options = tf.data.Options()
    # Both would be done anew for every request, and waited for.
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False

    def read(decoders: int | None) -> tuple[tf.Tensor, tf.Tensor]:
        # A data set, since only that can drop what fails. Each picture says which row it is of.
        pictures = tf.data.Dataset.from_tensor_slices((tf.range(count), requests))
        pictures = pictures.map(view, num_parallel_calls=decoders).ignore_errors()
        # A black one at the end stands for all that were dropped.
        pictures = pictures.concatenate(tf.data.Dataset.from_tensors((count, tf.zeros([size, size, 3]))))
        return pictures.batch(count + 1).with_options(options).get_single_element()

    # Handing one picture to another thread costs more than it saves.
    rows, views = tf.cond(count > 1, partial(read, DECODERS), partial(read, None))
    black = tf.size(rows, out_type=tf.int64) - 1
    places = tf.tensor_scatter_nd_update(tf.fill([count], black), rows[:-1, tf.newaxis], tf.range(black))
    views = tf.ensure_shape(tf.gather(views, places), [None, size, size, 3])
    return views, (places < black)[:, tf.newaxis]
