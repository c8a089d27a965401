from __future__ import annotations

from dataclasses import replace

from loadtest.server.use import Use
from tests.unit.loadtest.lab.measured import READING, USE


def test_use_is_of_the_gpu_where_there_is_one_and_else_of_the_cpu() -> None:
    assert (USE.utilisation_percent, USE.utilisation_of) == (80.0, "server's CPU")
    assert replace(USE, server_cpu_percent=None).utilisation_percent == 90.0
    with_gpu = replace(USE, gpu_percent=33.0)
    assert (with_gpu.utilisation_percent, with_gpu.utilisation_of) == (33.0, "GPU")


def test_use_is_the_mean_of_what_was_seen_and_of_memory_the_highest() -> None:
    readings = [
        replace(READING, cpu_percent=percent, memory_percent=percent, server_memory_mb=mb, waiting=None)
        for percent, mb in ((20.0, 500.0), (60.0, None))
    ]
    use = Use.of(readings, "no GPU", USE.engine)
    assert (use.cpu_percent, use.memory_percent, use.server_memory_mb) == (40.0, 60.0, 500.0)
    assert (use.waiting, use.gpu_percent, use.gpu_note) == (None, None, "no GPU")
    both = Use.mean([use, use])
    assert both.engine is not None and USE.engine is not None
    assert (both.cpu_percent, both.engine.images) == (40.0, 2 * USE.engine.images)
