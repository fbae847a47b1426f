#!/usr/bin/env bash
# Installs the package with its test dependencies into .venv, and runs the tests.
#   scripts/test.sh          the fast tests, about five minutes on two cores; arguments go to pytest
#   scripts/test.sh --all    lint, types and all tests
set -euo pipefail
cd "$(dirname "$0")/.."

. scripts/venv.sh
make_venv
"$VENV/bin/pip" install --quiet --disable-pip-version-check --editable '.[test]'

# The CIFAR-10 tests need the data in TFDS_DATA_DIR or in a folder `tfds` near the clone. Otherwise they are skipped.
for data in ../tfds ../*/tfds; do
    if [ -z "${TFDS_DATA_DIR:-}" ] && [ -d "$data/cifar10" ]; then
        TFDS_DATA_DIR=$(cd "$data" && pwd)
        export TFDS_DATA_DIR
    fi
done
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}

tests=("$VENV/bin/python" -P -m pytest --numprocesses 2 --dist worksteal)
if [ "${1:-}" = --all ]; then
    "$VENV/bin/ruff" check keras_resnet tests scripts
    "$VENV/bin/ruff" format --check keras_resnet tests scripts
    "$VENV/bin/mypy"
    exec "${tests[@]}"
fi
exec "${tests[@]}" -m "not slow" "$@"
