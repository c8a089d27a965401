"""Each part of the family against the same part of diffusers' FluxPipeline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler, FluxPipeline

from fluxengine.errors import ConfigError
from fluxengine.families.base import Conditioning
from fluxengine.families.flux1.flux1 import Flux1
from tests.unit.fluxengine.reference import first_latents

LENGTH = 64
CPU = torch.device("cpu")
PROMPTS = ["a red fox", "two small boats, far away", "x"]


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    from_pretrained: Any = FluxPipeline.from_pretrained
    pipeline = from_pretrained(folder, dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def loaded() -> Callable[[Path], tuple[Flux1, Any]]:
    """The family of a checkpoint, and a pipeline of its own to compare with. Loaded once."""
    known: dict[Path, tuple[Flux1, Any]] = {}

    def load_once(folder: Path) -> tuple[Flux1, Any]:
        if folder not in known:
            known[folder] = Flux1(load(folder), CPU, LENGTH, None), load(folder)
        return known[folder]

    return load_once


@pytest.fixture
def both(loaded: Callable[[Path], tuple[Flux1, Any]], checkpoint: Path) -> tuple[Flux1, Any]:
    """(family, pipeline) of each kind of checkpoint."""
    return loaded(checkpoint)


def batch(conditionings: list[Conditioning]) -> Conditioning:
    return {name: torch.stack([one[name] for one in conditionings]) for name in conditionings[0]}


@torch.inference_mode()
@pytest.mark.parametrize("size", [(64, 64), (64, 160), (256, 128)], ids=str)
@pytest.mark.parametrize("steps", [1, 4, 9])
def test_the_schedule_is_the_pipelines(both: tuple[Flux1, Any], size: tuple[int, int], steps: int) -> None:
    family, pipeline = both
    pipeline("a", height=size[0], width=size[1], num_inference_steps=steps, output_type="latent", max_sequence_length=8)
    schedule, scheduler = family.schedule(size, steps), pipeline.scheduler
    assert list(schedule.timesteps) == scheduler.timesteps.tolist()
    assert [*schedule.sigmas, 0.0] == scheduler.sigmas.tolist()
    assert list(schedule.deltas) == (scheduler.sigmas[1:] - scheduler.sigmas[:-1]).tolist()
    assert len(schedule.timesteps) == len(schedule.sigmas) == len(schedule.deltas) == steps


def test_asking_for_a_schedule_changes_no_other(both: tuple[Flux1, Any]) -> None:
    family, _ = both
    first = family.schedule((64, 64), 4)
    family.schedule((256, 128), 7)
    assert family.schedule((64, 64), 4) == first
    assert family._schedule((64, 64), 4) == first


@pytest.mark.parametrize("seed", [0, 5, 2**63 - 1])
def test_the_noise_is_the_pipelines(both: tuple[Flux1, Any], seed: int) -> None:
    family, pipeline = both
    noise, _ = pipeline.prepare_latents(
        1, 16, 64, 96, torch.float32, CPU, torch.Generator("cpu").manual_seed(seed), None
    )
    latents = first_latents(family, (64, 96), seed)
    assert latents.shape == (4 * 6, 64)
    assert torch.equal(latents, noise[0])


@torch.inference_mode()
def test_prompts_are_encoded_as_the_pipeline_does_alone_and_together(both: tuple[Flux1, Any]) -> None:
    family, pipeline = both
    together = family.encode(family.tokenize(PROMPTS))
    for prompt, conditioning in zip(PROMPTS, together, strict=True):
        embeds, pooled, _ = pipeline.encode_prompt(prompt, None, max_sequence_length=LENGTH)
        wanted = {"encoder_hidden_states": embeds[0], "pooled_projections": pooled[0]}
        (alone,) = family.encode(family.tokenize([prompt]))
        assert set(conditioning) == set(wanted)
        for name, tensor in wanted.items():
            assert torch.equal(alone[name], tensor)
            torch.testing.assert_close(conditioning[name], tensor, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_a_prompt_that_is_kept_keeps_no_memory_of_its_batch(both: tuple[Flux1, Any]) -> None:
    for conditioning in both[0].encode(both[0].tokenize(PROMPTS)):
        for tensor in conditioning.values():
            assert tensor.untyped_storage().nbytes() == tensor.nbytes


@torch.inference_mode()
def test_a_prompt_that_is_too_long_is_cut_as_the_pipeline_cuts_it(both: tuple[Flux1, Any]) -> None:
    family, pipeline = both
    prompt = "fox " * 1000
    (alone,) = family.encode(family.tokenize([prompt]))
    embeds, pooled, _ = pipeline.encode_prompt(prompt, None, max_sequence_length=LENGTH)
    assert torch.equal(alone["encoder_hidden_states"], embeds[0])
    assert torch.equal(alone["pooled_projections"], pooled[0])


def test_what_is_cut_off_a_prompt_is_known(both: tuple[Flux1, Any]) -> None:
    """In this checkpoint's vocabularies each letter is a token, and to T5 each beginning of a word is one more."""
    family, _ = both
    assert family.tokenize(["a red fox"])[0].left_out == {}
    assert family.tokenize([""])[0].left_out == {}
    many = "fox " * 40
    left_out = family.tokenize([many + "the end"])[0].left_out
    kept = {"text_encoder": 75, "text_encoder_2": LENGTH - 1}  # a start and an end, and an end
    letters = {"text_encoder": 3, "text_encoder_2": 4}
    assert set(left_out) == set(kept)
    for encoder, words in left_out.items():
        assert (many + "the end").endswith(words)
        words_kept, rest = divmod(kept[encoder], letters[encoder])
        assert (
            words == ("fox"[rest - letters[encoder] + 3 :] if rest else "fox") + " fox" * (39 - words_kept) + " the end"
        )
    (long,) = family.tokenize(["x" * 70])
    assert list(long.left_out) == ["text_encoder_2"], "75 letters are no more than CLIP has room for"


