# Sourced by the scripts beside it: the virtual environment they share, $VENV or .venv.
VENV=${VENV:-.venv}

# Makes the environment where it is missing, with the first Python that is new enough.
make_venv() {
    [ -x "$VENV/bin/pip" ] && return
    local python
    for python in python3 python3.13 python3.12 python3.11 python; do
        if "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
            "$python" -m venv "$VENV" || {
                echo "$python cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv" >&2
                exit 2
            }
            return
        fi
    done
    echo "Python 3.11, 3.12 or 3.13 is needed; none is on PATH" >&2
    exit 2
}
