"""What a caller is told of a picture besides the picture."""

from __future__ import annotations

import time

from fluxengine.job import Ticket

MOST_QUOTED = 200
"""Characters of what was left out of a prompt."""


def describe(ticket: Ticket, row: int, model: str, *, guided: bool, max_sequence_length: int) -> dict[str, object]:
    """`info` of one row: how it was drawn, and the times of its image that took longest, in milliseconds.

    `guided` is whether guidance_scale has any effect on this model.
    """
    wanted = ticket.request.rows[row]
    last = max(ticket.jobs_of(row), key=lambda job: job.denoised_s)
    times_s = {
        "queue_ms": last.started_s - last.arrival_s,
        "encode_ms": last.encode_s,
        "denoise_ms": last.denoised_s - last.started_s - last.encode_s,
        "decode_ms": last.decode_s,
        "total_ms": time.monotonic() - last.arrival_s,
    }
    info: dict[str, object] = {
        "model": model,
        "width": wanted.width,
        "height": wanted.height,
        "steps": wanted.num_inference_steps,
        "guidance_scale": wanted.guidance_scale if guided else None,
        "max_sequence_length": max_sequence_length,
        "lora": ",".join(f"{name}:{scale:g}" for name, scale in wanted.loras),
    }
    if len(wanted.prompts) == 2:
        info["true_cfg_scale"] = wanted.true_cfg_scale
    if wanted.image is not None:
        info["strength"] = wanted.strength
    truncated = {
        name: {encoder: _quoted(words) for encoder, words in left_out.items()}
        for name, left_out in zip(("prompt", "negative_prompt"), last.left_out, strict=False)
        if left_out
    }
    if truncated:
        info["truncated"] = truncated
    return {
        **info,
        **{name: round(seconds * 1e3, 2) for name, seconds in times_s.items()},
        "mean_batch": round(last.mean_batch, 2),
    }


def _quoted(words: str) -> str:
    return words if len(words) <= MOST_QUOTED else words[: MOST_QUOTED - 1] + "…"
