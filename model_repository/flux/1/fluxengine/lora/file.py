"""A LoRA file as `Lora`. Each of its keys is used, or the file is refused: nothing is left out, and nothing made up."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from fluxengine.errors import InvalidArgument, NotFound, shorten
from fluxengine.lora.key_names import NETWORKS, Target, layer_names, other_half, parse_key
from fluxengine.lora.layers import Lora, LowRank
from fluxengine.lora.scaling import LoraScaling

_KINDS = {  # of keys that are no part of a LoRA; the first that fits
    "LoKr": r"lokr_",
    "LoHa": r"hada_",
    "DoRA": r"dora_scale|magnitude",
    "OFT": r"oft_",
    "scaled float8": r"scale_weight$|(weight|input)_scale$",
    "biases": r"bias$|diff_b$",
    "normalisation layers": r"norm\w*\.(weight|diff|scale(\.set_weight)?)$|[wb]_norm$",
    "whole weights": r"\.diff$|set_weight$",
    "keys that are of no LoRA": r"",
}

_CAN_BE_ZERO = re.compile(r"\.(diff|diff_b|bias)$")
"""What is added to a weight or a bias. Some tools write it for every layer that they know of."""

_DTYPES = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}

_COMPUTING = {torch.float64, torch.float32, torch.float16, torch.bfloat16}

_Parts = dict[str, str]
"""The keys of one LoRA: its down, up and alpha, so far as there are any."""


def load_lora(path: Path, pipeline: Any, device: torch.device) -> Lora:
    """The LoRA in `path` for the networks of `pipeline` (a FluxPipeline), on `device` and in their dtypes.

    Raises InvalidArgument, which counts the keys at fault and names the first, when the file is broken, made for
    another model, or no plain LoRA of linear layers. NotFound when it cannot be read.
    """
    try:
        # Not mmap: whoever cuts the file short meanwhile would end the process.
        with safe_open(path, "pt", backend="pread") as file:
            return _LoraFile(path.stem, file, pipeline, device).read()
    except OSError as error:
        raise NotFound("lora", f"{path.stem!r} cannot be read: {error.strerror or type(error).__name__}") from error
    except (SafetensorError, ValueError, re.error, RecursionError, NotImplementedError) as error:  # of rubbish
        raise InvalidArgument("lora", f"{path.stem!r} cannot be used: {error}") from error


class _LoraFile:
    """One that is open."""

    def __init__(self, name: str, file: Any, pipeline: Any, device: torch.device) -> None:
        self._name = name
        self._file = file
        self._keys: list[str] = list(file.keys())
        self._pipeline = pipeline
        self._device = device

    def read(self) -> Lora:
        pairs = self._with_targets(self._pairs())
        self._check_halves([parts for _, parts in pairs])
        self._check_shapes(pairs)
        metadata = self._file.metadata() or {}
        scalings = {network: LoraScaling(metadata, network) for network in NETWORKS}
        found: dict[str, dict[str, LowRank]] = {network: {} for network in NETWORKS}
        for target, parts in pairs:
            scaling = self._scaling(scalings[target.network], target.layers[0], parts)
            for layer, low_rank in self._low_ranks(target, parts, scaling):
                if layer in found[target.network]:
                    raise self._refusal(f"changes {layer} twice", [parts["down"], parts["up"]])
                found[target.network][layer] = low_rank
        if not pairs:
            raise InvalidArgument("lora", f"{self._name!r} has no weights for this model")
        return Lora(self._name, found["transformer"], found["text_encoder"], found["text_encoder_2"])

    def _pairs(self) -> dict[tuple[str, str], _Parts]:
        """By network and layer, as the file names it."""
        pairs: dict[tuple[str, str], _Parts] = {}
        others: dict[str, list[str]] = {}
        for key in self._keys:
            parsed = parse_key(key)
            if parsed is None:
                if not (_CAN_BE_ZERO.search(key) and self._is_zero(key)):
                    kind = next(kind for kind, pattern in _KINDS.items() if re.search(pattern, key))
                    others.setdefault(kind, []).append(key)
                continue
            parts = pairs.setdefault((parsed.network, parsed.layer), {})
            if parsed.part in parts:
                raise self._refusal(f"changes {parsed.layer} twice", [parts[parsed.part], key])
            parts[parsed.part] = key
        for kind in _KINDS:
            if kind in others:
                raise self._refusal(f"is no plain LoRA, it has {kind}", others[kind])
        return pairs

    def _with_targets(self, pairs: dict[tuple[str, str], _Parts]) -> list[tuple[Target, _Parts]]:
        targets = layer_names(self._pipeline)
        unknown = [
            key
            for of, parts in pairs.items()
            if of not in targets and not self._adds_nothing(of[0], parts)
            for key in parts.values()
        ]
        if unknown:
            transformer = self._pipeline.transformer
            double, single = len(transformer.transformer_blocks), len(transformer.single_transformer_blocks)
            raise self._refusal(
                f"is made for another model, or its names are unknown: this model, of {double} double and {single} "
                f"single blocks, has no such layers",
                unknown,
            )
        return [(targets[of], parts) for of, parts in pairs.items() if of in targets]

    def _adds_nothing(self, network: str, parts: _Parts) -> bool:
        """ComfyUI writes zeros for embeddings and projections of text encoders that its training leaves alone."""
        halves = [parts[half] for half in ("down", "up") if half in parts]
        return network != "transformer" and len(halves) == 2 and any(map(self._is_zero, halves))

    def _check_halves(self, pairs: Sequence[_Parts]) -> None:
        lost = [parts["alpha"] for parts in pairs if "down" not in parts and "up" not in parts]
        if lost:
            raise self._refusal("has alphas without weights", lost)
        halves = [parts.get("down") or parts["up"] for parts in pairs if len({"down", "up"} & parts.keys()) == 1]
        if halves:
            raise self._refusal(f"lacks weights, such as {_shown(other_half(halves[0]))}, beside others", halves)

    def _check_shapes(self, pairs: Sequence[tuple[Target, _Parts]]) -> None:
        strange = [key for _, parts in pairs for key in _halves(parts) if self._dtype(key) not in _DTYPES]
        if strange:
            raise self._refusal(f"has numbers of type {self._dtype(strange[0])}, not {_or(sorted(_DTYPES))}", strange)
        foreign = []
        for target, parts in pairs:
            modules = self._modules(target)
            wanted = modules[0].in_features, sum(module.out_features for module in modules)
            down, up = (self._file.get_slice(key).get_shape() for key in _halves(parts))
            if not (len(down) == len(up) == 2 and down[0] == up[1] > 0 and (down[1], up[0]) == wanted):
                foreign.append((parts["down"], down, up, wanted))
        if foreign:
            _, down, up, wanted = foreign[0]
            raise self._refusal(
                f"is made for another model: its weights have shapes such as {down} and {up} where this one has "
                f"{wanted[0]} inputs and {wanted[1]} outputs",
                [key for key, *_ in foreign],
            )

    def _scaling(self, scaling: LoraScaling, layer: str, parts: _Parts) -> float:
        rank: int = self._file.get_slice(parts["down"]).get_shape()[0]
        by_metadata = scaling.of(layer, rank)
        if "alpha" not in parts:
            return 1.0 if by_metadata is None else by_metadata
        alpha = self._file.get_tensor(parts["alpha"]).double()
        if alpha.numel() != 1 or not alpha.isfinite():
            raise self._refusal("has an alpha that is no number", [parts["alpha"]])
        by_alpha = float(alpha) / rank
        if by_metadata is not None and not math.isclose(by_metadata, by_alpha, rel_tol=1e-3):
            raise self._refusal(
                f"is scaled by {by_metadata:g} in its metadata, by {by_alpha:g} elsewhere", [parts["alpha"]]
            )
        return by_alpha

    def _low_ranks(self, target: Target, parts: _Parts, scaling: float) -> Iterator[tuple[str, LowRank]]:
        modules = self._modules(target)
        down, up = (self._tensor(key, target.network, modules[0]) for key in _halves(parts))
        if target.swapped:
            up = torch.cat(up.chunk(2)[::-1])
        outputs = torch.split(up, [module.out_features for module in modules])
        for layer, rows in zip(target.layers, outputs, strict=True):
            yield layer, LowRank(*_without_zeros(down, rows), scaling)

    def _tensor(self, key: str, network: str, module: Any) -> torch.Tensor:
        dtype = module.weight.dtype if module.weight.dtype in _COMPUTING else getattr(self._pipeline, network).dtype
        tensor: torch.Tensor = self._file.get_tensor(key).to(dtype)
        if not tensor.isfinite().all():
            raise self._refusal(f"has values that are no numbers, or too large for {dtype}", [key])
        return tensor.to(self._device)

    def _modules(self, target: Target) -> list[Any]:
        network = getattr(self._pipeline, target.network)
        return [network.get_submodule(layer) for layer in target.layers]

    def _is_zero(self, key: str) -> bool:
        return not self._file.get_tensor(key).float().any()

    def _dtype(self, key: str) -> str:
        return str(self._file.get_slice(key).get_dtype())

    def _refusal(self, problem: str, keys: Sequence[str]) -> InvalidArgument:
        count = f"{len(keys)} of its {len(self._keys)} keys, the first {_shown(keys[0])}"
        return InvalidArgument("lora", f"{shorten(self._name, 80)!r} {problem}: {count}")


def _halves(parts: _Parts) -> tuple[str, str]:
    return parts["down"], parts["up"]


def _without_zeros(down: torch.Tensor, up: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Without the ranks that do nothing: some trainers train the parts of a layer apart, and save them as one."""
    used = up.any(dim=0)
    if not used.any():
        used[0] = True
    return (down, up) if used.all() else (down[used], up[:, used])


def _shown(key: str) -> str:
    return repr(shorten(key, 120))


def _or(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"
