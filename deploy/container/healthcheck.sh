#!/usr/bin/env bash
# The container's health check: Triton and each model ready, a living stub behind every instance, and a small picture
# drawn by each model, in one step. A model that has no room at the moment, but says so, is well.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
read -r -a models <<<"${TRITON_MODELS:-flux flux_unary}"
exec python3 -m tools.triton.health --port "${TRITON_HTTP_PORT:-8000}" --probe "${models[@]}"
