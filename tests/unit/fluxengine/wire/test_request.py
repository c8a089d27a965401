from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from fluxengine.errors import InvalidArgument
from fluxengine.wire.inputs import FAMILY_INPUTS, INPUTS, MAX_SEED
from fluxengine.wire.limits import Limits
from fluxengine.wire.parsing import parse_request
from fluxengine.wire.picture_files import encode_picture
from fluxengine.wire.request import GenerateRequest
from fluxengine.wire.row_values import Value

with pytest.raises(binascii.Error) as _caught:
    base64.b64decode("notapicture!", validate=True)
NOT_BASE64 = str(_caught.value)
"""In the words of this Python."""

LIMITS = Limits(
    default_steps=8,
    max_steps=50,
    default_guidance=3.5,
    default_size=(128, 256),
    max_size=(512, 1024),
    max_images=4,
    max_loras=3,
)
ARRIVAL_S = 100.0
PNG = encode_picture(np.zeros((8, 8, 3), np.uint8), "png")


Inputs = Mapping[str, Sequence[Value] | None]


def read(inputs: Inputs | None = None, parameters: Mapping[str, object] | None = None) -> GenerateRequest:
    """A prompt goes along unless it is among the inputs; None leaves an input out."""
    sent = {"prompt": [b"a fox"], **(inputs or {})}
    return parse_request(
        {name: values for name, values in sent.items() if values is not None},
        parameters or {},
        LIMITS,
        request_id="r-1",
        arrival_s=ARRIVAL_S,
    )


def refusal(inputs: Inputs | None = None, parameters: Mapping[str, object] | None = None) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        read(inputs, parameters)
    return caught.value


def test_a_prompt_is_enough() -> None:
    request = read()
    (row,) = request.rows
    assert (row.prompt, row.size, row.num_inference_steps, row.guidance_scale) == ("a fox", (128, 256), 8, 3.5)
    assert 0 <= row.seed < 2**32
    assert request == GenerateRequest(
        id="r-1",
        rows=request.rows,
        num_images_per_prompt=1,
        output_format="png",
        base64=True,
        progress=False,
        preview_interval=0,
        priority=2,
        arrival_s=ARRIVAL_S,
        deadline_s=None,
    )


def test_everything_that_can_be_asked_for() -> None:
    request = read(
        {
            "prompt": ["ein Füchslein 🦊".encode(), b"two"],
            "height": [64, 128],
            "width": [1024, 512],
            "num_inference_steps": [1, 50],
            "guidance_scale": [0.0, 30.0],
            "seed": [0, MAX_SEED],
            "num_images_per_prompt": [4, 4],
            "lora": [b" ", b"one, two : -0.5"],
            "negative_prompt": [b"", b"snow"],
            "true_cfg_scale": [1.0, 4.0],
            "image": [base64.b64encode(PNG), b""],
            "strength": [0.25, 1.0],
            "output_format": [b"WebP", b"WebP"],
            "base64": [False, False],
            "progress": [True, True],
            "preview_interval": [50, 50],
            "priority": [4, 4],
            "deadline_ms": [1500, 1500],
        }
    )
    first, second = request.rows
    assert (first.prompt, first.height, first.width) == ("ein Füchslein 🦊", 64, 1024)
    assert (first.num_inference_steps, first.guidance_scale, first.seed) == (1, 0.0, 0)
    assert (second.prompt, second.height, second.width) == ("two", 128, 512)
    assert (second.num_inference_steps, second.guidance_scale, second.seed) == (50, 30.0, MAX_SEED)
    assert (first.loras, second.loras) == ((), (("one", 1.0), ("two", -0.5)))
    assert (first.prompts, second.prompts) == (("ein Füchslein 🦊",), ("two", "snow"))
    assert (first.image, first.strength, second.image, second.strength) == (PNG, 0.25, None, 1.0)
    assert (request.num_images_per_prompt, request.output_format, request.base64) == (4, "webp", False)
    assert (request.progress, request.preview_interval, request.priority) == (True, 50, 4)
    assert request.deadline_s == ARRIVAL_S + 1.5


def test_the_inputs_are_those_of_the_contract() -> None:
    contract = (
        "prompt height width num_inference_steps guidance_scale seed num_images_per_prompt lora output_format base64 "
        "progress preview_interval priority deadline_ms negative_prompt true_cfg_scale image strength"
    )
    assert set(contract.split()) == set(INPUTS)


