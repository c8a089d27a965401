from __future__ import annotations

from typing import Any

from loadtest.server.engine_metrics import read
from loadtest.server.gpus import GpuUse
from loadtest.server.moment import Moment, readings

TOLD = read('flux_jobs_waiting{model="flux"} 3\nflux_jobs_running{model="flux"} 2\nnv_gpu_utilization 0.7\n', "flux")


def moment(at: float, **seen: Any) -> Moment:
    values: dict[str, Any] = {
        "busy_s": 10.0 + at,
        "all_s": 100.0 + 2 * at,
        "memory_percent": 30.0,
        "server_cpu_s": {1: 5.0 + at / 2, 2: 1.0},
        "server_memory_bytes": 5 << 20,
        "gpu": None,
        "scrape": TOLD,
    }
    return Moment(at, **{**values, **seen})


def test_readings_of_this_machine_have_its_use_since_the_one_before() -> None:
    gone = {1: 8.0}  # the other process has ended
    first, second = readings(
        [moment(0), moment(1), moment(2, server_cpu_s=gone, gpu=GpuUse(40.0, 60.0), scrape=None)], local=True
    )
    assert (first.at, first.cpu_percent, first.server_cpu_percent) == (1, 50.0, 25.0)
    assert (first.memory_percent, first.server_memory_mb) == (30.0, 5.0)
    assert (first.waiting, first.running, first.gpu_percent) == (3, 2, None)
    assert (second.server_cpu_percent, second.gpu_percent, second.gpu_memory_percent) == (125.0, 40.0, 60.0)
    assert (second.waiting, second.running) == (None, None)


def test_readings_of_a_server_elsewhere_have_what_its_metrics_tell() -> None:
    elsewhere: dict[str, Any] = {"server_cpu_s": {}, "server_memory_bytes": None}
    (its,) = readings([moment(0, **elsewhere), moment(1, **elsewhere)], local=False)
    assert (its.gpu_percent, its.waiting) == (70.0, 3)
    assert (its.cpu_percent, its.memory_percent, its.server_cpu_percent, its.server_memory_mb) == (None,) * 4


def test_a_single_look_tells_nothing_of_a_cpu_and_is_no_reading() -> None:
    assert list(readings([moment(0)], local=True)) == []
