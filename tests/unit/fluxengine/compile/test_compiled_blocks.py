"""Blocks that are really compiled. Each compilation takes seconds, so there are few."""

from __future__ import annotations

import errno
import os
import queue
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from diffusers import FluxTransformer2DModel

from fluxengine.compile.background import BackgroundCompilation, StepKind
from fluxengine.compile.block_kind import BlockKind, Form, signature
from fluxengine.compile.compiled_blocks import CompiledBlocks
from fluxengine.errors import ConfigError
from fluxengine.families.base import StepCacheRows
from fluxengine.families.flux1.cached_predict import predict_with_step_cache
from fluxengine.load.quantization import pipeline_options
from fluxengine.lora.layers import Lora, LoraLayers, LoraScales, LowRank
from fluxengine.size import Size

# Told by libraries to each other while they are imported and compile.
pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]


@pytest.fixture
def transformer(guided_checkpoint: Path) -> Any:
    return load(guided_checkpoint)


@torch.inference_mode()
def load(checkpoint: Path) -> Any:
    """As the engine does: in inference mode."""
    return FluxTransformer2DModel.from_pretrained(checkpoint, subfolder="transformer", dtype=torch.float32)


SIZE, OTHER_SIZE = (64, 64), (48, 64)


def inputs_of(rows: int, size: Size = SIZE) -> dict[str, torch.Tensor]:
    tokens = size[0] * size[1] // 256
    generator = torch.Generator().manual_seed(rows)
    return {
        "hidden_states": torch.randn(rows, tokens, 64, generator=generator),
        "timestep": torch.rand(rows, generator=generator),
        "guidance": torch.full((rows,), 3.5),
        "txt_ids": torch.zeros(8, 3),
        "img_ids": torch.zeros(tokens, 3),
        "encoder_hidden_states": torch.randn(rows, 8, 48, generator=generator),
        "pooled_projections": torch.randn(rows, 32, generator=generator),
    }


@torch.inference_mode()
def predict(transformer: Any, rows: int, size: Size = SIZE) -> torch.Tensor:
    velocity: torch.Tensor = transformer(**inputs_of(rows, size), return_dict=False)[0]
    return velocity


def step(blocks: CompiledBlocks, transformer: Any, rows: int, size: Size = SIZE) -> torch.Tensor:
    with blocks.step(size):
        return predict(transformer, rows, size)


def step_with_loras(
    blocks: CompiledBlocks, transformer: Any, layers: LoraLayers, loras: Sequence[LoraScales]
) -> torch.Tensor:
    with blocks.step(SIZE, layers.rank(loras)) as rank, layers.applied(loras, rank=rank):
        return predict(transformer, len(loras))


@torch.inference_mode()
def step_with_loras_and_cache(
    blocks: CompiledBlocks, transformer: Any, layers: LoraLayers, loras: Sequence[LoraScales], reuse: Sequence[bool]
) -> torch.Tensor:
    rows, inputs = len(loras), inputs_of(len(loras))
    generator = torch.Generator().manual_seed(9)
    first, rest = (torch.randn(rows, 16, transformer.inner_dim, generator=generator) for _ in range(2))
    cache = StepCacheRows(reuse, first, rest, torch.zeros(rows))
    with blocks.step(SIZE, layers.rank(loras)) as rank:
        return predict_with_step_cache(transformer, inputs, cache, layers, loras, rank)


def random_lora(transformer: Any, rank: int, *layers: str) -> Lora:
    generator = torch.Generator().manual_seed(rank)

    def low_rank(name: str) -> LowRank:
        layer = transformer.get_submodule(name)
        down = torch.randn(rank, layer.in_features, generator=generator)
        up = torch.randn(layer.out_features, rank, generator=generator)
        return LowRank(down, up, scaling=0.05)

    return Lora(f"rank {rank}", {name: low_rank(name) for name in layers}, {})


