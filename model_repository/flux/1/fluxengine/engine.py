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
from fluxengine.device.memory import automatic_max_in_flight
from fluxengine.device.prompt_cache import PromptCache
from fluxengine.device.runner import DeviceLost, Runner
from fluxengine.errors import Cancelled, DeadlineExceeded, FluxError, Internal, Unavailable
from fluxengine.families.base import Family
from fluxengine.info import describe
from fluxengine.job import Job, Phase
from fluxengine.load.checkpoint import limits_of
from fluxengine.lora.layers import Lora
from fluxengine.metrics import Metrics
from fluxengine.scheduler import POLICIES, Scheduler
from fluxengine.ticket import Completed, Reply, Ticket
from fluxengine.waiting.deadlines import Deadlines
from fluxengine.waiting.preparation import Preparation
from fluxengine.waiting.room import Room
from fluxengine.warm_up import WarmUpReply, warm_up_request
from fluxengine.wire.request import GenerateRequest, Limits

log = logging.getLogger("fluxengine")
T = TypeVar("T")


class Engine:
    def __init__(self, config: EngineConfig, load: Callable[[], Family], metrics: Metrics) -> None:
        """`load` is called by the engine's thread: torch must not run in any other."""
        self._config = config
        self._load = load
        self._metrics = metrics
        self._scheduler = Scheduler(POLICIES[config.scheduling], config.max_batch)
        self._deadlines = Deadlines()
        self._tickets: set[Ticket] = set()
        folder = Path(config.lora_dir) if config.lora_dir else None
        self._preparation = Preparation(folder, config.max_loras, config.max_batch, self._load_lora, self._wake)
        # Shared with other threads, guarded by `_changed`.
        self._changed = threading.Condition()
        self._submitted: list[Ticket] = []
        self._cancelled: list[Ticket] = []
        self._room = Room(config.max_in_flight or config.max_batch, config.max_upload_mb)
        self._draining = False
        self._giving_up = False
        self._closing = False
        self._prepared = False
        """Whether the preparation may have news."""
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
        with self._changed:
            self._changed.wait_for(lambda: not self._room.is_full or self._closing or self._draining, patience_s)
            if not self._closing:
                if self._draining:
                    raise Unavailable("server", "is stopping; send the request to another")
                self._room.take(ticket)
                self._submitted.append(ticket)
                self._changed.notify_all()
                return ticket
        ticket.end()
        reply.error(_unloading())
        return ticket

    def drain(self) -> None:
        """Takes nothing more. What is in flight goes on."""
        with self._changed:
            self._draining = True
            self._changed.notify_all()

    def give_up(self) -> None:
        """Ends what is in flight as cancelled."""
        with self._changed:
            self._giving_up = True
            self._changed.notify_all()

    def cancel(self, ticket: Ticket) -> None:
        """Ends a request before the next step. Nothing happens if it has ended."""
        with self._changed:
            self._cancelled.append(ticket)
            self._changed.notify_all()

    @property
    def in_flight(self) -> int:
        """Images that were taken and are not answered yet."""
        return self._room.images

    def close(self) -> None:
        """Ends what is in flight as cancelled, and the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self._preparation.close()

    # ---- the engine's thread ----

    def _main(self) -> None:
        # OpenMP keeps a pool of workers for each thread that ever ran a parallel region; two pools on the same cores
        # make everything up to twice as slow. Gradient mode and thread count belong to the thread that sets them.
        config = self._config
        with torch.inference_mode(), contextlib.ExitStack() as at_the_end:
            try:
                if config.num_threads:
                    torch.set_num_threads(config.num_threads)
                family = self._load()
                at_the_end.callback(family.close)
                self.limits = limits_of(config, family.defaults)
                cache = PromptCache(config.prompt_cache_entries)
                self._runner = Runner(family, config.max_batch, cache, config.preview_size, config.step_cache)
                self._warm_up()
                if config.max_in_flight is None:
                    job_bytes = self._runner.job_bytes
                    self._room.max_images = automatic_max_in_flight(family.device, job_bytes, config.max_batch)
            except BaseException as error:
                self._fault = error
                return
            finally:
                self._ready.set()
            self._serve()

    def _warm_up(self) -> None:
        """Draws one picture the usual way: kernels load now, and a checkpoint that cannot serve stops the load."""
        self._runner.family.warm_up(self.limits.default_size)
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
                with self._changed:
                    self._closing = True
                self._end_all(Internal("device", "failed and is being restarted; send the request again"))
                self.device_lost.set()
                return
            except Exception as error:
                log.exception("a turn of the engine failed")
                self._end_taken(Internal("engine", f"{type(error).__name__}: {error}"))
        self._end_all(_unloading())

    def _take_requests(self) -> bool:
        """Takes in what others handed over; waits while there is nothing to do. False when it is time to end."""
        with self._changed:
            self._changed.wait_for(self._has_work, self._deadlines.until_next_s(time.monotonic()))
            submitted, self._submitted = self._submitted, []
            cancelled, self._cancelled = self._cancelled, []
            self._tickets.update(submitted)  # from here on whatever fails ends them as well
            closing = self._closing
            prepared, self._prepared = self._prepared, False
            giving_up, self._giving_up = self._giving_up, False
        self._take_in(submitted)
        if prepared or submitted:
            for ticket, error in self._preparation.ready():
                if error is not None:
                    self._end(ticket, error)
                elif not ticket.ended:
                    self._schedule(ticket)
        for ticket in cancelled:
            self._end(ticket, Cancelled("request", "was cancelled by the caller"))
        if giving_up:
            self._end_taken(Cancelled("server", "is stopping, and its time for requests in flight is over"))
        self._expire()
        return not closing

    def _has_work(self) -> bool:
        handed_over = self._submitted or self._cancelled or self._closing or self._prepared or self._giving_up
        return bool(handed_over) or self._scheduler.has_work

    def _load_lora(self, path: Path) -> Lora:
        return self._runner.family.load_lora(path)

    def _wake(self) -> None:
        with self._changed:
            self._prepared = True
            self._changed.notify_all()

    def _schedule(self, ticket: Ticket) -> None:
        for job in ticket.jobs:
            self._scheduler.add(job)

    def _take_in(self, submitted: Sequence[Ticket]) -> None:
        for ticket in submitted:
            if not self._preparation.add(ticket):
                self._schedule(ticket)
            self._deadlines.add(ticket)

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
        hits, misses = self._runner.cache_hits, self._runner.cache_misses
        failures = self._runner.encode(jobs)
        took_s = time.monotonic() - start_s
        for job in jobs:
            job.encode_s = took_s
        self._metrics.observe(m.ENCODE_MS, took_s * 1e3)
        self._metrics.count(m.PROMPT_CACHE_HITS, self._runner.cache_hits - hits)
        self._metrics.count(m.PROMPT_CACHE_MISSES, self._runner.cache_misses - misses)
        self._fail(failures)
        for ticket in uploads:
            if all(job.encoded for job in ticket.jobs):
                with self._changed:
                    self._room.let_upload_go(ticket)
                self._wake()  # the next pictures may be decoded

    def _step(self, jobs: list[Job]) -> None:
        start_s = time.monotonic()
        outcome = self._runner.step(jobs)
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
        pictures, failures = self._runner.decode(jobs)
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
        family = self._runner.family
        infos = tuple(describe(ticket, row, self._config.model, family) for row in range(len(request.rows)))
        completed = Completed(
            pictures=tuple(ticket.pictures[job] for job in ticket.jobs),
            seeds=tuple(job.seed for job in ticket.jobs),
            infos=infos,
        )
        self._close_ticket(ticket)
        self._metrics.count(m.REQUESTS, label="ok")
        self._metrics.observe(m.TOTAL_MS, (time.monotonic() - request.arrival_s) * 1e3)
        _tell(ticket.reply.done, completed)

    def _fail(self, failures: dict[Job, FluxError]) -> None:
        for job, error in failures.items():
            self._end(job.ticket, error)

    def _expire(self) -> None:
        now_s = time.monotonic()
        for ticket in self._deadlines.take_late(now_s, len(self._tickets)):
            done, total = sum(job.step for job in ticket.jobs), sum(job.total_steps for job in ticket.jobs)
            waited_ms = (now_s - ticket.request.arrival_s) * 1e3
            where = f"at step {done} of {total}" if done else "while waiting"
            self._end(ticket, DeadlineExceeded("deadline", f"passed after {waited_ms:.0f} ms, {where}"))

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
        """Once `_closing` is set: nothing comes after."""
        with self._changed:
            self._tickets.update(self._submitted)
            self._submitted = []
        self._end_taken(error)

    def _close_ticket(self, ticket: Ticket) -> None:
        images = len(ticket.jobs)
        for job in ticket.jobs:
            self._drop(job)
        ticket.end()
        self._tickets.discard(ticket)
        self._preparation.forget(ticket)
        with self._changed:
            self._room.let_upload_go(ticket)
            self._room.images -= images
            self._changed.notify_all()

    def _drop(self, job: Job) -> None:
        if job.phase is not Phase.GONE:
            self._scheduler.remove(job)
        self._runner.release(job)


def _unloading() -> FluxError:
    return Cancelled("server", "the model is being unloaded")


def _tell(call: Callable[[T], None], what: T) -> None:
    """A reply that fails harms neither the engine nor other requests."""
    try:
        call(what)
    except Exception:
        log.exception("a reply failed")
