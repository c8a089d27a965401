"""What is derived without weights, held against real tensors of flux-tiny."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch.profiler import ProfilerActivity, profile

from fluxengine.load.quantization import pipeline_options
from tools.sizing.__main__ import main
from tools.sizing.live_memory import LiveMemory, peak_bytes
from tools.sizing.networks import FLUX_1_DEV, Networks
from tools.sizing.peaks import Peaks
from tools.sizing.plan import BATCHES, of_model, settings
from tools.sizing.weights import weight_bytes

TINY = str(Path(__file__).parents[3] / "model_repository/flux/1/flux-tiny")
CPU = torch.device("cpu")

# Told by libraries to each other while they are imported and load.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@torch.inference_mode()
def allocated_peak(compute: Any) -> int:
    """What the CPU's allocator held at the most, by torch's profiler."""
    compute()  # what is kept from a first call is not of the call
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        compute()
    held = peak = 0
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


@pytest.mark.parametrize(("batch", "size"), [(1, (128, 128)), (4, (128, 128)), (2, (256, 192))], ids=str)
def test_the_peak_of_a_step_is_what_the_allocator_holds(batch: int, size: tuple[int, int]) -> None:
    networks = Networks.of(TINY, torch.float32, "cpu")
    inputs = Peaks(networks).step_inputs(batch, size)
    real = allocated_peak(lambda: networks.transformer(**inputs, return_dict=False))
    derived = Peaks(Networks.of(TINY, torch.float32)).step(batch, size)
    assert derived == pytest.approx(real, rel=0.1)


def test_the_peak_of_decoding_is_what_the_allocator_holds() -> None:
    networks = Networks.of(TINY, torch.float32, "cpu")
    maps = torch.zeros(2, 16, 32, 32).contiguous(memory_format=torch.channels_last)
    real = allocated_peak(lambda: networks.vae.decode(maps, return_dict=False))
    # Convolutions on a CPU copy their inputs into layouts of their own, which GPUs do not need.
    assert Peaks(Networks.of(TINY, torch.float32)).decode(2, (256, 256)) == pytest.approx(real, rel=0.35)


def test_the_peak_does_not_depend_on_how_many_blocks_there_are_and_grows_by_the_row() -> None:
    whole, shallow = (Peaks(Networks.of(TINY, torch.bfloat16, layers=layers)) for layers in (None, 2))
    assert [whole.step(batch, (256, 256)) for batch in (1, 4)] == [shallow.step(batch, (256, 256)) for batch in (1, 4)]
    one, two, eight = (shallow.step(batch, (256, 256)) for batch in (1, 2, 8))
    assert eight == pytest.approx(one + 7 * (two - one), rel=0.01)


def test_views_and_changes_in_place_hold_no_memory() -> None:
    def compute() -> torch.Tensor:
        a = torch.zeros(1000, device="meta")  # 4,000 bytes
        b = a.view(10, 100)[2:].add_(1)
        c = b + 1  # 3,200 bytes
        del a, b
        return c[0] * 2  # 400 bytes, when a is gone

    assert peak_bytes(compute) == 7200
    with LiveMemory() as memory:
        held = [torch.zeros(10, device="meta") for _ in range(3)]
    assert memory.peak == 3 * 40 and len(held) == 3


def test_attention_holds_no_matrix_of_scores() -> None:
    query = torch.zeros(1, 2, 4096, 64, device="meta")
    attend = torch.nn.functional.scaled_dot_product_attention
    assert peak_bytes(lambda: attend(query, query, query)) == query.numel() * 4 + 2 * 4096 * 4


def test_flux_1_dev_has_the_size_it_is_known_for() -> None:
    networks = Networks.of(FLUX_1_DEV, torch.bfloat16)
    billions = [
        sum(weight.numel() for weight in network.parameters()) / 1e9
        for network in (networks.transformer, networks.text_encoder, networks.text_encoder_2, networks.vae)
    ]
    assert billions == pytest.approx([11.90, 0.123, 4.76, 0.084], rel=0.01)


def stored_bytes(tensor: Any) -> int:
    parts = [value for value in vars(tensor).values() if isinstance(value, torch.Tensor)]
    return sum(part.numel() * part.element_size() for part in parts or [tensor])


@pytest.mark.parametrize("quantization", ["none", "int8_weight_only", "fp8_weight_only", "nvfp4"])
def test_quantized_weights_are_as_large_as_derived(quantization: str) -> None:
    options = pipeline_options(quantization, Path(TINY), Path(TINY), CPU, torch.bfloat16)
    if options:
        options = {"quantization_config": options["quantization_config"].quant_mapping["transformer"]}
    transformer: Any = FluxTransformer2DModel.from_pretrained(
        TINY, subfolder="transformer", dtype=torch.bfloat16, **options
    )
    real = sum(stored_bytes(weight) for weight in transformer.parameters())
    assert weight_bytes(Networks.of(TINY, torch.bfloat16).transformer, quantization) == pytest.approx(real, rel=0.01)


def test_larger_cards_and_smaller_weights_take_larger_batches() -> None:
    weights, peaks = of_model(FLUX_1_DEV, ("none", "int8_weight_only"))
    of_cards = {card: {row.quantization: row for row in settings(card, weights, peaks)} for card in (8, 16, 24, 48, 80)}
    assert [of_cards[card]["none"].offload for card in (24, 48, 80)] == ["sequential", "none", "none"]
    assert of_cards[24]["int8_weight_only"].offload == "none"
    assert of_cards[16]["int8_weight_only"].offload == "model"
    assert "int8_weight_only" not in of_cards[8], "one of the networks alone is larger"
    batches = [of_cards[card]["int8_weight_only"].max_batch[1] for card in (16, 24, 48)]
    assert 1 <= batches[0] <= batches[1] <= batches[2] == BATCHES[-1]


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", TINY, "--card", "8"]) == 0
    printed = capsys.readouterr().out
    assert "| 8 | bfloat16 | none | none |" in printed
    assert "Derived from the model's shapes, not measured" in printed
    with pytest.raises(SystemExit):
        main(["--model", "/nowhere"])
    assert "neither FLUX.1-dev nor a folder in diffusers' format" in capsys.readouterr().err
