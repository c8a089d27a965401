"""The values that callers may send, each with what is allowed, so that nothing unchecked goes on to the server.

Types and texts are settled here. Limits are those of the table of inputs, the widest that any server can be given; the
server has its own within them, and says so.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from fluxclient.inputs.options import BY_NAME, Options

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


def _at_most_of(name: str) -> Any:
    """A validator of texts for an input."""
    most = BY_NAME[name].most

    def check(value: str) -> str:
        if len(value) > most:
            problem = "must be at most {most} characters, and this is {sent}"
            raise PydanticCustomError("text", problem, {"most": most, "sent": len(value)})
        return _text(value)

    return AfterValidator(check)


def _limits_of(name: str) -> Any:
    """Of numbers for an input."""
    return Field(ge=BY_NAME[name].least, le=BY_NAME[name].most)


def _not_blank(value: str) -> str:
    if not value.strip():
        problem = "must be 1 to {most} characters that are not all blank"
        raise PydanticCustomError("text", problem, {"most": BY_NAME["prompt"].most})
    return value


Prompt = Annotated[str, AfterValidator(_not_blank), _at_most_of("prompt")]
BatchPrompt = Annotated[str, _at_most_of("prompt")]
"""One of several: a blank one does not keep the others from being drawn, as the server says so of it alone."""
NegativePrompt = Annotated[str, _at_most_of("negative_prompt")]
Lora = Annotated[str, _at_most_of("lora")]
Steps = Annotated[int, _limits_of("num_inference_steps")]
Images = Annotated[int, _limits_of("num_images_per_prompt")]
Edge = Annotated[int, _limits_of("height")]
"""Height or width in pixels."""
Guidance = Annotated[float, _limits_of("guidance_scale")]
TrueCfg = Annotated[float, _limits_of("true_cfg_scale")]
Strength = Annotated[float, _limits_of("strength")]
Seed = Annotated[int, _limits_of("seed")]
Priority = Annotated[int, _limits_of("priority")]
DeadlineMs = Annotated[int, _limits_of("deadline_ms")]
ResponseFormat = Literal["b64_json", "url"]
"""How pictures come in an answer of OpenAI's API."""


class Body(BaseModel):
    """A body in JSON. An unknown key is an error, and null is as good as absent."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    def named_options(self) -> Options:
        """Those of its fields that have the names of fluxclient's options; what is absent, the server decides."""
        options: Options = {}
        for name in type(self).model_fields:
            if name in BY_NAME and BY_NAME[name].is_option and (value := getattr(self, name)) is not None:
                options[name] = value  # type: ignore[literal-required]
        return options
