from __future__ import annotations

import pytest

from loadtest.server.engine_metrics import Engine, between, read

TEXT = """\
# TYPE flux_images_total counter
flux_images_total{{instance="a",model="flux"}} {images}
flux_images_total{{instance="b",model="flux"}} 1
flux_images_total{{instance="a",model="other"}} 100
# TYPE flux_steps_total counter
flux_steps_total{{instance="a",model="flux"}} {steps}
# TYPE flux_jobs_waiting gauge
flux_jobs_waiting{{instance="a",model="flux"}} 3
# TYPE flux_step_batch_size histogram
flux_step_batch_size_bucket{{instance="a",model="flux",le="+Inf"}} {batches}
flux_step_batch_size_count{{instance="a",model="flux"}} {batches}
flux_step_batch_size_sum{{instance="a",model="flux"}} {steps}
# TYPE nv_gpu_utilization gauge
nv_gpu_utilization{{gpu_uuid="x"}} 0.25
nv_gpu_utilization{{gpu_uuid="y"}} 0.75
# TYPE nv_gpu_memory_total_bytes gauge
nv_gpu_memory_total_bytes{{gpu_uuid="x"}} 1000
# TYPE nv_gpu_memory_used_bytes gauge
nv_gpu_memory_used_bytes{{gpu_uuid="x"}} 900
"""


def test_instances_are_added_up_and_other_models_left_out() -> None:
    seen = read(TEXT.format(images=4, steps=32, batches=8), "flux")
    assert (seen.images, seen.waiting, seen.gpu_percent, seen.gpu_memory_percent) == (5, 3, 50.0, 90.0)
    assert seen.cpu_percent is None


def test_what_was_done_between_two_looks() -> None:
    before, after = (read(TEXT.format(images=n, steps=8 * n, batches=4 * n), "flux") for n in (10, 15))
    assert between(before, after) == Engine(images=5, steps=40, mean_batch=2.0, cache_hits=0, cache_misses=0)
    assert between(after, after).mean_batch is None


def test_batches_of_several_spans_count_by_their_steps() -> None:
    parts = [Engine(1, 10, 1.0, 0, 1), Engine(3, 30, 3.0, 1, 2), Engine(0, 0, None, 0, 0)]
    assert Engine.total(parts) == Engine(4, 40, 2.0, 1, 3)


def test_what_is_no_metrics_is_refused() -> None:
    with pytest.raises(ValueError, match="invalid"):
        read("<html>not found</html> x y", "flux")
