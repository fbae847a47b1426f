"""Train a recipe on the given devices, in float64."""

import json
import sys
from dataclasses import replace

import tensorflow as tf

from keras_resnet.runs.recipes import RECIPES
from keras_resnet.training.train import train

folder, name, changes, *devices = sys.argv[1:]
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)
recipe = replace(RECIPES[name], precision="float64", epochs=2, **json.loads(changes))
train(recipe, folder, devices=devices)
