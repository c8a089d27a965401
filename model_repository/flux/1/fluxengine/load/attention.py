"""The parameter `attention_backend`: a name of diffusers' registry that this machine can really run."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_dispatch import (
    AttentionBackendName,
    _check_attention_backend_requirements,
    dispatch_attention_fn,
)

from fluxengine.errors import ConfigError


def set_attention_backend(transformer: Any, name: str, device: torch.device) -> None:
    """Makes the transformer use that backend, once a tiny call on `device` has shown that it works.

    Raises ConfigError naming the backends that work here.
    """
    known = {backend.value for backend in AttentionBackendName}
    if name.lower() not in known:
        raise ConfigError(f"attention_backend is {name!r}: {_allowed(device, transformer.dtype)}")
    try:
        transformer.set_attention_backend(name)  # may download a kernel
        _try(name.lower(), device, transformer.dtype)
    except Exception as error:  # each library behind a backend has its own
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"attention_backend is {name!r}: does not work here: {reason}; {_allowed(device, transformer.dtype)}"
        ) from error


def usable_attention_backends(device: torch.device, dtype: torch.dtype) -> list[str]:
    """The names that work on this device, but for those whose kernels would have to be downloaded (`…_hub`)."""
    usable = []
    for backend in AttentionBackendName:
        if not backend.value.endswith("_hub"):
            try:
                _check_attention_backend_requirements(backend)
                _try(backend.value, device, dtype)
            except Exception:  # as above; which one fails, and how, is all that is asked
                continue
            usable.append(backend.value)
    return usable


def _allowed(device: torch.device, dtype: torch.dtype) -> str:
    return f"must be auto or one that works on {device}: {', '.join(usable_attention_backends(device, dtype))}"


def _try(name: str, device: torch.device, dtype: torch.dtype) -> None:
    states = torch.zeros(1, 8, 2, 32, device=device, dtype=dtype)  # [batch, tokens, heads, features]
    outcome = dispatch_attention_fn(states, states, states, backend=AttentionBackendName(name))
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # where a kernel's failure shows
    if outcome.shape != states.shape:
        raise RuntimeError(f"it answers with the shape {tuple(outcome.shape)}")
