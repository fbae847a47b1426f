"""Train on two workers, one of which has an infinite gradient."""

import sys

import keras
import numpy as np
import tensorflow as tf

from keras_resnet import prepare
from keras_resnet.training import distribution

strategy = distribution.strategy()
targets = np.zeros((8, 1), np.float32)
targets[4:] = 50
with strategy.scope():
    inputs = keras.Input((4,))
    outputs = keras.layers.Dense(1, dtype="mixed_float16")(inputs)
    outputs = keras.layers.Activation("linear", dtype="float32")(outputs)
    model = prepare(keras.Model(inputs, outputs))
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01)), "mse")
options = tf.data.Options()
options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
pairs = tf.data.Dataset.from_tensor_slices((np.full((8, 4), 0.1, np.float32), targets))
weights = [model.get_weights()[0]]
for steps in (1, 20):
    model.fit(pairs.repeat(steps).batch(8).with_options(options), shuffle=False, verbose=0)
    weights.append(model.get_weights()[0])
    if steps == 1:
        scale = model.optimizer.dynamic_scale.numpy()
np.savez(sys.argv[1] + str(distribution.rank()), scale, *weights)
