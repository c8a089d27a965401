"""The option --cpu-bfloat16 of these tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tests.processor
from fluxengine.load.precision import choose_dtype
from tools.triton.installation import PROJECT

ASK = """
import torch
from fluxengine.load.precision import choose_dtype
print(choose_dtype("auto", torch.device("cpu")))
"""


@pytest.mark.parametrize(("native", "dtype"), [("yes", "torch.bfloat16"), ("no", "torch.float32")])
def test_a_process_believes_what_the_option_says(native: str, dtype: str) -> None:
    paths = [str(Path(tests.processor.__path__[0])), str(PROJECT / "model_repository" / "flux" / "1")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TESTS_CPU_BFLOAT16": native}
    said = subprocess.check_output([sys.executable, "-c", ASK], env=environment, text=True)
    assert said.strip() == dtype


def test_the_processes_of_the_tests_believe_it(pytestconfig: pytest.Config) -> None:
    native = pytestconfig.getoption("--cpu-bfloat16")
    if native is None:
        pytest.skip("without --cpu-bfloat16 this processor speaks for itself")
    assert choose_dtype("auto", torch.device("cpu")) is (torch.bfloat16 if native == "yes" else torch.float32)
