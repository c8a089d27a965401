"""The users of FLUX, with a task for each protocol; `--protocol` or Locust's `--tags` choose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from locust import User, tag
from locust.exception import StopUser

from loadtest.sending.dispatcher import Dispatcher
from loadtest.traffic.protocols import PROTOCOLS


def _task(protocol: str) -> Callable[..., Any]:
    @tag(protocol)
    def send_one(user: FluxUser) -> None:
        dispatcher = user.dispatcher
        if dispatcher is None or not dispatcher.send_next(protocol):
            raise StopUser

    send_one.__name__ = protocol.replace("-", "_")  # as --show-task-ratio lists it
    return send_one


_TASKS = {protocol: _task(protocol) for protocol in PROTOCOLS}


class FluxUser(User):
    """Sends what the schedule says, one order after another; what becomes of them is the dispatcher's."""

    dispatcher: ClassVar[Dispatcher | None] = None
    """Of this process's share of the test; None where none could be begun."""
    tasks = list(_TASKS.values())  # noqa: RUF012 - so Locust has it

    @classmethod
    def choose(cls, protocols: Sequence[str]) -> None:
        """Leaves only the tasks of these protocols."""
        cls.tasks = [_TASKS[protocol] for protocol in protocols]
