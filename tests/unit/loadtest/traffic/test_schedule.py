"""Processes that share a plan send together what one would send alone."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest

from loadtest.sending.settings import Settings
from loadtest.traffic.schedule import Planned, Share, planned

SETTINGS = Settings(
    host="http://localhost:8000",
    grpc="localhost:8001",
    gateway_url="http://localhost:8080",
    model="flux",
    protocols=("http-generate",),
    mix="dataset-c-tiny",
    mix_seed=5,
    requests=50,
    arrivals="closed",
    rate=0.0,
    trace="",
    records="",
    check_prompts=False,
    timeout_s=10.0,
    shape="constant",
    shape_from=1,
    shape_time_s=30.0,
    shape_levels=4,
)
POISSON = replace(SETTINGS, arrivals="poisson", rate=20.0)


@pytest.mark.parametrize("settings", [SETTINGS, POISSON], ids=["closed", "poisson"])
def test_workers_share_one_sequence(settings: Settings) -> None:
    alone = list(planned(settings, Share()))
    shares = [list(planned(settings, Share(index, 3))) for index in range(3)]
    assert [len(share) for share in shares] == [17, 17, 16]
    together: list[Planned | None] = [None] * 50
    for index, share in enumerate(shares):
        together[index::3] = share
    assert together == alone


def test_a_seed_of_the_command_goes_before_the_mix_s_own() -> None:
    def seeds(mix_seed: int | None) -> list[int]:
        return [one.order.seed for one in planned(replace(SETTINGS, mix_seed=mix_seed), Share())]

    assert seeds(None) == seeds(1)
    assert seeds(None) != seeds(2)


def test_an_open_loop_says_when_and_a_closed_one_does_not() -> None:
    assert all(one.at_s is None for one in planned(SETTINGS, Share()))
    times = [one.at_s for one in planned(POISSON, Share())]
    assert all(
        earlier is not None and later is not None and earlier < later for earlier, later in itertools.pairwise(times)
    )
    assert [one.order for one in planned(POISSON, Share())] == [one.order for one in planned(SETTINGS, Share())]


def test_no_number_of_requests_means_no_end() -> None:
    endless = planned(replace(SETTINGS, requests=0), Share(1, 2))
    assert len(list(itertools.islice(endless, 1000))) == 1000


def test_a_trace_ends_by_itself_or_before(tmp_path: Path) -> None:
    line = {"prompt": "a cat", "width": 128, "height": 128, "num_inference_steps": 8}
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(json.dumps({**line, "at": at}) for at in (0.0, 0.5, 0.7)))
    settings = replace(SETTINGS, arrivals="trace", trace=str(path), requests=0)
    assert [one.at_s for one in planned(settings, Share())] == [0.0, 0.5, 0.7]
    assert [one.at_s for one in planned(settings, Share(1, 2))] == [0.5]
    assert [one.at_s for one in planned(replace(settings, requests=2), Share())] == [0.0, 0.5]
