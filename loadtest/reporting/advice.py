"""Rules that turn what was measured into what to change; each names the parameter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from loadtest.lab.result import Result

LOW_USE_PERCENT = 50.0
FULL_MEMORY_PERCENT = 90.0
LONG_SHARE = 0.95
"""Less of the requests than this within their SLO are too few."""
QUEUEING_SHARE = 0.5
"""Of the response time."""
SMALL_BATCH_SHARE = 0.5
"""Of the requests that were there to be batched."""
FAILURES = {
    "OVERLOADED": ("max_in_flight", "raise it to let more wait, or send fewer requests at once"),
    "DEADLINE_EXCEEDED": ("deadline_ms", "allow more time, or see to it that less waits: more instances, fewer steps"),
    "OUT_OF_MEMORY": ("max_batch", "lower it, or max_size, or serve in dtype bfloat16"),
    "INVALID_ARGUMENT": ("max_size, max_steps", "raise the limit that the error names, or change the mix"),
    "NOT_FOUND": ("model", "the model or the LoRA that the error names is not loaded"),
    "WRONG_ANSWER": ("dtype", "pictures are not what was asked for: do not serve like this; try float32"),
}
OTHER_FAILURE = ("instance_group", "see the server's log: a process of the model died, or the server was not reachable")


@dataclass(frozen=True, slots=True)
class Advice:
    rule: str
    finding: str
    """What was measured."""
    parameter: str
    change: str

    def __str__(self) -> str:
        return f"{self.finding}: {self.parameter}: {self.change}"


def advise(of: Result, *, concurrent: int) -> list[Advice]:
    """For a strategy that was measured with so many requests at once (of an open loop, its users)."""
    return [*_failures(of), *_memory(of), *_queueing(of), *_long(of), *_low_throughput(of, concurrent), *_low_use(of)]


def _failures(of: Result) -> Iterator[Advice]:
    codes: dict[str, int] = {}
    for (code, _), count in of.errors.items():
        codes[code] = codes.get(code, 0) + count
    for code, count in sorted(codes.items(), key=lambda item: -item[1]):
        parameter, change = FAILURES.get(code, OTHER_FAILURE)
        yield Advice("failures", f"{count} of {of.pooled.requests} requests failed with {code}", parameter, change)


def _memory(of: Result) -> Iterator[Advice]:
    gpu, machine = of.use.gpu_memory_percent, of.use.memory_percent
    if gpu is not None and gpu > FULL_MEMORY_PERCENT:
        change = "lower it, or serve in dtype bfloat16, before a larger picture fails"
        yield Advice("memory", f"the memory of a GPU was {gpu:.0f} % full", "max_batch", change)
    if machine is not None and machine > FULL_MEMORY_PERCENT:
        change = "use fewer instances; each holds the whole model"
        yield Advice("memory", f"the machine's memory was {machine:.0f} % full", "instance_group", change)


def _queueing(of: Result) -> Iterator[Advice]:
    queue, mean = of.pooled.queue_ms, of.pooled.mean_ms
    if queue is None or not mean or queue / mean <= QUEUEING_SHARE:
        return
    finding = f"requests waited {queue:.0f} of {mean:.0f} ms before they began"
    if of.strategy.parameters.get("scheduling") in ("serial", "static"):
        yield Advice("queueing", finding, "scheduling", "continuous lets requests join at every step")
    else:
        change = "raise it while a larger batch still gains, then add GPUs; max_in_flight refuses sooner instead"
        yield Advice("queueing", finding, "max_batch", change)


def _long(of: Result) -> Iterator[Advice]:
    its = of.pooled
    if not its.succeeded or its.slo_attainment >= LONG_SHARE or its.mean_ms is None or its.p95_ms is None:
        return
    finding = f"only {its.slo_attainment:.0%} of the requests met their SLO (P95 {its.p95_ms:.0f} ms)"
    stages = {"queue": its.queue_ms, "encode": its.encode_ms, "denoise": its.denoise_ms, "decode": its.decode_ms}
    measured = {stage: ms for stage, ms in stages.items() if ms is not None}
    longest = max(measured, key=lambda stage: measured[stage], default="")
    if longest == "denoise":
        change = "fewer steps (default_steps, max_steps) or a distilled checkpoint, or less in a batch (max_batch)"
        yield Advice("long answers", f"{finding}, most of it denoising", "default_steps", change)
    elif longest == "encode":
        change = "raise it, so that prompts that come again are not encoded again"
        yield Advice("long answers", f"{finding}, most of it encoding prompts", "prompt_cache_entries", change)
    elif longest == "decode":
        yield Advice("long answers", f"{finding}, most of it decoding", "max_size", "serve smaller pictures")
    elif not longest:
        yield Advice("long answers", finding, "instance_group", "add instances on further GPUs")


def _low_throughput(of: Result, concurrent: int) -> Iterator[Advice]:
    engine = of.use.engine
    batch = engine.mean_batch if engine is not None else of.pooled.mean_batch
    if batch is None or concurrent < 2 or batch >= SMALL_BATCH_SHARE * concurrent / (of.strategy.instances or 1):
        return
    if of.strategy.parameters.get("scheduling") in ("serial", "static"):
        finding = f"a step drew {batch:.1f} pictures, with {concurrent} requests at once"
        yield Advice("low throughput", finding, "scheduling", "continuous fills the batch at every step")
    elif (of.use.waiting or 0.0) > batch:
        finding = f"a step drew {batch:.1f} pictures while {of.use.waiting:.1f} waited"
        yield Advice("low throughput", finding, "max_batch", "raise it, if memory allows")


def _low_use(of: Result) -> Iterator[Advice]:
    use = of.use.utilisation_percent
    if use is None or use >= LOW_USE_PERCENT:
        return
    change = "there is room for more load (--concurrent, --rate); if there is none, num_threads or fewer instances"
    yield Advice("low use", f"the {of.use.utilisation_of} was used to {use:.0f} %", "num_threads", change)
