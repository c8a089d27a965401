"""results.json as the lab wrote it before: objects by strategy in place of lists."""

from __future__ import annotations

from loadtest.reporting.formats import RESULTS, VERSIONS
from tools.triton.api import JSON


def upgraded(found: JSON) -> JSON:
    """A document of version 1 in the form of today's. There were no readings over time then.

    Raises AttributeError, KeyError or TypeError where it is not whole; what it holds is left to the schema.
    """
    config = {**found["test_config"], "schema_version": VERSIONS[RESULTS]}
    settings = config["strategies"]
    config["strategies"] = [strategy["name"] for strategy in settings]
    config["strategy_settings"] = settings
    config["requests_per_strategy"] = config["requests"] * config["repeats"]
    runs = found["detailed_results"]
    return {
        "test_config": config,
        "performance_results": [
            {
                "strategy": name,
                **its,
                "use": found["system_metrics"][name],
                "runs": [{key: value for key, value in run.items() if key != "requests"} for run in runs[name]],
            }
            for name, its in found["performance_results"].items()
        ],
        "system_metrics": [],
        "detailed_results": [
            {"strategy": name, "repeat": run["repeat"], **request}
            for name, its in runs.items()
            for run in its
            for request in run["requests"]
        ],
    }
