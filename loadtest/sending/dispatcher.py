"""One process's part of a test: it hands its share of the schedule to users, sends it, and tells when all is done."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gevent
import gevent.event

from fluxclient import FluxError
from loadtest.sending.answer import Answer, WrongAnswer, check, record_of
from loadtest.sending.grpc_callers import StreamCaller, UnaryCaller
from loadtest.sending.http_callers import GenerateCaller, InferCaller, OpenAICaller
from loadtest.sending.settings import Settings
from loadtest.traffic.order import Order, TimedOrder
from loadtest.traffic.record import Record, now_s

Caller = StreamCaller | UnaryCaller | InferCaller | GenerateCaller | OpenAICaller

_CALLERS: dict[str, type[Caller]] = {
    "grpc-stream": StreamCaller,
    "grpc-unary": UnaryCaller,
    "http-infer": InferCaller,
    "http-generate": GenerateCaller,
    "openai": OpenAICaller,
}

log = logging.getLogger(__name__)


class Dispatcher:
    """From the start of a test to its end, in one process; all of it runs in greenlets of one thread.

    `on_record` is called for each request as it ends, and `on_done` once: when the share has been sent, or this was
    closed, and nothing is in flight any more. It is told whether all of the share was sent.
    """

    def __init__(
        self,
        settings: Settings,
        share: Iterator[TimedOrder],
        on_record: Callable[[Record], None],
        on_done: Callable[[bool], None],
    ) -> None:
        self.settings = settings
        self._share = share
        self._on_record = on_record
        self._on_done = on_done
        self._callers = {protocol: _CALLERS[protocol](settings) for protocol in settings.protocols}
        self._began_s = now_s()
        self._taken = 0
        """Orders whose time is waited for, or that are in flight."""
        self._exhausted = False
        self._closed = gevent.event.Event()
        self.done = gevent.event.Event()

    def send_next(self, protocol: str) -> bool:
        """Sends the next order. False if there is none.

        In a closed loop this returns when it has ended, in an open loop as soon as it is on its way. A user who is
        stopped meanwhile leaves a request that is on its way to its end.
        """
        if self._closed.is_set():
            return False
        timed = next(self._share, None)
        if timed is None:
            self._exhausted = True
            self._settle()
            return False
        if timed.at_s is None:
            self._spawn(protocol, timed.order, None).join()
            return True
        intended_s = self._began_s + timed.at_s
        with self._taking():
            if self._closed.wait(max(0.0, intended_s - now_s())):
                return False
            self._spawn(protocol, timed.order, intended_s)
        return True

    def close(self) -> None:
        """Nothing more is begun; what is in flight ends by itself. `done` tells when it has."""
        self._closed.set()
        self._settle()

    def release(self) -> None:
        """Closes the connections."""
        for caller in self._callers.values():
            caller.close()

    def _spawn(self, protocol: str, order: Order, intended_s: float | None) -> gevent.Greenlet:
        self._taken += 1
        return gevent.spawn(self._sent, protocol, order, intended_s)

    def _sent(self, protocol: str, order: Order, intended_s: float | None) -> None:
        try:
            self._on_record(self._send(protocol, order, intended_s))
        finally:
            self._taken -= 1
            self._settle()

    def _send(self, protocol: str, order: Order, intended_s: float | None) -> Record:
        sent_s = now_s()
        answer, failure = self._asked(protocol, order)
        ended_s = now_s()
        if answer is not None:
            # In this thread, as gRPC holds the ten of gevent's pool while calls are under way: a check would wait there
            # for strangers' answers. A picture of 1024x1024 takes tens of ms: such ones at high rates want --processes.
            try:
                check(answer, order, prompts=self.settings.check_prompts)
            except WrongAnswer as error:
                failure = error
        span_s = (sent_s if intended_s is None else intended_s, sent_s, ended_s)
        return record_of(protocol, order, span_s, answer, failure)

    def _asked(self, protocol: str, order: Order) -> tuple[Answer | None, FluxError | None]:
        """The answer, or why there is none."""
        try:
            return self._callers[protocol].send(order), None
        except FluxError as error:
            return None, error
        except Exception as error:  # a fault of ours, or of a library, must not make a request vanish
            log.exception("%s: a request failed in the load test itself", protocol)
            return None, FluxError(f"{type(error).__name__}: {error}", field="loadtest", code="LOADTEST")

    @contextmanager
    def _taking(self) -> Iterator[None]:
        """An order that is taken from the share, also while its time is waited for."""
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1
            self._settle()

    def _settle(self) -> None:
        ended = self._exhausted or self._closed.is_set()
        if ended and self._taken == 0 and not self.done.is_set():
            self.done.set()
            self._on_done(self._exhausted)
