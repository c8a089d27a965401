"""The parameter `max_in_flight` where it is `auto`: as many images as the device has memory for."""

from __future__ import annotations

import re
from pathlib import Path

import torch

SHARE = 0.5
"""Of the free memory, for what images in flight keep. The rest is for steps and decoding, and for who else is there."""

FEWEST, MOST = 16, 4096

MEMINFO = Path("/proc/meminfo")


def automatic_max_in_flight(device: torch.device, job_bytes: int, max_batch: int) -> int:
    """How many images may be in flight, when each keeps `job_bytes` of device memory from its admission to its end.

    To be called once the model is loaded and has drawn a picture, so that what these hold is not counted as free. At
    least `max_batch`, as a batch could never be full otherwise.
    """
    return in_flight_that_fit(free_bytes(device), job_bytes, max_batch)


def in_flight_that_fit(free: int, job_bytes: int, max_batch: int) -> int:
    fit = int(free * SHARE) // max(1, job_bytes)
    return max(max_batch, FEWEST, min(fit, MOST))


def free_bytes(device: torch.device) -> int:
    """Memory of the device that nobody uses, and what torch holds of it without need."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    # In a container the group's limit may be tighter than the machine.
    return min(_machine_free_bytes(), _group_free_bytes())


def _machine_free_bytes() -> int:
    found = re.search(r"^MemAvailable:\s*(\d+) kB$", MEMINFO.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _group_free_bytes(folder: Path = Path("/sys/fs/cgroup")) -> int:
    try:
        limit, used = ((folder / f"memory.{name}").read_text().strip() for name in ("max", "current"))
    except OSError:  # no control group of the second version
        return 2**63
    return 2**63 if limit == "max" else max(0, int(limit) - int(used))
