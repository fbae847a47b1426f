#!/usr/bin/env bash
# Runs one search with a chief and N workers on this machine: scripts/search_local.sh N RECIPE --trials 20 ...
set -euo pipefail

[[ ${1:-} =~ ^[1-9][0-9]*$ && $# -ge 2 ]] || { echo "usage: $0 WORKERS RECIPE --trials N [arguments of search]" >&2; exit 2; }
workers=$1
shift
export KERASTUNER_ORACLE_IP=127.0.0.1
KERASTUNER_ORACLE_PORT=$(python3 -I -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export KERASTUNER_ORACLE_PORT

trap 'kill $(jobs -p) 2>/dev/null || true' EXIT # chief and workers wait for each other forever
pids=()
for ((i = 0; i < workers; i++)); do
    KERASTUNER_TUNER_ID=tuner$i keras-resnet search "$@" >/dev/null &
    pids+=($!)
done
KERASTUNER_TUNER_ID=chief keras-resnet search "$@" &
chief=$!
for pid in "${pids[@]}"; do
    wait "$pid"
done
wait "$chief"
