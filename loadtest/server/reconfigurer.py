"""Sets a running server up for one strategy after another, and leaves it as it was."""

from __future__ import annotations

import json

from loadtest.failures import BadInput, Refused
from loadtest.server.guard import LOAD_TIMEOUT_S, Guard
from loadtest.server.strategies import AS_FOUND, Strategy
from tools.triton.api import JSON, ApiError, TritonApi
from tools.triton.control_key import HEADER

MARK = "LOADTEST_STRATEGY"
"""A parameter in capitals, which the engine leaves to Triton, and Triton to nobody."""


class Reconfigurer:
    """`apply` sets strategies, and after `restore` the model runs with what it ran with before.

    That comes about as well where the lab is killed before it can call that (see guard.py). With `restores` false, for
    a server that is stopped anyway, nothing is put back.
    """

    def __init__(self, api: TritonApi, model: str, *, restores: bool = True) -> None:
        self.api = api
        self.model = model
        self.original = configuration_of(api, model)
        self._current: Strategy | None = None
        self._changed = False
        """Whether the model may run with anything but `original`."""
        self._restores = restores
        self._guard: Guard | None = None

    def apply(self, strategy: Strategy) -> None:
        """Returns when the model serves in this way. Raises Refused, and the model serves as before."""
        if strategy == self._current:
            return
        if self._guard is None and self._restores:
            self._guard = Guard(self.api, self.model, self.original)
        was_changed, self._changed = self._changed, True  # an interrupted load may still come about
        try:
            self.api.load(self.model, _marked(strategy, self.original), LOAD_TIMEOUT_S)
        except ApiError as error:
            self._changed = was_changed or not _runs_with(self.api, self.model, self.original)
            raise Refused(f"strategy {strategy.name}: {_refusal(str(error), self.api, self.model)}") from error
        self._current = strategy

    def restore(self) -> None:
        """Once is enough; again does nothing. Raises Refused where the server does not let itself be restored."""
        problem: ApiError | None = None
        if self._changed and self._restores:
            try:
                self.api.load(self.model, self.original, LOAD_TIMEOUT_S)
            except ApiError as error:
                problem = error
        # Not reached when an interruption cuts the load short: then the guard finds no "done" and loads.
        self._changed, self._current = False, None
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.dismiss()
        if problem is not None:
            url = f"http://{self.api.host}:{self.api.port}/v2/repository/models/{self.model}/load"
            raise Refused(
                f"the former configuration of {self.model} could not be restored: {problem}. The file's comes back "
                f"with the server's next start, or with: curl -X POST {url} -H '{HEADER}: KEY'"
            ) from problem


class Untouched:
    """Takes the place of a Reconfigurer for a server that must not be touched (--no-reconfigure)."""

    def __init__(self, api: TritonApi, model: str) -> None:
        """Raises Refused where nobody answers, or there is no such model."""
        self.api = api
        self.model = model
        if not api.ready(model):
            raise Refused(_refusal(f"model {model} is not ready", api, model))

    def apply(self, strategy: Strategy) -> None:
        """Raises BadInput if the server is not set to this strategy already: figures must not carry a wrong name."""
        if strategy == AS_FOUND or strategy.is_set(configuration_of(self.api, self.model)):
            return
        wanted = json.dumps({**strategy.parameters, "instances": strategy.instances})
        raise BadInput(
            f"--no-reconfigure: the server is not set to strategy {strategy.name} ({wanted}); "
            "leave --strategies out to measure it as it is"
        )

    def restore(self) -> None:
        """Nothing was changed."""


def configuration_of(api: TritonApi, model: str) -> JSON:
    """What the model runs with. Raises Refused where nobody answers, or there is no such model."""
    try:
        return api.configuration(model)
    except ApiError as error:
        raise Refused(_refusal(str(error), api, model)) from error


def _refusal(text: str, api: TritonApi, model: str) -> str:
    """Triton's error with what to do about it."""
    address = f"{api.host}:{api.port}"
    if not api.ready():
        return f"no Triton is ready at http://{address} ({text}); --url names the server's HTTP address"
    if "is not found" in text or "unknown model" in text:
        return f"the server at http://{address} has no model {model!r}: {text}"
    if "not allowed" in text and "load" in text:
        return (
            f"the server has no model control: {text}. Start it with --model-control-mode=explicit, or measure it as "
            "it is with --no-reconfigure"
        )
    if "restricted" in text:
        return (
            f"no rights to load models: {text}. --control-key or TRITON_CONTROL_KEY gives the server's key; or measure "
            "it as it is with --no-reconfigure"
        )
    return text


def _runs_with(api: TritonApi, model: str, configuration: JSON) -> bool:
    try:
        return api.configuration(model) == configuration
    except ApiError:
        return False


def _marked(strategy: Strategy, original: JSON) -> JSON:
    """Where only the number of instances differs, Triton keeps those that run, with the threads that they began with.

    With a parameter that differs it starts them all anew, so that no strategy inherits anything from the one before.
    """
    configuration = strategy.configuration(original)
    configuration["parameters"][MARK] = {"string_value": strategy.name}
    return configuration
