from __future__ import annotations

import logging

import pytest
import torch

from fluxengine.load.precision import choose_dtype

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, torch.float32),
        ({"avx2": True}, torch.float32),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True, "avx512_bf16": False}, torch.bfloat16),
        ({"architecture": "aarch64", "bf16": True}, torch.bfloat16),
    ],
    ids=str,
)
def test_a_processor_gets_bfloat16_where_it_multiplies_it(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capabilities: dict[str, object],
    dtype: torch.dtype,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    with caplog.at_level(logging.INFO, "fluxengine"):
        assert choose_dtype("auto", CPU) is dtype
    (said,) = caplog.messages
    assert said.startswith(f"dtype auto: {str(dtype).removeprefix('torch.')}, as this processor ")
    assert ("does not multiply" in said) == (dtype is torch.float32)


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((8, 9), torch.bfloat16), ((12, 0), torch.bfloat16)],
    ids=str,
)
def test_a_gpu_gets_bfloat16_from_ampere_on(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capability: tuple[int, int],
    dtype: torch.dtype,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    with caplog.at_level(logging.INFO, "fluxengine"):
        assert choose_dtype("auto", torch.device("cuda:0")) is dtype
    assert f"compute capability {capability[0]}.{capability[1]}" in caplog.text


def test_this_processor_can_be_asked() -> None:
    native = any(torch.cpu.get_capabilities().get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))
    assert choose_dtype("auto", CPU) is (torch.bfloat16 if native else torch.float32)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_the_operator_goes_first(name: str, caplog: pytest.LogCaptureFixture) -> None:
    assert choose_dtype(name, CPU) is getattr(torch, name)
    assert not caplog.messages
