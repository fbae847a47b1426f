#!/usr/bin/env bash
# Runs one training with N workers on this machine: scripts/launch_local.sh N RECIPE [arguments of train]
# If one worker fails, the others end too; the same command resumes from the last checkpoint.
set -euo pipefail

[[ ${1:-} =~ ^[1-9][0-9]*$ && $# -ge 2 ]] || { echo "usage: $0 WORKERS RECIPE [arguments of train]" >&2; exit 2; }
workers=$1
shift
# Holds all ports until the last is found, so that they differ.
addresses=$(python3 -I -c '
import json, socket, sys
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(json.dumps(["127.0.0.1:%d" % one.getsockname()[1] for one in held]))' "$workers")

trap 'kill -TERM $(jobs -p) 2>/dev/null || true' INT TERM # the workers save a checkpoint and end
trap 'kill -KILL $(jobs -p) 2>/dev/null || true' EXIT
for ((i = 0; i < workers; i++)); do
    TF_CONFIG="{\"cluster\": {\"worker\": $addresses}, \"task\": {\"type\": \"worker\", \"index\": $i}}" \
        keras-resnet train "$@" &
done
status=0
while [ -n "$(jobs -rp)" ]; do
    wait -n || status=$? # within seconds the other workers notice that one has ended
done
exit "$status"
