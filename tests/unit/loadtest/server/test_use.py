from __future__ import annotations

from dataclasses import replace

from tests.unit.loadtest.lab.measured import USE


def test_use_is_of_the_gpu_where_there_is_one_and_else_of_the_cpu() -> None:
    assert (USE.utilisation_percent, USE.utilisation_of) == (80.0, "server's CPU")
    assert replace(USE, server_cpu_percent=None).utilisation_percent == 90.0
    with_gpu = replace(USE, gpu_percent=33.0)
    assert (with_gpu.utilisation_percent, with_gpu.utilisation_of) == (33.0, "GPU")
