"""Whatever arrives, leaves and fails in whatever order: every job ends exactly once and nothing is left behind."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from fluxengine.job import Job, Phase, Ticket
from fluxengine.scheduler import DECODE_BATCH, POLICIES, Plan, Scheduler
from tests.unit.fluxengine.answers import Answer, request

SIZES = ((64, 64), (64, 128), (256, 256))
ARRIVALS_S = 300


class Simulation:
    """Plays the engine for one scheduler."""

    def __init__(self, policy: str, seed: int) -> None:
        self.policy = policy
        self.random = random.Random(seed)
        self.max_batch = self.random.choice((1, 2, 5, 16))
        self.load = self.random.choice((0.1, 0.5, 1.5))
        self.scheduler = Scheduler(POLICIES[policy], self.max_batch)
        self.live: dict[Job, None] = {}
        self.ended: Counter[Job] = Counter()
        self.finished = 0
        self.encoded: set[Job] = set()
        self.batch: set[Job] = set()
        """static and serial: the batch that has started"""

    def run(self) -> None:
        for now_s in range(ARRIVALS_S):
            while self.random.random() < self.load / (1 + self.load):
                self.arrive(float(now_s))
            if self.live and self.random.random() < 0.1:
                self.end_request(self.random.choice(list(self.live)))
            self.turn()
        for _ in range(200_000):
            if not self.live:
                return
            self.turn()
        raise AssertionError(f"{len(self.live)} jobs never ended")

    def arrive(self, now_s: float) -> None:
        ticket = Ticket(
            request(
                "a fox",
                size=self.random.choice(SIZES),
                steps=self.random.randint(1, 5),
                guidance=self.random.choice((1.0, 3.5)),
                images=self.random.choice((1, 1, 1, 3)),
                priority=self.random.choice((1, 2, 2, 3, 4)),
                arrival_s=now_s,
            ),
            Answer(),
        )
        for job in ticket.jobs:
            job.cost = job.size[0] * job.size[1]
            self.live[job] = None
            self.scheduler.add(job)

    def end_request(self, job: Job) -> None:
        for sibling in job.ticket.jobs:
            if sibling in self.live:
                self.end(sibling)

    def end(self, job: Job) -> None:
        self.scheduler.remove(job)
        del self.live[job]
        self.ended[job] += 1

    def turn(self) -> None:
        plan = self.scheduler.plan()
        assert plan or not self.live, "nothing planned while jobs wait"
        self.check(plan)
        for job in plan.decode:
            if job.phase is Phase.DECODING:  # not ended along with a sibling that failed
                if self.random.random() < 0.02:
                    self.end_request(job)
                else:
                    self.finished += 1
                    self.end(job)
        for job in plan.encode:
            if job.phase is Phase.RUNNING:
                job.encoded = True
                if self.random.random() < 0.05:
                    self.end_request(job)
        step = [job for job in plan.step if job.phase is Phase.RUNNING]
        for job in step:
            job.step += 1
        for job in step:
            if job.phase is Phase.RUNNING and self.random.random() < 0.01:
                self.end_request(job)
        self.scheduler.stepped(step)
        phases = Counter(job.phase for job in self.live)
        assert self.scheduler.waiting == phases[Phase.WAITING]
        assert self.scheduler.running == phases[Phase.RUNNING]
        assert phases[Phase.GONE] == 0

    def check(self, plan: Plan) -> None:
        everyone = [*plan.decode, *plan.step]
        assert len(set(everyone)) == len(everyone)
        assert all(job in self.live for job in everyone)
        assert all(job.phase is Phase.DECODING for job in plan.decode)
        assert all(job.phase is Phase.RUNNING and job.step < job.total_steps for job in plan.step)
        assert len(plan.decode) <= DECODE_BATCH
        assert len(plan.step) <= self.max_batch
        assert len({job.size for job in plan.decode}) <= 1
        assert len({job.size for job in plan.step}) <= 1
        assert set(plan.encode) == {job for job in plan.step if not job.encoded}
        assert not self.encoded & set(plan.encode), "encoded twice"
        self.encoded |= set(plan.encode)
        running = Counter(job.size for job in self.live if job.phase is Phase.RUNNING)
        assert all(count <= self.max_batch for count in running.values())
        if self.policy != "continuous":
            self.check_exclusive(plan)

    def check_exclusive(self, plan: Plan) -> None:
        if not set(plan.step) <= self.batch:
            assert not any(job.phase is Phase.DECODING and job not in plan.decode for job in self.batch)
            assert not any(job.phase is Phase.RUNNING for job in self.batch), "joined a batch that had started"
            self.batch = set(plan.step)
        assert len({(job.size, job.total_steps, job.guidance_scale) for job in plan.step}) <= 1
        if self.policy == "serial":
            assert len({job.ticket for job in plan.step}) <= 1


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("policy", POLICIES)
def test_every_job_ends_once_and_nothing_is_left(policy: str, seed: int) -> None:
    simulation = Simulation(policy, seed)
    simulation.run()
    assert set(simulation.ended.values()) == {1}
    assert simulation.finished > 0
    scheduler = simulation.scheduler
    assert (scheduler.waiting, scheduler.running) == (0, 0)
    plan = scheduler.plan()
    assert not plan.decode and not plan.step
    assert scheduler._groups == {}
    assert not scheduler._decoding
    assert scheduler._order == []
