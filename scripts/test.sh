#!/usr/bin/env bash
# Installs what the tests need into .venv and runs them.
#   scripts/test.sh          the fast tests, under five minutes on two cores; arguments go to pytest
#   scripts/test.sh --all    lint, types and all tests
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

fast=("$VENV/bin/python" -m pytest -m "not slow" --numprocesses 2 --dist worksteal)
if [ "${1:-}" = --all ]; then
    "$VENV/bin/flake8" keras_resnet tests scripts
    "$VENV/bin/mypy"
    "${fast[@]}"
    # One at a time: many of these start processes of their own, and wait for them.
    exec "$VENV/bin/python" -m pytest -m slow
fi
exec "${fast[@]}" "$@"
