from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch

from fluxengine.device import memory
from fluxengine.device.memory import automatic_max_in_flight, free_bytes

CPU = torch.device("cpu")
GIB = 2**30


@pytest.mark.parametrize(
    ("free", "job_bytes", "max_batch", "most"),
    [
        (8 * GIB, 16 * 2**20, 16, 256),  # half of it, 16 MiB each
        (8 * GIB, 4 * GIB, 1, 16),  # never fewer than that: they wait without a place on the device
        (8 * GIB, 4 * GIB, 64, 64),  # a batch can be full
        (800 * GIB, 1, 16, 4096),
        (0, 2**20, 4, 16),
    ],
)
def test_as_many_as_half_of_the_free_memory_holds(
    monkeypatch: pytest.MonkeyPatch, free: int, job_bytes: int, max_batch: int, most: int
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: free)
    assert automatic_max_in_flight(CPU, job_bytes, max_batch) == most


def test_free_memory_of_this_machine() -> None:
    assert 0 < free_bytes(CPU) <= psutil.virtual_memory().available * 1.1


def test_free_memory_of_a_gpu_counts_what_torch_holds_without_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5 * GIB, 24 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 18 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 16 * GIB)
    assert free_bytes(torch.device("cuda:0")) == 7 * GIB


@pytest.mark.parametrize(
    ("limit", "used", "free"), [("1000", "400", 600), ("1000", "1100", 0), ("max", "400", 2**63)], ids=str
)
def test_the_limit_of_a_container_counts(tmp_path: Path, limit: str, used: str, free: int) -> None:
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text(f"{used}\n")
    assert memory._group_free_bytes(tmp_path) == free


def test_a_machine_without_control_groups(tmp_path: Path) -> None:
    assert memory._group_free_bytes(tmp_path) == 2**63
