"""How long the scheduler takes to plan one step while thousands of jobs wait. No model, no server.

`python -m tools.bench.planning` prints JSON: milliseconds by policy.
"""

from __future__ import annotations

import json
import random
import statistics
import time

from fluxengine.errors import FluxError
from fluxengine.job import Ticket
from fluxengine.reply import Completed, Progress
from fluxengine.scheduler import POLICIES, Scheduler
from fluxengine.wire.request import GenerateRequest, PromptRequest

QUEUED = 10_000
TURNS = 2_000


class _Nobody:
    def progress(self, progress: Progress) -> None: ...

    def done(self, completed: Completed) -> None: ...

    def error(self, error: FluxError) -> None: ...


def planning_ms(policy: str, max_batch: int = 16) -> dict[str, float]:
    """Median, 99th percentile and maximum of one plan, with 10,000 jobs of four sizes waiting throughout."""
    rng = random.Random(0)
    scheduler = Scheduler(POLICIES[policy], max_batch)

    def add_one(number: int) -> None:
        edge = rng.choice((256, 512, 768, 1024))
        row = PromptRequest("", edge, edge, rng.randint(4, 50), 3.5, number)
        request = GenerateRequest(str(number), (row,), 1, "png", True, False, 0, rng.randint(1, 4), number * 1e-3, None)
        scheduler.add(Ticket(request, _Nobody()).jobs[0])

    for number in range(QUEUED):
        add_one(number)
    times_ms = []
    for turn in range(TURNS):
        start_s = time.perf_counter()
        plan = scheduler.plan()
        times_ms.append((time.perf_counter() - start_s) * 1e3)
        for job in plan.decode:
            scheduler.remove(job)
            add_one(QUEUED + turn)
        for job in plan.step:
            job.encoded = True
            job.step += 1
        scheduler.stepped(plan.step)
    times_ms.sort()
    return {"median": statistics.median(times_ms), "p99": times_ms[int(TURNS * 0.99)], "max": times_ms[-1]}


if __name__ == "__main__":
    print(json.dumps({policy: planning_ms(policy) for policy in POLICIES}))
