from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fluxengine import scheduler as scheduler_module
from fluxengine.job import HEAD_START_S, Job, Phase, Ticket
from fluxengine.scheduler import DECODE_BATCH, POLICIES, Plan, Scheduler
from tests.unit.fluxengine.answers import Answer, request

SMALL, LARGE = (64, 64), (128, 128)

ALONE = """
import sys
for name in ("torch", "numpy", "diffusers", "triton_python_backend_utils"):
    sys.modules[name] = None  # importing it raises ImportError
before = set(sys.modules)
import fluxengine.scheduler
print(*sorted({name for name in set(sys.modules) - before if name.partition(".")[0] not in sys.stdlib_module_names}))
"""


def jobs(count: int = 1, **options: Any) -> list[Job]:
    """Jobs of as many requests, which arrive one after the other within the same second."""
    options.setdefault("arrival_s", 0.0)
    made = [Ticket(request(**options), Answer()).jobs[0] for _ in range(count)]
    for job in made:
        job.cost = job.size[0] * job.size[1]
    return made


def scheduler(policy: str = "continuous", max_batch: int = 4, *lots: list[Job]) -> Scheduler:
    made = Scheduler(POLICIES[policy], max_batch)
    for lot in lots:
        for job in lot:
            made.add(job)
    return made


def carry_out(scheduler: Scheduler, plan: Plan) -> None:
    """What the engine does with a plan: decoded jobs leave, encoded and stepped ones go on."""
    for job in plan.decode:
        scheduler.remove(job)
    for job in plan.encode:
        job.encoded = True
    for job in plan.step:
        job.step += 1
    scheduler.stepped(plan.step)


def turn(scheduler: Scheduler) -> Plan:
    plan = scheduler.plan()
    carry_out(scheduler, plan)
    return plan


def is_empty(plan: Plan) -> bool:
    return not (plan.decode or plan.step)


def run(scheduler: Scheduler, turns: int = 10_000) -> list[Plan]:
    """All turns until there is nothing left to do."""
    plans: list[Plan] = []
    for _ in range(turns):
        if is_empty(plan := turn(scheduler)):
            return plans
        plans.append(plan)
    raise AssertionError(f"not done after {turns} turns")


def test_it_needs_nothing_but_the_standard_library() -> None:
    home = Path(scheduler_module.__file__).parents[1]
    process = subprocess.run([sys.executable, "-c", ALONE], cwd=home, capture_output=True, text=True, check=False)
    assert process.stderr == ""
    assert {name.partition(".")[0] for name in process.stdout.split()} == {"fluxengine"}


@pytest.mark.parametrize("policy", POLICIES)
def test_nothing_to_do(policy: str) -> None:
    assert is_empty(turn(scheduler(policy)))


@pytest.mark.parametrize("policy", POLICIES)
def test_the_way_of_a_job(policy: str) -> None:
    (job,) = jobs(steps=2)
    made = scheduler(policy, 4, [job])
    assert (job.phase, made.waiting, made.running) == (Phase.WAITING, 1, 0)
    first = made.plan()
    assert (first.decode, first.encode, first.step) == ([], [job], [job])
    assert (job.phase, made.waiting, made.running) == (Phase.RUNNING, 0, 1)
    carry_out(made, first)
    second = turn(made)
    assert (list(second.encode), second.step) == ([], [job])
    assert (job.phase, made.waiting, made.running) == (Phase.DECODING, 0, 0)
    third = turn(made)
    assert (third.decode, list(third.step)) == ([job], [])
    assert job.phase is Phase.GONE
    assert is_empty(turn(made))


def test_continuous_joins_between_steps_and_mixes_steps_and_guidance() -> None:
    first, second = jobs(steps=3, guidance=1.0), jobs(steps=5, guidance=9.0)
    made = scheduler("continuous", 4, first)
    turn(made)
    made.add(second[0])
    assert turn(made).step == first + second
    turn(made)
    assert turn(made).step == second, "the first has had its three steps"
    assert [list(plan.step) for plan in run(made)] == [second, second, []]


