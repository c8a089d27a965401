"""What diffusers saves beside a LoRA scales it as PEFT does."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer

from fluxengine.lora.scaling import METADATA_KEY, LoraScaling


def network() -> torch.nn.Module:
    blocks = [torch.nn.ModuleDict({"to_q": torch.nn.Linear(4, 4), "ff": torch.nn.Linear(4, 4)}) for _ in range(3)]
    return torch.nn.ModuleDict({"blocks": torch.nn.ModuleList(blocks), "out": torch.nn.Linear(4, 4)})


@pytest.mark.parametrize(
    "options",
    [
        {"lora_alpha": 16},
        {"r": 4, "lora_alpha": 6, "use_rslora": True},
        {"r": 2, "lora_alpha": 3, "rank_pattern": {"to_q": 4, "^out": 8}},
        {"r": 2, "lora_alpha": 3, "alpha_pattern": {r"blocks\.[01]\.to_q": 5, "ff": 7}, "rank_pattern": {"1.ff": 1}},
        {},
    ],
)
@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_as_peft_scales(options: dict[str, Any], prefix: str) -> None:
    config: Any = LoraConfig(target_modules=["to_q", "ff", "out"], **options)
    with_lora = inject_adapter_in_model(config, network(), "some")
    saved = {prefix + key: list(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    scaling = LoraScaling({METADATA_KEY: json.dumps(saved)}, "transformer")
    layers = {name: module for name, module in with_lora.named_modules() if isinstance(module, LoraLayer)}
    assert len(layers) == 7
    for name, module in layers.items():
        assert scaling.of(name, module.r["some"]) == module.scaling["some"]
    assert LoraScaling({METADATA_KEY: json.dumps(saved)}, "text_encoder").of("out", 8) is None


def test_a_file_that_does_not_say() -> None:
    assert LoraScaling({"format": "pt"}, "transformer").of("out", 8) is None


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        ("rubbish", "Expecting value"),
        ("[1]", "no JSON object"),
        ('{"transformer.use_dora": true}', "it is a DoRA"),
        ('{"transformer.init_lora_weights": "pissa_niter_4"}', "it began as pissa_niter_4"),
        ('{"transformer.r": 4}', "out has rank 8, but 4"),
        ('{"transformer.lora_alpha": "much"}', "lora_alpha is 'much' for out"),
        ('{"transformer.lora_alpha": NaN}', "lora_alpha is 'nan' for out"),
        ('{"transformer.rank_pattern": ["out"]}', "rank_pattern in its metadata is no JSON object"),
    ],
)
def test_what_makes_no_sense(metadata: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        LoraScaling({METADATA_KEY: metadata}, "transformer").of("out", 8)
