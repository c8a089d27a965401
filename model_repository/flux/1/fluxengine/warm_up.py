"""The first picture, which nobody asked for."""

from __future__ import annotations

import time

from fluxengine.errors import FluxError
from fluxengine.reply import Completed, Progress
from fluxengine.wire.inputs import DEFAULT_PRIORITY
from fluxengine.wire.limits import Limits
from fluxengine.wire.request import GenerateRequest, PromptRequest


def warm_up_request(limits: Limits) -> GenerateRequest:
    """One step of the default size."""
    row = PromptRequest("warm-up", *limits.default_size, 1, limits.default_guidance, seed=0)
    now_s = time.monotonic()
    return GenerateRequest("warm-up", (row,), 1, "raw", False, False, 0, DEFAULT_PRIORITY, now_s, None)


class WarmUpReply:
    """Remembers only what went wrong."""

    failure: FluxError | None = None

    def progress(self, progress: Progress) -> None:
        pass

    def done(self, completed: Completed) -> None:
        pass

    def error(self, error: FluxError) -> None:
        self.failure = error