def test_continuous_fills_a_place_as_soon_as_it_is_free() -> None:
    short, long, next_one = jobs(steps=1), jobs(steps=3), jobs(steps=1)
    made = scheduler("continuous", 2, short, long, next_one)
    assert turn(made).step == short + long
    plan = turn(made)
    assert (plan.decode, plan.step) == (short, long + next_one)


def test_static_closes_its_batch_until_the_last_picture_is_decoded() -> None:
    first, late = jobs(DECODE_BATCH + 1, steps=2), jobs(steps=2)
    made = scheduler("static", 8, first)
    assert turn(made).step == first
    made.add(late[0])
    plans = run(made)
    assert [(list(plan.decode), list(plan.step)) for plan in plans[:4]] == [
        ([], first),
        (first[:DECODE_BATCH], []),
        (first[DECODE_BATCH:], []),
        ([], late),
    ]


@pytest.mark.parametrize("other", [{"steps": 3}, {"guidance": 9.0}, {"size": LARGE}], ids=["steps", "guidance", "size"])
def test_static_batches_only_what_one_pipeline_call_could_do(other: dict[str, Any]) -> None:
    first, different, same = jobs(steps=2), jobs(1, **{"steps": 2, **other}), jobs(steps=2)
    made = scheduler("static", 8, first, different, same)
    steps = [set(plan.step) for plan in run(made) if plan.step]
    assert steps[0] == set(first + same), "the second in line waits for the next batch; the third fits into this one"
    assert steps[-1] == set(different)
    assert all(batch in (set(first + same), set(different)) for batch in steps)


def test_serial_takes_one_request_after_the_other() -> None:
    tickets = [Ticket(request(steps=3, images=3, arrival_s=float(n)), Answer()) for n in range(3)]
    made = scheduler("serial", 2, *(list(ticket.jobs) for ticket in tickets))
    order = [job.ticket for plan in run(made) for job in plan.step[:1]]
    assert [ticket for n, ticket in enumerate(order) if n == 0 or order[n - 1] is not ticket] == tickets


def test_serial_steps_the_images_of_its_request_together() -> None:
    ticket = Ticket(request(images=3), Answer())
    assert turn(scheduler("serial", 4, list(ticket.jobs))).step == list(ticket.jobs)


@pytest.mark.parametrize("policy", POLICIES)
def test_first_come_first_served(policy: str) -> None:
    lot = [jobs(steps=1, arrival_s=float(n))[0] for n in range(9)]
    made = scheduler(policy, 2, lot[::2], lot[1::2])
    assert [job for plan in run(made) for job in plan.decode] == lot


def test_among_those_that_wait_the_urgent_goes_first() -> None:
    low, normal, high = jobs(priority=4), jobs(priority=2), jobs(priority=1)
    made = scheduler("continuous", 1, low, normal, high)
    assert turn(made).step == high


def test_the_urgent_takes_the_place_of_the_last_who_goes_on_later_where_it_was() -> None:
    first, second = jobs(priority=3, steps=4, arrival_s=0.0), jobs(priority=3, steps=4, arrival_s=1.0)
    urgent = jobs(priority=1, steps=2, arrival_s=2.0)
    made = scheduler("continuous", 2, first, second)
    turn(made)
    made.add(urgent[0])
    plan = made.plan()
    assert (plan.step, list(plan.encode)) == (first + urgent, urgent)
    assert (second[0].phase, second[0].step, second[0].encoded) == (Phase.WAITING, 1, True)
    assert (made.waiting, made.running) == (1, 2)
    carry_out(made, plan)
    turn(made)
    plan = turn(made)
    assert (plan.decode, plan.step, list(plan.encode)) == (urgent, first + second, [])
    assert second[0].step == 2
    run(made)
    assert second[0].phase is Phase.GONE


