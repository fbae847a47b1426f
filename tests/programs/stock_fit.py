"""Train a factory's network by `prepare` and Keras' own `fit`."""

import sys
from dataclasses import replace

import keras
import numpy as np
import tensorflow as tf

from keras_resnet import NETWORKS, ResNet, data, prepare
from keras_resnet.data.pipeline import Augmentation, evaluation_batches, train_batches
from keras_resnet.data.preprocessing import preprocessing_for
from keras_resnet.training import distribution

SPEC = replace(NETWORKS["resnet20"], blocks=(1, 1, 1))
devices = sys.argv[2:]
if devices:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)
strategy = distribution.strategy(devices)
keras.config.set_dtype_policy("float64")
keras.config.set_floatx("float64")
keras.utils.set_random_seed(1)
with strategy.scope():
    model = prepare(ResNet(SPEC, input_shape=(8, 8, 3), classes=10))
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        steps_per_execution=1 if devices == ["CPU:0"] else 5,
    )
digits = data.load("digits")
preprocessing = preprocessing_for(digits, None)
options = tf.data.Options()
options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
train = train_batches(
    digits.train, preprocessing, batch_size=64, augmentation=Augmentation("pad-crop")
).with_options(options)
test = evaluation_batches(digits.test, preprocessing, 37).with_options(options)
losses = model.fit(train, steps_per_epoch=5, epochs=5, shuffle=False, verbose=0).history["loss"]
evaluated = model.evaluate(test, verbose=0)
predicted = model.predict(test, verbose=0)
if distribution.rank() == 0:
    np.savez(sys.argv[1], losses, evaluated, predicted, *model.get_weights())
