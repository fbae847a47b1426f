#!/usr/bin/env bash
# Installs the package into .venv, trains ResNet-20 on handwritten digits, tests it, exports it, and classifies an image
# file with the export. Can be repeated.
set -euo pipefail
cd "$(dirname "$0")/.."

. scripts/venv.sh
say() { printf '\n== %s\n' "$*"; }

say "Installing into $VENV (the first time downloads TensorFlow)"
make_venv
"$VENV/bin/pip" install --quiet --disable-pip-version-check .

say "Training ResNet-20 on 1,437 handwritten digits"
"$VENV/bin/keras-resnet" train digits-resnet20

say "Testing it on the other 360 images"
"$VENV/bin/keras-resnet" evaluate runs/digits-resnet20

say "Exporting it for TF Serving"
"$VENV/bin/keras-resnet" export runs/digits-resnet20

say "Classifying an image file with the export"
"$VENV/bin/python" - runs/digit.png <<'PYTHON' 2>/dev/null
import sys

import tensorflow as tf

from keras_resnet import data

test = data.load("digits").test
tf.io.write_file(sys.argv[1], tf.io.encode_png(test.images[0]))
print(f"{sys.argv[1]} is a {test.labels[0]} that the network has never seen")
PYTHON
"$VENV/bin/keras-resnet" predict saved_models/digits-resnet20 runs/digit.png

cat <<EOT

What to try next:
  source $VENV/bin/activate
  keras-resnet list                          # all networks and recipes
  keras-resnet show resnet34 --compare plain34
  keras-resnet train digits-plain56          # 56 layers without shortcuts hardly learn,
  keras-resnet train digits-resnet56         # with shortcuts they do
  tensorboard --logdir runs                  # the curves
EOT
