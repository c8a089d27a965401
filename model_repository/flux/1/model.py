"""FLUX as a decoupled Triton model: tensors in, `GenerateRequest` to the engine, its answers out as tensors.

The only file of the engine that knows Triton. Imports of torch wait for `initialize`: the server may import this
module just to ask for its configuration.
"""

from __future__ import annotations

import base64
import ctypes
import gc
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

import numpy as np
import triton_python_backend_utils as pb_utils

from fluxengine.config import EngineConfig
from fluxengine.errors import ConfigError, FluxError, Internal
from fluxengine.job import Phase
from fluxengine.metrics import REQUESTS, Metric, Metrics, Series
from fluxengine.outbox import Outbox
from fluxengine.pictures import Picture, encode_picture
from fluxengine.request import CANCEL_TOKEN, INPUTS, GenerateRequest, Value, parse_parameters, parse_request
from fluxengine.ticket import Completed, Progress, Ticket

if TYPE_CHECKING:
    import torch

    from fluxengine.engine import Engine

log = logging.getLogger("fluxengine")

# Names, as pb_utils has its classes only once this module is loaded.
TRITON_CODES = {
    "INVALID_ARGUMENT": "INVALID_ARG",
    "NOT_FOUND": "NOT_FOUND",
    "OVERLOADED": "UNAVAILABLE",
    "DEADLINE_EXCEEDED": "UNAVAILABLE",
    "CANCELLED": "CANCELLED",
    "OUT_OF_MEMORY": "UNAVAILABLE",
    "INTERNAL": "INTERNAL",
}

POLL_S = 0.05
LOOKS_AT_DRAWN, LOOKS_AT_OTHERS = 5, 1
"""How often callers that left are looked for, and how many requests are looked at then, those that hold a place on the
device first. Each look is a round trip to the server process, which takes time from the steps."""

ON_DEVICE = (Phase.RUNNING, Phase.DECODING)

HEARTBEAT_S = 5.0
"""How often a request that wants progress is told that there is none. Over HTTP, Triton notices that a caller has left
only when it has something to write."""

SPIN_COUNT = "6000"
"""As short as it can be, found by trial, without a cost where nobody else wants the cores."""

PUBLISH_S = 0.5

PATIENCE_S = 0.05
"""How long a request waits for room before it is refused."""

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
        # A request and its jobs refer to each other, and go when Python looks for cycles. It would hardly ever look
        # through everything, with the million objects of the libraries: those are taken out of its sight.
        gc.collect()
        gc.freeze()
        self.outbox = Outbox(threads=2)
        self.replies: set[TritonReply] = set()
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
        for request in requests:
            sender = request.get_response_sender()
            request_id = request.request_id() or uuid.uuid4().hex[:12]
            try:
                self._submit(request, request_id, sender)
            except FluxError as error:
                self._refuse(sender, request_id, error)
            except Exception as error:
                log.exception("request %s could not be taken", request_id)
                self._refuse(sender, request_id, Internal("server", f"{type(error).__name__}: {error}"))
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
        parameters = parse_parameters(request.parameters())
        generate = parse_request(
            {tensor.name(): _values(tensor) for tensor in request.inputs() if tensor.name() in INPUTS},
            parameters,
            self.engine.limits,
            request_id=request_id,
            arrival_s=arrival_s,
            timeout_us=request.timeout(),
        )
        reply = TritonReply(self, generate, sender, str(parameters.get(CANCEL_TOKEN, "")))
        self.replies.add(reply)
        try:
            reply.ticket = self.engine.submit(generate, reply, PATIENCE_S)
        except FluxError:
            self.replies.discard(reply)
            raise

    def _refuse(self, sender: Any, request_id: str, error: FluxError) -> None:
        self.metrics.count(REQUESTS, label=error.code.lower())
        self.outbox.post(request_id, partial(_send_error, sender, request_id, error))

    def _watch(self) -> None:
        """Cancels the requests of callers that left; ends the process when the device is lost."""
        while not self._stopping.wait(POLL_S):
            replies = sorted(self.replies.copy(), key=lambda reply: reply.looked_at_s)  # longest ago first
            drawn = [reply for reply in replies if reply.is_drawn()]
            others = [reply for reply in replies if not reply.is_drawn()]
            for reply in drawn[:LOOKS_AT_DRAWN] + others[:LOOKS_AT_OTHERS]:
                if reply.ticket is not None and reply.is_cancelled():
                    self.engine.cancel(reply.ticket)
            for reply in replies:
                reply.keep_alive()
            if self.engine.device_lost.is_set():
                self.outbox.close()
                os._exit(1)  # whoever watches the processes of the server loads the model again

    def _publish(self, labels: dict[str, str]) -> None:
        publisher = MetricsPublisher(labels)
        while not self._stopping.wait(PUBLISH_S):
            publisher.publish(self.metrics)
        publisher.publish(self.metrics)


