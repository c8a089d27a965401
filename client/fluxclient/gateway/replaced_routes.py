"""The routes of the API that this gateway replaces, so that its callers can move."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field

from fluxclient.errors import FluxError
from fluxclient.gateway.admission.media_type import JsonOnly
from fluxclient.gateway.errors import api_error
from fluxclient.gateway.fields import (
    BatchPrompt,
    Body,
    Edge,
    Guidance,
    Lora,
    NegativePrompt,
    Prompt,
    Seed,
    Steps,
    TrueCfg,
)
from fluxclient.gateway.keeping.jobs import Job
from fluxclient.gateway.leaving import unless_left
from fluxclient.gateway.request_record import note
from fluxclient.gateway.result_encoding import base64_text, info_of
from fluxclient.gateway.state import READ, Caller, TheGateway
from fluxclient.result import Result

BATCH_CONCURRENCY = 16
"""Prompts of one batch that are on their way at once: as many as the server puts into one step by default."""

router = APIRouter()


class DrawOptions(Body):
    num_inference_steps: Steps | None = None
    guidance_scale: Guidance | None = None
    width: Edge | None = None
    height: Edge | None = None
    seed: Seed | None = None
    lora: Lora | None = None
    negative_prompt: NegativePrompt | None = None
    true_cfg_scale: TrueCfg | None = None


class DrawRequest(DrawOptions):
    prompt: Prompt


class BatchRequest(DrawOptions):
    prompts: Annotated[list[BatchPrompt], Field(min_length=1, max_length=64)]


@router.post("/generate", dependencies=[JsonOnly])
async def generate(body: DrawRequest, request: Request, gateway: TheGateway, caller: Caller) -> dict[str, Any]:
    await gateway.rate.spend(caller)
    start_s = time.perf_counter()
    result = await unless_left(request, gateway.stopping, gateway.client.generate(body.prompt, **body.named_options()))
    note(request, f"flux={result.request_id}")
    gateway.metrics.images.inc()
    return _drawn(result, time.perf_counter() - start_s)


@router.post("/batch-generate", dependencies=[JsonOnly])
async def batch_generate(body: BatchRequest, request: Request, gateway: TheGateway, caller: Caller) -> dict[str, Any]:
    """A failure does not concern the other prompts; where all fail, the first is the answer."""
    await gateway.rate.spend(caller, len(body.prompts))
    start_s = time.perf_counter()
    drawing = gateway.client.generate_many(body.prompts, concurrency=BATCH_CONCURRENCY, **body.named_options())
    answers = await unless_left(request, gateway.stopping, drawing)
    failures = [answer for answer in answers if isinstance(answer, FluxError)]
    if len(failures) == len(answers):
        raise failures[0]
    gateway.metrics.images.inc(len(answers) - len(failures))
    note(request, f"prompts={len(answers)} failed={len(failures)}")
    return {
        "success": not failures,
        "results": [_item(prompt, answer) for prompt, answer in zip(body.prompts, answers, strict=True)],
        "total_time": time.perf_counter() - start_s,
    }


@router.post("/async-generate", status_code=202, dependencies=[JsonOnly])
async def async_generate(body: DrawRequest, request: Request, gateway: TheGateway, caller: Caller) -> dict[str, Any]:
    await gateway.rate.spend(caller)
    job = gateway.jobs.start(caller, gateway.client.stream(body.prompt, **body.named_options()))
    note(request, f"job={job.id}")
    return {"job_id": job.id, "status": job.status, "status_url": gateway.address(request, "job", job_id=job.id)}


@router.api_route("/jobs/{job_id}", methods=READ, name="job")
async def job(job_id: str, request: Request, gateway: TheGateway, caller: Caller) -> dict[str, Any]:
    job = gateway.jobs.find(job_id, caller)
    if request.method == "GET" and job.finished_s is not None:
        job.fetched = True
    return _state(job)


@router.delete("/jobs/{job_id}")
async def cancel_job(job_id: str, gateway: TheGateway, caller: Caller) -> dict[str, Any]:
    """Stops it on the server. A finished job stays what it is."""
    job = gateway.jobs.find(job_id, caller)
    await gateway.jobs.cancel(job)
    return _state(job)


def _drawn(result: Result, seconds: float) -> dict[str, Any]:
    info = info_of(result)
    names = ("width", "height", "guidance_scale")
    return {
        "success": True,
        "image": base64_text(result.files[0]),
        "seed": result.seeds[0],
        "generation_time": seconds,
        "parameters": {
            "prompt": result.prompt,
            "num_inference_steps": info["steps"],
            **{name: info[name] for name in names},
            "seed": result.seeds[0],
        },
    }


def _item(prompt: str, answer: Result | FluxError) -> dict[str, Any]:
    if isinstance(answer, FluxError):
        return {"prompt": prompt, "error": api_error(answer).body()}
    return {"prompt": prompt, "image": base64_text(answer.files[0]), "seed": answer.seeds[0]}


def _state(job: Job) -> dict[str, Any]:
    progress = job.progress and {"step": job.progress.step, "total_steps": job.progress.total_steps}
    return {
        "job_id": job.id,
        "status": job.status,
        "progress": progress,
        "result": job.result and _drawn(job.result, job.seconds),
        "error": job.error and job.error.body(),
    }
