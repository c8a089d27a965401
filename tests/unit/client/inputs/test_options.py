"""The table of options: what callers may send is what some server can be made to take, and no more."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from fluxclient.cli.app import app
from fluxclient.gateway.openai.edit_request import ImageEditRequest
from fluxclient.gateway.replaced_routes import DrawOptions
from fluxclient.inputs.options import BY_NAME, FLAGS, INPUTS, Options
from fluxengine import request
from fluxengine.config import parse_parameter, parse_size
from fluxengine.errors import ConfigError

README = Path(__file__).parents[4] / "client" / "README.md"


def test_the_limits_are_those_of_the_engine() -> None:
    for name in ("prompt", "negative_prompt"):
        assert BY_NAME[name].most == request.MAX_PROMPT_CHARACTERS
    for name in ("guidance_scale", "true_cfg_scale"):
        assert BY_NAME[name].most == request.MAX_GUIDANCE
    assert BY_NAME["strength"].least == request.MIN_STRENGTH
    assert BY_NAME["seed"].most == request.MAX_SEED
    assert BY_NAME["priority"].most == max(request.PRIORITIES)


@pytest.mark.parametrize(
    ("parameter", "name"), [("max_steps", "num_inference_steps"), ("max_images", "num_images_per_prompt")]
)
def test_what_can_be_configured(parameter: str, name: str) -> None:
    most = int(BY_NAME[name].most)
    assert parse_parameter(parameter, str(most), "here") == most
    with pytest.raises(ConfigError):
        parse_parameter(parameter, str(most + 1), "here")


def test_the_largest_picture() -> None:
    most = int(BY_NAME["height"].most)
    assert parse_size(f"{most}x{most}") == (most, most)
    with pytest.raises(ValueError, match="multiples of 16"):
        parse_size(f"{most + 16}x64")


def test_inputs_are_those_of_the_model() -> None:
    assert set(BY_NAME) == request.INPUTS


def test_options_are_the_inputs_that_callers_set() -> None:
    options = {item.name for item in INPUTS if item.is_option}
    assert set(Options.__annotations__) == options | {"timeout"}
    assert {item.name for item in INPUTS} - options == {"prompt", "base64", "progress"}


def test_every_option_is_offered() -> None:
    commands = typer.main.get_command(app)
    assert isinstance(commands, TyperGroup)
    flags = {flag for parameter in commands.commands["generate"].params for flag in parameter.opts}
    assert set(FLAGS.values()) <= flags
    of_batch = set(re.findall(r"\w+", commands.commands["batch"].help or ""))
    assert set(Options.__annotations__) - {"preview_interval"} <= of_batch  # nobody watches
    elsewhere = {"num_images_per_prompt", "width", "height", "preview_interval", "timeout"}  # n, size, partial_images
    assert set(Options.__annotations__) - elsewhere <= set(ImageEditRequest.model_fields)
    assert set(Options.__annotations__) >= set(DrawOptions.model_fields)


def test_readme_names_every_option() -> None:
    section = README.read_text().partition("\n## Options\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"`(\w+)`", section)) == {*Options.__annotations__, "stream"}
