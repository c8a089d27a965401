"""The ways to serve that the lab compares.

To add one, add a line to STRATEGIES, or leave this file alone and write

    {"name": "small_batches", "description": "at most four in a batch",
     "parameters": {"scheduling": "continuous", "max_batch": "4"}, "instances": 1}

into a file (one such object, or a list of them): --strategy-file FILE --strategies baseline custom:small_batches
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

from loadtest.failures import BadInput
from tools.triton.api import JSON

BASELINE = "baseline"
CUSTOM = "custom:"


@dataclass(frozen=True, slots=True)
class Strategy:
    name: str
    description: str
    parameters: Mapping[str, str]
    """Of the engine, in place of those that the server runs with. README.md lists them."""
    instances: int | None = 1
    """On each device of the model's instance groups. None in STRATEGIES: as many as --instances says."""

    def configuration(self, original: JSON) -> JSON:
        """The server's configuration of the model with what this strategy changes."""
        configuration = deepcopy(original)
        changed = {name: {"string_value": value} for name, value in self.parameters.items()}
        configuration["parameters"] = {**configuration.get("parameters", {}), **changed}
        for group in configuration["instance_group"] if self.instances is not None else []:
            group["count"] = self.instances
        return configuration

    def is_set(self, configuration: JSON) -> bool:
        """Whether a model with this configuration is served in this way."""
        return self.configuration(configuration) == configuration


STRATEGIES = {
    strategy.name: strategy
    for strategy in (
        Strategy(BASELINE, "one instance, one request at a time", {"scheduling": "serial"}),
        Strategy("model_pool", "several instances, one request at a time in each", {"scheduling": "serial"}, None),
        Strategy("batch", "equal requests form a batch that runs to its end", {"scheduling": "static"}),
        Strategy("async", "requests join and leave a batch at every step", {"scheduling": "continuous"}),
    )
}


AS_FOUND = Strategy("as_found", "the server as it was found", {}, None)
"""What --no-reconfigure measures."""


def choose(names: Iterable[str], file: Path | None, instances: int) -> list[Strategy]:
    """The strategies of these names, each once, in this order. Raises BadInput.

    `names` are those of STRATEGIES, `custom:NAME` for those of `file`, or `all`.
    """
    known = {**STRATEGIES, **{f"{CUSTOM}{strategy.name}": strategy for strategy in (_read(file) if file else [])}}
    wanted: dict[str, None] = {}
    for name in names:
        if name == "all":
            wanted.update(dict.fromkeys(known))
        elif name in known:
            wanted[name] = None
        elif name.startswith(CUSTOM) and file is None:
            raise BadInput(f"--strategies: {name!r} needs --strategy-file, the file that declares it")
        else:
            raise BadInput(f"--strategies: {name!r} is unknown; there are {', '.join(known)}, all")
    chosen = [known[name] for name in wanted]
    return [replace(strategy, instances=strategy.instances or instances) for strategy in chosen]


def _read(file: Path) -> list[Strategy]:
    where = f"--strategy-file {file}"
    try:
        document = json.loads(file.read_text())
    except OSError as error:
        raise BadInput(f"{where}: {error.strerror}") from error
    except ValueError as error:
        raise BadInput(f"{where} is not JSON: {error}") from error
    return [_strategy(entry, where) for entry in (document if isinstance(document, list) else [document])]


def _strategy(entry: object, where: str) -> Strategy:
    if not isinstance(entry, dict):
        raise BadInput(f"{where}: {entry!r} must be an object with name, description, parameters, instances")
    for key in entry:
        if key not in ("name", "description", "parameters", "instances"):
            raise BadInput(f"{where}: {key!r} is unknown; allowed are name, description, parameters, instances")
    name, parameters, instances = entry.get("name"), entry.get("parameters", {}), entry.get("instances", 1)
    if not isinstance(name, str) or not name:
        raise BadInput(f"{where}: name is {name!r}; must be a text")
    if name in STRATEGIES:
        raise BadInput(f"{where}: name is {name!r}, which the lab has already; choose another")
    if not isinstance(parameters, dict) or not all(isinstance(value, str) for value in parameters.values()):
        raise BadInput(f'{where}: parameters is {parameters!r}; must be an object of texts, as in {{"max_batch": "4"}}')
    if not isinstance(instances, int) or isinstance(instances, bool) or instances < 1:
        raise BadInput(f"{where}: instances is {instances!r}; must be an integer of at least 1")
    return Strategy(name, str(entry.get("description", "")), parameters, instances)
