"""Processes that share a schedule send together what one would send alone."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest

from loadtest.traffic.order import TimedOrder
from loadtest.traffic.schedule import Schedule

CLOSED = Schedule(mix="dataset-c-tiny", mix_seed=5, requests=50, arrivals="closed", rate=0.0, trace="")
POISSON = replace(CLOSED, arrivals="poisson", rate=20.0)


@pytest.mark.parametrize("schedule", [CLOSED, POISSON], ids=["closed", "poisson"])
def test_workers_share_one_sequence(schedule: Schedule) -> None:
    alone = list(schedule.share())
    shares = [list(schedule.share(index, 3)) for index in range(3)]
    assert [len(share) for share in shares] == [17, 17, 16]
    together: list[TimedOrder | None] = [None] * 50
    for index, share in enumerate(shares):
        together[index::3] = share
    assert together == alone


def test_a_seed_of_the_command_goes_before_the_mix_s_own() -> None:
    def seeds(mix_seed: int | None) -> list[int]:
        return [one.order.seed for one in replace(CLOSED, mix_seed=mix_seed).share()]

    assert seeds(None) == seeds(1)
    assert seeds(None) != seeds(2)


def test_an_open_loop_says_when_and_a_closed_one_does_not() -> None:
    assert all(one.at_s is None for one in CLOSED.share())
    times = [one.at_s for one in POISSON.share()]
    assert all(
        earlier is not None and later is not None and earlier < later for earlier, later in itertools.pairwise(times)
    )
    assert [one.order for one in POISSON.share()] == [one.order for one in CLOSED.share()]


def test_no_number_of_requests_means_no_end() -> None:
    endless = replace(CLOSED, requests=0).share(1, 2)
    assert len(list(itertools.islice(endless, 1000))) == 1000


def test_a_trace_ends_by_itself_or_before(tmp_path: Path) -> None:
    line = {"prompt": "a cat", "width": 128, "height": 128, "num_inference_steps": 8}
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(json.dumps({**line, "at": at}) for at in (0.0, 0.5, 0.7)))
    schedule = replace(CLOSED, arrivals="trace", trace=str(path), requests=0)
    assert [one.at_s for one in schedule.share()] == [0.0, 0.5, 0.7]
    assert [one.at_s for one in schedule.share(1, 2)] == [0.5]
    assert [one.at_s for one in replace(schedule, requests=2).share()] == [0.0, 0.5]
