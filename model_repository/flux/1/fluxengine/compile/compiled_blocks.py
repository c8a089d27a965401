"""The parameter `compile`: the transformer's repeated blocks, compiled for some picture sizes.

For each of them twice: for one row, which torch treats on its own, and for any number of more. So no batch is padded:
that could cost more than compiling gains, above all where one row keeps a device busy.

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

from fluxengine.compile.background import BackgroundCompilation, StepKind
from fluxengine.compile.block_kind import OF_ROWS, BlockKind, Form, linear_layers, shape_of, signature
from fluxengine.errors import ConfigError
from fluxengine.size import Size

STEPS_BEFORE = 50
"""Of a kind, before it is compiled: more than one picture, so that what is never seen again costs nothing."""


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
        self._batches = (1, max_batch) if max_batch > 1 else (1,)
        """Those that blocks are compiled for: one row, and from two to so many."""
        # CUDA graphs are of one batch size each, and recorded when a function is called so for the second time.
        self.warm_up_batches = (*range(1, max_batch + 1),) * 2 if mode == "reduce-overhead" else self._batches
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
    def step(self, size: Size, rank: int = 0) -> Iterator[int]:
        """To call the blocks in, with LoRAs of this rank on `layers`, or without any.

        Gives the rank that `layers` all need to have: 0 if it may differ, as in a step that does not run compiled.
        """
        steps = StepKind(size, rank)
        self._on = self._warming_up or steps in self._ready
        self._rank, self._seen = rank, {}
        yield rank if self._on else 0
        if not self._on:
            self._steps[steps] += 1
            # With a step cache some steps do not call all kinds of blocks.
            if self._steps[steps] >= STEPS_BEFORE and len(self._seen) == len(self._kinds):
                forms = {kind: [_of_batch(rows, form) for rows in self._batches] for kind, form in self._seen.items()}
                self._background.want(steps, forms)

    def _forward(self, kind: BlockKind, block: Any, plain: Callable[..., Any], **inputs: Any) -> Any:
        if inputs.get("joint_attention_kwargs"):
            return plain(**inputs)
        image, text = inputs["hidden_states"].contiguous(), inputs["encoder_hidden_states"].contiguous()
        tensors = (image, text, inputs["temb"], *inputs["image_rotary_emb"])
        form = Form(shape_of(tensors), self._rank)
        if 1 < len(image) <= self._batches[-1]:
            form = _of_batch(self._batches[-1], form)
        if not self._on:
            self._seen[kind] = form
            return plain(**inputs)
        if self._warming_up and form not in kind.functions:
            kind.compile(form)
        function = kind.functions.get(form)
        return function(block, *tensors) if function else plain(**inputs)


def _of_batch(rows: int, form: Form) -> Form:
    """The same for so many rows."""
    of_rows, shared = form.inputs[:OF_ROWS], form.inputs[OF_ROWS:]
    return Form((*(((rows, *size[1:]), *others) for size, *others in of_rows), *shared), form.rank)


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
