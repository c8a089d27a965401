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
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import triton_python_backend_utils as pb_utils
from callers import POLL_S, find_leavers
from last_response import LastResponse
from local_server import LocalRequest, LocalServer
from termination import Termination
from triton_metrics import MetricsPublisher
from triton_reply import TritonReply
from triton_request import parameters, request_id, values

from fluxengine.config import EngineConfig
from fluxengine.device.heap import set_up_heaps, trim_heaps
from fluxengine.errors import ConfigError, FluxError, Internal, Overloaded
from fluxengine.metrics import CHECKPOINT, DEFAULTS, LIMITS, REQUESTS, Metrics
from fluxengine.waiting.outbox import Outbox
from fluxengine.wire.inputs import INPUTS
from fluxengine.wire.parameters import parse_parameters
from fluxengine.wire.parsing import parse_request

if TYPE_CHECKING:
    import torch

    from fluxengine.engine import Engine

log = logging.getLogger("fluxengine")

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

        from fluxengine.device.executor import Executor
        from fluxengine.engine import Engine
        from fluxengine.load.checkpoint import load_family  # torch comes with these, and takes seconds
        from fluxengine.lora.library import find_lora_folder

        self._instances = sum(
            group.get("count", 1) * max(1, len(group.get("gpus", []))) for group in model_config["instance_group"]
        )
        if config.num_threads is None:
            config = replace(config, num_threads=max(1, len(os.sched_getaffinity(0)) // self._instances))
        device = _device(config, args)
        home = Path(args["model_repository"]) / args["model_version"]
        config = replace(config, lora_dir=str(find_lora_folder(config.lora_dir, home) or ""))
        self.metrics = Metrics()
        executor = Executor(config, lambda: load_family(config, home, device))
        self.engine: Engine = Engine(config, executor, self.metrics)
        self.engine.start()
        self._default_deadline_ms = config.default_deadline_ms
        self.metrics.set(CHECKPOINT, time.time(), label=config.model)
        for metric, options in ((DEFAULTS, self.engine.limits.by_default), (LIMITS, self.engine.limits.at_most)):
            for option, value in options.items():
                self.metrics.set(metric, value, label=option)
        self.outbox = Outbox(threads=2)
        self.replies: set[TritonReply] = set()
        self._full = False
        self._taking = threading.Lock()
        """Held while a request is taken, from Triton or from flux_unary."""
        self._stopping = threading.Event()
        labels = {"model": args["model_name"], "instance": args["model_instance_name"]}
        self._threads = [
            threading.Thread(target=self._watch, name="watch", daemon=True),
            threading.Thread(target=self._publish, args=(labels,), name="metrics", daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        self._termination = Termination(self.engine, config.drain_s)
        self._local = LocalServer(args["model_name"], self._take, lambda: self.engine.in_flight)
        log.info("%s serves %s on %s: %s", args["model_instance_name"], config.model, device, self.engine.limits)

    def execute(self, requests: Sequence[Any]) -> None:
        """Hands all requests on to the engine, which queues them itself.

        Triton's own queue would do that only with a queue policy, and with one its batcher sleeps up to half a second
        between two calls of this. Nothing may be raised from here: Triton would close the senders of requests that
        are in flight.
        """
        for request in requests:
            self._take(request)
        if self._instances > 1:  # the fuller this one is, the more likely another takes the next request
            time.sleep(min(MAX_PAUSE_S, PAUSE_S_PER_IMAGE * self.engine.in_flight))

    def finalize(self) -> None:
        """Triton calls this once all requests that it has sent here are answered."""
        self._local.close()
        self._termination.close()
        self.engine.close()
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self.outbox.close()

    def _take(self, request: Any) -> None:
        """Hands a request of Triton or of flux_unary on to the engine, or refuses it."""
        sender, its_id = request.get_response_sender(), request_id(request)
        with self._taking:
            try:
                self._submit(request, its_id, sender)
            except FluxError as error:
                self._refuse(sender, its_id, error)
            except Exception as error:
                log.exception("request %s could not be taken", its_id)
                self._refuse(sender, its_id, Internal("server", f"{type(error).__name__}: {error}"))

    def _submit(self, request: Any, its_id: str, sender: Any) -> None:
        from_flux_unary = isinstance(request, LocalRequest)
        generate = parse_request(
            {tensor.name(): values(tensor) for tensor in request.inputs() if tensor.name() in INPUTS},
            parse_parameters(parameters(request)),
            self.engine.limits,
            request_id=its_id,
            arrival_s=time.monotonic(),
            timeout_us=request.timeout(),
            default_deadline_ms=self._default_deadline_ms,
            streams=not from_flux_unary,
        )
        reply = TritonReply(generate, sender, self.outbox, self.replies)
        patience_s = 0.0 if self._full or from_flux_unary else PATIENCE_S
        try:
            reply.taken(self.engine.submit(generate, reply, patience_s))
        except Exception as error:
            self._full = isinstance(error, Overloaded) and error.cause == "queue"
            reply.close()
            raise
        self._full = False

    def _refuse(self, sender: Any, its_id: str, error: FluxError) -> None:
        self.metrics.count(REQUESTS, label=error.code.lower())
        LastResponse(sender, its_id, self.outbox, sender).refuse(error)

    def _watch(self) -> None:
        """Cancels the requests of callers that left; ends the process when the device is lost."""
        while not self._stopping.wait(POLL_S):
            tickets = {reply: ticket for reply in self.replies.copy() if (ticket := reply.ticket)}
            local = [reply for reply in tickets if reply.is_local and reply.is_cancelled()]
            others = [reply for reply in tickets if not reply.is_local]
            remote = find_leavers(others, lambda reply: reply.is_cancelled())
            for reply in chain(local, remote):
                self.engine.cancel(tickets[reply])
            for reply in tickets:
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
