"""Brings together server, strategies and load for one call of the lab, and leaves nothing behind."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from loadtest.failures import BadInput, Interrupted, LabError, Refused
from loadtest.lab.campaign import Campaign
from loadtest.lab.load import Load
from loadtest.lab.progress import Progress
from loadtest.server.own_server import own_server
from loadtest.server.reconfigurer import Reconfigurer, Untouched
from loadtest.server.strategies import AS_FOUND, Strategy, choose
from loadtest.server.target import Target, parse_target
from loadtest.traffic.mix import Mix
from loadtest.traffic.protocols import check_model

RECORDS = "records"


@contextmanager
def set_up(options: argparse.Namespace, *, keep: bool) -> Iterator[Campaign]:
    """A campaign for the options of `run` and `sweep`; its records stay in --output if `keep`.

    The server is set up inside and as it was after. Raises LabError where that cannot be.
    """
    try:
        Mix.load(options.mix)
    except BadInput as error:
        raise BadInput(f"--mix: {error}") from error
    strategies = choose(options.strategies, options.strategy_file, options.instances) or [AS_FOUND]
    check_model(options.model, [options.protocol])
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
            yield Campaign(
                target=target,
                server=server,
                strategies=strategies,
                load=_load(options),
                repeats=options.repeats,
                warm_up=options.warm_up or 2 * options.concurrent,
                slo_scale=options.slo_scale,
                slo_ms=options.slo_ms,
                folder=folder / RECORDS,
                progress=progress,
            )
        except (LabError, Interrupted) as error:
            progress.begin("restoring the server")
            try:
                server.restore()
            except Refused as problem:
                raise type(error)(f"{error}; {problem}") from error
            raise


def _load(options: argparse.Namespace) -> Load:
    return Load(
        protocol=options.protocol,
        mix=options.mix,
        seed=options.seed,
        requests=options.requests,
        concurrent=options.concurrent,
        rate=getattr(options, "rate", None),
        request_timeout_s=options.request_timeout,
        check_prompts=options.check_prompts,
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
