"""LoRAs of single rows: any mix of them, and rows without, in one batch that is never split.

The low-rank matrices of all LoRAs that a batch uses are stacked along their rank. A row's product with the stacked
`down` is multiplied by the row's own scale for each rank, zero where the LoRA is not its own, before `up`: two more
matrix products for each layer, whoever uses what.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
from torch.nn.functional import linear, pad


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
    text_encoder_2: Mapping[str, LowRank] = field(default_factory=dict)
    serial: int = field(default_factory=count().__next__)
    """Tells it from any other that ever was, for who wants to remember it without keeping it in memory."""


LoraScales = tuple[tuple[Lora, float], ...]
"""The LoRAs of one row, and how strongly each is applied. Hashable: a LoRA is equal to itself alone."""

LowRankRows = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""What a layer adds to a batch: down [R, features in], up [features out, R], and each row's factors [B, R]"""


LOWEST_RANK = 16
"""Of layers that are to be alike; more goes by powers of two, so that there are few to compile."""


@dataclass(slots=True)
class _Stack:
    """The LoRAs in use on one layer."""

    down: torch.Tensor  # [R, features in]
    up: torch.Tensor  # [features out, R]
    columns: tuple[tuple[int, float], ...]
    """[R]: which LoRA of those in use, and its scaling on this layer"""


class LoraLayers:
    """One network whose linear layers add what the rows of a batch ask for. Used by the engine's thread alone."""

    def __init__(self, network: Any, part: str, alike: Collection[str] = ()) -> None:
        """`part` is the network's name in `Lora`.

        `alike` names layers that can all get the same rank, filled up with zeros, whichever of them the LoRAs change.
        """
        self._network = network
        self._part = part
        self._alike = alike
        self._hooked: dict[str, Any] = {}
        self._stacks: dict[str, _Stack] = {}
        self._stacked: tuple[Lora, ...] = ()
        self._rank = 0
        self._low_rank: dict[str, LowRankRows] = {}
        self._rows: tuple[LoraScales, ...] = ()

    def rank(self, rows: Sequence[LoraScales]) -> int:
        """That of `alike` layers with these rows; 0 if none of them is changed."""
        sums: Counter[str] = Counter()
        for lora in self._loras_of(rows):
            sums.update({name: len(part.down) for name, part in getattr(lora, self._part).items()})
        highest = max((sums[name] for name in self._alike), default=0)
        return max(LOWEST_RANK, 1 << (highest - 1).bit_length()) if highest else 0

    @contextmanager
    def applied(self, rows: Sequence[LoraScales], *, among: Sequence[LoraScales] = (), rank: int = 0) -> Iterator[None]:
        """Within it, row n of every batch that the network is given has the LoRAs of `rows[n]`.

        `among` are further rows, whose LoRAs are kept at hand. Unless `rank` is 0, `alike` layers are filled up to it:
        at least that of all these rows.
        """
        rows = tuple(rows)
        wanted = self._loras_of([*among, *rows])
        if not wanted:
            yield
            return
        if set(wanted) != set(self._stacked) or rank != self._rank:
            self._rows = ()  # in case that memory runs out on the way
            self._restack(tuple(wanted), rank)
        if rows != self._rows:
            self._prepare(rows)
        for name, low_rank in self._low_rank.items():
            self._hooked[name].__dict__["low_rank"] = low_rank  # Module's own way to set it is slow
        try:
            yield
        finally:
            for name in self._low_rank:
                self._hooked[name].__dict__["low_rank"] = None

    def _prepare(self, rows: tuple[LoraScales, ...]) -> None:
        scales = [[dict(row).get(lora, 0.0) for lora in self._stacked] for row in rows]  # [B, LoRAs]
        factors: dict[Any, torch.Tensor] = {}  # by columns and dtype
        low_rank: dict[str, LowRankRows] = {}
        for name, stack in self._stacks.items():
            like = stack.columns, stack.down.dtype  # T5 has layers of another dtype than its own
            if like not in factors:  # most layers share theirs
                table = [[row[lora] * scaling for lora, scaling in stack.columns] for row in scales]
                factors[like] = torch.tensor(table, dtype=stack.down.dtype).to(stack.down.device)
            low_rank[name] = stack.down, stack.up, factors[like]
        self._low_rank = low_rank
        self._rows = rows

    def _restack(self, loras: tuple[Lora, ...], rank: int) -> None:
        self._stacked, self._stacks, self._low_rank = (), {}, {}
        changed = dict.fromkeys(name for lora in loras for name in getattr(lora, self._part))
        some = next(iter(getattr(loras[0], self._part).values())).down
        unchanged: dict[tuple[int, int], _Stack] = {}  # one for all layers of the same features
        for name in {**changed, **dict.fromkeys(self._alike if rank else ())}:
            layer = self._layer(name)
            parts = [(n, part) for n, lora in enumerate(loras) if (part := getattr(lora, self._part).get(name))]
            if parts:
                missing = rank - sum(len(part.down) for _, part in parts) if rank and name in self._alike else 0
                self._stacks[name] = _stack(parts, missing)
                continue
            features = layer.in_features, layer.out_features
            if features not in unchanged:
                down, up = some.new_zeros(rank, features[0]), some.new_zeros(features[1], rank)
                unchanged[features] = _Stack(down, up, (_NO_COLUMN,) * rank)
            self._stacks[name] = unchanged[features]
        self._stacked, self._rank = loras, rank

    def _loras_of(self, rows: Sequence[LoraScales]) -> dict[Lora, None]:
        """Those that change this network."""
        return dict.fromkeys(lora for row in rows for lora, _ in row if getattr(lora, self._part))

    def _layer(self, name: str) -> Any:
        if name not in self._hooked:
            self._hooked[name] = self._network.get_submodule(name)
            self._hooked[name].register_forward_hook(add_low_rank)
        return self._hooked[name]


_NO_COLUMN = (0, 0.0)


def _stack(parts: Sequence[tuple[int, LowRank]], missing: int) -> _Stack:
    """With so many ranks more that are zero."""
    downs, ups = [part.down for _, part in parts], [part.up for _, part in parts]
    return _Stack(
        down=pad(torch.cat(downs), (0, 0, 0, missing)),
        up=pad(torch.cat(ups, dim=1), (0, missing)),
        columns=(*((n, part.scaling) for n, part in parts for _ in range(len(part.down))), *(_NO_COLUMN,) * missing),
    )


def add_low_rank(layer: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
    """The forward hook of a linear layer, quantized or not, which adds what `layer.low_rank` holds."""
    low_rank: LowRankRows | None = getattr(layer, "low_rank", None)
    if low_rank is None:
        return output
    down, up, factors = low_rank
    x = inputs[0]  # [B, features] or [B, tokens, features]
    factors = factors if x.ndim == 2 else factors[:, None]
    low = linear(x, down)  # [B, (tokens,) R]
    # Not only a product: in float16 the LoRA of a neighbour may overflow here, and 0 · inf is no zero.
    low = torch.where(factors != 0, low * factors, 0)
    return output + linear(low, up)
