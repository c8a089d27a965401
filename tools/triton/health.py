"""Is a Triton server well: ready, its models ready, and a living stub behind every Python instance?

`python -m tools.triton.health --port 8000 flux flux_unary` prints one line and exits with 0 or 1. This is the health
check of the container: a server keeps saying ready for a model whose stub has died. With `--probe` each model that
draws has to draw as well: the smallest picture there is, in one step. Standard library only.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tools.triton.api import ApiError, TritonApi
from tools.triton.stub import expected_instances, find_stubs, living_instances
from tools.triton.watching.probe import draws, problem_drawing


def find_problems(
    api: TritonApi, models: Sequence[str], server_pid: int | None = None, probe_s: float | None = None
) -> list[str]:
    """What is wrong, one line each; empty if the server serves all `models` with all their instances.

    `server_pid` tells the stubs of this server from those of others on the same machine. With `probe_s` each model
    that draws has that many seconds for a picture.
    """
    if not api.ready():
        return [f"the server at {api.host}:{api.port} is not ready"]
    problems = [f"model {model} is not ready" for model in models if not api.ready(model)]
    if problems:
        return problems
    stubs = find_stubs(server_pid)
    for model in models:
        try:
            configuration = api.configuration(model)
        except ApiError as error:
            return [f"model {model}: {error}"]
        expected = expected_instances(configuration)
        living = sum(len(found) for found in living_instances(stubs, expected).values())
        if living < expected.total():
            problems.append(f"model {model}: {living} of {expected.total()} instances have a living stub")
        elif probe_s and draws(configuration) and (problem := problem_drawing(api, model, probe_s)):
            problems.append(f"model {model} does not draw: {problem}")
    return problems


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.triton.health", description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["flux", "flux_unary"], help="default: flux flux_unary")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="HTTP port; default 8000")
    parser.add_argument("--server-pid", type=int, help="count only the stubs of this tritonserver; default all")
    parser.add_argument("--probe", action="store_true", help="have each model draw a small picture as well")
    parser.add_argument("--probe-timeout", type=float, default=20, metavar="S", help="for each picture; default 20")
    options = parser.parse_args(arguments)
    probe_s = options.probe_timeout if options.probe else None
    problems = find_problems(TritonApi(options.host, options.port), options.models, options.server_pid, probe_s)
    print("; ".join(problems) or f"well: {', '.join(options.models)}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
