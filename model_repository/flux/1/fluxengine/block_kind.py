"""Blocks that are alike but for the values of their weights, and so share what is compiled."""

from __future__ import annotations

import copy
import hashlib
import inspect
import logging
import math
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


def shape_of(inputs: Sequence[torch.Tensor]) -> Shape:
    return tuple((tuple(tensor.shape), _stride(tensor), tensor.dtype, tensor.device) for tensor in inputs)


def contiguous_stride(size: Sequence[int]) -> tuple[int, ...]:
    return tuple(math.prod(size[dim + 1 :]) for dim in range(len(size)))


def _stride(tensor: torch.Tensor) -> tuple[int, ...]:
    """A batch of one may have any stride, which matters to nobody."""
    return contiguous_stride(tensor.shape) if tensor.is_contiguous() else tensor.stride()


class BlockKind:
    """What is compiled for one kind of block, by the shape of its inputs."""

    def __init__(self, block: Any, options: Mapping[str, Any], folder: Path) -> None:
        """`options` are torch.compile's. What is compiled is kept in `folder`, and found there again."""
        # Compiled is a twin with the same weights, which nobody puts hooks on.
        self._twin = copy.deepcopy(block, {id(tensor): tensor for tensor in _tensors(block).values()})
        self._options = options
        self._folder = folder
        self._identity = repr((signature(block), sorted(options.items()), _environment(block)))
        self.found = 0
        """How many did not have to be compiled."""
        self.functions: dict[Shape, Callable[..., Any]] = {}
        """Each is called with a block of this kind and its inputs. Any thread may add one."""

    def compile(self, shape: Shape) -> None:
        """Makes the function for inputs like these. Raises ConfigError if it cannot."""
        start_s = time.monotonic()
        if not self.find(shape):
            function = self._compile(
                [torch.empty_strided(size, stride, dtype=dtype, device=device) for size, stride, dtype, device in shape]
            )
            function.save_compiled_function(str(self._path(shape)))
            self._use(shape, function)
        what = f"{type(self._twin).__name__} for {' x '.join(map(str, shape[0][0]))}"
        log.info("compiled, or found: %s in %.1f s", what, time.monotonic() - start_s)

    def find(self, shape: Shape) -> bool:
        """Takes the function for inputs like these from the folder, if it is there and can be used."""
        path = self._path(shape)
        if not path.exists():
            return False
        try:
            with path.open("rb") as file:
                function = torch.compiler.load_compiled_function(file)
        except Exception as error:  # whatever unpickling a damaged file gives
            log.warning("%s cannot be used and is compiled again: %s", path, error)
            return False
        self.found += 1
        self._use(shape, function)
        return True

    def recipe(self) -> tuple[Any, Mapping[str, Any], Path]:
        """What another process makes the same kind of."""
        return self._twin, self._options, self._folder

    def _path(self, shape: Shape) -> Path:
        return self._folder / hashlib.sha256(f"{self._identity} {shape}".encode()).hexdigest()

    def _use(self, shape: Shape, function: Any) -> None:
        function.disable_guard_check()
        self.functions[shape] = function

    def _compile(self, inputs: Sequence[torch.Tensor]) -> Any:
        # The kind and the shape hold what torch's guards would check at each call.
        options = {**self._options, "guard_filter_fn": torch.compiler.skip_all_guards_unsafe}
        try:
            compiler: Any = torch.compile(_call, fullgraph=True, dynamic=False, options=options)
            return compiler.aot_compile(((self._twin, *inputs), {}))
        except Exception as error:  # torch.compile has dozens of its own
            reason = str(error).strip().partition("\n")[0]
            raise ConfigError(
                f"compile: {type(self._twin).__name__} cannot be compiled as it is loaded here; leave it off: {reason}"
            ) from error


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
