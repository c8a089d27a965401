#!/usr/bin/env bash
# The container's health check: Triton and each model ready, and a living stub behind every instance.
set -euo pipefail
cd /opt/flux
read -r -a models <<<"${TRITON_MODELS:-flux flux_unary}"
exec python3 -m tools.triton.health --port "${TRITON_HTTP_PORT:-8000}" "${models[@]}"
