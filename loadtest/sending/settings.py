"""What a test with Locust is told on the command line or on its web page, checked."""

from __future__ import annotations

import argparse
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluxclient.transport.address import Address
from loadtest.failures import BadInput
from loadtest.traffic import arrivals
from loadtest.traffic.mix import NAMES
from loadtest.traffic.protocols import ANY_MODEL, MODEL, PROTOCOLS, check_model
from loadtest.traffic.schedule import Schedule

DEFAULT_PROTOCOL = "http-generate"
ARRIVALS = ("closed", *arrivals.KINDS, "trace")
SHAPES = ("constant", "steps", "ramp", "spike")
GRPC_PORT = 8001
GATEWAY_PORT = 8080


@dataclass(frozen=True)
class Settings:
    host: str
    """Triton's HTTP, as in http://localhost:8000."""
    grpc: str
    """host:port"""
    gateway_url: str
    model: str
    protocols: tuple[str, ...]
    schedule: Schedule
    records: str
    """Where the master, or the only process, writes them; empty for nowhere."""
    check_prompts: bool
    timeout_s: float
    shape: str
    shape_from: int
    shape_time_s: float
    shape_levels: int

    @classmethod
    def read(cls, options: Any, host: str | None) -> Settings:
        """Of Locust's parsed options, which a worker has got from its master.

        Raises BadInput, which names the option, what was given and what is allowed.
        """
        if not host:
            raise BadInput("--host: is missing; must be the server's address, as in http://localhost:8000")
        settings = cls(
            host=host.rstrip("/"),
            grpc=options.grpc or f"{_address('--host', host).host}:{GRPC_PORT}",
            gateway_url=(options.gateway_url or f"http://{_address('--host', host).host}:{GATEWAY_PORT}").rstrip("/"),
            model=options.model or MODEL,
            protocols=_protocols(options),
            schedule=Schedule(
                mix=options.mix,
                mix_seed=_seed(options.mix_seed),
                requests=int(options.requests),
                arrivals=options.arrivals,
                rate=float(options.rate),
                trace=options.trace or "",
            ),
            records=options.records or "",
            check_prompts=bool(options.check_prompts),
            timeout_s=float(options.request_timeout),
            shape=options.shape,
            shape_from=int(options.shape_from),
            shape_time_s=float(options.shape_time),
            shape_levels=int(options.shape_levels),
        )
        settings._check()
        return settings

    def _check(self) -> None:
        its = self.schedule
        _address("--gateway-url", self.gateway_url)
        check_model(self.model, self.protocols)
        if not re.fullmatch(r"[^/\s]+:\d{1,5}", self.grpc):
            raise BadInput(f"--grpc: is {self.grpc!r}; must be host:port, as in localhost:8001")
        for name, value, least in (
            ("--mix-seed", its.mix_seed or 0, 0),
            ("--requests", its.requests, 0),
            ("--shape-from", self.shape_from, 1),
            ("--shape-levels", self.shape_levels, 2),
        ):
            if value < least:
                raise BadInput(f"{name}: is {value}; must be {least} or more")
        for name, seconds in (("--request-timeout", self.timeout_s), ("--shape-time", self.shape_time_s)):
            if not 0 < seconds < math.inf:
                raise BadInput(f"{name}: is {seconds:g}; must be seconds, more than 0")
        if its.arrivals in arrivals.KINDS and not 0 < its.rate < math.inf:
            raise BadInput(f"--rate: is {its.rate:g}; --arrivals {its.arrivals} needs requests a second, above 0")
        if its.arrivals not in arrivals.KINDS and its.rate:
            raise BadInput(f"--rate: is {its.rate:g}; is for --arrivals {' and '.join(arrivals.KINDS)} only")
        if (its.arrivals == "trace") != bool(its.trace):
            raise BadInput(f"--trace: is {its.trace!r}; --arrivals trace needs a file, and nothing else takes one")
        if its.is_open_loop and self.shape != "constant":
            problem = "shapes say how many users there are, which an open loop does not depend on; must be constant"
            raise BadInput(f"--shape: is {self.shape!r}; {problem}")
        if self.records and not Path(self.records).absolute().parent.is_dir():
            raise BadInput(f"--records: is {self.records!r}; its folder must be there")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds all options to Locust's."""
    add = parser.add_argument  # not in a group of their own: those are not on Locust's web page
    add("--protocol", choices=PROTOCOLS, help=f"default {DEFAULT_PROTOCOL}; --tags names several")
    add("--mix", default="uniform", help=f"what is asked for: {', '.join(NAMES)}, or a JSON file")
    add("--mix-seed", type=int, help="the same seed gives the same requests; default: the mix's own")
    add("--requests", type=int, default=0, help="stop after so many in all; 0: run until --run-time")
    add("--arrivals", choices=ARRIVALS, default="closed", help="closed: a user sends again when its picture has come")
    add("--rate", type=float, default=0.0, help="requests a second, with poisson and bursty arrivals")
    add("--trace", help="a file of JSON lines, with --arrivals trace")
    add("--records", help="write a JSON line for each request to this file")
    add("--check-prompts", action="store_true", help="flux-tiny only: a picture must show what its prompt says")
    add("--request-timeout", type=float, default=120.0, help="seconds; the server gives up then as well")
    add("--grpc", help=f"host:port of Triton's gRPC; default: port {GRPC_PORT} of the host")
    add("--model", default=MODEL, help=f"for {' and '.join(ANY_MODEL)}; default {MODEL}")
    add("--gateway-url", help=f"of the gateway, for openai; default: port {GATEWAY_PORT} of the host")
    add("--shape", choices=SHAPES, default="constant", help="how many users there are over time; --users is the most")
    add("--shape-from", type=int, default=1, help="the fewest users of a shape")
    add("--shape-time", type=float, default=30.0, help="seconds: each level, the whole ramp, each part of a spike")
    add("--shape-levels", type=int, default=4, help="how many levels --shape steps has")


def _protocols(options: Any) -> tuple[str, ...]:
    if not options.tags:
        return (options.protocol or DEFAULT_PROTOCOL,)
    if options.protocol:
        raise BadInput(f"--protocol: is {options.protocol!r} beside --tags; must be one of the two")
    if unknown := sorted(set(options.tags) - set(PROTOCOLS)):
        raise BadInput(f"--tags: is {unknown[0]!r}; must be of {', '.join(PROTOCOLS)}")
    return tuple(protocol for protocol in PROTOCOLS if protocol in options.tags)


def _seed(value: object) -> int | None:
    """From the command line a number or nothing, from the web page a text."""
    if value in (None, ""):
        return None
    try:
        return int(str(value))
    except ValueError:
        raise BadInput(f"--mix-seed: is {value!r}; must be a whole number") from None


def _address(name: str, url: str) -> Address:
    try:
        address = Address(url)
    except ValueError:
        address = None
    if address is None or address.scheme == "grpc":
        raise BadInput(f"{name}: is {url!r}; must be an address like http://localhost:8000")
    return address
