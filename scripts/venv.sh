# Sourced by other scripts. $VENV is the virtual environment that they share, by default .venv.
VENV=${VENV:-.venv}

# Creates the environment if it is missing, with the first suitable Python on PATH.
make_venv() {
    [ -x "$VENV/bin/pip" ] && return
    local python
    for python in python3 python3.13 python3.12 python3.11 python; do
        if "$python" -I -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
            "$python" -I -m venv "$VENV" || {
                echo "$python cannot create a virtual environment; on Debian and Ubuntu: apt-get install python3-venv" >&2
                exit 2
            }
            return
        fi
    done
    echo "Python 3.11, 3.12 or 3.13 is needed; none is on PATH" >&2
    exit 2
}
