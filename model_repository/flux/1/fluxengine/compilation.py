"""The parameter `compile`: the transformer's repeated blocks, compiled for some batch sizes of some picture sizes.

The default size is compiled while the model warms up. Another size runs as it is until it has been used often enough
to be compiled as well, in the background; so do LoRAs, by the rank that the layers of a batch have. Each block goes by
the form of its call: what was compiled runs compiled, any other as it is, so that no request ever waits for a
compilation.
"""

from __future__ import annotations

import codecs
import contextlib
import locale
import os
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler

from fluxengine.background_compilation import BackgroundCompilation, StepKind
from fluxengine.block_kind import BlockKind, Form, contiguous_stride, linear_layers, shape_of, signature
from fluxengine.config import Size
from fluxengine.errors import ConfigError

STEPS_BEFORE = 50
"""Of a kind, before it is compiled: more than one picture, so that what is never seen again costs nothing."""


def batch_buckets(max_batch: int) -> tuple[int, ...]:
    """1, 2, 4, 8 … max_batch."""
    return (*(2**n for n in range(max_batch.bit_length()) if 2**n < max_batch), max_batch)


class CompiledBlocks:
    """Takes the place of the blocks' forward. All of it is called by the engine's thread."""

    def __init__(self, transformer: Any, mode: str, max_batch: int, cache_folder: str = "") -> None:
        """`mode` is one of torch.compile's. Raises ConfigError where nothing can be compiled."""
        _require(transformer, mode)
        _read_utf8()
        self._own_folder = None if cache_folder else TemporaryDirectory(prefix="flux-compiled-")
        folder = Path(self._own_folder.name if self._own_folder else cache_folder)
        (folder / "blocks").mkdir(parents=True, exist_ok=True)
        if cache_folder:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache_folder  # torch looks at it whenever it compiles
        options = {
            # CUDA graphs only where they are asked for by name: each takes memory, for every shape and block.
            **torch._inductor.list_mode_options("max-autotune-no-cudagraphs" if mode == "max-autotune" else mode),
            "compile_threads": 1,  # no pool of processes beside a server
            "cpp.threads": torch.get_num_threads(),  # those of this thread, which will run it
        }
        self.buckets = batch_buckets(max_batch)
        self.layers: set[str] = set()
        """Names of the linear layers in compiled blocks. With LoRAs, all of them are to have the same rank."""
        self._ready: set[StepKind] = set()  # the background adds to it
        self._steps: Counter[StepKind] = Counter()
        self._on = False
        self._warming_up = False
        self._rank = 0
        self._seen: dict[BlockKind, Form] = {}
        self._kinds: dict[Hashable, BlockKind] = {}
        for name, block in transformer.named_modules():
            if type(block).__name__ in transformer._repeated_blocks:
                key = signature(block)
                if key not in self._kinds:
                    self._kinds[key] = BlockKind(block, options, folder / "blocks")
                block.forward = partial(self._forward, self._kinds[key], block, block.forward)
                self.layers.update(f"{name}.{layer}" for layer, _ in linear_layers(block))
        self._background = BackgroundCompilation(self._ready.add)

    @property
    def kinds(self) -> list[BlockKind]:
        return list(self._kinds.values())

    def bucket(self, rows: int) -> int:
        """The batch size that a batch of `rows` is to be padded to; `rows` itself if it is larger than any."""
        return next((size for size in self.buckets if size >= rows), rows)

    def close(self) -> None:
        self._background.close()
        if self._own_folder:
            self._own_folder.cleanup()

    @contextlib.contextmanager
    def warming_up(self, size: Size) -> Iterator[None]:
        """Within it, calls compile what they need, which can take a minute; they raise ConfigError if it cannot be."""
        self._warming_up = True
        try:
            yield
        finally:
            self._warming_up = False
        self._ready.add(StepKind(size))

    @contextlib.contextmanager
    def step(self, size: Size, rank: int = 0) -> Iterator[tuple[Callable[[int], int], int]]:
        """To call the blocks in, with LoRAs of this rank on `layers`, or without any.

        Gives how many rows a call is to have for so many, and the rank that `layers` all need to have: 0 if it may
        differ, as in a step that does not run compiled.
        """
        steps = StepKind(size, rank)
        self._on = self._warming_up or steps in self._ready
        self._rank, self._seen = rank, {}
        yield (self.bucket, rank) if self._on else (int, 0)
        if not self._on:
            self._steps[steps] += 1
            # With a step cache some steps do not call all kinds of blocks.
            if self._steps[steps] >= STEPS_BEFORE and len(self._seen) == len(self._kinds):
                forms = {kind: [_with_rows(form, rows) for rows in self.buckets] for kind, form in self._seen.items()}
                self._background.want(steps, forms)

    def _forward(self, kind: BlockKind, block: Any, plain: Callable[..., Any], **inputs: Any) -> Any:
        if inputs.get("joint_attention_kwargs"):
            return plain(**inputs)
        image, text = inputs["hidden_states"].contiguous(), inputs["encoder_hidden_states"].contiguous()
        tensors = (image, text, inputs["temb"], *inputs["image_rotary_emb"])
        form = Form(shape_of(tensors), self._rank)
        if not self._on:
            self._seen[kind] = form
            return plain(**inputs)
        if self._warming_up and form not in kind.functions:
            kind.compile(form)
        function = kind.functions.get(form)
        return function(block, *tensors) if function else plain(**inputs)


def _with_rows(form: Form, rows: int) -> Form:
    """That of a batch of so many."""
    of_rows, shared = form.inputs[:3], form.inputs[3:]  # what is rotated by is the same for all rows
    sizes = [(rows, *size[1:]) for size, *_ in of_rows]
    inputs = ((size, contiguous_stride(size), *of_one[2:]) for size, of_one in zip(sizes, of_rows, strict=True))
    return Form((*inputs, *shared), form.rank)


def _read_utf8() -> None:
    """torch's compiler reads its own files, which are UTF-8, in the encoding of the locale; Triton's is often C."""
    if codecs.lookup(locale.getpreferredencoding(False)).name != "utf-8":
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")


def _require(transformer: Any, mode: str) -> None:
    if transformer.device.type == "cuda":
        return
    if mode == "reduce-overhead":
        raise ConfigError(f"compile is {mode!r}: it records CUDA graphs, which need a GPU; use default")
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise ConfigError(f"compile is {mode!r}: on a CPU it needs a C++ compiler, such as g++: {error}") from error