class TritonReply:
    """Sends the answer to one request, from the outbox."""

    def __init__(self, model: TritonPythonModel, request: GenerateRequest, sender: Any, cancel_token: str) -> None:
        self.ticket: Ticket | None = None
        self._model = model
        self._request = request
        self._sender = sender
        self._cancel_file = cancel_file(cancel_token)
        self._open = threading.Lock()
        self._closed = False
        self._told_s = request.arrival_s
        self.looked_at_s = 0.0
        """When it was last asked for its caller. Used by one thread."""

    def is_drawn(self) -> bool:
        """Whether any of its pictures holds a place on the device."""
        return self.ticket is not None and any(job.phase in ON_DEVICE for job in self.ticket.jobs)

    def is_cancelled(self) -> bool:
        """Whether the caller has left. Asking a sender that has sent its last response kills the server process."""
        self.looked_at_s = time.monotonic()
        with self._open:
            if self._closed:
                return False
            if self._cancel_file is not None and self._cancel_file.exists():
                return True
            return bool(self._sender.is_cancelled())

    def keep_alive(self) -> None:
        """Repeats where the request stands, if it wants to know and has not heard of it for long."""
        now_s = time.monotonic()
        if self._request.progress and self.ticket is not None and now_s - self._told_s >= HEARTBEAT_S:
            self._told_s = now_s
            self._model.outbox.post(self, partial(self._send_heartbeat, self.ticket.progress({}), now_s))

    def _close(self) -> None:
        """To be called before the last response is sent."""
        with self._open:
            self._closed = True
        self._model.replies.discard(self)

    def progress(self, progress: Progress) -> None:
        self._model.outbox.post(self, partial(self._send_progress, progress))

    def done(self, completed: Completed) -> None:
        self._model.outbox.post(self, partial(self._send_done, completed))

    def error(self, error: FluxError) -> None:
        self._model.outbox.post(self, partial(self._send_failure, error))

    def _send_heartbeat(self, progress: Progress, seen_s: float) -> None:
        if not self._closed and self._told_s == seen_s:  # nothing newer has been sent since
            self._send_progress(progress)

    def _send_progress(self, progress: Progress) -> None:
        self._told_s = time.monotonic()
        count = len(self._request.rows)
        steps = [_column("step", progress.steps, np.int32), _column("total_steps", progress.totals, np.int32)]
        tensors = [_column("event", ["progress"] * count, np.object_), *steps]
        self._sender.send(pb_utils.InferenceResponse(tensors))
        if any(preview is not None for preview in progress.previews):
            files = [b"" if preview is None else self._file(preview, "jpeg") for preview in progress.previews]
            image = pb_utils.Tensor("image", np.array(files, np.object_).reshape(count, -1))
            event = _column("event", ["preview"] * count, np.object_)
            self._sender.send(pb_utils.InferenceResponse([event, image, *steps]))

    def _send_done(self, completed: Completed) -> None:
        try:
            response = pb_utils.InferenceResponse(self._final_tensors(completed))
        except Exception as error:
            log.exception("the answer to request %s could not be made", self._request.id)
            self._send_failure(Internal("answer", f"{type(error).__name__}: {error}"))
            return
        self._close()
        self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _send_failure(self, error: FluxError) -> None:
        self._close()
        _send_error(self._sender, self._request.id, error)

    def _final_tensors(self, completed: Completed) -> list[Any]:
        request = self._request
        count = len(request.rows)
        if request.output_format == "raw":
            pixels = np.stack(completed.pictures)  # [N·n, H, W, 3]
            pictures = pb_utils.Tensor("pixels", pixels.reshape(count, -1, *pixels.shape[1:]))
        else:
            files = [self._file(picture, request.output_format) for picture in completed.pictures]
            pictures = pb_utils.Tensor("image", np.array(files, np.object_).reshape(count, -1))
        total_ms = round((time.monotonic() - request.arrival_s) * 1e3, 2)
        infos = [json.dumps({**info, "total_ms": total_ms}) for info in completed.infos]
        steps = [row.num_inference_steps - row.skipped_steps for row in request.rows]
        return [
            pictures,
            pb_utils.Tensor("seed", np.array(completed.seeds, np.int64).reshape(count, -1)),
            _column("info", infos, np.object_),
            _column("event", ["final"] * count, np.object_),
            _column("step", steps, np.int32),
            _column("total_steps", steps, np.int32),
        ]

    def _file(self, picture: Picture, output_format: str) -> bytes:
        file = encode_picture(picture, output_format)
        return base64.b64encode(file) if self._request.base64 else file


