"""Networks whose files are not all of theirs: each says which weight or file is at fault."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fluxengine.errors import ConfigError
from fluxengine.families.flux1.parts import FLUX1
from fluxengine.load.network import load_network

Weights = dict[str, torch.Tensor]

FILES = {
    "transformer": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
    "text_encoder_2": "model.safetensors",
}

# A network without all its weights is told of by both libraries, which is what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture
def folder(tmp_path: Path, guided_checkpoint: Path) -> Path:
    return Path(shutil.copytree(guided_checkpoint, tmp_path / "flux"))


def change(file: Path, edit: Callable[[Weights], Weights]) -> Weights:
    """Rewrites a file of weights, and returns those that it had."""
    weights = load_file(file)
    save_file(edit(dict(weights)), file, {"format": "pt"})
    return weights


def load(name: str, folder: Path, variant: str = "") -> torch.nn.Module:
    network: torch.nn.Module = load_network(folder / name, FLUX1.networks[name], variant, torch.float32)
    return network


def refusal(name: str, folder: Path, variant: str = "") -> str:
    with pytest.raises(ConfigError) as caught:
        load(name, folder, variant)
    said = str(caught.value)
    assert len(said) <= 500
    return said


@pytest.mark.parametrize("name", FLUX1.networks)
def test_a_weight_that_is_missing(folder: Path, name: str) -> None:
    weights = load_file(folder / name / FILES[name])
    lost = sorted(key for key in weights if "norm" in key)[:2]
    change(folder / name / FILES[name], lambda all: {key: all[key] for key in all if key not in lost})
    said = refusal(name, folder)
    assert said.startswith(f"{name} lacks 2 of the model's weights, the first ")
    assert lost[0].removeprefix("text_model.") in said


@pytest.mark.parametrize("name", FLUX1.networks)
def test_a_weight_that_is_left_over(folder: Path, name: str) -> None:
    change(folder / name / FILES[name], lambda all: {**all, "extra.1": torch.zeros(2), "extra.2": torch.zeros(2)})
    assert "has 2 weights that the model does not know, the first 'extra.1'" in refusal(name, folder)


@pytest.mark.parametrize("name", FLUX1.networks)
def test_a_weight_of_another_size(folder: Path, name: str) -> None:
    weights = load_file(folder / name / FILES[name])
    other = max(weights, key=lambda key: weights[key].ndim)
    change(folder / name / FILES[name], lambda all: {**all, other: torch.zeros(3, 5)})
    said = refusal(name, folder)
    assert f"is [3, 5] in the files but {list(weights[other].shape)} by its config.json" in said
    assert other.removeprefix("text_model.") in said


@pytest.mark.parametrize(("layers", "words"), [(1, "does not know"), (3, "lacks")])
def test_a_configuration_of_another_model(folder: Path, layers: int, words: str) -> None:
    config = folder / "transformer/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "num_single_layers": layers}))
    assert f"the first 'single_transformer_blocks.{min(layers, 2)}." in (said := refusal("transformer", folder))
    assert words in said


@pytest.mark.parametrize("scale", ["scale_weight", "weight_scale", "scale_input"])
@pytest.mark.parametrize("name", ["transformer", "text_encoder_2"])
def test_float8_with_scales_would_be_noise(folder: Path, name: str, scale: str) -> None:
    def scaled(weights: Weights) -> Weights:
        matrices = {key for key in weights if weights[key].ndim == 2}
        return {
            **{key: weights[key].to(torch.float8_e4m3fn) if key in matrices else weights[key] for key in weights},
            **{key.removesuffix("weight") + scale: torch.ones(1) for key in matrices},
            "scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn),
        }

    change(folder / name / FILES[name], scaled)
    said = refusal(name, folder)
    assert re.search(rf"the first '[\w.]+\.{scale}': float8 weights with scales are not read", said)


@pytest.mark.parametrize("name", FLUX1.networks)
def test_float8_without_scales_is_what_it_says(folder: Path, name: str) -> None:
    plain = load(name, folder).state_dict()
    change(folder / name / FILES[name], lambda all: {key: all[key].to(torch.float8_e4m3fn) for key in all})
    loaded = load(name, folder).state_dict()
    assert all(torch.equal(loaded[key], plain[key].to(torch.float8_e4m3fn).float()) for key in plain)


@pytest.mark.parametrize("name", FLUX1.networks)
def test_files_of_pytorch(folder: Path, name: str) -> None:
    plain = load(name, folder).state_dict()
    file = folder / name / FILES[name]
    stem = file.stem if name in ("transformer", "vae") else "pytorch_model"
    torch.save(load_file(file), file.with_name(f"{stem}.bin"))
    file.unlink()
    loaded = load(name, folder).state_dict()
    assert all(torch.equal(loaded[key], plain[key]) for key in plain)


def test_what_is_no_fault(folder: Path) -> None:
    clip, t5 = (folder / name / FILES[name] for name in ("text_encoder", "text_encoder_2"))
    more = {"text_model.embeddings.position_ids": torch.arange(77)[None], "logit_scale": torch.ones(())}
    more |= {"vision_model.post_layernorm.weight": torch.ones(4), "text_projection.weight": torch.ones(4, 4)}
    prefix = "" if any(key.startswith("text_model.") for key in load_file(clip)) else "text_model."
    weights = change(clip, lambda all: {**{prefix + key: all[key] for key in all}, **more})
    found = load("text_encoder", folder).state_dict()
    assert all(any(torch.equal(weight, other) for other in found.values()) for weight in weights.values())

    shared = load_file(t5)["shared.weight"]
    decoder = {"decoder.final_layer_norm.weight": torch.ones(48)}
    for names in (["shared.weight"], ["encoder.embed_tokens.weight"], ["shared.weight", "encoder.embed_tokens.weight"]):
        rest = {key: weight for key, weight in load_file(t5).items() if key != "encoder.embed_tokens.weight"}
        tied = {name: shared.clone() for name in names}
        save_file({**rest, **decoder, **tied}, t5, {"format": "pt"})
        assert torch.equal(load("text_encoder_2", folder).state_dict()["encoder.embed_tokens.weight"], shared)


# ---- files ----


def as_shards(folder: Path, name: str, variant: str = "") -> tuple[Path, list[Path]]:
    """Puts two shards and their index in the place of a file of weights."""
    file = folder / name / FILES[name]
    weights, infix = load_file(file), f".{variant}" if variant else ""
    shards = [file.with_name(f"{file.stem}{infix}-0000{n}-of-00002.safetensors") for n in (1, 2)]
    keys = sorted(weights)
    parts = dict(zip(shards, (keys[:5], keys[5:]), strict=True))
    for shard, some in parts.items():
        save_file({key: weights[key] for key in some}, shard, {"format": "pt"})
    places = {key: shard.name for shard, some in parts.items() for key in some}
    index = file.with_name(f"{file.name}.index{infix}.json")
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    file.unlink()
    return index, shards


@pytest.mark.parametrize("variant", ["", "fp16"])
@pytest.mark.parametrize("name", ["transformer", "text_encoder_2"])
def test_shards(folder: Path, name: str, variant: str) -> None:
    whole = load(name, folder).state_dict()
    index, shards = as_shards(folder, name, variant)
    found = load(name, folder, variant).state_dict()
    assert all(torch.equal(found[key], whole[key]) for key in whole)

    second = load_file(shards[1])
    shards[1].unlink()
    assert f"names 2 files, of which 1 are missing, the first {shards[1].name}" in refusal(name, folder, variant)
    first = min(second)
    save_file({key: second[key] for key in second if key != first}, shards[1], {"format": "pt"})
    assert f"lists 1 weights that are not in their files, the first {first!r}" in refusal(name, folder, variant)
    save_file({**second, "extra": torch.zeros(1)}, shards[1], {"format": "pt"})
    assert "does not list 1 weights of its files, the first 'extra'" in refusal(name, folder, variant)
    index.write_text("{")
    assert f"{name}/{index.name} is no index of shards" in refusal(name, folder, variant)
    if not variant:
        index.unlink()
        assert f"has {shards[0].name} but no {index.name}" in refusal(name, folder)


@pytest.mark.parametrize("name", FLUX1.networks)
def test_files_that_cannot_be_read(folder: Path, name: str) -> None:
    file = folder / name / FILES[name]
    whole = file.read_bytes()
    for broken in (b"", whole[:100], whole[:-10], b"nothing of the kind" * 9):
        file.write_bytes(broken)
        assert f"{name}/{file.name} is cut short or broken: " in refusal(name, folder)
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 3\n")
    assert f"{name}/{file.name} is a pointer of Git LFS, not the weights: run git lfs pull" in refusal(name, folder)
    file.unlink()
    assert refusal(name, folder) == f"{name} has no weights: no file {file.name}, nor shards of one"
    (file.parent / "config.json").unlink()
    file.write_bytes(whole)
    assert refusal(name, folder) == f"there is no {name}/config.json, which says how large the network is"
    (file.parent / "config.json").write_text("{")
    assert f"{name} cannot be loaded: " in refusal(name, folder)
    shutil.rmtree(file.parent)
    assert refusal(name, folder) == f"there is no folder {name}"


@pytest.mark.parametrize("name", FLUX1.networks)
def test_variants(folder: Path, name: str) -> None:
    file = folder / name / FILES[name]
    plain = load(name, folder, "fp16").state_dict()  # a part that has none is loaded without
    file.rename(file.with_suffix(".fp16.safetensors"))
    found = load(name, folder, "fp16").state_dict()
    assert all(torch.equal(found[key], plain[key]) for key in plain)
    assert refusal(name, folder) == f"{name} has weights, but each of a variant; set the parameter variant: fp16"
    assert "but not of the variant 'bf16'; set the parameter variant: fp16" in refusal(name, folder, "bf16")