@pytest.mark.slow
def test_what_was_compiled_in_the_warm_up_is_called_and_found_again(
    transformer: Any, tmp_path: Path, guided_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled_shapes = []
    compile_now = BlockKind.compile

    def compile_noted(kind: BlockKind, form: Form) -> None:
        compiled_shapes.append(form.inputs[0][0])
        compile_now(kind, form)

    monkeypatch.setattr(BlockKind, "compile", compile_noted)
    plain = {rows: predict(transformer, rows) for rows in (1, 2, 3, 4, 5)}
    other = predict(transformer, 2, OTHER_SIZE)
    blocks = CompiledBlocks(transformer, "default", 4, str(tmp_path))
    with blocks.warming_up(SIZE):
        compiled = step(blocks, transformer, 2)
    assert compiled_shapes == [(4, 16, 64)] * 2, "once for all double and once for all single blocks"
    compiled_for = {rows: step(blocks, transformer, rows) for rows in (2, 3, 4)}
    for rows, its in compiled_for.items():
        assert not torch.equal(its, plain[rows]), "or nothing compiled was called"
        torch.testing.assert_close(its, plain[rows], rtol=1e-4, atol=1e-4)

    # In service nothing is compiled: other shapes run as they are.
    assert torch.equal(step(blocks, transformer, 1), plain[1])
    assert torch.equal(step(blocks, transformer, 5), plain[5])
    assert torch.equal(step(blocks, transformer, 2, OTHER_SIZE), other)
    assert torch.equal(step(blocks, transformer, 2), compiled)
    assert len(compiled_shapes) == 2

    # A second start finds what the first has compiled.
    again = load(guided_checkpoint)
    others = CompiledBlocks(again, "default", 4, str(tmp_path))
    with others.warming_up(SIZE):
        assert torch.equal(step(others, again, 2), compiled)
    assert torch.equal(step(others, again, 3), compiled_for[3])
    assert [kind.found for kind in others.kinds] == [1, 1]

    # A damaged file is compiled again.
    next((tmp_path / "blocks").iterdir()).write_bytes(b"damaged")
    again = load(guided_checkpoint)
    third = CompiledBlocks(again, "default", 4, str(tmp_path))
    with third.warming_up(SIZE):
        torch.testing.assert_close(step(third, again, 2), plain[2], rtol=1e-4, atol=1e-4)
    assert sorted(kind.found for kind in third.kinds) == [0, 1]


@pytest.mark.slow
def test_rows_with_different_loras_run_compiled(transformer: Any, tmp_path: Path) -> None:
    blocks = CompiledBlocks(transformer, "default", 3, str(tmp_path))
    layers = LoraLayers(transformer, "transformer", blocks.layers)
    # One of them changes a layer outside of the blocks as well; several blocks share what is compiled.
    one = random_lora(transformer, 4, "transformer_blocks.1.attn.to_q", "single_transformer_blocks.0.proj_mlp")
    two = random_lora(
        transformer, 13, "transformer_blocks.1.attn.to_q", "transformer_blocks.0.norm1.linear", "norm_out.linear"
    )
    mixes: list[list[LoraScales]] = [
        [((one, 1.0), (two, 0.5)), ()],
        [((two, -1.0),), ((one, 2.0),), ()],
    ]
    assert [layers.rank(mix) for mix in mixes] == [32, 32]
    plain = [step_with_loras(blocks, transformer, layers, mix) for mix in mixes]
    reuses = [(mixes[1], reuse) for reuse in ((False, True, False), (True, False, False))]
    plain += [step_with_loras_and_cache(blocks, transformer, layers, *one) for one in reuses]
    without = {rows: step(blocks, transformer, rows) for rows in (2, 3)}
    assert not any(torch.allclose(one, without[len(one)], atol=1e-2) for one in plain), "or they changed nothing"
    with blocks.warming_up(SIZE):
        compiled = [step_with_loras(blocks, transformer, layers, mix) for mix in mixes]
        compiled += [step_with_loras_and_cache(blocks, transformer, layers, *one) for one in reuses]
    forms = [[(form.inputs[0][0][0], form.rank) for form in kind.functions] for kind in blocks.kinds]
    assert forms == [[(3, 32)]] * 2, "one for all batches of several"
    for its, expected in zip(compiled, plain, strict=True):
        assert not torch.equal(its, expected), "or nothing compiled was called"
        torch.testing.assert_close(its, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(step(blocks, transformer, 2), without[2]), "nothing is left of them"
    blocks.close()


class Wanted:
    """In place of the background: notes what it is asked for."""

    def __init__(self, ready: Callable[[StepKind], object]) -> None:
        self.ready = ready
        self.forms: dict[StepKind, Mapping[BlockKind, Sequence[Form]]] = {}

    def want(self, steps: StepKind, forms: Mapping[BlockKind, Sequence[Form]]) -> None:
        self.forms.setdefault(steps, forms)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("seen_rows", [1, 2])
def test_a_size_that_is_used_often_is_wanted_in_all_batches(
    transformer: Any, monkeypatch: pytest.MonkeyPatch, seen_rows: int
) -> None:
    backgrounds: list[Wanted] = []

    def background(ready: Callable[[StepKind], object]) -> Wanted:
        backgrounds.append(Wanted(ready))
        return backgrounds[0]

    monkeypatch.setattr("fluxengine.compile.compiled_blocks.BackgroundCompilation", background)
    monkeypatch.setattr("fluxengine.compile.compiled_blocks.STEPS_BEFORE", 3)
    blocks = CompiledBlocks(transformer, "default", 2)
    (wanted,) = backgrounds
    layers = LoraLayers(transformer, "transformer", blocks.layers)
    lora = random_lora(transformer, 4, "transformer_blocks.1.attn.to_q")
    for _ in range(2):
        step(blocks, transformer, seen_rows)
        step_with_loras(blocks, transformer, layers, [((lora, 1.0),)] * seen_rows)
    assert not wanted.forms, "two steps of a kind do not count as often"
    step(blocks, transformer, seen_rows)
    assert set(wanted.forms) == {StepKind(SIZE)}
    forms = wanted.forms[StepKind(SIZE)]
    assert set(forms) == set(blocks.kinds)

    # Once they are there, it is those that are called.
    called: list[int] = []

    def function(block: Any, image: torch.Tensor, text: torch.Tensor, *others: torch.Tensor) -> Any:
        called.append(len(image))
        return text, image

    for kind, of_kind in forms.items():
        kind.functions.update(dict.fromkeys(of_kind, function))
    step(blocks, transformer, 2)
    assert not called
    wanted.ready(StepKind(SIZE))
    for rows in (1, 2):
        step(blocks, transformer, rows)
    count = len(transformer.transformer_blocks) + len(transformer.single_transformer_blocks)
    assert called == [1] * count + [2] * count

    # With LoRAs nothing else is called than what was made for their rank.
    called.clear()
    step_with_loras(blocks, transformer, layers, [((lora, 1.0),)] * seen_rows)
    assert not called
    with_loras = wanted.forms[StepKind(SIZE, 16)]
    for kind, of_kind in with_loras.items():
        kind.functions.update(dict.fromkeys(of_kind, function))
    wanted.ready(StepKind(SIZE, 16))
    step_with_loras(blocks, transformer, layers, [((lora, 1.0),)] * seen_rows)
    assert called == [seen_rows] * count
    blocks.close()


@pytest.mark.slow
def test_another_process_compiles_what_is_wanted(
    transformer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    ready: queue.Queue[StepKind] = queue.Queue()
    background = BackgroundCompilation(ready.put)
    plain = predict(transformer, 1)
    blocks = CompiledBlocks(transformer, "default", 1, str(tmp_path))
    forms = forms_of_a_step(blocks, transformer)
    impossible: dict[BlockKind, list[Form]] = {
        kind: [Form((((7, 7), (7, 1), torch.float32, torch.device("cpu")),))] for kind in forms
    }
    background.want(StepKind(OTHER_SIZE), impossible)
    background.want(StepKind(SIZE), forms)
    assert ready.get(timeout=600) == StepKind(SIZE), "a size that cannot be compiled is passed over"
    assert "64x48 cannot be compiled and stays as it is" in caplog.text
    with blocks.warming_up(SIZE):
        compiled = step(blocks, transformer, 1)
    assert [kind.found for kind in blocks.kinds] == [1, 1]
    assert not torch.equal(compiled, plain), "or nothing compiled was called"
    torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-4)
    background.close()
    blocks.close()


def test_closing_ends_what_is_being_compiled(
    transformer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ready: list[StepKind] = []
    background = BackgroundCompilation(ready.append)
    blocks = CompiledBlocks(transformer, "default", 1, str(tmp_path))
    others = psutil.Process().children()
    background.want(StepKind(SIZE), forms_of_a_step(blocks, transformer))
    while not (started := set(psutil.Process().children()).difference(others)):
        time.sleep(0.01)
    background.close()
    assert not any(child.is_running() for child in started)
    assert not ready and not caplog.records
    blocks.close()


def forms_of_a_step(blocks: CompiledBlocks, transformer: Any) -> dict[BlockKind, list[Form]]:
    step(blocks, transformer, 1)
    return {kind: [form] for kind, form in blocks._seen.items()}


def test_blocks_share_what_is_compiled_only_if_they_are_alike(transformer: Any) -> None:
    first, second = transformer.transformer_blocks
    assert signature(first) == signature(second)
    assert signature(first) != signature(transformer.single_transformer_blocks[0])
    second.attn.processor._attention_backend = "_native_math"
    assert signature(first) != signature(second)
    second.attn.processor._attention_backend = first.attn.processor._attention_backend
    second.attn.to_q.weight.data = second.attn.to_q.weight.data.to(torch.bfloat16)
    assert signature(first) != signature(second)


def test_methods_of_quantization_do_not_share_what_is_compiled(guided_checkpoint: Path) -> None:
    signatures = set()
    for method in ("none", "int8_weight_only", "int8_dynamic", "fp8_weight_only", "nvfp4"):
        options = pipeline_options(method, guided_checkpoint, guided_checkpoint, torch.device("cpu"), torch.float32)
        if options:
            options = {"quantization_config": options["quantization_config"].quant_mapping["transformer"]}
        network: Any = FluxTransformer2DModel.from_pretrained(
            guided_checkpoint, subfolder="transformer", dtype=torch.float32, **options
        )
        first, second = (signature(block) for block in network.transformer_blocks)
        assert first == second
        signatures.add(repr(first))
    assert len(signatures) == 5


def test_a_warm_up_fails_if_it_cannot_compile(
    transformer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = predict(transformer, 1)
    blocks = CompiledBlocks(transformer, "default", 1, str(tmp_path))

    def untraceable(rows: torch.Tensor) -> torch.Tensor:
        torch._dynamo.graph_break()
        return rows

    monkeypatch.setattr(torch.nn.functional, "gelu", untraceable)
    with pytest.raises(ConfigError, match="compile: FluxTransformerBlock cannot be compiled"), blocks.warming_up(SIZE):
        step(blocks, transformer, 1)
    monkeypatch.undo()
    assert torch.equal(step(blocks, transformer, 1), plain), "in service it is not tried again"


@pytest.mark.parametrize("where", ["torch", "compiler", "result"])
def test_a_full_disk_is_called_that(
    transformer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str
) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def compiled(*_: object, **__: object) -> Any:
        if where == "torch":
            raise RuntimeError("backend='inductor' raised") from full
        if where == "compiler":
            raise RuntimeError("C++ compile error\n/tmp/x.s: fatal error: error writing: No space left on device")
        return SimpleNamespace(save_compiled_function=save)

    def save(path: str) -> None:
        raise full

    blocks = CompiledBlocks(transformer, "default", 1, str(tmp_path))
    monkeypatch.setattr(torch, "compile", lambda *_, **__: SimpleNamespace(aot_compile=compiled))
    with pytest.raises(ConfigError, match="no space is left on a disk, that of compile_cache"), blocks.warming_up(SIZE):
        step(blocks, transformer, 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="concerns machines without a GPU")
def test_what_cannot_compile_is_refused_at_load(transformer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="compile is 'reduce-overhead': it records CUDA graphs, which need a GPU"):
        CompiledBlocks(transformer, "reduce-overhead", 1)
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    with pytest.raises(ConfigError, match="compile is 'default': on a CPU it needs a C\\+\\+ compiler"):
        CompiledBlocks(transformer, "default", 1)
