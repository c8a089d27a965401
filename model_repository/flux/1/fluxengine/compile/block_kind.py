"""Blocks that are alike but for the values of their weights, and so share what is compiled."""

from __future__ import annotations

import copy
import errno
import hashlib
import inspect
import logging
import math
import tempfile
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch

from fluxengine.errors import ConfigError
from fluxengine.lora.layers import add_low_rank

log = logging.getLogger("fluxengine")

Shape = tuple[tuple[Any, ...], ...]
"""(size, stride, dtype, device) of each input of a block"""


OF_ROWS = 3
"""Inputs of a block that have a row for each of the batch; what is rotated by is the same for all."""


@dataclass(frozen=True, slots=True)
class Form:
    """What a block is compiled for. That of two rows or more stands for fewer as well, but for one."""

    inputs: Shape
    rank: int = 0
    """Of the LoRAs on all of its linear layers; 0: none"""


def shape_of(inputs: Sequence[torch.Tensor]) -> Shape:
    return tuple((tuple(tensor.shape), _stride(tensor), tensor.dtype, tensor.device) for tensor in inputs)


def _stride(tensor: torch.Tensor) -> tuple[int, ...]:
    """A batch of one may have any stride, which matters to nobody."""
    size = tensor.shape
    return tuple(math.prod(size[dim + 1 :]) for dim in range(len(size))) if tensor.is_contiguous() else tensor.stride()


class BlockKind:
    """What is compiled for one kind of block, by the form that it is called in."""

    def __init__(self, block: Any, options: Mapping[str, Any], folder: Path) -> None:
        """`options` are torch.compile's. What is compiled is kept in `folder`, and found there again."""
        # Compiled is a twin with the same weights, which nobody puts hooks on.
        self._twin = copy.deepcopy(block, {id(tensor): tensor for tensor in _tensors(block).values()})
        self._options = options
        self._folder = folder
        self._identity = repr((signature(block), sorted(options.items()), _environment(block)))
        self.found = 0
        """How many did not have to be compiled."""
        self.functions: dict[Form, Callable[..., Any]] = {}
        """Each is called with a block of this kind and its inputs. Any thread may add one."""

    def compile(self, form: Form) -> None:
        """Makes the function for this form. Raises ConfigError if it cannot."""
        start_s = time.monotonic()
        if not self.find(form):
            inputs = [
                torch.empty_strided(size, stride, dtype=dtype, device=device)
                for size, stride, dtype, device in form.inputs
            ]
            with self._with_loras(form.rank, inputs[0]) as of_loras:
                if len(inputs[0]) > 1:
                    for tensor in (*inputs[:OF_ROWS], *of_loras):
                        torch._dynamo.mark_dynamic(tensor, 0)
                function = self._compile(inputs)
            try:
                function.save_compiled_function(str(self._path(form)))
            except OSError as error:
                raise ConfigError(f"compile: what was compiled cannot be written: {_reason(error)}") from error
            self._use(form, function)
        loras = f" with LoRAs of rank {form.rank}" if form.rank else ""
        what = f"{type(self._twin).__name__} for {' x '.join(map(str, form.inputs[0][0]))}{loras}"
        log.info("compiled, or found: %s in %.1f s", what, time.monotonic() - start_s)

    def find(self, form: Form) -> bool:
        """Takes the function for this form from the folder, if it is there and can be used."""
        path = self._path(form)
        if not path.exists():
            return False
        try:
            with path.open("rb") as file:
                function = torch.compiler.load_compiled_function(file)
        except Exception as error:  # whatever unpickling a damaged file gives
            log.warning("%s cannot be used and is compiled again: %s", path, error)
            return False
        self.found += 1
        self._use(form, function)
        return True

    def recipe(self) -> tuple[Any, Mapping[str, Any], Path]:
        """What another process makes the same kind of."""
        return self._twin, self._options, self._folder

    def _path(self, form: Form) -> Path:
        return self._folder / hashlib.sha256(f"{self._identity} {form}".encode()).hexdigest()

    def _use(self, form: Form, function: Any) -> None:
        function.disable_guard_check()
        self.functions[form] = function

    @contextmanager
    def _with_loras(self, rank: int, image: torch.Tensor) -> Iterator[list[torch.Tensor]]:
        """Within it, the twin's layers have what `LoraLayers` gives to those of a block that is called.

        Gives what of it has a row for each of the batch.
        """
        layers: list[Any] = [layer for _, layer in linear_layers(self._twin)] if rank else []
        hooks = [layer.register_forward_hook(add_low_rank) for layer in layers]
        try:
            for layer in layers:
                shapes = (rank, layer.in_features), (layer.out_features, rank), (len(image), rank)
                layer.low_rank = tuple(image.new_empty(shape) for shape in shapes)
            yield [layer.low_rank[-1] for layer in layers]
        finally:
            for layer, hook in zip(layers, hooks, strict=True):
                hook.remove()
                layer.low_rank = None

    def _compile(self, inputs: Sequence[torch.Tensor]) -> Any:
        # What torch's guards would check at each call is in the kind and the form, or holds for fewer rows as well.
        options = {**self._options, "guard_filter_fn": torch.compiler.skip_all_guards_unsafe}
        compiler: Any = torch.compile(_call, fullgraph=True, dynamic=False, options=options)
        try:
            # What LoRAs add is a property of linear layers, and has a row for each of the batch.
            with torch._dynamo.config.patch(force_nn_module_property_static_shapes=False):
                return compiler.aot_compile(((self._twin, *inputs), {}))
        except Exception as error:  # torch.compile has dozens of its own
            block = type(self._twin).__name__
            if _is_full_disk(error):
                raise ConfigError(f"compile: {block} cannot be compiled: {_reason(error)}") from error
            raise ConfigError(
                f"compile: {block} cannot be compiled as it is loaded here; leave it off: {_reason(error)}"
            ) from error


def _reason(error: BaseException) -> str:
    if _is_full_disk(error):
        return f"no space is left on a disk, that of compile_cache or of temporary files ({tempfile.gettempdir()})"
    return str(error).strip().partition("\n")[0]


def _is_full_disk(error: BaseException | None) -> bool:
    """Whether that is behind it. The words are those of compilers, of which torch tells no more."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _call(
    block: Any, image: torch.Tensor, text: torch.Tensor, temb: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> Any:
    return block(hidden_states=image, encoder_hidden_states=text, temb=temb, image_rotary_emb=(cos, sin))


def linear_layers(block: Any) -> list[tuple[str, Any]]:
    """(name, layer) of those that a LoRA may change."""
    return [(name, layer) for name, layer in block.named_modules() if isinstance(layer, torch.nn.Linear)]


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
    code: list[Callable[..., Any]] = [type(block), BlockKind, _call, add_low_rank, linear_layers]
    return torch.__version__, diffusers.__version__, machine, *[inspect.getsource(part) for part in code]
