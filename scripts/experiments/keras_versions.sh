#!/usr/bin/env bash
# Tests the package with several minor versions of Keras, except for training on several replicas.
#   scripts/experiments/keras_versions.sh [VERSION...]     by default 3.13 3.14 3.15
# For each version, installs the package into its own environment (in $ENVIRONMENTS, or a temporary folder) and runs the
# fast tests that need no `prepare`. Writes scripts/results/keras_versions.txt.
set -euo pipefail
cd "$(dirname "$0")/../.."

. scripts/venv.sh
[ $# -gt 0 ] || set -- 3.13 3.14 3.15
if [ -z "${ENVIRONMENTS:-}" ]; then
    ENVIRONMENTS=$(mktemp -d)
    trap 'rm -rf "$ENVIRONMENTS"' EXIT
fi
tests=(tests/networks tests/data tests/runs tests/training tests/evaluation tests/serving)
# `prepare` replaces private methods of one version of Keras; with other versions it only warns.
tests+=(--ignore tests/training/test_distribution.py --ignore tests/training/test_batch_norm.py
        --ignore tests/training/test_convolution.py)
tests+=(-W "ignore:Keras is")
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}

count() { { grep -oE "[0-9]+ $1" <<<"$summary" || echo 0; } | cut -d' ' -f1; }

table=$(mktemp)
{
    echo "The fast tests of networks, data, runs, training on one device, evaluation and serving,"
    echo "by scripts/experiments/keras_versions.sh."
    echo
    printf '%-8s %-11s %-8s %7s %8s %7s\n' Keras TensorFlow Python passed skipped failed
} >"$table"
failed=0
for version in "$@"; do
    VENV=$ENVIRONMENTS/keras-$version
    make_venv
    "$VENV/bin/pip" install --quiet --disable-pip-version-check --editable '.[test]' "keras==$version.*"
    log=$VENV/tests.log
    "$VENV/bin/python" -P -m pytest -m "not slow" -q -p no:cacheprovider "${tests[@]}" >"$log" 2>&1 || failed=1
    summary=$(tail -n 1 "$log")
    versions=$("$VENV/bin/python" -I -c '
import platform
from importlib.metadata import version
print(version("keras"), version("tensorflow"), platform.python_version())')
    errors=$(($(count failed) + $(count error)))
    # shellcheck disable=SC2086 # three words
    printf '%-8s %-11s %-8s %7s %8s %7s\n' $versions "$(count passed)" "$(count skipped)" "$errors" | tee -a "$table"
    grep -E '^(FAILED|ERROR)' "$log" | sed 's/^/    /' | tee -a "$table" || true
done
mv "$table" scripts/results/keras_versions.txt
chmod 644 scripts/results/keras_versions.txt
exit "$failed"
