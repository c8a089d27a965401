"""The parameter `compile`: the transformer's repeated blocks, compiled for some batch sizes of some picture sizes.

What is compiled is settled while the model warms up. Afterwards each block goes by the shape of its inputs: a shape
that was compiled runs compiled, any other as it is, so that no request ever waits for a compilation. None is made in
the background: while torch.compile traces anywhere in a process, it changes `torch.nn.Module` for all of its threads,
and calls of the serving thread fail.
"""

from __future__ import annotations

import codecs
import contextlib
import locale
import os
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler

from fluxengine.block_kind import BlockKind, signature
from fluxengine.errors import ConfigError


def batch_buckets(max_batch: int) -> tuple[int, ...]:
    """1, 2, 4, 8 … max_batch."""
    return (*(2**n for n in range(max_batch.bit_length()) if 2**n < max_batch), max_batch)


class CompiledBlocks:
    """Takes the place of the blocks' forward. All of it belongs to the engine's thread."""

    def __init__(self, transformer: Any, mode: str, max_batch: int, cache_folder: str = "") -> None:
        """`mode` is one of torch.compile's. Raises ConfigError where nothing can be compiled.

        Calls in which hooks change what layers do must be made with `on` False, as no hook is compiled.
        """
        _require(transformer, mode)
        _read_utf8()
        folder = None
        if cache_folder:
            folder = Path(cache_folder) / "blocks"
            folder.mkdir(parents=True, exist_ok=True)
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache_folder  # torch looks at it whenever it compiles
        options = {
            # CUDA graphs only where they are asked for by name: each takes memory, for every shape and block.
            **torch._inductor.list_mode_options("max-autotune-no-cudagraphs" if mode == "max-autotune" else mode),
            "compile_threads": 1,  # no pool of processes beside a server
            "cpp.threads": torch.get_num_threads(),  # those of this thread, which will run it
        }
        self.buckets = batch_buckets(max_batch)
        self.on = True
        """False: all blocks run as they are."""
        self._warming_up = False
        self._kinds: dict[Hashable, BlockKind] = {}
        for block in transformer.modules():
            if type(block).__name__ in transformer._repeated_blocks:
                key = signature(block)
                if key not in self._kinds:
                    self._kinds[key] = BlockKind(block, options, folder)
                block.forward = partial(self._forward, self._kinds[key], block, block.forward)

    @property
    def kinds(self) -> list[BlockKind]:
        return list(self._kinds.values())

    def bucket(self, rows: int) -> int:
        """The batch size that a batch of `rows` is to be padded to; `rows` itself if it is larger than any."""
        return next((size for size in self.buckets if size >= rows), rows)

    @contextlib.contextmanager
    def warming_up(self) -> Iterator[None]:
        """Within it, calls compile what they need, which can take a minute; they raise ConfigError if it cannot be."""
        self._warming_up = True
        try:
            yield
        finally:
            self._warming_up = False

    def _forward(self, kind: BlockKind, block: Any, plain: Callable[..., Any], **inputs: Any) -> Any:
        if not self.on or inputs.get("joint_attention_kwargs"):
            return plain(**inputs)
        image, text = inputs["hidden_states"].contiguous(), inputs["encoder_hidden_states"].contiguous()
        tensors = (image, text, inputs["temb"], *inputs["image_rotary_emb"])
        shape = tuple((tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device) for tensor in tensors)
        if self._warming_up and shape not in kind.functions:
            kind.compile(shape, tensors)
        function = kind.functions.get(shape)
        return function(block, *tensors) if function else plain(**inputs)


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