@pytest.mark.parametrize("priority", [1, 2, 3, 4])
def test_priorities(priority: int) -> None:
    assert read({"priority": [priority]}).priority == priority


def test_priority_0_is_the_default() -> None:
    assert read({"priority": [0]}).priority == 2


@pytest.mark.parametrize("output_format", [b"png", b"jpeg", b"webp", b"raw", b"PNG"])
def test_formats(output_format: bytes) -> None:
    assert read({"output_format": [output_format]}).output_format == output_format.decode().lower()


def test_seeds_are_drawn_for_each_row_anew() -> None:
    seeds = {row.seed for _ in range(20) for row in read({"prompt": [b"one", b"two"]}).rows}
    assert len(seeds) > 35


def test_the_longest_prompt() -> None:
    assert len(read({"prompt": ["é".encode() * 4096]}).rows[0].prompt) == 4096


@pytest.mark.parametrize("prompt", [None, []], ids=["absent", "no rows"])
def test_a_missing_prompt(prompt: list[Value] | None) -> None:
    error = refusal({"prompt": prompt, "seed": [4]})
    assert (error.cause, error.problem) == ("prompt", "is missing; send 1 to 4096 characters of text")


@pytest.mark.parametrize(
    ("prompt", "problem"),
    [
        (b"", "is 0 characters long; send 1 to 4096 characters of text"),
        (b" \t\n", "is blank; send 1 to 4096 characters of text"),
        (b"x" * 4097, "is 4097 characters long; send 1 to 4096 characters of text"),
        (b"caf\xe9", "is not UTF-8 text (byte 3)"),
    ],
    ids=["empty", "blank", "too long", "not UTF-8"],
)
def test_a_bad_prompt(prompt: bytes, problem: str) -> None:
    error = refusal({"prompt": [prompt]})
    assert (error.cause, error.problem) == ("prompt", problem)


LORA = "must be name or name:scale, several with commas, each scale a number from -10 to 10"
EDGE = "must be a multiple of 16 from 64 to"
WRONG: list[tuple[str, Value, str]] = [
    ("height", 0, f"is 0; {EDGE} 512"),
    ("height", -64, f"is -64; {EDGE} 512"),
    ("height", 48, f"is 48; {EDGE} 512"),
    ("height", 72, f"is 72; {EDGE} 512"),
    ("height", 528, f"is 528; {EDGE} 512"),
    ("width", 1040, f"is 1040; {EDGE} 1024"),
    ("width", 65, f"is 65; {EDGE} 1024"),
    ("num_inference_steps", 0, "is 0; must be an integer from 1 to 50"),
    ("num_inference_steps", 51, "is 51; must be an integer from 1 to 50"),
    ("guidance_scale", -0.5, "is -0.5; must be a number from 0 to 30"),
    ("guidance_scale", 30.5, "is 30.5; must be a number from 0 to 30"),
    ("guidance_scale", float("nan"), "is nan; must be a number from 0 to 30"),
    ("guidance_scale", float("inf"), "is inf; must be a number from 0 to 30"),
    ("seed", -1, f"is -1; must be an integer from 0 to {MAX_SEED}"),
    ("num_images_per_prompt", 0, "is 0; must be an integer from 1 to 4"),
    ("num_images_per_prompt", 5, "is 5; must be an integer from 1 to 4"),
    ("output_format", b"gif", "is 'gif'; must be one of png, jpeg, webp, raw"),
    ("output_format", b"", "is ''; must be one of png, jpeg, webp, raw"),
    ("output_format", b"\xff", "is not UTF-8 text (byte 0)"),
    ("preview_interval", -1, "is -1; must be an integer from 0 to 50"),
    ("preview_interval", 51, "is 51; must be an integer from 0 to 50"),
    ("priority", -1, "is -1; must be an integer from 0 to 4"),
    ("priority", 5, "is 5; must be an integer from 0 to 4"),
    ("deadline_ms", -1, "is -1; must be an integer from 0 to 2147483647"),
    ("lora", b"style:strong", f"has 'style:strong'; {LORA}"),
    ("lora", b"style:11", f"has 'style:11'; {LORA}"),
    ("lora", b"style:nan", f"has 'style:nan'; {LORA}"),
    ("lora", b"one,,two", f"has ''; {LORA}"),
    ("lora", b":0.5", f"has ':0.5'; {LORA}"),
    ("lora", b"one,two:2,one:3", "names 'one' twice"),
    ("lora", b"a,b,c,d", "has 4 in all rows; at most 3 are allowed (max_loras)"),
    ("negative_prompt", b"x" * 4097, "is 4097 characters long; send at most 4096"),
    ("negative_prompt", b"\xff", "is not UTF-8 text (byte 0)"),
    ("true_cfg_scale", 0.5, "is 0.5; must be a number from 1 to 30"),
    ("true_cfg_scale", float("nan"), "is nan; must be a number from 1 to 30"),
    ("true_cfg_scale", 4.0, "is 4, which needs a negative_prompt; send one (it may be empty)"),
    ("image", b"", "is empty; send a PNG, JPEG or WebP file, or leave it out"),
    ("image", b"\x89PNG and no more", "is not a PNG, JPEG or WebP file"),
    ("image", b"bm90IGEgcGljdHVyZQ==", "is not a PNG, JPEG or WebP file"),
    (
        "image",
        b"not a picture!",
        "is neither a PNG, JPEG or WebP file nor its base64 text (with + and /, padded with =): " + NOT_BASE64,
    ),
    ("strength", 0.0, "is 0; must be a number from 0.01 to 1"),
    ("strength", 1.5, "is 1.5; must be a number from 0.01 to 1"),
    ("strength", 0.5, "is of no use without an image; send one or leave it out"),
    ("lora", b"\xff", "is not UTF-8 text (byte 0)"),
]


