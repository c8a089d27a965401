"""Small pictures of pictures that are not finished, as their last step predicts them."""

from __future__ import annotations

import logging

import torch

from fluxengine.device.failures import halving
from fluxengine.device.latent_batch import LatentBatch, RowState
from fluxengine.families.base import Family
from fluxengine.job import Job
from fluxengine.size import Size
from fluxengine.wire.picture_files import Picture

log = logging.getLogger("fluxengine")


def is_shown(job: Job) -> bool:
    """Whether its next step is one of those that its caller wants to see."""
    return bool(job.preview_interval) and (job.step + 1) % job.preview_interval == 0


def predicted_latents(batch: LatentBatch, row: RowState) -> torch.Tensor:
    """The picture's latents [S, C] as the step predicts them whose velocity the batch has: x − σ·v."""
    place = batch.place(row)
    return batch.latents[place].float() - row.schedule.sigmas[row.job.step] * batch.velocity[place].float()


def make_previews(
    family: Family, size: Size, predicted: list[tuple[Job, torch.Tensor]], longest_edge: int | None
) -> dict[Job, Picture]:
    """Those that cannot be made are left out: the pictures themselves go on."""
    edge = longest_edge or min(256, max(size) // 2)
    previews: dict[Job, Picture] = {}

    def preview_some(start: int, stop: int) -> None:
        some = predicted[start:stop]
        latents = torch.stack([one for _, one in some]).to(family.dtype)
        previews.update(zip([job for job, _ in some], family.preview(size, latents, edge).numpy(), strict=True))

    for row, error in halving(len(predicted), len(predicted), preview_some).items():
        log.warning("no preview for seed %d: %s", predicted[row][0].seed, error)
    return previews
