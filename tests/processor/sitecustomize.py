"""Every Python that has this folder on its PYTHONPATH believes that its processor has bfloat16, or that it has not.

TESTS_CPU_BFLOAT16 says which: yes or no. Models in a Triton and the commands that tests start believe it like the
tests themselves. Nothing computes otherwise: what the processor lacks, torch emulates.
"""

from __future__ import annotations

import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


class TorchCpu(MetaPathFinder):
    """Waits for `torch.cpu`: to import torch here would cost every process seconds."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "torch.cpu":
            return None
        spec = PathFinder.find_spec(name, path, target)
        assert spec is not None and spec.loader is not None
        execute = spec.loader.exec_module

        def execute_and_patch(module: ModuleType) -> None:
            execute(module)
            patch(module)

        spec.loader.exec_module = execute_and_patch  # type: ignore[method-assign]
        return spec


def patch(torch_cpu: Any) -> None:
    real = torch_cpu.get_capabilities
    native = os.environ["TESTS_CPU_BFLOAT16"] == "yes"
    torch_cpu.get_capabilities = lambda: {**real(), "amx_bf16": False, "avx512_bf16": native, "bf16": False}


if "TESTS_CPU_BFLOAT16" in os.environ:
    sys.meta_path.insert(0, TorchCpu())
