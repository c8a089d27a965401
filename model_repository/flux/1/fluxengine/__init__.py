"""FLUX served by step-level continuous batching.

The way of a request: `GenerateRequest` (request.py) → one `Job` for each image (job.py) → `Scheduler.plan()`
(scheduler.py) → `Runner` encodes, steps and decodes (runner.py) → `Reply` (engine.py). `Engine` is the loop that
joins them. Nothing in here knows Triton; the scheduler does not know torch.
"""
