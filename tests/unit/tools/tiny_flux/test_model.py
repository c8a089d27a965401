"""The model folder that ships: complete, small, and read by plain diffusers."""

from __future__ import annotations

import json

import pytest

from tools.tiny_flux.prompts import Scene, caption
from tools.triton.installation import PROJECT

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

FOLDER = PROJECT / "model_repository/flux/1/flux-tiny"


@pytest.fixture(scope="module")
def pipe() -> object:
    made = diffusers.FluxPipeline.from_pretrained(FOLDER)
    made.set_progress_bar_config(disable=True)
    return made


def test_the_folder_is_small_and_carries_its_license() -> None:
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) <= 40 * 2**20
    assert "SIL OPEN FONT LICENSE" in (FOLDER / "LICENSE").read_text()


def test_it_has_the_parts_of_flux(pipe) -> None:  # type: ignore[no-untyped-def]
    assert type(pipe.transformer).__name__ == "FluxTransformer2DModel"
    assert type(pipe.text_encoder).__name__ == "CLIPTextModel"
    assert type(pipe.text_encoder_2).__name__ == "T5EncoderModel"
    assert pipe.transformer.config.guidance_embeds
    assert pipe.transformer.config.num_layers and pipe.transformer.config.num_single_layers
    assert pipe.vae.config.latent_channels == 16 and pipe.vae_scale_factor == 8
    assert pipe.scheduler.config.use_dynamic_shifting


def test_known_words_are_one_token_in_any_case(pipe) -> None:  # type: ignore[no-untyped-def]
    text = "A Large RED circle on a shiny green background."
    clip = pipe.tokenizer(text).input_ids
    assert clip == pipe.tokenizer(text.lower()).input_ids
    words = pipe.text_encoder_2.get_input_embeddings().weight
    ids, lower_ids = (torch.tensor(pipe.tokenizer_2(form).input_ids) for form in (text, text.lower()))
    assert len(ids) == 11  # nine words, the full stop, the end
    assert (ids == pipe.tokenizer_2.unk_token_id).sum() == 1  # "shiny"
    assert torch.equal(words[ids], words[lower_ids])


def test_no_dtype_and_float32_load_the_same(pipe) -> None:  # type: ignore[no-untyped-def]
    parts = (pipe.transformer, pipe.text_encoder, pipe.text_encoder_2, pipe.vae)
    assert {part.dtype for part in parts} == {torch.float32}


def test_it_draws_what_was_asked(pipe) -> None:  # type: ignore[no-untyped-def]
    from tools.tiny_flux.recognise import Recogniser

    serving = json.loads((FOLDER / "serving.json").read_text())
    recogniser = Recogniser()
    scenes = [Scene("strawberry", None, "white", "large"), Scene("square", "yellow", "blue", "medium")]
    pictures = pipe(
        [caption(scene) for scene in scenes],
        height=128,
        width=128,
        num_inference_steps=serving["default_steps"],
        guidance_scale=serving["default_guidance"],
        max_sequence_length=serving["max_sequence_length"],
        generator=torch.Generator("cpu").manual_seed(0),
    ).images
    found = [recogniser(picture) for picture in pictures]
    assert [(seen.subject, seen.background) for seen in found] == [(s.subject, s.background) for s in scenes]
