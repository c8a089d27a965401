"""FLUX as a decoupled Triton model: tensors in, `GenerateRequest` to the engine, its answers out as tensors.

This and its neighbours are all that knows Triton. Imports of torch wait for `initialize`: the server may import this
module just to ask for its configuration.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import triton_python_backend_utils as pb_utils
from triton_metrics import MetricsPublisher
from triton_reply import TritonReply, cancel_file, send_error

from fluxengine.config import EngineConfig
from fluxengine.errors import ConfigError, FluxError, Internal, InvalidArgument, Overloaded
from fluxengine.heap import set_up_heaps, trim_heaps
from fluxengine.metrics import CHECKPOINT, DEFAULTS, LIMITS, REQUESTS, Metrics
from fluxengine.outbox import Outbox
from fluxengine.request import CANCEL_TOKEN, INPUTS, Value, parse_parameters, parse_request

if TYPE_CHECKING:
    import torch

    from fluxengine.engine import Engine

log = logging.getLogger("fluxengine")

POLL_S = 0.05
LOOKS_AT_DRAWN, LOOKS_AT_OTHERS = 5, 1
"""How often callers that left are looked for, and how many requests are looked at then, those that hold a place on the
device first. Each look is a round trip to the server process, which takes time from the steps."""

SPIN_COUNT = "6000"
"""As short as it can be, found by trial, without a cost where nobody else wants the cores."""

PUBLISH_S = 0.5
TRIM_HEAPS_S = 30.0

PATIENCE_S = 0.05
"""How long a request waits for room before it is refused, unless the one before it was: others wait behind it."""

PAUSE_S_PER_IMAGE, MAX_PAUSE_S = 0.001, 0.02


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        try:
            self._initialize(args)
        except ConfigError as error:
            raise pb_utils.TritonModelException(str(error)) from None

    def _initialize(self, args: dict[str, str]) -> None:
        model_config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in model_config.get("parameters", {}).items()}
        config = EngineConfig.from_parameters(parameters, os.environ)
        # OpenMP's workers spin for about a millisecond at each end of a parallel region. Where any other process wants
        # a core, that starves the one worker that all others wait for, and steps take several times as long.
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
        set_up_heaps()

        from fluxengine.checkpoint import load_family  # torch comes with these, and takes seconds
        from fluxengine.engine import Engine
        from fluxengine.lora_library import find_lora_folder

        self._instances = sum(
            group.get("count", 1) * max(1, len(group.get("gpus", []))) for group in model_config["instance_group"]
        )
        if config.num_threads is None:
            config = replace(config, num_threads=max(1, len(os.sched_getaffinity(0)) // self._instances))
        device = _device(config, args)
        home = Path(args["model_repository"]) / args["model_version"]
        config = replace(config, lora_dir=str(find_lora_folder(config.lora_dir, home) or ""))
        self.metrics = Metrics()
        self.engine: Engine = Engine(config, lambda: load_family(config, home, device), self.metrics)
        self.engine.start()
        self.metrics.set(CHECKPOINT, time.time(), label=config.model)
        for metric, options in ((DEFAULTS, self.engine.limits.by_default), (LIMITS, self.engine.limits.at_most)):
            for option, value in options.items():
                self.metrics.set(metric, value, label=option)
        self.outbox = Outbox(threads=2)
        self.replies: set[TritonReply] = set()
        self._full = False
        self._taking = threading.Lock()
        """Held while `execute` takes requests."""
        self._stopping = threading.Event()
        labels = {"model": args["model_name"], "instance": args["model_instance_name"]}
        self._threads = [
            threading.Thread(target=self._watch, name="watch", daemon=True),
            threading.Thread(target=self._publish, args=(labels,), name="metrics", daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        log.info("%s serves %s on %s: %s", args["model_instance_name"], config.model, device, self.engine.limits)

    def execute(self, requests: Sequence[Any]) -> None:
        """Hands all requests on to the engine, which queues them itself.

        Triton's own queue would do that only with a queue policy, and with one its batcher sleeps up to half a second
        between two calls of this. Nothing may be raised from here: Triton would close the senders of requests that
        are in flight.
        """
        with self._taking:
            for request in requests:
                sender = request.get_response_sender()
                request_id = _request_id(request)
                try:
                    self._submit(request, request_id, sender)
                except FluxError as error:
                    self._refuse(request, sender, request_id, error)
                except Exception as error:
                    log.exception("request %s could not be taken", request_id)
                    unexpected = Internal("server", f"{type(error).__name__}: {error}")
                    self._refuse(request, sender, request_id, unexpected)
        if self._instances > 1:  # the fuller this one is, the more likely another takes the next request
            time.sleep(min(MAX_PAUSE_S, PAUSE_S_PER_IMAGE * self.engine.in_flight))

    def finalize(self) -> None:
        self.engine.close()
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self.outbox.close()

    def _submit(self, request: Any, request_id: str, sender: Any) -> None:
        arrival_s = time.monotonic()
        parameters = parse_parameters(_parameters(request))
        generate = parse_request(
            {tensor.name(): _values(tensor) for tensor in request.inputs() if tensor.name() in INPUTS},
            parameters,
            self.engine.limits,
            request_id=request_id,
            arrival_s=arrival_s,
            timeout_us=request.timeout(),
        )
        token = str(parameters.get(CANCEL_TOKEN, ""))
        reply = TritonReply(generate, sender, token, self.outbox, self.replies)
        try:
            reply.taken(self.engine.submit(generate, reply, 0.0 if self._full else PATIENCE_S))
        except Exception as error:
            self._full = isinstance(error, Overloaded)
            reply.close()
            raise
        self._full = False

    def _refuse(self, request: Any, sender: Any, request_id: str, error: FluxError) -> None:
        self.metrics.count(REQUESTS, label=error.code.lower())
        as_event = _is_from_flux_unary(request)
        self.outbox.post(request_id, partial(send_error, sender, request_id, error, as_event=as_event))

    def _watch(self) -> None:
        """Cancels the requests of callers that left; ends the process when the device is lost."""
        while not self._stopping.wait(POLL_S):
            taken = (reply for reply in self.replies.copy() if reply.ticket is not None)
            replies = sorted(taken, key=lambda reply: reply.looked_at_s)  # longest ago first
            drawn = [reply for reply in replies if reply.is_drawn()]
            others = [reply for reply in replies if not reply.is_drawn()]
            for reply in drawn[:LOOKS_AT_DRAWN] + others[:LOOKS_AT_OTHERS]:
                ticket = reply.ticket
                if ticket is not None and reply.is_cancelled():
                    self.engine.cancel(ticket)
            for reply in replies:
                reply.keep_alive()
            if self.engine.device_lost.is_set():
                self._taking.acquire()  # for good: Triton answers for what has not been taken when this process ends
                self.outbox.close()
                os._exit(1)  # whoever watches the processes of the server loads the model again

    def _publish(self, labels: dict[str, str]) -> None:
        publisher = MetricsPublisher(labels)
        trimmed_s = time.monotonic()
        while not self._stopping.wait(PUBLISH_S):
            publisher.publish(self.metrics)
            if time.monotonic() - trimmed_s >= TRIM_HEAPS_S:
                trim_heaps()
                trimmed_s = time.monotonic()
        publisher.publish(self.metrics)


def _device(config: EngineConfig, args: dict[str, str]) -> torch.device:
    import torch

    name = config.device_placement
    if name == "auto":
        name = f"cuda:{args['model_instance_device_id']}" if args["model_instance_kind"] == "GPU" else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device_placement is {name!r}: must be auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"device_placement: {name} is wanted, but this build of torch ({torch.__version__}) sees no GPU"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device_placement is {name!r}: there are {torch.cuda.device_count()} GPUs, from cuda:0 on")
    return device


def _request_id(request: Any) -> str:
    """That of the request, or a new one if it has none, or one that is not UTF-8 and so cannot be read."""
    try:
        own = str(request.request_id())
    except UnicodeDecodeError:
        own = ""
    return own or uuid.uuid4().hex[:12]


def _parameters(request: Any) -> str:
    """As JSON. The id of a `generate` body is one of them."""
    try:
        return str(request.parameters())
    except UnicodeDecodeError as error:
        raise InvalidArgument("parameters", f"must be UTF-8 text, as must the id ({error.reason})") from None


def _is_from_flux_unary(request: Any) -> bool:
    try:
        token = str(parse_parameters(_parameters(request)).get(CANCEL_TOKEN, ""))
    except InvalidArgument:  # flux_unary hands on no such parameters
        return False
    return cancel_file(token) is not None


def _values(tensor: Any) -> list[Value]:
    values: list[Value] = tensor.as_numpy().reshape(-1).tolist()  # [N, 1]; a copy, as Triton reuses the memory
    return values
