"""What a caller has: a request to send, and the answer that comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from fluxengine.errors import FluxError
from fluxengine.reply import Completed, Progress
from fluxengine.wire.request import GenerateRequest, PromptRequest

PATIENCE_S = 30.0
"""After this a test has failed; none waits so long otherwise."""


class Answer:
    """A reply that remembers all that it was told."""

    def __init__(self) -> None:
        self.progressed: list[Progress] = []
        self.outcomes: list[Completed | FluxError] = []
        self._told = threading.Condition()

    def progress(self, progress: Progress) -> None:
        with self._told:
            assert not self.outcomes, "progress after the end"
            self.progressed.append(progress)
            self._told.notify_all()

    def done(self, completed: Completed) -> None:
        self._end(completed)

    def error(self, error: FluxError) -> None:
        self._end(error)

    def outcome(self) -> Completed | FluxError:
        """Waits for the end."""
        with self._told:
            assert self._told.wait_for(lambda: self.outcomes, PATIENCE_S), "no answer"
            return self.outcomes[0]

    def completed(self) -> Completed:
        outcome = self.outcome()
        if isinstance(outcome, FluxError):
            raise outcome
        return outcome

    def failure(self) -> FluxError:
        outcome = self.outcome()
        assert isinstance(outcome, FluxError), f"a picture where an error was due: {outcome}"
        return outcome

    def wait_for_step(self, step: int) -> None:
        """Waits until the first row has had so many steps. Only with progress=True."""
        with self._told:
            assert self._told.wait_for(
                lambda: self.outcomes or any(progress.steps[0] >= step for progress in self.progressed), PATIENCE_S
            ), f"step {step} was not reached"

    def _end(self, outcome: Completed | FluxError) -> None:
        with self._told:
            self.outcomes.append(outcome)
            self._told.notify_all()


class Gate:
    """Called before each step of the engine: lets as many pass as it was told to, and holds the engine at the next."""

    def __init__(self, steps: int = 0) -> None:
        self.rows: list[int] = []
        """Rows of each transformer call so far, the one that is held included."""
        self._left = steps
        self._open = False
        self._changed = threading.Condition()

    def __call__(self, rows: int) -> None:
        with self._changed:
            self.rows.append(rows)
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._open or self._left > 0, PATIENCE_S), "held for ever"
            self._left -= 1

    def wait_for_calls(self, calls: int) -> None:
        """Returns once the engine has begun that many steps since the start."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.rows) >= calls, PATIENCE_S), (
                f"{self.rows}, not {calls} calls"
            )

    def let(self, steps: int) -> None:
        """Lets so many steps pass and returns when the engine stands before the next one."""
        with self._changed:
            goal = len(self.rows) + steps
            self._left += steps
            self._changed.notify_all()
        self.wait_for_calls(goal)

    def open(self) -> None:
        with self._changed:
            self._open = True
            self._changed.notify_all()


def request(
    prompt: str = "a fox",
    *more: str,
    size: tuple[int, int] = (64, 64),
    steps: int = 4,
    guidance: float = 2.0,
    seed: int = 5,
    images: int = 1,
    progress: bool = False,
    preview_interval: int = 0,
    priority: int = 2,
    deadline_s: float | None = None,
    arrival_s: float | None = None,
    **row: Any,
) -> GenerateRequest:
    """A request of one row for each prompt. Row n has the seed `seed + 1000·n`. The deadline counts from now.

    `row` are further fields of PromptRequest, the same for all.
    """
    now_s = time.monotonic() if arrival_s is None else arrival_s
    return GenerateRequest(
        id=f"test-{prompt}",
        rows=tuple(
            PromptRequest(text, *size, steps, guidance, seed + 1000 * n, **row)
            for n, text in enumerate((prompt, *more))
        ),
        num_images_per_prompt=images,
        output_format="png",
        base64=False,
        progress=progress,
        preview_interval=preview_interval,
        priority=priority,
        arrival_s=now_s,
        deadline_s=None if deadline_s is None else now_s + deadline_s,
    )


def eventually(holds: Callable[[], bool], what: str) -> None:
    """Waits for what another thread brings about."""
    end_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end_s, what
        time.sleep(0.001)
