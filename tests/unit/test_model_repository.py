"""What config.pbtxt of each model promises, against the contract and against the code that serves it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from fluxengine.config import EngineConfig
from fluxengine.errors import ConfigError

REPOSITORY = Path(__file__).parents[2] / "model_repository"

OUTPUTS = {
    "image": ("TYPE_STRING", [-1]),
    "pixels": ("TYPE_UINT8", [-1, -1, -1, 3]),
    "seed": ("TYPE_INT64", [-1]),
    "info": ("TYPE_STRING", [1]),
    "event": ("TYPE_STRING", [1]),
    "step": ("TYPE_INT32", [1]),
    "total_steps": ("TYPE_INT32", [1]),
}
STREAM_ONLY = {"progress", "preview_interval", "event", "step", "total_steps"}


def read(model: str) -> Any:
    return text_format.Parse((REPOSITORY / model / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def type_name(number: int) -> str:
    return str(model_config_pb2.DataType.Name(number))


@pytest.fixture(params=["flux", "flux_unary"])
def config(request: pytest.FixtureRequest) -> Any:
    return read(request.param)


def test_flux_is_decoupled_and_its_facade_is_not() -> None:
    assert read("flux").model_transaction_policy.decoupled
    assert not read("flux_unary").model_transaction_policy.decoupled


def test_names(config: Any) -> None:
    assert config.backend == "python"
    assert config.max_batch_size >= 1
    assert (REPOSITORY / config.name / "1" / "model.py").is_file()


def test_outputs(config: Any) -> None:
    names = set(OUTPUTS) - (STREAM_ONLY if config.name == "flux_unary" else set())
    assert {one.name: (type_name(one.data_type), list(one.dims)) for one in config.output} == {
        name: OUTPUTS[name] for name in names
    }


def test_the_batcher_has_no_queue_policy(config: Any) -> None:
    """With any, Triton's batcher sleeps up to 500 ms between two requests that arrive together."""
    batching = config.dynamic_batching
    assert config.HasField("dynamic_batching")
    assert batching.priority_levels == 0
    assert not batching.HasField("default_queue_policy")


def test_instances() -> None:
    (group,) = read("flux").instance_group
    assert (group.count, group.KIND_AUTO) == (1, group.kind)
    (facade,) = read("flux_unary").instance_group
    assert facade.kind == facade.KIND_CPU, "it needs no GPU"


def test_parameters_are_the_engines() -> None:
    parameters = {key: value.string_value for key, value in read("flux").parameters.items()}
    shipped = EngineConfig(lora_dir="flux-tiny-loras")
    assert EngineConfig.from_parameters(parameters, {}) == shipped, "the file shows the defaults, and has LoRAs to try"
    assert set(parameters) >= {"model", "scheduling", "max_in_flight", "max_batch", "dtype"}
    with pytest.raises(ConfigError, match="max_bach"):
        EngineConfig.from_parameters({**parameters, "max_bach": "1"}, {})


def test_nothing_is_cached_in_front_of_a_decoupled_model(config: Any) -> None:
    assert not config.response_cache.enable
