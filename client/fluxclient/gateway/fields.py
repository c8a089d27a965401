"""The values that callers may send, each with what is allowed, so that nothing unchecked goes on to the server.

Types and texts are settled here. Of numbers, here are the widest limits that any server can be given; the server has
its own within them, and says so.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

MAX_PROMPT_CHARACTERS = 4096
MAX_LORA_CHARACTERS = 1024
MAX_STEPS = 1000
MAX_IMAGES = 64
MAX_EDGE = 8192
MAX_GUIDANCE = 30.0
MIN_STRENGTH = 0.01
LOWEST_PRIORITY = 4
MAX_SEED = 2**63 - 1
MAX_DEADLINE_MS = 2**31 - 1

_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
"""All but those that lay text out: tabs, line and page breaks, which come with what people paste."""


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can hold half of a pair of surrogates, which no answer could repeat
        problem = "character {at} cannot be written as UTF-8"
        raise PydanticCustomError("text", problem, {"at": error.start}) from None
    if control := _CONTROL.search(value):
        problem = "character {at} is a control character; allowed are tabs and line breaks"
        raise PydanticCustomError("text", problem, {"at": control.start()})
    return value


def _at_most(characters: int, value: str) -> str:
    if len(value) > characters:
        problem = "must be at most {most} characters, and this is {sent}"
        raise PydanticCustomError("text", problem, {"most": characters, "sent": len(value)})
    return _text(value)


def _prompt(value: str) -> str:
    if not value.strip():
        problem = "must be 1 to {most} characters that are not all blank"
        raise PydanticCustomError("text", problem, {"most": MAX_PROMPT_CHARACTERS})
    return _negative_prompt(value)


def _negative_prompt(value: str) -> str:
    return _at_most(MAX_PROMPT_CHARACTERS, value)


def _lora(value: str) -> str:
    return _at_most(MAX_LORA_CHARACTERS, value)


Prompt = Annotated[str, AfterValidator(_prompt)]
BatchPrompt = Annotated[str, AfterValidator(_negative_prompt)]
"""One of several: a blank one does not keep the others from being drawn, as the server says so of it alone."""
NegativePrompt = Annotated[str, AfterValidator(_negative_prompt)]
Lora = Annotated[str, AfterValidator(_lora)]
Steps = Annotated[int, Field(ge=1, le=MAX_STEPS)]
Images = Annotated[int, Field(ge=1, le=MAX_IMAGES)]
Edge = Annotated[int, Field(ge=1, le=MAX_EDGE)]
"""Height or width in pixels."""
Guidance = Annotated[float, Field(ge=0, le=MAX_GUIDANCE)]
TrueCfg = Annotated[float, Field(ge=1, le=MAX_GUIDANCE)]
Strength = Annotated[float, Field(ge=MIN_STRENGTH, le=1)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Priority = Annotated[int, Field(ge=0, le=LOWEST_PRIORITY)]
DeadlineMs = Annotated[int, Field(ge=0, le=MAX_DEADLINE_MS)]
