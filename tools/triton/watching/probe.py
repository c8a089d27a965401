"""Asks a model for an answer: Triton calls a model ready that answers nobody."""

from __future__ import annotations

from tools.triton.api import JSON, ApiError, NoAnswer, TritonApi

SMALLEST: JSON = {"prompt": "health", "num_inference_steps": 1, "height": 64, "width": 64, "priority": 1}
BUSY = ("FLUX_OVERLOADED: ", "FLUX_DEADLINE_EXCEEDED: ")
"""Errors of a model that is well: the engine itself has answered."""

UNHEARD = "Stub process "
"""So begins what Triton itself says, a second after a request, of a process that lives and has stopped."""


def draws(configuration: JSON) -> bool:
    """Whether this is a model that can be asked here: it takes all that a question has, unlike those of others."""
    return {*SMALLEST, "deadline_ms"} <= {each["name"] for each in configuration.get("input", [])}


def problem_drawing(api: TritonApi, model: str, timeout_s: float) -> str:
    """Why a model did not draw the smallest picture there is, in one step; "" if it did, or has no room or time now."""
    try:
        api.generate(model, {**SMALLEST, "deadline_ms": round(900 * timeout_s)}, timeout_s)
    except NoAnswer:
        return f"no answer within {timeout_s:g} s"
    except ApiError as error:
        return "" if str(error).startswith(BUSY) else str(error)
    return ""


def is_silent(api: TritonApi, model: str, timeout_s: float) -> bool:
    """Whether nothing of the model's comes back, be it only that an empty prompt is refused.

    That takes no turn of the engine, so a model that is just slow is never called silent.
    """
    try:
        api.generate(model, {"prompt": ""}, timeout_s)
    except NoAnswer:
        return True
    except ApiError as error:
        return str(error).startswith(UNHEARD)
    return False
