#!/usr/bin/env bash
# Succeeds if a server answers for a model: some version of it is loaded and warmed up. It needs bash alone, because the
# image of TF Serving has no curl.
#   healthy.sh MODEL [REST_PORT]
set -euo pipefail
exec 3<>"/dev/tcp/127.0.0.1/${2:-8501}"
printf 'GET /v1/models/%s/metadata HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$1" >&3
read -r -t 5 _ status _ <&3
[ "$status" = 200 ]
