from __future__ import annotations

from fluxengine.job import HEAD_START_S, Phase, Ticket
from tests.unit.fluxengine.answers import Answer, request


def test_one_job_for_each_image_row_by_row() -> None:
    ticket = Ticket(request("one", "two", images=3, seed=10, steps=7, guidance=1.5, size=(64, 96)), Answer())
    assert [(job.prompts[0], job.seed) for job in ticket.jobs] == [
        ("one", 10), ("one", 11), ("one", 12), ("two", 1010), ("two", 1011), ("two", 1012),
    ]  # fmt: skip
    assert {(job.size, job.total_steps, job.guidance_scale) for job in ticket.jobs} == {((64, 96), 7, 1.5)}
    assert ticket.jobs_of(0) + ticket.jobs_of(1) == ticket.jobs
    assert [job.prompts[0] for job in ticket.jobs_of(1)] == ["two"] * 3
    assert all(job.phase is Phase.NEW and job.ticket is ticket for job in ticket.jobs)


def test_the_seed_after_the_last_is_0() -> None:
    ticket = Ticket(request(seed=2**63 - 2, images=4), Answer())
    assert [job.seed for job in ticket.jobs] == [2**63 - 2, 2**63 - 1, 0, 1]


def test_previews_only_with_progress() -> None:
    assert Ticket(request(preview_interval=2), Answer()).jobs[0].preview_interval == 0
    assert Ticket(request(preview_interval=2, progress=True), Answer()).jobs[0].preview_interval == 2


def test_a_lower_priority_is_overtaken_by_what_arrives_soon_after_and_by_nothing_later() -> None:
    def order(priority: int, arrival_s: float) -> float:
        return Ticket(request(priority=priority, arrival_s=arrival_s), Answer()).jobs[0].order

    assert order(2, 100.0) < order(2, 100.1)
    assert order(1, 100.0 + HEAD_START_S - 0.1) < order(2, 100.0) < order(1, 100.0 + HEAD_START_S + 0.1)
    assert order(1, 100.0 + 3 * HEAD_START_S - 0.1) < order(4, 100.0) < order(1, 100.0 + 3 * HEAD_START_S + 0.1)


def test_the_mean_batch_of_the_steps_it_had() -> None:
    (job,) = Ticket(request(), Answer()).jobs
    assert job.mean_batch == 0
    job.step, job.batch_sum = 4, 10
    assert job.mean_batch == 2.5


def test_progress_of_a_row_is_that_of_its_slowest_image() -> None:
    ticket = Ticket(request("one", "two", images=2, steps=5), Answer())
    for job, step in zip(ticket.jobs, (3, 2, 5, 4), strict=True):
        job.step = step
    progress = ticket.progress({})
    assert (progress.steps, progress.totals, progress.previews) == ((2, 4), (5, 5), (None,) * 4)
