"""Fetch published weights from a folder, with the hashes given."""

import json
import sys

from keras_resnet import ResNet50
from keras_resnet.networks import weights

weights.PUBLISHED_AT, weights.PUBLISHED["resnet50"] = sys.argv[1], tuple(sys.argv[2:4])
ResNet50(weights="imagenet", **json.loads(sys.argv[4]))
