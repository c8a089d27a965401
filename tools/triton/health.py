"""Is a Triton server well: ready, its models ready, and a living stub behind every Python instance?

`python -m tools.triton.health --port 8000 flux flux_unary` prints one line and exits with 0 or 1. This is the health
check of the container: a server keeps saying ready for a model whose stub has died. Standard library only.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tools.triton.api import ApiError, TritonApi
from tools.triton.stub import expected_instances, find_stubs, living_instances


def find_problems(api: TritonApi, models: Sequence[str], server_pid: int | None = None) -> list[str]:
    """What is wrong, one line each; empty if the server serves all `models` with all their instances.

    `server_pid` tells the stubs of this server from those of others on the same machine.
    """
    if not api.ready():
        return [f"the server at {api.host}:{api.port} is not ready"]
    problems = [f"model {model} is not ready" for model in models if not api.ready(model)]
    if problems:
        return problems
    stubs = find_stubs(server_pid)
    for model in models:
        try:
            expected = expected_instances(api.configuration(model))
        except ApiError as error:
            return [f"model {model}: {error}"]
        living = sum(len(found) for found in living_instances(stubs, expected).values())
        if living < expected.total():
            problems.append(f"model {model}: {living} of {expected.total()} instances have a living stub")
    return problems


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.triton.health", description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["flux", "flux_unary"], help="default: flux flux_unary")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="HTTP port; default 8000")
    parser.add_argument("--server-pid", type=int, help="count only the stubs of this tritonserver; default all")
    options = parser.parse_args(arguments)
    problems = find_problems(TritonApi(options.host, options.port), options.models, options.server_pid)
    print("; ".join(problems) or f"well: {', '.join(options.models)}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
