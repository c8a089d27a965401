"""LoRAs of single rows: any mix of them, and rows without, in one batch that is never split.

The low-rank matrices of all LoRAs that a batch uses are stacked along their rank. A row's product with the stacked
`down` is multiplied by the row's own scale for each rank, zero where the LoRA is not its own, before `up`: two more
matrix products for each layer, whoever uses what.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
from torch.nn.functional import linear


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """What a LoRA adds to one layer: scaling · up · down · x."""

    down: torch.Tensor
    """[rank, features in]"""
    up: torch.Tensor
    """[features out, rank]"""
    scaling: float


@dataclass(frozen=True, slots=True, eq=False)
class Lora:
    """One loaded file, by module name of each network that it changes."""

    name: str
    transformer: Mapping[str, LowRank]
    text_encoder: Mapping[str, LowRank]
    serial: int = field(default_factory=count().__next__)
    """Tells it from any other that ever was, for who wants to remember it without keeping it in memory."""


LoraScales = tuple[tuple[Lora, float], ...]
"""The LoRAs of one row, and how strongly each is applied. Hashable: a LoRA is equal to itself alone."""


@dataclass(slots=True)
class _Stack:
    """The LoRAs in use on one layer."""

    down: torch.Tensor  # [R, features in]
    up: torch.Tensor  # [features out, R]
    columns: tuple[tuple[int, float], ...]
    """[R]: which LoRA of those in use, and its scaling on this layer"""


class LoraLayers:
    """One network whose linear layers add what the rows of a batch ask for. Used by the engine's thread alone."""

    def __init__(self, network: Any, part: str) -> None:
        """`part` is the network's name in `Lora`."""
        self._network = network
        self._part = part
        self._hooked: dict[str, _Hook] = {}
        self._stacked: tuple[Lora, ...] = ()
        self._rows: tuple[LoraScales, ...] = ()

    @contextmanager
    def applied(self, rows: Sequence[LoraScales]) -> Iterator[None]:
        """Within it, row n of every batch that the network is given has the LoRAs of `rows[n]`."""
        rows = tuple(rows)
        if not any(getattr(lora, self._part) for row in rows for lora, _ in row):
            yield
            return
        if rows != self._rows:
            self._prepare(rows)
        hooks = list(self._hooked.values())
        for hook in hooks:
            hook.on = hook.stack is not None
        try:
            yield
        finally:
            for hook in hooks:
                hook.on = False

    def _prepare(self, rows: tuple[LoraScales, ...]) -> None:
        wanted = dict.fromkeys(lora for row in rows for lora, _ in row)
        if set(wanted) != set(self._stacked):
            self._rows = ()  # in case that memory runs out on the way
            self._restack(tuple(wanted))
        scales = [[dict(row).get(lora, 0.0) for lora in self._stacked] for row in rows]  # [B, LoRAs]
        factors: dict[tuple[tuple[int, float], ...], torch.Tensor] = {}
        for hook in self._hooked.values():
            if hook.stack is not None:
                columns = hook.stack.columns
                if columns not in factors:  # most layers share theirs
                    table = [[row[lora] * scaling for lora, scaling in columns] for row in scales]
                    factors[columns] = torch.tensor(table, dtype=hook.stack.down.dtype).to(hook.stack.down.device)
                hook.factors = factors[columns]
        self._rows = rows

    def _restack(self, loras: tuple[Lora, ...]) -> None:
        self._stacked = ()
        layers = dict.fromkeys(name for lora in loras for name in getattr(lora, self._part))
        for name, hook in self._hooked.items():
            if name not in layers:
                hook.stack = hook.factors = None
        for name in layers:
            if name not in self._hooked:
                self._hooked[name] = _Hook()
                self._network.get_submodule(name).register_forward_hook(self._hooked[name])
            parts = [(n, part) for n, lora in enumerate(loras) if (part := getattr(lora, self._part).get(name))]
            self._hooked[name].stack = _Stack(
                down=torch.cat([part.down for _, part in parts]),
                up=torch.cat([part.up for _, part in parts], dim=1),
                columns=tuple((n, part.scaling) for n, part in parts for _ in range(len(part.down))),
            )
        self._stacked = loras


class _Hook:
    """Of one linear layer, whatever its class: a quantized one too."""

    on = False
    stack: _Stack | None = None
    factors: torch.Tensor | None = None  # [B, R]

    def __call__(self, layer: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        if not self.on:
            return output
        assert self.stack is not None and self.factors is not None
        x = inputs[0]  # [B, features] or [B, tokens, features]
        factors = self.factors if x.ndim == 2 else self.factors[:, None]
        low = linear(x, self.stack.down)  # [B, (tokens,) R]
        # Not only a product: in float16 the LoRA of a neighbour may overflow here, and 0 · inf is no zero.
        low = torch.where(factors != 0, low * factors, 0)
        return output + linear(low, self.stack.up)
