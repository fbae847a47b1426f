"""Every augmentation of the training pictures, as pure functions of the pictures and a seed.

The pictures of a batch take their random numbers from one draw, row by row: what happens to a picture
is decided by the seed and its place in the global batch, and by nothing else.
"""

import tensorflow as tf


def pad_crop(images: tf.Tensor, padding: int, flip: bool, seed: tf.Tensor) -> tf.Tensor:
    """Section 4.2: pad with zeros on each side, take a random crop of the old size; with `flip`, mirror half of them.

    `images`: `[N, H, W, C]`, already centred so that zero is the mean; `seed`: int `[2]`. Returns the same shape.
    """
    batch, height, width = tf.unstack(tf.shape(images)[:3])
    top, left, mirror = tf.split(tf.random.stateless_uniform([batch, 3], seed), 3, axis=1)
    positions = 2 * padding + 1
    rows = tf.range(height) + tf.cast(top * positions, tf.int32)
    columns = tf.range(width)
    if flip:
        columns = tf.where(mirror < 0.5, columns, columns[::-1])
    columns += tf.cast(left * positions, tf.int32)
    padded = tf.pad(images, [[0, 0], [padding, padding], [padding, padding], [0, 0]])
    # Two gathers over the whole batch are several times faster than a crop a picture.
    cropped = tf.gather(tf.gather(padded, rows, batch_dims=1), columns, axis=2, batch_dims=1)
    return tf.ensure_shape(cropped, images.shape)
