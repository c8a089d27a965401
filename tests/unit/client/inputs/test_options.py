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
from fluxengine.config import parse_parameter
from fluxengine.errors import ConfigError
from fluxengine.size import parse_size
from fluxengine.wire.inputs import INPUTS as MODEL

README = Path(__file__).parents[4] / "client" / "README.md"


def test_inputs_are_those_of_the_model() -> None:
    types = {"STRING": "BYTES"}  # as config.pbtxt and as the protocols call it
    assert {item.name: item.datatype for item in INPUTS} == {
        name: types.get(described.data_type, described.data_type) for name, described in MODEL.items()
    }


def test_limits_are_those_of_the_model_where_no_operator_sets_them() -> None:
    for name, described in MODEL.items():
        if described.high is not None:
            assert BY_NAME[name].most == described.high, name
    for name in ("strength", "true_cfg_scale", "guidance_scale", "prompt", "seed"):
        assert BY_NAME[name].least == MODEL[name].low, name


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
