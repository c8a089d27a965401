"""Blocks that are alike but for the values of their weights, and so share what is compiled."""

from __future__ import annotations

import copy
import hashlib
import inspect
import logging
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch

from fluxengine.errors import ConfigError

log = logging.getLogger("fluxengine")

Shape = tuple[tuple[Any, ...], ...]
"""(size, stride, dtype, device) of each input of a block"""


class BlockKind:
    """What is compiled for one kind of block, by the shape of its inputs. Used by the engine's thread."""

    def __init__(self, block: Any, options: Mapping[str, Any], folder: Path | None) -> None:
        """`options` are torch.compile's. What is compiled is kept in `folder`, and found there again."""
        # Compiled is a twin with the same weights, which nobody puts hooks on.
        self._twin = copy.deepcopy(block, {id(tensor): tensor for tensor in _tensors(block).values()})
        # The kind and the shape hold what torch's guards would check at each call.
        self._options = {**options, "guard_filter_fn": torch.compiler.skip_all_guards_unsafe}
        self._folder = folder
        self._identity = repr((signature(block), sorted(options.items()), _environment(block)))
        self.found = 0
        """How many did not have to be compiled."""
        self.functions: dict[Shape, Callable[..., Any]] = {}
        """Each is called with a block of this kind and its inputs."""

    def compile(self, shape: Shape, inputs: Sequence[torch.Tensor]) -> None:
        """Makes the function for inputs like these, whose values do not matter. Raises ConfigError if it cannot."""
        start_s = time.monotonic()
        key = hashlib.sha256(f"{self._identity} {shape}".encode()).hexdigest()
        path = self._folder / key if self._folder else None
        function = self._find(path)
        if function is None:
            function = self._compile(inputs)
            if path:
                function.save_compiled_function(str(path))
        function.disable_guard_check()
        self.functions[shape] = function
        what = f"{type(self._twin).__name__} for {' x '.join(map(str, shape[0][0]))}"
        log.info("compiled, or found: %s in %.1f s", what, time.monotonic() - start_s)

    def _compile(self, inputs: Sequence[torch.Tensor]) -> Any:
        options = dict(self._options)  # torch takes some out
        try:
            compiler: Any = torch.compile(_call, fullgraph=True, dynamic=False, options=options)
            return compiler.aot_compile(((self._twin, *inputs), {}))
        except Exception as error:  # torch.compile has dozens of its own
            reason = str(error).strip().partition("\n")[0]
            raise ConfigError(
                f"compile: {type(self._twin).__name__} cannot be compiled as it is loaded here; leave it off: {reason}"
            ) from error

    def _find(self, path: Path | None) -> Any:
        if path is None or not path.exists():
            return None
        try:
            with path.open("rb") as file:
                function = torch.compiler.load_compiled_function(file)
        except Exception as error:  # whatever unpickling a damaged file gives
            log.warning("%s cannot be used and is compiled again: %s", path, error)
            return None
        self.found += 1
        return function


def _call(
    block: Any, image: torch.Tensor, text: torch.Tensor, temb: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> Any:
    return block(hidden_states=image, encoder_hidden_states=text, temb=temb, image_rotary_emb=(cos, sin))


def signature(block: Any) -> Hashable:
    """What a compiled block takes for granted: its layers, their attention, and how their weights are held."""
    layers = tuple((name, type(layer).__qualname__, _layer_options(layer)) for name, layer in block.named_modules())
    weights = tuple(
        (name, tuple(tensor.shape), tensor.stride(), str(tensor.dtype), str(tensor.device), _storage(tensor))
        for name, tensor in _tensors(block).items()
    )
    return layers, weights


def _storage(tensor: Any) -> tuple[str, ...]:
    """How a tensor holds its values: a quantized one has a class of its own, with parts and options."""
    parts, options = tensor.__tensor_flatten__() if hasattr(tensor, "__tensor_flatten__") else ((), None)
    held = (f"{part} {getattr(tensor, part).dtype} {tuple(getattr(tensor, part).shape)}" for part in parts)
    return type(tensor).__qualname__, repr(options), *held


def _layer_options(layer: Any) -> tuple[str, ...]:
    processor = getattr(layer, "processor", None)  # of an attention layer
    backend = getattr(processor, "_attention_backend", None)
    weight_type = getattr(getattr(layer, "weight", None), "quant_type", None)  # of a GGUF file, which may mix several
    shown = "" if isinstance(layer, torch.nn.Linear) else layer.extra_repr()  # those of quantized ones show values
    return shown, type(processor).__qualname__, str(backend), str(weight_type)


def _tensors(block: Any) -> dict[str, torch.Tensor]:
    return {**dict(block.named_parameters()), **dict(block.named_buffers())}


def _environment(block: Any) -> tuple[str, ...]:
    """What else the compiled code depends on."""
    device = next(iter(_tensors(block).values())).device
    machine = (
        str(torch.cuda.get_device_properties(device))
        if device.type == "cuda"
        else f"{torch.cpu.get_capabilities().get('cpu_name')} {torch.backends.cpu.get_cpu_capability()}"
    )
    return torch.__version__, diffusers.__version__, machine, inspect.getsource(type(block)), inspect.getsource(_call)
