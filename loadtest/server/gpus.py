"""The GPUs of this machine, as NVML sees them."""

from __future__ import annotations

import statistics
from contextlib import suppress
from dataclasses import dataclass

import pynvml  # type: ignore[import-untyped]


@dataclass(frozen=True, slots=True)
class GpuUse:
    """At one moment, over all GPUs."""

    percent: float
    memory_percent: float | None
    """Of the fullest."""


class Gpus:
    """Raises nothing: without a GPU, or without NVIDIA's driver, `names` is empty and `why_none` says why."""

    def __init__(self) -> None:
        self.why_none = ""
        self._devices: list[object] = []
        self.names: list[str] = []
        try:
            pynvml.nvmlInit()
            self._devices = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
            self.names = [str(pynvml.nvmlDeviceGetName(device)) for device in self._devices]
        except pynvml.NVMLError as error:
            self.why_none = f"no GPU on this machine ({error})"
        if not self._devices and not self.why_none:
            self.why_none = "no GPU on this machine"

    def use(self) -> GpuUse | None:
        if not self._devices:
            return None
        with suppress(pynvml.NVMLError):  # one that fell off the bus, or does not tell
            rates = [float(pynvml.nvmlDeviceGetUtilizationRates(device).gpu) for device in self._devices]
            memory = [pynvml.nvmlDeviceGetMemoryInfo(device) for device in self._devices]
            return GpuUse(statistics.fmean(rates), max(100.0 * of.used / of.total for of in memory))
        return None
