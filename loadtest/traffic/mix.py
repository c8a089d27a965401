"""Traffic mixes: which sizes, steps, prompts and priorities are asked for, and how often.

A mix is a JSON file, `mix.schema.json` says of what; those in `mixes/` go by their names. From a seed it gives the
same requests in the same order, on every machine.
"""

from __future__ import annotations

import functools
import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema

from loadtest.failures import BadInput
from loadtest.traffic.order import Order
from tools.tiny_flux.prompts import all_combinations, caption

HERE = Path(__file__).parent
NAMES = tuple(sorted(path.stem for path in (HERE / "mixes").glob("*.json")))
FLUX_TINY = "flux-tiny"
DEFAULT_SEED = 1
_SCHEMA: dict[str, Any] = json.loads((HERE / "mix.schema.json").read_text())


@dataclass(frozen=True)
class Entry:
    """One class of traffic."""

    name: str
    weight: float
    """Its share of the requests, relative to the other entries'."""
    width: int
    height: int
    steps: tuple[int, int]
    """From, to: each number is as likely."""
    prompts: Sequence[str]
    guidance_scale: float | None = None
    priority: int = 0
    lora: str = ""
    run: int = 1
    """How many come in a row."""

    def order(self, chance: random.Random) -> Order:
        return Order(
            kind=self.name,
            prompt=chance.choice(self.prompts),
            width=self.width,
            height=self.height,
            num_inference_steps=chance.randint(*self.steps),
            seed=chance.randrange(2**32),
            guidance_scale=self.guidance_scale,
            priority=self.priority,
            lora=self.lora,
        )


@dataclass(frozen=True)
class Mix:
    name: str
    entries: tuple[Entry, ...]
    seed: int = DEFAULT_SEED
    """For those who name none."""

    @classmethod
    def load(cls, name: str) -> Mix:
        """A mix of `mixes/` by its name, or of a file by its path. Raises BadInput."""
        path = HERE / "mixes" / f"{name}.json" if name in NAMES else Path(name)
        try:
            values = json.loads(path.read_text())
        except FileNotFoundError:
            raise BadInput(f"mix: there is no {name!r}; must be {', '.join(NAMES)}, or a JSON file") from None
        except (OSError, ValueError) as error:
            raise BadInput(f"mix {name}: cannot be read: {error}") from None
        check(values, _SCHEMA, f"mix {name}")
        entries = tuple(_entry(values, name, index) for index, values in enumerate(values["entries"]))
        if twice := {entry.name for entry in entries if [other.name for other in entries].count(entry.name) > 1}:
            raise BadInput(f"mix {name}: entries: {min(twice)!r} is the name of two; each must have its own")
        return cls(path.stem, entries, values.get("seed", DEFAULT_SEED))

    def orders(self, seed: int | None = None) -> Iterator[Order]:
        """Without end, the same for the same seed; by default the mix's own."""
        chance = random.Random(self.seed if seed is None else seed)
        weights = [entry.weight / entry.run for entry in self.entries]
        while True:
            (entry,) = chance.choices(self.entries, weights)
            yield from (entry.order(chance) for _ in range(entry.run))


def check(values: object, schema: dict[str, Any], where: str) -> None:
    """Raises BadInput for the first value that the schema does not allow, with its key."""
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(values))
    if error is not None:
        key = error.json_path.removeprefix("$").removeprefix(".")
        hint = f"; {error.schema['description']}" if "description" in error.schema else ""
        raise BadInput(f"{where}: {f'{key}: ' if key else ''}{error.message}{hint}")


def _entry(values: dict[str, Any], mix: str, index: int) -> Entry:
    steps = values["num_inference_steps"]
    low, high = steps if isinstance(steps, list) else (steps, steps)
    if low > high:
        key = f"entries[{index}].num_inference_steps"
        raise BadInput(f"mix {mix}: {key}: is {steps}; must be [low, high]")
    prompts = values.get("prompts", FLUX_TINY)
    rest = {key: value for key, value in values.items() if key not in ("num_inference_steps", "prompts")}
    return Entry(steps=(low, high), prompts=tiny_captions() if prompts == FLUX_TINY else tuple(prompts), **rest)


@functools.cache
def tiny_captions() -> tuple[str, ...]:
    """What flux-tiny draws right all but always: things, medium or large, that it saw in training."""
    scenes = itertools.filterfalse(lambda scene: scene.colour or scene.size == "small", all_combinations())
    return tuple(caption(scene) for scene in scenes if not scene.held_out)
