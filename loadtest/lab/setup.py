"""One call of the lab against a server: brings together server, strategies and load, and leaves nothing behind."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from loadtest.failures import BadInput, Broken, Interrupted, LabError, Refused
from loadtest.lab.campaign import Campaign, Plan
from loadtest.lab.locust_process import Load
from loadtest.lab.progress import Progress
from loadtest.sending.settings import SettingsError, check_model
from loadtest.server.reconfigurer import Reconfigurer, Untouched
from loadtest.server.strategies import AS_FOUND, Strategy, choose
from loadtest.server.target import Target, parse_target
from loadtest.traffic.mix import Mix, MixError
from tools.triton.errors import ServerFailed, TritonNotFound
from tools.triton.server import TritonServer

RECORDS = "records"
QUOTED_LINES = 15


@contextmanager
def session(options: argparse.Namespace, *, keep: bool) -> Iterator[Campaign]:
    """A campaign for the options of `run` and `sweep`; its records stay in --output if `keep`.

    The server is set up inside and as it was after. Raises LabError where that cannot be.
    """
    try:
        Mix.load(options.mix)
    except MixError as error:
        raise BadInput(f"--mix: {error}") from error
    strategies = choose(options.strategies, options.strategy_file, options.instances) or [AS_FOUND]
    try:
        check_model(options.model, [options.protocol])
    except SettingsError as error:
        raise BadInput(str(error)) from error
    if options.start_server:
        _refuse_addresses(options)
    if options.no_reconfigure and len(strategies) > 1:
        raise BadInput("--no-reconfigure: a server that is not touched has one strategy; name one, or none")
    with ExitStack() as stack:
        folder = options.output if keep else Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loadtest-")))
        progress = stack.enter_context(Progress())
        if options.start_server:
            progress.begin("starting Triton")
            target = stack.enter_context(own_server(folder, options.model))
        else:
            target = parse_target(
                options.url,
                grpc=options.grpc,
                metrics_url=options.metrics_url,
                model=options.model,
                gateway_url=options.gateway_url,
                control_key=options.control_key,
            )
        server = _server(options, target, strategies)
        stack.callback(server.restore)
        try:
            yield Campaign(_plan(options, strategies), target, server, folder / RECORDS, progress)
        except (LabError, Interrupted) as error:
            progress.begin("restoring the server")
            try:
                server.restore()
            except Refused as problem:
                raise type(error)(f"{error}; {problem}") from error
            raise


def _plan(options: argparse.Namespace, strategies: list[Strategy]) -> Plan:
    load = Load(
        protocol=options.protocol,
        mix=options.mix,
        seed=options.seed,
        requests=options.requests,
        concurrent=options.concurrent,
        rate=getattr(options, "rate", None),
        request_timeout_s=options.request_timeout,
        check_prompts=options.check_prompts,
    )
    return Plan(
        strategies=strategies,
        load=load,
        repeats=getattr(options, "repeats", 1),
        warm_up=options.warm_up or 2 * options.concurrent,
        slo_scale=options.slo_scale,
        slo_ms=options.slo_ms,
    )


def _server(options: argparse.Namespace, target: Target, strategies: list[Strategy]) -> Reconfigurer | Untouched:
    if options.no_reconfigure:
        return Untouched(target.api, target.model)
    server = Reconfigurer(target.api, target.model, restores=not options.start_server)
    for strategy in strategies:
        if variables := target.overriding(strategy.parameters):
            raise Refused(
                f"strategy {strategy.name}: the server was started with {', '.join(variables)}, which goes before "
                "what the lab sets; start it without"
            )
    return server


def _refuse_addresses(options: argparse.Namespace) -> None:
    """Of another server, beside --start-server: the lab would set up one server and load the other."""
    for name, value in (
        ("--grpc", options.grpc),
        ("--metrics-url", options.metrics_url),
        ("--gateway-url", options.gateway_url),
    ):
        if value:
            raise BadInput(f"{name}: is {value!r} beside --start-server, whose server has addresses of its own")
    if options.protocol == "openai":
        raise BadInput("--protocol openai: needs a gateway before the server, which --start-server does not start")


@contextmanager
def own_server(folder: Path, model: str = "flux") -> Iterator[Target]:
    """A Triton on free ports for as long as the context lasts; its log goes to `folder`. Raises Refused."""
    try:
        server = TritonServer(log_file=folder / "triton.log").start()
    except (TritonNotFound, ServerFailed) as error:
        raise Refused(f"--start-server: {error}") from error
    try:
        yield parse_target(
            server.urls.http,
            grpc=server.urls.grpc.removeprefix("grpc://"),
            metrics_url=server.urls.metrics,
            model=model,
            control_key=server.api.control_key,
        )
    except Broken as error:
        if server.poll() is None:
            raise
        raise Broken(f"{error}\nIts log ends with:\n{server.log_tail(QUOTED_LINES)}") from error
    finally:
        server.stop()
