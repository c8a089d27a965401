"""One picture that is asked for: what mixes and traces give, and all protocols send."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Order:
    """Everything that the picture depends on, and how urgent it is."""

    kind: str
    """The class of traffic that it belongs to: the name of the mix's entry."""
    prompt: str
    width: int
    height: int
    num_inference_steps: int
    seed: int
    guidance_scale: float | None = None
    """None: the model's default."""
    priority: int = 0
    """1 (highest) to 4; 0: the model's default."""
    lora: str = ""
    """`name` or `name:scale`, several with commas; empty: none."""

    @property
    def label(self) -> str:
        """What Locust counts it under: orders of one size and number of steps cost the same."""
        return f"{self.width}x{self.height} {self.num_inference_steps} steps"

    def inputs(self, timeout_s: float) -> dict[str, Any]:
        """The model's inputs, by name. The server gives up when the client does."""
        inputs: dict[str, Any] = {
            "prompt": self.prompt,
            "width": self.width,
            "height": self.height,
            "num_inference_steps": self.num_inference_steps,
            "seed": self.seed,
            "deadline_ms": max(1, round(timeout_s * 1000)),
        }
        optional = {"guidance_scale": self.guidance_scale, "priority": self.priority or None, "lora": self.lora or None}
        return inputs | {name: value for name, value in optional.items() if value is not None}


@dataclass(frozen=True, slots=True)
class TimedOrder:
    """An order, and when it is to be sent."""

    order: Order
    at_s: float | None
    """From the start of the test, whatever the server does; None in a closed loop: when a user is free."""
