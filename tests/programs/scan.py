"""Load a folder of images on several hosts, and print which files this one has decoded."""

import json
import sys

from keras_resnet import data
from keras_resnet.training import distribution

decoded = []


def measures(files):
    decoded.extend(files)
    return scan_all(files)


scan_all, data.scan._measures = data.scan._measures, measures
strategy = distribution.strategy()
dataset = data.load(sys.argv[1], hosts=distribution.hosts(strategy))
fingerprints = [*dataset.train.fingerprints.tolist(), *dataset.test.fingerprints.tolist()]
print(json.dumps({"decoded": decoded, "fingerprints": fingerprints}))
distribution.gather(strategy, [0.0])  # a worker that ends would end the other
