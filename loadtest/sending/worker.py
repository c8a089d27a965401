"""Where users run: in a worker, or in the only process. It starts a dispatcher for each test, and ends it whole."""

from __future__ import annotations

import logging
from typing import Any

import gevent
from locust.env import Environment
from locust.runners import LocalRunner, WorkerRunner

from loadtest.failures import BadInput
from loadtest.sending.answer import get_ready
from loadtest.sending.dispatcher import Dispatcher
from loadtest.sending.settings import Settings
from loadtest.sending.users import FluxUser
from loadtest.traffic.record import Record

DRAIN_GRACE_S = 10.0
"""Beyond the time-out of a request, after which it ends by itself."""

log = logging.getLogger(__name__)


class RequestFailed(Exception):
    """What Locust's table of failures shows, which has a row for each text: the code and what it is about."""


class Worker:
    """Its messages to the master: `flux_record` of each request, `flux_done` when its share is, `flux_failed`."""

    def __init__(self, environment: Environment, runner: LocalRunner | WorkerRunner) -> None:
        self._environment = environment
        self._runner = runner
        self._share: tuple[int, int] | None = None
        """Number and count, of the next test; told before it begins."""
        self._test = 0
        """The number of the test that the share is of, which all messages carry."""
        self._dispatcher: Dispatcher | None = None
        runner.register_message("flux_share", self._on_share)
        runner.register_message("flux_finish", self._on_finish)
        environment.events.test_start.add_listener(self._on_start)
        environment.events.test_stopping.add_listener(self._on_stopping)
        if isinstance(runner, WorkerRunner):
            # A worker that gets a signal (Ctrl-C reaches all of --processes) takes leave of its master here, before it
            # stops; what is in flight would come too late. This is called first, as Locust's own listener is older.
            environment.events.quitting.add_listener(self._on_stopping)

    def _on_share(self, msg: Any, **_: Any) -> None:
        self._share = msg.data["index"], msg.data["of"]
        self._test = msg.data["test"]

    def _on_finish(self, **_: Any) -> None:
        if self._dispatcher:
            self._dispatcher.close()
        elif self._share:  # the test ends before it has begun here
            self._share = None
            self._on_done(whole=False)

    def _on_start(self, **_: Any) -> None:
        FluxUser.dispatcher = self._dispatcher = None
        share, self._share = self._share, None
        if share is None:  # a worker that came when the test had begun, or a test that cannot be run
            log.warning("this process has no share of the test, and sends nothing")
            return
        try:
            settings = Settings.read(self._environment.parsed_options, self._environment.host)
            orders = settings.schedule.share(*share)
        except BadInput as error:
            self._tell("flux_failed", text=str(error))
            return
        if settings.check_prompts:
            for _part in get_ready():
                gevent.sleep(0.001)  # a worker that sends no heartbeat for four seconds is taken for missing
        FluxUser.choose(settings.protocols)
        FluxUser.dispatcher = self._dispatcher = Dispatcher(settings, orders, self._on_record, self._on_done)

    def _tell(self, message: str, **data: Any) -> None:
        self._runner.send_message(message, {**data, "test": self._test})

    def _on_record(self, record: Record) -> None:
        code, text = record.code_and_text
        self._environment.events.request.fire(
            request_type=record.protocol,
            name=record.name.removeprefix(f"{record.protocol} "),
            response_time=record.latency_ms,
            response_length=record.bytes,
            exception=None if record.ok else RequestFailed(f"{code}: {text.split(':')[0]}"),
            context={},
            start_time=record.intended,
        )
        self._tell("flux_record", record=record.values())

    def _on_done(self, whole: bool) -> None:
        self._tell("flux_done", whole=whole)

    def _on_stopping(self, **_: Any) -> None:
        """Locust stops the users next. Requests in flight end before: without the slowest, figures would flatter."""
        dispatcher, self._dispatcher = self._dispatcher, None
        if dispatcher is None:
            return
        dispatcher.close()
        if not dispatcher.done.is_set():
            log.info("waiting for the requests that are in flight")
        if dispatcher.done.wait(dispatcher.settings.timeout_s + DRAIN_GRACE_S):
            dispatcher.release()
        else:
            log.error("requests are still in flight, though their time is over: they are not in the figures")
