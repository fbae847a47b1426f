#!/usr/bin/env bash
# Runs TF Serving's official container on the models of scripts/serving/models.config: gRPC on 8500, REST and metrics on 8501.
#   scripts/serving/serve.sh [SAVED_MODELS]    the folder of all exports, by default saved_models
# IMAGE chooses another image; pin yours by its digest. Nothing but loopback can reach the ports; set HOST=0.0.0.0 to change it.
set -euo pipefail
configs=$(cd "$(dirname "$0")" && pwd)
models=$(cd "${1:-saved_models}" && pwd)

exec docker run --rm --init --name tf-serving \
    --publish "${HOST:-127.0.0.1}:8500:8500" --publish "${HOST:-127.0.0.1}:8501:8501" \
    --user 65534:65534 --read-only --cap-drop ALL --security-opt no-new-privileges \
    --volume "$models:/models:ro" --volume "$configs:/configs:ro" \
    --env TF_ONEDNN_ASSUME_FROZEN_WEIGHTS=1 \
    --health-cmd "bash /configs/healthy.sh flowers" --health-interval 10s --health-start-period 120s \
    "${IMAGE:-tensorflow/serving}" \
    --model_config_file=/configs/models.config \
    --allow_version_labels_for_unavailable_models=true \
    --enable_batching=true --enable_per_model_batching_parameters=true \
    --enable_model_warmup=true \
    --enable_grpc_healthcheck_service=true \
    --monitoring_config_file=/configs/monitoring.config