@pytest.mark.parametrize(("name", "value", "problem"), WRONG, ids=[f"{name}={value!r}" for name, value, _ in WRONG])
def test_a_wrong_value_is_named_with_what_is_allowed(name: str, value: Value, problem: str) -> None:
    error = refusal({name: [value]})
    assert (error.cause, error.problem) == (name, problem)


def test_every_input_that_can_be_wrong_is_covered() -> None:
    """Any value of a BOOL is right."""
    assert {name for name, _, _ in WRONG} == set(INPUTS) - {"prompt", "base64", "progress"}


ROW_WISE: list[tuple[str, list[Value]]] = [
    ("prompt", [b"one", b""]),
    ("prompt", [b"one", b"\xff"]),
    ("height", [64, 65]),
    ("num_inference_steps", [4, 0]),
    ("guidance_scale", [1.0, float("nan")]),
    ("seed", [1, -1]),
]


@pytest.mark.parametrize(("name", "values"), ROW_WISE, ids=[f"{name}={values[1]!r}" for name, values in ROW_WISE])
def test_the_row_at_fault_is_named(name: str, values: list[Value]) -> None:
    error = refusal({"prompt": [b"one", b"two"], name: values})
    assert error.cause == name
    assert error.problem.startswith("row 1 is ")


SHARED: list[tuple[str, list[Value], str]] = [
    ("num_images_per_prompt", [1, 2], "(1, 2)"),
    ("output_format", [b"png", b"jpeg"], "(png, jpeg)"),
    ("base64", [True, False], "(True, False)"),
    ("progress", [True, False], "(True, False)"),
    ("preview_interval", [0, 2], "(0, 2)"),
    ("priority", [1, 4], "(1, 4)"),
    ("deadline_ms", [0, 10], "(0, 10)"),
]


@pytest.mark.parametrize(("name", "values", "shown"), SHARED, ids=[name for name, _, _ in SHARED])
def test_rows_agree_on_what_is_about_the_whole_answer(name: str, values: list[Value], shown: str) -> None:
    error = refusal({"prompt": [b"one", b"two"], name: values})
    assert (error.cause, error.problem) == (name, f"differs between rows {shown}; must be one for all")


@pytest.mark.parametrize("name", sorted(set(INPUTS) - {"prompt"}))
def test_every_input_has_as_many_rows_as_prompt(name: str) -> None:
    error = refusal({"prompt": [b"one", b"two"], name: [1]})
    assert (error.cause, error.problem) == (name, "has 1 rows and prompt has 2; send one for each")


def test_raw_rows_have_one_size() -> None:
    error = refusal({"prompt": [b"one", b"two"], "height": [64, 128], "output_format": [b"raw", b"raw"]})
    assert error.cause == "output_format"
    assert "row 0: 256x64, row 1: 256x128" in error.problem
    assert len(read({"prompt": [b"one", b"two"], "height": [64, 64], "output_format": [b"raw", b"raw"]}).rows) == 2
    assert len(read({"prompt": [b"one", b"two"], "height": [64, 128]}).rows) == 2


