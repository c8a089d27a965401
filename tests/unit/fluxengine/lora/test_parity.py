"""A picture with LoRAs is what FluxPipeline draws with them loaded, whatever LoRAs its neighbours in the batch have."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file, save_file

from fluxengine.errors import InvalidArgument, NotFound
from fluxengine.families.base import Family
from fluxengine.load.checkpoint import load_family
from fluxengine.wire.request import GenerateRequest
from tests.diffusers_reference import Reference
from tests.loras import save_kohya_lora, save_random_lora
from tests.unit.fluxengine.answers import PATIENCE_S, Answer, Gate, eventually, request
from tests.unit.fluxengine.engines import Engines
from tests.unit.fluxengine.reference import CONFIG, assert_same, difference, start, start_gated

# PEFT warns of the second adapter that diffusers loads into one model.
pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute")

Loras = tuple[tuple[str, float], ...]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, guided_checkpoint: Path) -> Path:
    folder = tmp_path_factory.mktemp("loras")
    save_random_lora(guided_checkpoint, folder, "one", seed=1)
    save_random_lora(guided_checkpoint, folder, "two", seed=2, rank=8, targets=("to_k", "to_v", "ff_context.net.2"))
    save_random_lora(guided_checkpoint, folder, "patterned", seed=3, rank_pattern={"attn.to_q": 2})
    save_random_lora(guided_checkpoint, folder, "texts", seed=4, text_encoder=True)
    save_kohya_lora(folder, "kohya", width=64, seed=5)
    return folder


@pytest.fixture(scope="module")
def reference(guided_checkpoint: Path, folder: Path) -> Reference:
    return Reference(guided_checkpoint, loras=folder)


@pytest.fixture(scope="module")
def family(guided_checkpoint: Path) -> Family:
    return load_family(replace(CONFIG, model=str(guided_checkpoint)), Path(), torch.device("cpu"))


def draw_first(reference: Reference, *requests: GenerateRequest) -> None:
    """Before any engine starts: while PEFT loads a LoRA into a real model, no other thread can build modules."""
    for one in requests:
        for row in one.rows:
            for image in range(one.num_images_per_prompt):
                reference(replace(row, seed=row.seed + image))


MIX: list[Loras] = [
    (("one", 1.0),),
    (),
    (("two", 0.5),),
    (("one", -0.7), ("two", 1.2)),
    (("patterned", 1.0), ("kohya", 0.8)),
    (("texts", 1.0),),
    (("texts", 0.4),),
]


@pytest.mark.parametrize("scheduling", ["continuous", "static"])
def test_every_row_of_a_batch_has_its_own(
    engines: Engines, guided_checkpoint: Path, folder: Path, reference: Reference, scheduling: str
) -> None:
    requests = [
        request("a red fox", size=(64, 96), steps=4 + n % 2, guidance=3.5, seed=11, loras=loras)
        for n, loras in enumerate(MIX)
    ]
    draw_first(reference, *requests)
    engine = start(engines, guided_checkpoint, lora_dir=str(folder), max_batch=8, scheduling=scheduling)
    for _ in ("while their files are being read", "together"):
        answers = [Answer() for _ in requests]
        for one, answer in zip(requests, answers, strict=True):
            engine.submit(one, answer)
        for one, answer in zip(requests, answers, strict=True):
            assert_same(one, answer, reference)
    if scheduling == "continuous":
        assert min(float(str(answer.completed().infos[0]["mean_batch"])) for answer in answers) > 2, "they shared"
    plain = answers[1].completed().pictures[0]
    assert all(difference(plain, answer.completed().pictures[0]) > 20 for n, answer in enumerate(answers) if n != 1)
    assert answers[3].completed().infos[0]["lora"] == "one:-0.7,two:1.2"


def test_rows_of_one_request(engines: Engines, guided_checkpoint: Path, folder: Path, reference: Reference) -> None:
    both = request("a red fox", "two boats", size=(64, 96), steps=3, guidance=3.5, images=2)
    first, second = both.rows
    both = replace(both, rows=(replace(first, loras=MIX[0]), replace(second, loras=MIX[3])))
    draw_first(reference, both)
    engine, answer = start(engines, guided_checkpoint, lora_dir=str(folder)), Answer()
    engine.submit(both, answer)
    assert_same(both, answer, reference)


def test_scale_0_is_no_lora(engines: Engines, guided_checkpoint: Path, folder: Path, reference: Reference) -> None:
    without = request(size=(64, 96))
    draw_first(reference, without)
    engine, off = start(engines, guided_checkpoint, lora_dir=str(folder)), Answer()
    engine.submit(request(size=(64, 96), loras=(("one", 0.0),)), off)
    assert_same(without, off, reference)


def test_joining_a_batch_that_runs_without(
    engines: Engines, guided_checkpoint: Path, folder: Path, reference: Reference, gate: Gate
) -> None:
    without = request("two boats", size=(64, 96), steps=40, guidance=1.0, seed=5)
    other = request("a red fox", size=(64, 96), steps=3, guidance=3.5, loras=MIX[0])
    draw_first(reference, without, other)
    engine = start_gated(engines, guided_checkpoint, gate, lora_dir=str(folder))
    library, may_be_read = engine._preparation.library, threading.Event()
    load = library._load
    library._load = lambda path: load(path) if may_be_read.wait(PATIENCE_S) else pytest.fail("held for ever")
    plain, late = Answer(), Answer()
    engine.submit(without, plain)
    gate.wait_for_calls(1)
    engine.submit(other, late)
    gate.let(3)
    may_be_read.set()
    eventually(lambda: library._entries["one"].loading.done(), "it is read")
    gate.let(1)
    assert gate.rows == [1, 1, 1, 1, 2], "neither waited for, nor forgotten"
    gate.open()
    assert_same(without, plain, reference)
    assert_same(other, late, reference)


def test_a_file_that_is_not_there(engines: Engines, guided_checkpoint: Path, folder: Path) -> None:
    engine = start(engines, guided_checkpoint, lora_dir=str(folder))
    for name in ("three", "../loras/one", "/etc/passwd", ".."):
        with pytest.raises(NotFound, match="is not here; there are kohya, one, patterned, texts, two"):
            engine.submit(request(loras=((name, 1.0),)), Answer())
    with pytest.raises(NotFound, match="no lora_dir"):
        start(engines, guided_checkpoint).submit(request(loras=(("one", 1.0),)), Answer())


def _bad_files(folder: Path, good: Path) -> dict[str, str]:
    """By name: what is said of it."""
    tensors = load_file(good)
    (folder / "rubbish.safetensors").write_bytes(b"not a safetensors file")
    (folder / "cut.safetensors").write_bytes(good.read_bytes()[:-1000])
    save_file({"weight": torch.zeros(2, 2)}, folder / "foreign.safetensors")
    key = next(key for key in tensors if key.endswith("to_q.lora_A.weight"))
    save_file({**tensors, key: torch.zeros(4, 77)}, folder / "shape.safetensors")
    save_file({**tensors, key: torch.full_like(tensors[key], float("nan"))}, folder / "nan.safetensors")
    deep = {key.replace("transformer_blocks.0", "transformer_blocks.77"): value for key, value in tensors.items()}
    save_file({key: value for key, value in deep.items() if ".77." in key}, folder / "deep.safetensors")
    return {
        "rubbish": "'rubbish' cannot be used",
        "cut": "'cut' cannot be used",
        "foreign": "'foreign' is no plain LoRA",
        "shape": "is made for another model",
        "nan": "that are no numbers",
        "deep": "'deep' is made for another model",
    }


def test_a_bad_file_is_the_fault_of_its_request_alone(
    engines: Engines, guided_checkpoint: Path, folder: Path, reference: Reference, tmp_path: Path
) -> None:
    problems = _bad_files(tmp_path, folder / "one.safetensors")
    (tmp_path / "one.safetensors").write_bytes((folder / "one.safetensors").read_bytes())
    good = request("a red fox", size=(64, 96), steps=4, guidance=3.5, loras=MIX[0])
    draw_first(reference, good)
    engine = start(engines, guided_checkpoint, lora_dir=str(tmp_path), max_loras=2)
    answers = {name: Answer() for name in problems}
    neighbour = Answer()
    engine.submit(good, neighbour)
    for name, answer in answers.items():
        engine.submit(request(loras=((name, 1.0),)), answer)
    for name, answer in answers.items():
        failure = answer.failure()
        assert isinstance(failure, InvalidArgument)
        assert failure.cause == "lora"
        assert problems[name] in failure.problem
    assert_same(good, neighbour, reference)


def test_the_model_is_not_touched_by_loading(family: Family, folder: Path) -> None:
    transformer = family.pipeline.transformer  # type: ignore[attr-defined]
    before = {name: type(module) for name, module in transformer.named_modules()}
    lora = family.load_lora(folder / "texts.safetensors")
    assert isinstance(transformer, FluxTransformer2DModel)
    assert {name: type(module) for name, module in transformer.named_modules()} == before
    assert lora.name == "texts"
    assert lora.text_encoder and lora.transformer
    assert {part.scaling for part in lora.transformer.values()} == {2.0}
