"""What callers may send is what some server can be made to take, and no more."""

from __future__ import annotations

import pytest

from fluxclient.gateway import fields
from fluxengine.config import parse_parameter
from fluxengine.errors import ConfigError
from fluxengine.size import parse_size
from fluxengine.wire.inputs import INPUTS


def test_the_limits_are_those_of_the_engine() -> None:
    assert INPUTS["prompt"].high == fields.MAX_PROMPT_CHARACTERS
    assert INPUTS["guidance_scale"].high == INPUTS["true_cfg_scale"].high == fields.MAX_GUIDANCE
    assert INPUTS["strength"].low == fields.MIN_STRENGTH
    assert INPUTS["seed"].high == fields.MAX_SEED
    assert INPUTS["priority"].high == fields.LOWEST_PRIORITY


@pytest.mark.parametrize(("parameter", "most"), [("max_steps", fields.MAX_STEPS), ("max_images", fields.MAX_IMAGES)])
def test_what_can_be_configured(parameter: str, most: int) -> None:
    assert parse_parameter(parameter, str(most), "here") == most
    with pytest.raises(ConfigError):
        parse_parameter(parameter, str(most + 1), "here")


def test_the_largest_picture() -> None:
    assert parse_size(f"{fields.MAX_EDGE}x{fields.MAX_EDGE}") == (fields.MAX_EDGE, fields.MAX_EDGE)
    with pytest.raises(ValueError, match="multiples of 16"):
        parse_size(f"{fields.MAX_EDGE + 16}x64")
