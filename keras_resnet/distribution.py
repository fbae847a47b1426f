"""The `tf.distribute` strategy that this machine asks for."""

import tensorflow as tf


def strategy() -> tf.distribute.Strategy:
    """One device: TensorFlow's default, which costs nothing. Several GPUs: `MirroredStrategy` over all of them.

    GPU memory is taken as it is needed, not all at once.
    """
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    return tf.distribute.MirroredStrategy() if len(gpus) > 1 else tf.distribute.get_strategy()
