"""The parameters of a Triton request: what comes beside its tensors, from callers, proxies and Triton itself."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Set

from fluxengine.errors import InvalidArgument

TRITON_PARAMETERS = ("timeout", "priority", "binary_data_output", "id")
RESERVED = "flux_"
"""How parameters begin that callers may take for some of ours. There are none."""

NEVER_S = 365 * 86400.0
"""A wait as long as this is no deadline; clients send the largest number they have."""


def parse_parameters(text: str) -> dict[str, object]:
    """They come as a JSON object or an empty string."""
    loaded = json.loads(text) if text else {}
    return loaded if isinstance(loaded, dict) else {}


def refuse_misplaced(parameters: Mapping[str, object], inputs: Set[str], of_flux_alone: Set[str]) -> None:
    """A misspelt key of a `generate` body arrives as a parameter; ignoring it would draw something else.

    Other parameters are none of our business: Triton, its clients and proxies add some, and an operator can have
    headers of HTTP and gRPC handed on as such. `of_flux_alone` are inputs that the model that was called does not have.
    Raises InvalidArgument naming the first that is meant for us.
    """
    for name in parameters:
        if name.lower() in TRITON_PARAMETERS:
            continue
        if name in of_flux_alone:
            raise InvalidArgument(name, "is not an input of flux_unary; flux itself has it")
        if name in inputs:
            raise InvalidArgument(name, "is a parameter of the request; must be sent as an input tensor")
        if name.startswith(RESERVED):
            raise InvalidArgument(name[:80], f"is not for callers, as any parameter that begins with {RESERVED}")
        if meant := _meant(name.lower(), inputs - of_flux_alone):
            known = ", ".join(sorted(inputs - of_flux_alone))
            raise InvalidArgument(name[:80], f"is not an input of this model; did you mean {meant}? Inputs are {known}")


def _meant(name: str, inputs: Set[str]) -> str | None:
    """The input that a name seems to be a slip of, as a whole or being some of its words (steps, guidance, lroa, …)."""
    if name.startswith(("x-", "x_")):  # a header
        return None
    parts = {word: known for known in sorted(inputs, reverse=True) for word in known.split("_")}
    parts |= {known: known for known in inputs}
    if meant := next((known for known in sorted(inputs) if set(name.split("_")) <= set(known.split("_"))), None):
        return meant
    close = difflib.get_close_matches(name, [part for part in parts if len(part) >= 4], n=1, cutoff=0.8)
    return parts[close[0]] if close else None


def deadline(
    deadline_ms: int, timeout_us: int, parameters: Mapping[str, object], default_deadline_ms: int, arrival_s: float
) -> float | None:
    """The soonest of the input, the protocol's timeout, and `timeout` of a generate body, which is a parameter (µs).

    The default is for requests that have none of them. Times are of `time.monotonic()`.
    """
    parameter_us = 0
    if "timeout" in parameters:
        try:
            parameter_us = min(int(str(parameters["timeout"])), 2**63)  # more would be too much for a float
        except ValueError:
            parameter_us = -1
        if parameter_us < 0:
            sent = repr(parameters["timeout"])[:80]
            raise InvalidArgument("timeout", f"is {sent}; must be microseconds, 0 for none")
    sent_s = [wait for wait in (deadline_ms / 1e3, timeout_us / 1e6, parameter_us / 1e6) if wait > 0]
    waits_s = [wait for wait in sent_s or [default_deadline_ms / 1e3] if 0 < wait < NEVER_S]
    return arrival_s + min(waits_s) if waits_s else None
