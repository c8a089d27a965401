"""Ties worker, master and shape to Locust's events."""

from __future__ import annotations

import logging
import signal
import sys
from typing import Any

import gevent
import grpc.experimental.gevent
from locust import events
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import LocalRunner, MasterRunner, Runner, WorkerRunner

from loadtest.failures import BadInput
from loadtest.sending.master import BAD_EXIT, Master
from loadtest.sending.settings import add_options
from loadtest.sending.shape import FluxShape
from loadtest.sending.worker import Worker

log = logging.getLogger(__name__)


def install() -> None:
    """Once, by the locustfile."""
    events.init_command_line_parser.add_listener(_on_parser)
    events.init.add_listener(_on_init)


def _on_parser(parser: LocustArgumentParser) -> None:
    add_options(parser)


def _on_init(environment: Environment, runner: Runner, **_: Any) -> None:
    # Here, as --processes has forked by now, and before any channel is made.
    grpc.experimental.gevent.init_gevent()
    _interrupt_locust_only()
    if isinstance(runner, LocalRunner | MasterRunner):
        _prepare(environment, runner, Master(environment, runner))
    if isinstance(runner, LocalRunner | WorkerRunner):
        Worker(environment, runner)


def _interrupt_locust_only() -> None:
    """Python raises KeyboardInterrupt in whatever greenlet runs just then: a request that it hits would vanish."""
    hub = gevent.get_hub()
    gevent.signal_handler(signal.SIGINT, lambda: hub.loop.run_callback(hub.parent.throw, KeyboardInterrupt))


def _prepare(environment: Environment, runner: Runner, master: Master) -> None:
    """Without a web page to correct it on, a bad value ends Locust at once."""
    options: Any = environment.parsed_options
    try:
        settings = master.settings()
        if settings.shape != "constant":
            users = options.num_users or 1
            if users <= settings.shape_from:
                problem = f"must be more than --shape-from, which is {settings.shape_from}"
                raise BadInput(f"--users: is {users}; {problem}")
            shape = FluxShape(settings, users, options.run_time)
            shape.runner = runner
            environment.shape_class = shape
    except BadInput as error:
        if options.headless:
            log.error(error)
            sys.exit(BAD_EXIT)
        log.warning(error)
