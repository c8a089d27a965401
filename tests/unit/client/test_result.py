from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from fluxclient import Info, InvalidArgument, Preview, Progress, Result, ServerError
from fluxclient.inputs.request import Request, build_request
from fluxclient.result import read_answer
from fluxclient.transport.grpc_messages import read_response
from tests.unit.client.fakes.answers import INFO, end, error, final, picture, response, step, texts

ONE = np.ones((1, 1), dtype=np.int32)
SEED = np.ones((1, 1), dtype=np.int64)


def request(*prompts: str) -> Request:
    return build_request(prompts or ("a cat",), {}, timeout_s=None)


def read(message: Any, sent: Request) -> Any:
    return read_answer(read_response(message, sent), sent)


def results(message: Any, *prompts: str) -> list[Result]:
    answer = read(message, request(*prompts))
    assert isinstance(answer, list)
    return answer


def test_final_answer_has_a_result_for_each_prompt() -> None:
    files = [[picture("red"), picture("lime")], [picture("blue", "JPEG"), picture("black", "JPEG")]]
    first, second = results(final(files, [[5, 6], [2**62, 1]], mean_batch=3), "one", "two")

    assert (first.prompt, second.prompt) == ("one", "two")
    assert (first.seeds, second.seeds) == ((5, 6), (2**62, 1))
    assert [image.getpixel((0, 0)) for image in first.images] == [(255, 0, 0), (0, 255, 0)]
    assert first.image is first.images[0]
    assert second.images[0].format == "JPEG"
    assert second.files == tuple(files[1])
    assert (first.info.model, first.info.width, first.info.mean_batch) == ("flux-tiny", 32, 3)


def test_raw_pixels() -> None:
    pixels = np.arange(2 * 2 * 4 * 8 * 3, dtype=np.uint8).reshape(2, 2, 4, 8, 3)  # [N, k, H, W, 3]
    outputs = dict(read_response(final([[b"", b""]] * 2, [[1, 2], [3, 4]]), request()))
    del outputs["image"]
    answer = read_answer({**outputs, "pixels": pixels}, request("one", "two"))

    assert isinstance(answer, list)
    assert answer[1].images[0].size == (8, 4)
    assert np.array_equal(np.asarray(answer[1].images[1]), pixels[1, 1])
    assert answer[1].files == ()


def test_progress_and_preview() -> None:
    progress = read(step(3, 8), request())
    preview = read(step(4, 8, "preview", image=texts([[picture("red"), b""]])), request())

    assert (type(progress), progress.step, progress.total_steps) == (Progress, 3, 8)
    assert (type(preview), preview.step, preview.total_steps) == (Preview, 4, 8)
    assert preview.images[0].getpixel((0, 0)) == (255, 0, 0)
    assert preview.images[1] is None, "an image that this step brought no preview of"


def test_response_that_only_marks_the_end_has_no_outputs() -> None:
    assert read_response(end(), request()) == {}


def test_error_message_is_raised_with_the_id_that_was_sent() -> None:
    sent = request()
    with pytest.raises(InvalidArgument) as caught:
        read_response(error("FLUX_INVALID_ARGUMENT: seed: is -1; must be 0 or more"), sent)
    assert (caught.value.field, caught.value.request_id) == ("seed", sent.id)


def test_what_a_newer_server_adds_is_kept() -> None:
    (result,) = results(final([[picture()]], [[1]], step_cache="on"))

    assert result.info.extra == {"step_cache": "on"}


def test_the_end_of_a_prompt_that_had_no_room() -> None:
    (result,) = results(final([[picture()]], [[1]], truncated={"prompt": {"text_encoder_2": "in the rain"}}))
    assert result.info.truncated == {"prompt": {"text_encoder_2": "in the rain"}}
    assert Info.from_json(result.info.to_json().encode()) == result.info

    (result,) = results(final([[picture()]], [[1]]))
    assert result.info.truncated == {}
    assert "truncated" not in json.loads(result.info.to_json())


@pytest.mark.parametrize(
    "message",
    [
        response(seed=SEED),
        response(event=texts([[b"surprise"]]), step=ONE, total_steps=ONE),
        response(event=texts([[b"progress"]])),
        response(event=texts([[b"final"]]), seed=SEED, info=texts([[json.dumps(INFO).encode()]])),
        response(event=texts([[b"final"]]), seed=SEED, image=texts([[picture()]]), info=texts([[b"{}"]])),
        response(event=texts([[b"final"]]), seed=SEED, image=texts([[picture()]]), info=texts([[b"[]"]])),
        final([[b"no picture"]], [[1]]),
    ],
    ids=["no event", "unknown event", "no step", "no image", "poor info", "info no object", "no picture"],
)
def test_unreadable_answer_is_a_server_error(message: Any) -> None:
    sent = request()
    with pytest.raises(ServerError) as caught:
        read(message, sent)
    assert (caught.value.field, caught.value.request_id) == ("answer", sent.id)


def test_fewer_rows_than_prompts_is_a_server_error() -> None:
    with pytest.raises(ServerError):
        results(final([[picture()]], [[1]]), "one", "two")
