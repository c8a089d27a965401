"""FLUX served by step-level continuous batching.

The way of a request: `GenerateRequest` (wire/request.py) → one `Job` for each image (job.py) → `Scheduler.plan()`
(scheduler.py) → the runner encodes, steps and decodes (device/runner.py) → `Reply` (reply.py). `Engine` is the loop
that joins them. Nothing in here knows Triton; the scheduler does not know torch.
"""
