#!/usr/bin/env bash
# Installs what the tests need into .venv and runs them; arguments after --all go to pytest.
#   scripts/test.sh          the fast tests, under five minutes on two cores
#   scripts/test.sh --all    all tests, lint and types
set -euo pipefail
cd "$(dirname "$0")/.."

. scripts/venv.sh
make_venv
"$VENV/bin/pip" install --quiet --disable-pip-version-check --editable '.[test]'

# The CIFAR-10 tests run where its data is; they say so where it is not.
if [ -z "${TFDS_DATA_DIR:-}" ] && [ -d ../shared/tfds/cifar10 ]; then
    export TFDS_DATA_DIR=$PWD/../shared/tfds
fi
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}

if [ "${1:-}" = --all ]; then
    shift
    "$VENV/bin/flake8" keras_resnet tests scripts
    "$VENV/bin/mypy"
    exec "$VENV/bin/python" -m pytest "$@"
fi
exec "$VENV/bin/python" -m pytest -m "not slow" "$@"