class MetricsPublisher:
    """Hands what the engine has measured to Triton's /metrics. Used by one thread."""

    def __init__(self, labels: dict[str, str]) -> None:
        self._labels = labels
        self._families: dict[str, Any] = {}
        self._metrics: dict[Series, Any] = {}
        self._off = False

    def publish(self, metrics: Metrics) -> None:
        drained = metrics.drain()
        if self._off:
            return
        try:
            for series, amount in drained.counters.items():
                self._metric(series).increment(amount)
            for series, value in drained.gauges.items():
                self._metric(series).set(value)
            for series, values in drained.observations.items():
                for value in values:
                    self._metric(series).observe(value)
        except pb_utils.TritonModelException as error:
            self._off = True
            log.warning("no metrics: the server was started without them (%s)", error)

    def _metric(self, series: Series) -> Any:
        if series not in self._metrics:
            metric, value = series
            labels = self._labels | ({metric.label: value} if metric.label else {})
            options = {"buckets": list(metric.buckets)} if metric.kind == "histogram" else {}
            self._metrics[series] = _immortal(self._family(metric).Metric(labels=labels, **options))
        return self._metrics[series]

    def _family(self, metric: Metric) -> Any:
        if metric.name not in self._families:
            kind = getattr(pb_utils.MetricFamily, metric.kind.upper())
            self._families[metric.name] = _immortal(
                pb_utils.MetricFamily(name=metric.name, description=metric.description, kind=kind)
            )
        return self._families[metric.name]


def _immortal(metric: Any) -> Any:
    """The metric, never to be collected: on a reload the new instance counts on in the same series, and Triton frees
    them under it, and dies, when the old instance's objects go."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(metric))
    return metric


def cancel_file(token: str) -> Path | None:
    """The file by which flux_unary, in another process, says that its caller left. None without a token of its kind."""
    if len(token) != 32 or not token.isalnum():
        return None
    return Path(os.environ.get("TMPDIR", "/tmp")) / f"flux-cancel-{token}"


def _device(config: EngineConfig, args: dict[str, str]) -> torch.device:
    import torch

    name = config.device_placement
    if name == "auto":
        name = f"cuda:{args['model_instance_device_id']}" if args["model_instance_kind"] == "GPU" else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device_placement is {name!r}: must be auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"device_placement: {name} is wanted, but this build of torch ({torch.__version__}) sees no GPU"
        )
    return device


def _values(tensor: Any) -> list[Value]:
    values: list[Value] = tensor.as_numpy().reshape(-1).tolist()  # [N, 1]; a copy, as Triton reuses the memory
    return values


def _column(name: str, values: Sequence[object], dtype: type) -> Any:
    return pb_utils.Tensor(name, np.array(values, dtype).reshape(-1, 1))


def _send_error(sender: Any, request_id: str, error: FluxError) -> None:
    message = error.message(request_id)
    log.info("%s", message)
    code = getattr(pb_utils.TritonError, TRITON_CODES[error.code])
    response = pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
    sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
