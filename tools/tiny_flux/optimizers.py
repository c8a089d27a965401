"""The two optimizers of the transformer's training, shared by several processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed, nn

MUON_FACTOR = 3.0
"""Muon's learning rate as a multiple of AdamW's: its update has the size of AdamW's at factor 1 and bears more."""


class Optimizers:
    """Muon for the matrices inside the transformer's blocks, AdamW for all else.

    Every process steps AdamW for all of its parameters, and Muon, which costs more, for its share of the matrices;
    then each gives its share to the others. All methods are to be called by all processes alike.
    """

    def __init__(self, network: nn.Module, muon: bool, learning_rate: float) -> None:
        rank, workers = distributed.get_rank(), distributed.get_world_size()
        hidden: list[torch.Tensor] = []
        rest: list[torch.Tensor] = []
        for name, parameter in network.named_parameters():
            in_block = "transformer_blocks" in name and parameter.ndim == 2 and ".norm" not in name
            (hidden if muon and in_block else rest).append(parameter)
        self._shares = [hidden[share::workers] for share in range(workers)] if hidden else []
        self._parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(rest, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
        ]
        if self._shares:
            self._parts.append(
                torch.optim.Muon(
                    self._shares[rank],
                    lr=MUON_FACTOR * learning_rate,
                    weight_decay=0.01,
                    adjust_lr_fn="match_rms_adamw",
                )
            )

    def step(self, learning_rate: float) -> None:
        """Update all parameters from their gradients."""
        for part, factor in zip(self._parts, (1.0, MUON_FACTOR), strict=False):
            for group in part.param_groups:
                group["lr"] = factor * learning_rate
            part.step()
        with torch.no_grad():
            for owner, share in enumerate(self._shares):
                flat = torch.cat([parameter.flatten() for parameter in share])
                distributed.broadcast(flat, src=owner)
                pieces = torch.split(flat, [parameter.numel() for parameter in share])
                torch._foreach_copy_(share, [piece.view_as(p) for piece, p in zip(pieces, share, strict=True)])

    def state(self) -> list[Any]:
        """The state of all processes, one entry for each; of use to rank 0 only."""
        entries: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(entries, [part.state_dict() for part in self._parts])
        return entries

    def load(self, state: list[Any]) -> None:
        """Take over what `state` gave, with the same number of processes."""
        if len(state) != distributed.get_world_size():
            raise ValueError(f"the checkpoint is of {len(state)} processes; give --workers {len(state)} or --no-resume")
        for part, saved in zip(self._parts, state[distributed.get_rank()], strict=True):
            part.load_state_dict(saved)
