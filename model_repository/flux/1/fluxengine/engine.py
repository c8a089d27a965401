"""The loop: plan, decode, encode, step, tell. One thread owns the model and everything in flight.

Other threads only hand in (`submit`) and ask to stop (`cancel`); both are safe from any thread. Replies are called from
the engine's thread and must not block it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from fluxengine import metrics as m
from fluxengine.config import EngineConfig
from fluxengine.device.executor import Executor
from fluxengine.device.failures import DeviceLost
from fluxengine.errors import Cancelled, FluxError, Internal
from fluxengine.info import describe
from fluxengine.job import Job, Phase, Ticket
from fluxengine.metrics import Metrics
from fluxengine.reply import Completed, Reply
from fluxengine.scheduler import POLICIES, Scheduler
from fluxengine.waiting.deadlines import Deadlines, too_late
from fluxengine.waiting.inbox import Inbox
from fluxengine.waiting.preparation import Preparation
from fluxengine.waiting.room import Room
from fluxengine.warm_up import WarmUpReply, warm_up_request
from fluxengine.wire.limits import Limits
from fluxengine.wire.request import GenerateRequest

log = logging.getLogger("fluxengine")
T = TypeVar("T")


class Engine:
    def __init__(self, config: EngineConfig, executor: Executor, metrics: Metrics) -> None:
        """The executor is called by the engine's thread alone, but for `load_lora`: torch runs in few others."""
        self._config = config
        self._executor = executor
        self._metrics = metrics
        self._scheduler = Scheduler(POLICIES[config.scheduling], config.max_batch)
        self._deadlines = Deadlines()
        self._tickets: set[Ticket] = set()
        self._room = Room(config.max_in_flight or config.max_batch, config.max_upload_mb)
        self._inbox = Inbox(self._room)
        folder = Path(config.lora_dir) if config.lora_dir else None
        self._preparation = Preparation(
            folder, config.max_loras, config.max_batch, executor.load_lora, self._inbox.wake
        )
        self._thread = threading.Thread(target=self._main, name="fluxengine", daemon=True)
        self._ready = threading.Event()
        self._fault: BaseException | None = None
        self.limits: Limits
        self.device_lost = threading.Event()
        """Set when only a new process can help."""

    def start(self) -> None:
        """Loads the model and draws a first picture; raises what went wrong."""
        self._thread.start()
        self._ready.wait()
        if self._fault is not None:
            raise self._fault

    def submit(self, request: GenerateRequest, reply: Reply, patience_s: float = 0.0) -> Ticket:
        """Takes a request; from then on its reply gets exactly one answer.

        Raises Overloaded if `max_in_flight` images are in flight, and still are after `patience_s`, or if pictures of
        more than `max_upload_mb` wait; NotFound for a LoRA that is not here; Unavailable after `drain`.
        """
        self._preparation.check(request)
        ticket = Ticket(request, reply)
        if not self._inbox.submit(ticket, patience_s):
            ticket.end()
            reply.error(_unloading())
        return ticket

    def drain(self) -> None:
        """Takes nothing more. What is in flight goes on."""
        self._inbox.drain()

    def give_up(self) -> None:
        """Ends what is in flight as cancelled."""
        self._inbox.give_up()

    def cancel(self, ticket: Ticket) -> None:
        """Ends a request before the next step. Nothing happens if it has ended."""
        self._inbox.cancel(ticket)

    @property
    def in_flight(self) -> int:
        """Images that were taken and are not answered yet."""
        return self._room.images

    def close(self) -> None:
        """Ends what is in flight as cancelled, and the thread."""
        self._inbox.close()
        if self._thread.is_alive():
            self._thread.join()
        self._preparation.close()

    # ---- the engine's thread ----

    def _main(self) -> None:
        # OpenMP keeps a pool of workers for each thread that ever ran a parallel region; two pools on the same cores
        # make everything up to twice as slow. Gradient mode and thread count belong to the thread that sets them.
        with torch.inference_mode(), contextlib.closing(self._executor):
            try:
                if self._config.num_threads:
                    torch.set_num_threads(self._config.num_threads)
                self.limits = self._executor.load()
                self._warm_up()
                if self._config.max_in_flight is None:
                    self._room.max_images = self._executor.max_in_flight()
            except BaseException as error:
                self._fault = error
                return
            finally:
                self._ready.set()
            self._serve()

    def _warm_up(self) -> None:
        """Draws one picture the usual way: kernels load now, and a checkpoint that cannot serve stops the load."""
        self._executor.warm_up(self.limits.default_size)
        reply = WarmUpReply()
        ticket = self.submit(warm_up_request(self.limits), reply)
        while not ticket.ended:
            self._take_requests()
            self._turn()
        if reply.failure:
            raise reply.failure
        self._metrics.drain()

    def _serve(self) -> None:
        while True:
            try:
                if not self._take_requests():
                    break
                self._turn()
            except DeviceLost as error:
                log.critical("the device is lost: %s", error)
                self._inbox.close()
                self._end_all(Internal("device", "failed and is being restarted; send the request again"))
                self.device_lost.set()
                return
            except Exception as error:
                log.exception("a turn of the engine failed")
                self._end_taken(Internal("engine", f"{type(error).__name__}: {error}"))
        self._end_all(_unloading())

    def _take_requests(self) -> bool:
        """Takes in what others handed over; waits while there is nothing to do. False when it is time to end."""
        handed = self._inbox.take(self._scheduler.has_work, self._deadlines.until_next_s(time.monotonic()))
        self._tickets.update(handed.submitted)  # from here on whatever fails ends them as well
        for ticket in handed.submitted:
            if not self._preparation.add(ticket):
                self._schedule(ticket)
            self._deadlines.add(ticket)
        if handed.prepared or handed.submitted:
            for ticket, error in self._preparation.ready():
                if error is not None:
                    self._end(ticket, error)
                elif not ticket.ended:
                    self._schedule(ticket)
        for ticket in handed.cancelled:
            self._end(ticket, Cancelled("request", "was cancelled by the caller"))
        if handed.giving_up:
            self._end_taken(Cancelled("server", "is stopping, and its time for requests in flight is over"))
        now_s = time.monotonic()
        for ticket in self._deadlines.take_late(now_s, len(self._tickets)):
            self._end(ticket, too_late(ticket, now_s))
        return not handed.closing

    def _schedule(self, ticket: Ticket) -> None:
        for job in ticket.jobs:
            job.cost = self._executor.cost(job.size)
            self._scheduler.add(job)

    def _turn(self) -> None:
        """The whole engine: who decodes, who is encoded, who steps, and who is told."""
        plan = self._scheduler.plan()
        if plan.decode:
            self._decode(plan.decode)
        # Each part may end requests, and with them jobs of the parts that follow.
        if encode := [job for job in plan.encode if job.phase is Phase.RUNNING]:
            self._encode(encode)
        if step := [job for job in plan.step if job.phase is Phase.RUNNING]:
            self._step(step)
        self._metrics.set(m.WAITING, self._scheduler.waiting)
        self._metrics.set(m.RUNNING, self._scheduler.running)
        self._metrics.set(m.PREPARING, self._preparation.waiting)
        self._metrics.set(m.LORAS, self._preparation.library.loaded)
        self._metrics.set(m.UPLOAD_BYTES, self._room.upload_bytes)

    def _encode(self, jobs: Sequence[Job]) -> None:
        start_s = time.monotonic()
        for job in jobs:
            job.started_s = start_s
            self._metrics.observe(m.QUEUE_MS, (start_s - job.arrival_s) * 1e3)
        uploads = {job.ticket for job in jobs if job.ticket.upload_bytes}
        hits, misses = self._executor.prompt_hits_and_misses
        failures = self._executor.encode(jobs)
        more_hits, more_misses = self._executor.prompt_hits_and_misses
        took_s = time.monotonic() - start_s
        for job in jobs:
            job.encode_s = took_s
        self._metrics.observe(m.ENCODE_MS, took_s * 1e3)
        self._metrics.count(m.PROMPT_CACHE_HITS, more_hits - hits)
        self._metrics.count(m.PROMPT_CACHE_MISSES, more_misses - misses)
        self._fail(failures)
        for ticket in uploads:
            if all(job.encoded for job in ticket.jobs):
                self._inbox.let_upload_go(ticket)
                self._inbox.wake()  # the next pictures may be decoded

    def _step(self, jobs: list[Job]) -> None:
        start_s = time.monotonic()
        outcome = self._executor.step(jobs)
        end_s = time.monotonic()
        self._metrics.observe(m.STEP_MS, (end_s - start_s) * 1e3)
        self._metrics.observe(m.BATCH, len(jobs))
        self._metrics.count(m.STEPS, len(jobs) - len(outcome.failures))
        self._metrics.count(m.REUSED_STEPS, outcome.reused)
        self._fail(outcome.failures)
        for job in jobs:
            job.batch_sum += len(jobs)
            job.denoised_s = end_s
        self._scheduler.stepped(jobs)
        for ticket in {job.ticket: None for job in jobs}:
            if ticket.request.progress and not ticket.ended:
                _tell(ticket.reply.progress, ticket.progress(outcome.previews))

    def _decode(self, jobs: Sequence[Job]) -> None:
        start_s = time.monotonic()
        pictures, failures = self._executor.decode(jobs)
        took_s = time.monotonic() - start_s
        self._metrics.observe(m.DECODE_MS, took_s * 1e3)
        self._fail(failures)
        for job, picture in pictures.items():
            job.decode_s = took_s
            ticket = job.ticket
            if ticket.ended:
                continue
            ticket.pictures[job] = picture
            self._drop(job)
            self._metrics.count(m.IMAGES)
            if len(ticket.pictures) == len(ticket.jobs):
                self._complete(ticket)

    def _complete(self, ticket: Ticket) -> None:
        request = ticket.request
        guided, length = self._executor.guided, self._executor.max_sequence_length
        completed = Completed(
            pictures=tuple(ticket.pictures[job] for job in ticket.jobs),
            seeds=tuple(job.seed for job in ticket.jobs),
            infos=tuple(
                describe(ticket, row, self._config.model, guided=guided, max_sequence_length=length)
                for row in range(len(request.rows))
            ),
        )
        self._close_ticket(ticket)
        self._metrics.count(m.REQUESTS, label="ok")
        self._metrics.observe(m.TOTAL_MS, (time.monotonic() - request.arrival_s) * 1e3)
        _tell(ticket.reply.done, completed)

    def _fail(self, failures: dict[Job, FluxError]) -> None:
        for job, error in failures.items():
            self._end(job.ticket, error)

    def _end(self, ticket: Ticket, error: FluxError) -> None:
        """Ends a request with an error and frees its places. Nothing happens if it has ended."""
        if ticket.ended:
            return
        unfinished = len(ticket.jobs) - len(ticket.pictures)
        self._close_ticket(ticket)
        self._metrics.count(m.REQUESTS, label=error.code.lower())
        self._metrics.count(m.DROPPED_IMAGES, unfinished, label=error.code.lower())
        _tell(ticket.reply.error, error)

    def _end_taken(self, error: FluxError) -> None:
        for ticket in list(self._tickets):
            self._end(ticket, error)

    def _end_all(self, error: FluxError) -> None:
        """Once the inbox is closed: nothing comes after."""
        self._tickets.update(self._inbox.take(busy=True, wait_s=0).submitted)
        self._end_taken(error)

    def _close_ticket(self, ticket: Ticket) -> None:
        images = len(ticket.jobs)
        for job in ticket.jobs:
            self._drop(job)
        ticket.end()
        self._tickets.discard(ticket)
        self._preparation.forget(ticket)
        self._inbox.let_go(ticket, images)

    def _drop(self, job: Job) -> None:
        if job.phase is not Phase.GONE:
            self._scheduler.remove(job)
        self._executor.release(job)


def _unloading() -> FluxError:
    return Cancelled("server", "the model is being unloaded")


def _tell(call: Callable[[T], None], what: T) -> None:
    """A reply that fails harms neither the engine nor other requests."""
    try:
        call(what)
    except Exception:
        log.exception("a reply failed")
