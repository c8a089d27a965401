"""Who is encoded, stepped and decoded next. Standard library only: no torch, no Triton, no clock, no threads.

Jobs of one *batch key* form a group: some wait, up to `max_batch` rows run (a job with a
negative prompt has two). One plan steps one group, since a transformer
call takes one picture size. Groups take turns in proportion to what a step of theirs costs, so every picture in
flight gets the same share of the device, whatever its size.

The three scheduling modes are policies of this one mechanism:

    policy       batch key                        joining
    continuous   picture size                     at every step
    static       whatever one pipeline call has   only before the batch starts; one batch at a time
    serial       request and size                 likewise
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from itertools import count

from fluxengine.job import Job, Phase

DECODE_BATCH = 4
"""Pictures decoded between two steps: more would gain little and make the steps of others wait."""


@dataclass(frozen=True, slots=True)
class Policy:
    batch_key: Callable[[Job], Hashable]
    exclusive: bool
    """One batch at a time, closed to others once it has started, until its last picture is decoded."""


def _pipeline_call(job: Job) -> Hashable:
    """All that one call of a diffusers pipeline has but once for all its prompts."""
    steps = (job.num_inference_steps, job.skipped_steps)
    return job.size, steps, job.guidance_scale, job.rows, job.true_cfg_scale, job.loras


POLICIES = {
    "continuous": Policy(lambda job: job.size, exclusive=False),
    "static": Policy(_pipeline_call, exclusive=True),
    "serial": Policy(lambda job: (id(job.ticket), job.size), exclusive=True),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do next, in this order. The jobs of `decode`, and those of `step`, have one size each."""

    decode: Sequence[Job]
    encode: Sequence[Job]
    """Jobs new to the batch; they belong to `step` as well."""
    step: Sequence[Job]


_Entry = tuple[float, int, Job]


@dataclass(slots=True, eq=False)
class _Group:
    waiting: list[_Entry] = field(default_factory=list)
    """A heap by (order, number); a job that left in the meantime stays until it comes up."""
    running: list[Job] = field(default_factory=list)
    decoding: int = 0
    used: float = 0.0
    """The share of the device that it has had: costs of the steps of each of its jobs."""

    def head(self) -> Job | None:
        while self.waiting and self.waiting[0][2].phase is not Phase.WAITING:
            heapq.heappop(self.waiting)
        return self.waiting[0][2] if self.waiting else None


class Scheduler:
    """Used by the engine's thread alone."""

    def __init__(self, policy: Policy, max_batch: int) -> None:
        self._policy = policy
        self._max_batch = max_batch
        self._groups: dict[Hashable, _Group] = {}
        self._order: list[_Entry] = []  # all waiting jobs, kept for exclusive policies only: whose batch comes next
        self._active: _Group | None = None  # exclusive policies only: the batch that has started
        self._decoding: deque[Job] = deque()
        self._numbers = count()
        self._clock = 0.0  # `used` of the group stepped last: where a newly busy group starts
        self.waiting = 0
        self.running = 0

    def add(self, job: Job) -> None:
        """A new job, or one that gave up its place to a more urgent one."""
        job.phase = Phase.WAITING
        self.waiting += 1
        key = self._policy.batch_key(job)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(used=self._clock)
        entry = (job.order, next(self._numbers), job)
        heapq.heappush(group.waiting, entry)
        if self._policy.exclusive:
            heapq.heappush(self._order, entry)

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running or self._decoding)

    def plan(self) -> Plan:
        """The next turn. Empty when there is nothing to do."""
        decode = self._take_decode()
        group = self._next_group()
        if group is None:
            return Plan(decode, (), ())
        fresh = [job for job in group.running if not job.encoded]
        stepping = [job for job in group.running if job.encoded]
        if stepping:  # a crowd of newcomers must not stop those who are on their way
            fresh = fresh[: max(1, self._max_batch // 4)]
        step = stepping + fresh
        self._clock = group.used
        group.used += step[0].cost * min(job.priority for job in step)
        return Plan(decode, fresh, step)

    def stepped(self, jobs: Sequence[Job]) -> None:
        """Takes the jobs that have had their last step out of the batch and into the queue for decoding."""
        for job in jobs:
            if job.phase is Phase.RUNNING and job.step >= job.total_steps:
                self._leave(job)
                job.phase = Phase.DECODING
                self._groups[self._policy.batch_key(job)].decoding += 1
                self._decoding.append(job)

    def remove(self, job: Job) -> None:
        """A job is done, or has failed, or is not wanted any more. Its place is free for the next plan."""
        if job.phase is Phase.WAITING:
            self.waiting -= 1
        elif job.phase is Phase.RUNNING:
            self._leave(job)
        elif job.phase is Phase.DECODING:
            self._groups[self._policy.batch_key(job)].decoding -= 1
        job.phase = Phase.GONE
        self._forget_if_empty(job)

    def _take_decode(self) -> list[Job]:
        """The oldest finished jobs of one size. They stay DECODING until the engine removes them."""
        while self._decoding and self._decoding[0].phase is not Phase.DECODING:
            self._decoding.popleft()
        taken: list[Job] = []
        kept: list[Job] = []
        while self._decoding and len(taken) < DECODE_BATCH:
            job = self._decoding.popleft()
            if job.phase is not Phase.DECODING:
                continue
            (taken if not taken or job.size == taken[0].size else kept).append(job)
        self._decoding.extendleft(reversed(kept))
        return taken

    def _next_group(self) -> _Group | None:
        """The group whose turn it is, with its batch filled up."""
        if self._policy.exclusive:
            return self._next_exclusive()
        busy: _Group | None = None
        for group in self._groups.values():
            self._fill(group)
            if group.running and (busy is None or group.used < busy.used):
                busy = group
        return busy

    def _next_exclusive(self) -> _Group | None:
        if self._active is not None and (self._active.running or self._active.decoding):
            return self._active if self._active.running else None
        self._active = None
        while self._order and self._order[0][2].phase is not Phase.WAITING:
            heapq.heappop(self._order)
        if self._order:
            self._active = self._groups[self._policy.batch_key(self._order[0][2])]
            self._fill(self._active)
        return self._active

    def _fill(self, group: _Group) -> None:
        while (job := group.head()) is not None:
            too_many = sum(running.rows for running in group.running) + job.rows - self._max_batch
            if too_many > 0 and group.running:
                leaving = self._less_urgent(group, job, too_many)
                if not leaving:
                    return
                for last in leaving:
                    self._leave(last)  # its latents are kept: it goes on where it was
                    self.add(last)
            heapq.heappop(group.waiting)
            self.waiting -= 1
            job.phase = Phase.RUNNING
            if not group.running:
                group.used = max(group.used, self._clock)
            group.running.append(job)
            self.running += 1

    def _less_urgent(self, group: _Group, job: Job, rows: int) -> list[Job]:
        """Those that give up so many rows for `job`, the least urgent first. None if they do not have so many."""
        leaving: list[Job] = []
        for last in sorted(group.running, key=lambda running: (running.priority, running.order), reverse=True):
            if not (job.priority < last.priority and job.order < last.order):
                return []
            leaving.append(last)
            rows -= last.rows
            if rows <= 0:
                return leaving
        return leaving  # all of them: a job with more rows than a batch has is stepped alone

    def _leave(self, job: Job) -> None:
        self._groups[self._policy.batch_key(job)].running.remove(job)
        self.running -= 1

    def _forget_if_empty(self, job: Job) -> None:
        key = self._policy.batch_key(job)
        group = self._groups.get(key)
        if group and not group.running and not group.decoding and group.head() is None:
            del self._groups[key]