def test_an_input_that_the_checkpoint_cannot_use_is_refused() -> None:
    plain = replace(LIMITS, inputs=frozenset())
    for name in FAMILY_INPUTS:
        with pytest.raises(InvalidArgument, match=f"^{name}: cannot be used by the checkpoint that is served"):
            parse_request({"prompt": [b"a"], name: [b"x"]}, {}, plain, request_id="r", arrival_s=0.0)
    with pytest.raises(InvalidArgument) as caught:
        parse_request({"prompt": [b"a"]}, {"guidence_scale": 1}, plain, request_id="r", arrival_s=0.0)
    assert not FAMILY_INPUTS & set(re.findall(r"\w+", str(caught.value)))
    assert "strength" not in plain.by_default


def test_a_misspelt_input_arrives_as_a_parameter() -> None:
    error = refusal(parameters={"num_inference_step": 4})
    assert error.cause == "num_inference_step"
    assert error.problem.startswith(
        "is not an input of this model; did you mean num_inference_steps? Inputs are base64,"
    )


def test_inputs_about_progress_are_of_flux_alone() -> None:
    with pytest.raises(InvalidArgument, match="progress: is not an input of flux_unary; flux itself has it"):
        parse_request({"prompt": [b"a fox"]}, {"progress": True}, LIMITS, request_id="r", arrival_s=0.0, streams=False)


def test_the_soonest_deadline_counts_and_the_default_only_without_any() -> None:
    def seconds(deadline_ms: int, timeout_us: int, default_ms: int) -> float | None:
        request = parse_request(
            {"prompt": [b"a fox"], "deadline_ms": [deadline_ms]},
            {},
            LIMITS,
            request_id="r",
            arrival_s=ARRIVAL_S,
            timeout_us=timeout_us,
            default_deadline_ms=default_ms,
        )
        return None if request.deadline_s is None else round(request.deadline_s - ARRIVAL_S, 6)

    assert seconds(0, 0, 0) is None
    assert seconds(1500, 2_000_000, 100) == 1.5
    assert seconds(0, 0, 100) == 0.1


def test_files_are_counted_with_the_pictures_in_them_and_let_go() -> None:
    other = encode_picture(np.ones((8, 8, 3), np.uint8), "png")
    request = read({"prompt": [b"a", b"b", b"c", b"d"], "seed": [1, 1, 2, 3], "image": [PNG, PNG, other, b""]})
    assert request.upload_bytes == 2 * len(PNG) + len(other) + 3 * 3 * 128 * 256, "rows differ, by their prompts"
    slim = request.without_files()
    assert slim.upload_bytes == 0 and slim.rows_with_images == ()
    assert [row.skipped_steps for row in slim.rows] == [row.skipped_steps for row in request.rows] == [3, 3, 3, 0]
    assert read().upload_bytes == 0


@pytest.mark.parametrize(
    ("steps", "strength", "skipped"),
    [(10, 1.0, 0), (10, 0.6, 4), (10, 0.35, 6), (4, 0.01, 3), (1, 0.01, 0), (28, 0.9, 2)],
)
def test_image_to_image_skips_steps_as_diffusers_does(steps: int, strength: float, skipped: int) -> None:
    row = read({"image": [PNG], "num_inference_steps": [steps], "strength": [strength]}).rows[0]
    assert row.skipped_steps == skipped
    over_the_wire = float(np.float32(strength))
    sent = read({"image": [PNG], "num_inference_steps": [steps], "strength": [over_the_wire]}).rows[0]
    assert (sent.strength, sent.skipped_steps) == (strength, skipped)
    assert read({"num_inference_steps": [steps]}).rows[0].skipped_steps == 0


def test_limits_are_told_by_the_names_of_the_inputs() -> None:
    assert LIMITS.by_default == {
        "height": 128,
        "width": 256,
        "num_inference_steps": 8,
        "guidance_scale": 3.5,
        "strength": 0.6,
    }
    assert LIMITS.at_most == {"height": 512, "width": 1024, "num_inference_steps": 50, "num_images_per_prompt": 4}
    assert {*LIMITS.by_default, *LIMITS.at_most} <= set(INPUTS)