def test_equals_do_not_take_each_others_places() -> None:
    earlier, later = jobs(arrival_s=0.0, steps=3), jobs(arrival_s=-5.0, steps=1)
    made = scheduler("continuous", 1, earlier)
    turn(made)
    made.add(later[0])
    assert turn(made).step == earlier


def test_who_has_waited_for_the_head_start_is_not_pushed_out_any_more() -> None:
    patient, urgent = jobs(priority=2, arrival_s=0.0), jobs(priority=1, arrival_s=HEAD_START_S + 0.1)
    made = scheduler("continuous", 1, patient)
    turn(made)
    made.add(urgent[0])
    assert turn(made).step == patient


@pytest.mark.parametrize("policy", POLICIES)
def test_nobody_starves_under_a_stream_of_urgent_requests(policy: str) -> None:
    (patient,) = jobs(priority=4, steps=1, arrival_s=0.0)
    made = scheduler(policy, 1, [patient])
    for second in range(100):  # as many urgent ones as the device can do
        made.add(jobs(priority=1, steps=1, arrival_s=float(second))[0])
        turn(made)
        if policy != "continuous":  # these decode before they take the next
            turn(made)
        if patient.phase is Phase.GONE:
            break
    assert 3 * HEAD_START_S - 1 <= second <= 3 * HEAD_START_S + 2


@pytest.mark.parametrize("crowd", [1, 4], ids=["one small", "many small"])
def test_sizes_take_turns_by_what_a_picture_costs(crowd: int) -> None:
    """A picture of four times the pixels gets a quarter of the steps, however full its neighbours' batch is."""
    made = scheduler("continuous", 4, jobs(crowd, steps=10_000), jobs(1, size=LARGE, steps=10_000))
    turns = Counter(turn(made).step[0].size for _ in range(1000))
    assert turns[SMALL] == pytest.approx(800, abs=2)
    assert turns[LARGE] == pytest.approx(200, abs=2)


def test_a_more_urgent_size_gets_more_turns() -> None:
    wide, high = (64, 128), (128, 64)
    made = scheduler(
        "continuous", 4, jobs(size=wide, priority=1, steps=10_000), jobs(size=high, priority=2, steps=10_000)
    )
    turns = Counter(turn(made).step[0].size for _ in range(300))
    assert turns[wide] == pytest.approx(200, abs=2)


@pytest.mark.parametrize("seen_before", [False, True], ids=["new", "back again"])
def test_a_size_has_no_credit_for_the_time_when_it_had_nothing_to_do(seen_before: bool) -> None:
    made = scheduler("continuous", 4, jobs(size=(64, 128), steps=10_000))
    if seen_before:
        made.add(jobs(size=(128, 64), steps=1)[0])
    for _ in range(500):
        turn(made)
    made.add(jobs(size=(128, 64), steps=10_000)[0])
    turns = Counter(turn(made).step[0].size for _ in range(100))
    assert turns[128, 64] == pytest.approx(50, abs=1)


def test_a_crowd_of_newcomers_does_not_stop_those_on_their_way() -> None:
    on_the_way, crowd = jobs(steps=20), jobs(7, steps=20)
    made = scheduler("continuous", 8, on_the_way)
    turn(made)
    for job in crowd:
        made.add(job)
    plans = [turn(made) for _ in range(4)]
    assert [len(plan.encode) for plan in plans] == [2, 2, 2, 1]
    assert all(on_the_way[0] in plan.step for plan in plans)
    assert all(set(plan.encode) <= set(plan.step) for plan in plans)
    assert set(plans[-1].step) == set(on_the_way + crowd)


def test_newcomers_to_an_idle_device_are_encoded_together() -> None:
    crowd = jobs(8)
    plan = turn(scheduler("continuous", 8, crowd))
    assert plan.encode == plan.step == crowd


