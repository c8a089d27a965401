from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from safetensors.torch import save_file

from fluxengine.config import EngineConfig
from fluxengine.device.runner import Runner
from fluxengine.lora.file import load_lora
from fluxengine.lora.layers import Lora
from tests.checkpoints import make_checkpoint
from tests.diffusers_reference import Reference
from tests.unit.fluxengine.answers import Gate
from tests.unit.fluxengine.arithmetic import ArithmeticFamily
from tests.unit.fluxengine.engines import Engines
from tests.unit.fluxengine.lora_files import Read, Tensors
from tests.unit.fluxengine.runners import MAX_BATCH


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Pictures are tiny: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def attention_backend_of_this_test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers also makes a backend that of all models loaded later in the process."""
    monkeypatch.setattr(_AttentionBackendRegistry, "_active_backend", _AttentionBackendRegistry._active_backend)


@pytest.fixture(scope="session")
def guided_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("guided"), guided=True)


@pytest.fixture(scope="session")
def distilled_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("distilled"), guided=False)


@pytest.fixture(scope="session", params=["guided", "distilled"])
def checkpoint(request: pytest.FixtureRequest) -> Path:
    """Each of both kinds: FLUX.1 [dev] and [schnell]."""
    folder: Path = request.getfixturevalue(f"{request.param}_checkpoint")
    return folder


@pytest.fixture(scope="session")
def pipeline(guided_checkpoint: Path) -> Any:
    """Not to be changed."""
    from_pretrained: Any = FluxPipeline.from_pretrained
    return from_pretrained(guided_checkpoint, dtype=torch.float32)


@pytest.fixture
def read(pipeline: Any, tmp_path: Path) -> Read:
    """What a LoRA file with these tensors is to that pipeline."""

    def read(tensors: Tensors) -> Lora:
        save_file(tensors, tmp_path / "some.safetensors")
        return load_lora(tmp_path / "some.safetensors", pipeline, torch.device("cpu"))

    return read


@pytest.fixture
def family() -> ArithmeticFamily:
    return ArithmeticFamily()


@pytest.fixture
def runner(family: ArithmeticFamily) -> Runner:
    return Runner(family, EngineConfig(max_batch=MAX_BATCH, prompt_cache_entries=100))


@pytest.fixture
def engines() -> Iterator[Engines]:
    engines = Engines()
    yield engines
    engines.close()


@pytest.fixture
def gate(engines: Engines) -> Iterator[Gate]:
    """Opened before the engines are closed, as an engine that is held cannot end."""
    gate = Gate()
    yield gate
    gate.open()


@pytest.fixture(scope="session")
def references() -> Callable[[Path], Reference]:
    """What diffusers draws from a checkpoint, each picture once."""
    known: dict[Path, Reference] = {}
    return lambda folder: known.setdefault(folder, known.get(folder) or Reference(folder))
