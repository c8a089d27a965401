"""Users of `flux` over HTTP generate, for any Locust run: locust -f loadtest/locustfile.py --host http://localhost:8000"""

from __future__ import annotations

import base64
import random

from locust import HttpUser, task

PROMPTS = (
    "a large apple on a green background",
    "a small cat on a pink background",
    "a medium owl on a blue background",
)
PNG = b"\x89PNG\r\n\x1a\n"


class GenerateUser(HttpUser):
    @task
    def generate(self) -> None:
        steps = random.randint(4, 12)
        body = {"prompt": random.choice(PROMPTS), "num_inference_steps": steps, "seed": random.randrange(2**32)}
        name = f"generate {steps} steps"
        with self.client.post("/v2/models/flux/generate", json=body, name=name, catch_response=True) as response:
            answer = response.json()
            if "error" in answer:
                response.failure(answer["error"])
            elif not base64.b64decode(answer["image"]).startswith(PNG):
                response.failure("the answer is not a PNG file")