@torch.inference_mode()
def test_rows_do_not_influence_each_other(both: tuple[Flux1, Any]) -> None:
    family, _ = both
    size = (64, 96)
    latents = torch.stack([first_latents(family, size, seed) for seed in range(3)])
    timesteps, guidance = torch.tensor([1000.0, 600.0, 20.0]), torch.tensor([0.0, 3.5, 30.0])
    conditionings = family.encode(family.tokenize(PROMPTS))
    together = family.predict(size, latents, timesteps, guidance, batch(conditionings))
    for row in range(3):
        one = slice(row, row + 1)
        alone = family.predict(size, latents[one], timesteps[one], guidance[one], batch(conditionings[one]))
        torch.testing.assert_close(together[row], alone[0], rtol=1e-4, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 0.1


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["guided", "distilled"])
def test_guidance_has_an_effect_on_guided_checkpoints_only(
    loaded: Callable[[Path], tuple[Flux1, Any]], request: pytest.FixtureRequest, kind: str
) -> None:
    family, _ = loaded(request.getfixturevalue(f"{kind}_checkpoint"))
    latents = first_latents(family, (64, 64), 1).expand(2, -1, -1)
    low, high = family.predict(
        (64, 64),
        latents,
        torch.full((2,), 500.0),
        torch.tensor([1.0, 9.0]),
        batch(family.encode(family.tokenize(["a", "a"]))),
    )
    assert family.guided == (kind == "guided")
    assert torch.equal(low, high) != family.guided


@torch.inference_mode()
def test_decoding_gives_the_levels_of_the_pipeline(both: tuple[Flux1, Any]) -> None:
    family, pipeline = both
    size = (64, 160)
    latents = torch.stack([first_latents(family, size, seed) for seed in range(3)])
    levels = family.decode(size, latents)
    assert (levels.shape, levels.dtype) == ((3, *size, 3), torch.uint8)
    maps = FluxPipeline._unpack_latents(latents, *size, pipeline.vae_scale_factor)
    maps = maps / pipeline.vae.config.scaling_factor + pipeline.vae.config.shift_factor
    images = pipeline.image_processor.postprocess(pipeline.vae.decode(maps, return_dict=False)[0], output_type="pil")
    for row, image in enumerate(images):
        assert np.abs(np.asarray(image).astype(int) - levels[row].numpy()).max() <= 1
    assert levels.float().std() > 10, "a picture without content would prove nothing"


@torch.inference_mode()
@pytest.mark.parametrize(
    ("size", "edge", "shape"),
    [((256, 256), 64, (64, 64)), ((128, 256), 64, (32, 64)), ((64, 64), 256, (64, 64)), ((64, 2048), 32, (8, 32))],
    ids=str,
)
def test_previews_are_small_pictures_of_the_same(
    loaded: Callable[[Path], tuple[Flux1, Any]],
    guided_checkpoint: Path,
    size: tuple[int, int],
    edge: int,
    shape: tuple[int, int],
) -> None:
    family, _ = loaded(guided_checkpoint)
    latents = torch.cat([torch.full((1, size[0] * size[1] // 256, 64), value) for value in (-0.5, 0.5)])
    preview, picture = family.preview(size, latents, edge), family.decode(size, latents)
    assert (preview.shape, preview.dtype) == ((2, *shape, 3), torch.uint8)
    colours, wanted = (levels.float().mean(dim=(1, 2)) for levels in (preview, picture))
    assert (colours - wanted).abs().max() < 12
    assert (wanted[0] - wanted[1]).abs().max() > 12


def test_what_a_checkpoint_of_each_kind_is_served_with(guided_checkpoint: Path, distilled_checkpoint: Path) -> None:
    guided = Flux1(load(guided_checkpoint), CPU, None, None)
    distilled = Flux1(load(distilled_checkpoint), CPU, None, None)
    assert (guided.max_sequence_length, distilled.max_sequence_length) == (512, 256)
    assert (guided.defaults.steps, guided.defaults.guidance) == (28, 3.5)
    assert (distilled.defaults.steps, distilled.defaults.guidance) == (4, 0.0)
    assert guided.defaults.size == distilled.defaults.size == (1024, 1024)


@pytest.mark.parametrize(
    ("kind", "options"),
    [(DDPMScheduler, {}), (FlowMatchEulerDiscreteScheduler, {"stochastic_sampling": True})],
    ids=["another", "stochastic"],
)
def test_a_scheduler_whose_steps_would_not_be_the_pipelines_is_refused(
    guided_checkpoint: Path, kind: Any, options: dict[str, bool]
) -> None:
    pipeline = load(guided_checkpoint)
    pipeline.scheduler = kind(**options)
    with pytest.raises(ConfigError, match="must be a deterministic FlowMatchEulerDiscreteScheduler"):
        Flux1(pipeline, CPU, LENGTH, None)
