#!/usr/bin/env bash
# Starts Triton in the container, as `make serve` does elsewhere: tools/triton watches over it as the first process.
# Settings are environment variables:
#   TRITON_HTTP_PORT, TRITON_GRPC_PORT, TRITON_METRICS_PORT   8000, 8001, 8002
#   TRITON_HOST                                               address to listen on, 0.0.0.0
#   TRITON_MODEL_REPOSITORY                                   /opt/flux/model_repository
#   TRITON_MODELS                                             models to load, "flux flux_unary"
#   TRITON_START_TIMEOUT_S                                    time to load them, downloads included, 86400
#   TRITON_EXIT_TIMEOUT_S                                     time for the last requests at the end, 30
#   TRITON_RESTARTS         how often within ten minutes a Triton that crashed is started again, 5
#   TRITON_CONTROL_KEY      loading models, shared memory, trace and log settings need the header `triton-control: <key>`;
#                           unless it is set, the key is random and in the file control-key-<HTTP port> in
#                           TRITON_CONTROL_KEY_FOLDER, in the image /tmp/flux-triton
#   FLUX_<NAME>             parameters of the engine, FLUX_MODEL above all
# Arguments that begin with - go to tritonserver, but for those that a variable decides; anything else is run in its place.
set -euo pipefail

if [[ $# -gt 0 && $1 != -* ]]; then
    exec "$@"
fi

export TRITON_HOST=${TRITON_HOST:-0.0.0.0}
export TRITON_START_TIMEOUT_S=${TRITON_START_TIMEOUT_S:-86400}
export TRITON_LOG_FILE=${TRITON_LOG_FILE:--}
cd "$(dirname "${BASH_SOURCE[0]}")"
exec python3 -m tools.triton -- "$@"
