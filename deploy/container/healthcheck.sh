#!/usr/bin/env bash
# The container's health check: Triton and each model ready, a living stub behind every instance, and a small picture
# drawn by each model, in one step. A model that has no room at the moment, but says so, is well.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
read -r -a models <<<"${TRITON_MODELS:-flux flux_unary}"
host=${TRITON_HOST:-0.0.0.0}
exec python3 -m tools.triton.health --host "${host/#0.0.0.0/127.0.0.1}" --port "${TRITON_HTTP_PORT:-8000}" \
    --probe "${models[@]}"
