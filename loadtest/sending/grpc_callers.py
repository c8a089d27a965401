"""Orders over gRPC. Greenlets share a caller; `init_gevent` must have been called in this process before."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import gevent.event
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from fluxclient import FluxClient, Progress, Result, ServerError
from fluxclient.errors import error_from
from loadtest.sending.answer import Answer
from loadtest.sending.settings import Settings
from loadtest.sending.tensors import answer_of, infer_inputs
from loadtest.traffic.order import Order
from loadtest.traffic.record import now_s


class StreamCaller:
    """A stream for each order, with its progress, by fluxclient; nothing is sent twice."""

    def __init__(self, settings: Settings) -> None:
        self._client = FluxClient(
            f"grpc://{settings.grpc}", timeout=settings.timeout_s, model=settings.model, retries=0
        )
        self._timeout_s = settings.timeout_s

    def send(self, order: Order) -> Answer:
        """Raises FluxError."""
        options: Any = order.inputs(self._timeout_s)
        first_s: float | None = None
        for event in self._client.stream(**options):
            if isinstance(event, Progress) and event.step > 0 and first_s is None:  # at 0 it still waits
                first_s = now_s()
            elif isinstance(event, Result):
                return Answer(event.files[0], event.seeds[0], asdict(event.info), first_s)
        raise ServerError("the stream ended without a picture", field="answer")

    def close(self) -> None:
        self._client.close()


class UnaryCaller:
    """Plain infer of the façade, by tritonclient.

    By `async_infer`, as gRPC holds one of the ten threads of gevent's pool for each blocking unary call until its
    answer comes: from the eleventh on, answers would be noticed only when older calls end, and the server be blamed.
    """

    def __init__(self, settings: Settings) -> None:
        self._client: Any = tritonclient.grpc.InferenceServerClient(settings.grpc)
        self._timeout_s = settings.timeout_s

    def send(self, order: Order) -> Answer:
        """Raises FluxError."""
        inputs = infer_inputs(tritonclient.grpc, order, self._timeout_s)
        answered: gevent.event.AsyncResult[Any] = gevent.event.AsyncResult()

        def on_answer(result: Any, error: InferenceServerException | None) -> None:
            answered.set_exception(error) if error is not None else answered.set(result)

        try:
            self._client.async_infer("flux_unary", inputs, on_answer, client_timeout=self._timeout_s)
            result = answered.get()
        except InferenceServerException as error:
            status = str(error.status() or "").removeprefix("StatusCode.")
            raise error_from(str(error.message()), status=status) from error
        return answer_of(result)

    def close(self) -> None:
        self._client.close()
