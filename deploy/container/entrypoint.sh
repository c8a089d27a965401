#!/usr/bin/env bash
# Starts Triton in the container. Settings are environment variables:
#   TRITON_HTTP_PORT, TRITON_GRPC_PORT, TRITON_METRICS_PORT   8000, 8001, 8002
#   TRITON_MODEL_REPOSITORY                                   /opt/flux/model_repository
#   TRITON_MODELS                                             models to load, "flux flux_unary"
#   TRITON_EXIT_TIMEOUT_S                                     time for the last requests at the end, 30
#   TRITON_CONTROL_KEY      if set, loading and unloading needs the header `triton-control: <key>`
#   FLUX_<NAME>             parameters of the engine, FLUX_MODEL above all
# Arguments that begin with - go to tritonserver; anything else is run in its place.
set -euo pipefail

if [[ $# -gt 0 && $1 != -* ]]; then
    exec "$@"
fi

arguments=(
    --model-repository="${TRITON_MODEL_REPOSITORY:-/opt/flux/model_repository}"
    --model-control-mode=explicit
    --http-port="${TRITON_HTTP_PORT:-8000}"
    --grpc-port="${TRITON_GRPC_PORT:-8001}"
    --metrics-port="${TRITON_METRICS_PORT:-8002}"
    --allow-metrics=true
    --disable-auto-complete-config
    --exit-timeout-secs="${TRITON_EXIT_TIMEOUT_S:-30}"
    --log-format=default
)
read -r -a models <<<"${TRITON_MODELS:-flux flux_unary}"
for model in "${models[@]}"; do
    arguments+=(--load-model="$model")
done
if [[ -n ${TRITON_CONTROL_KEY:-} ]]; then
    arguments+=(
        --http-restricted-api=model-repository:triton-control="$TRITON_CONTROL_KEY"
        --grpc-restricted-protocol=model-repository:triton-control="$TRITON_CONTROL_KEY"
    )
fi
exec tritonserver "${arguments[@]}" "$@"
