"""Open saved networks where this package is not installed."""

import sys
from pathlib import Path


class Uninstalled:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "keras_resnet":
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, Uninstalled())
try:
    import keras_resnet
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("keras_resnet is here")

import keras
import numpy as np
import tensorflow as tf

outputs = {}
with tf.device("CPU:0"):
    for name in sys.argv[1:]:
        path = Path(name + ".keras")
        model = keras.models.load_model(path)
        path.unlink()
        outputs[name] = model(np.load("images.npy"), training=False).numpy()
np.savez("outputs.npz", **outputs)
