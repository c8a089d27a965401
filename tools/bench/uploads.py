"""What a crowd with large pictures costs in memory: `python -m tools.bench.uploads`.

Image to image requests with a file of 15 MB each, all at once, over gRPC: each has to end with a picture, or as
OVERLOADED. Read all along: the memory of the server and its models, with what they share counted once. Exit code 1 if
any ends otherwise, or if it is more than the aim.
"""

from __future__ import annotations

import argparse
import collections
import io
import queue
import sys
import threading
from contextlib import suppress

import numpy as np
import psutil
import tritonclient.grpc
from PIL import Image

from fluxclient.errors import error_from
from tools.triton.server import TritonServer

EDGE = 2240
"""Noise of so many pixels squared is a PNG of 15 MB."""

AIM_BYTES = 2.5e9
SAMPLE_S = 0.1
PROMPT = b"a large apple on a green background"


def noise() -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (EDGE, EDGE, 3), np.uint8)
    Image.fromarray(pixels).save(file, "png", compress_level=1)
    return file.getvalue()


def ask(url: str, file: bytes, outcomes: queue.SimpleQueue[str]) -> None:
    """One request, over a stream of its own."""
    answers: queue.SimpleQueue[str] = queue.SimpleQueue()

    def answered(result: object, error: Exception | None) -> None:
        answers.put("picture" if error is None else error_from(str(error)).code)

    with tritonclient.grpc.InferenceServerClient(url) as client:
        client.start_stream(answered)
        inputs = []
        for name, datatype, value in (
            ("prompt", "BYTES", PROMPT),
            ("image", "BYTES", file),
            ("num_inference_steps", "INT32", 4),
        ):
            inputs.append(tritonclient.grpc.InferInput(name, [1, 1], datatype))
            inputs[-1].set_data_from_numpy(np.array([[value]], np.object_ if datatype == "BYTES" else np.int32))
        client.async_stream_infer("flux", inputs)
        outcomes.put(answers.get())


def memory(server_pid: int) -> int:
    """Bytes that the server and all below it hold, what is shared counted once."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        server = psutil.Process(server_pid)
        for process in (server, *server.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += process.memory_full_info().pss
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200)
    options = parser.parse_args()
    file = noise()
    outcomes: queue.SimpleQueue[str] = queue.SimpleQueue()
    with TritonServer(exit_timeout_s=5) as server:
        before, peak = memory(server.pid), 0
        url = server.urls.grpc.removeprefix("grpc://")
        threads = [threading.Thread(target=ask, args=(url, file, outcomes)) for _ in range(options.requests)]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(SAMPLE_S)
                peak = max(peak, memory(server.pid))
    counted = collections.Counter(outcomes.get() for _ in threads)
    print(f"{options.requests} requests of {len(file) / 1e6:.0f} MB at once: {dict(counted)}")
    print(f"server and models: {before / 1e9:.2f} GB before, {peak / 1e9:.2f} GB at most (aim {AIM_BYTES / 1e9:g})")
    sys.exit(peak > AIM_BYTES or bool(counted.keys() - {"picture", "OVERLOADED"}))


if __name__ == "__main__":
    main()