def test_even_a_batch_of_one_takes_its_newcomer() -> None:
    made = scheduler("continuous", 2, jobs(steps=5))
    turn(made)
    made.add(jobs()[0])
    assert len(turn(made).encode) == 1


def test_few_are_decoded_at_a_time_the_oldest_first() -> None:
    lot = jobs(10, steps=1)
    made = scheduler("continuous", 16, lot)
    decoded = [plan.decode for plan in run(made)]
    assert decoded == [[], lot[:4], lot[4:8], lot[8:]]


def test_one_size_is_decoded_at_a_time_and_the_others_keep_their_order() -> None:
    small, large = jobs(5, steps=1), jobs(2, steps=1, size=LARGE)
    made = scheduler("continuous", 8, small, large)
    for job in (*made.plan().step, *made.plan().step):
        job.encoded, job.step = True, 1
    made.stepped([small[0], large[0], small[1], large[1], *small[2:]])  # finished in this order
    assert [turn(made).decode for _ in range(4)] == [small[:4], large, small[4:], []]


def test_decoding_does_not_keep_others_from_stepping() -> None:
    short, long = jobs(DECODE_BATCH * 2, steps=1), jobs(steps=10)
    made = scheduler("continuous", 16, short, long)
    turn(made)
    for _ in range(2):
        plan = turn(made)
        assert len(plan.decode) == DECODE_BATCH
        assert plan.step == long


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("phase", [Phase.WAITING, Phase.RUNNING, Phase.DECODING])
def test_who_is_removed_is_in_no_plan_and_the_others_go_on(policy: str, phase: Phase) -> None:
    leaves, stays = jobs(steps=2), jobs(2, steps=3)
    made = scheduler(policy, 1 if policy == "serial" else 4, leaves, stays)
    for _ in {Phase.WAITING: (), Phase.RUNNING: (1,), Phase.DECODING: (1, 2)}[phase]:
        turn(made)
    assert leaves[0].phase is phase
    made.remove(leaves[0])
    assert leaves[0].phase is Phase.GONE
    plans = run(made)
    assert not any(leaves[0] in (*plan.decode, *plan.encode, *plan.step) for plan in plans)
    assert {job for plan in plans for job in plan.decode} == set(stays)
    assert (made.waiting, made.running) == (0, 0)


def test_a_place_that_is_freed_is_taken_in_the_next_plan() -> None:
    lot = jobs(3, steps=9)
    made = scheduler("continuous", 2, lot)
    assert turn(made).step == lot[:2]
    made.remove(lot[0])
    assert turn(made).step == lot[1:]


def test_a_job_that_had_to_give_up_its_place_can_be_removed() -> None:
    pushed_out, urgent = jobs(priority=4, steps=5), jobs(priority=1, steps=5)
    made = scheduler("continuous", 1, pushed_out)
    turn(made)
    made.add(urgent[0])
    turn(made)
    made.remove(pushed_out[0])
    assert made.waiting == 0
    assert not any(pushed_out[0] in plan.step for plan in run(made))


@pytest.mark.parametrize("policy", POLICIES)
def test_ten_thousand_in_the_queue(policy: str) -> None:
    lot = [
        jobs(size=(SMALL, LARGE, (64, 128))[n % 3], priority=n % 4 + 1, steps=1 + n % 2, arrival_s=n / 100)[0]
        for n in range(10_000)
    ]
    made = scheduler(policy, 16, lot)
    first = made.plan()
    size = first.step[0].size
    if policy == "continuous":
        assert first.step == sorted((job for job in lot if job.size == size), key=lambda job: job.order)[:16]
    assert min(lot, key=lambda job: job.order).phase is Phase.RUNNING
    carry_out(made, first)
    gone = [job for job in lot[::2] if job.phase is not Phase.GONE]
    for job in gone:
        made.remove(job)
    decoded = {job for plan in run(made, 50_000) for job in plan.decode}
    assert decoded == set(lot) - set(gone)
    assert (made.waiting, made.running) == (0, 0)
