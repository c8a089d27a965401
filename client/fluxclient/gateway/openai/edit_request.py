"""What OpenAI's `POST /v1/images/edits` asks for: image to image."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ConfigDict, ValidationError
from starlette.datastructures import Headers

from fluxclient.errors import InvalidArgument, shown
from fluxclient.gateway.admission.media_type import FORM, JSON, media_type, unsupported
from fluxclient.gateway.errors import ApiError
from fluxclient.gateway.fields import Strength
from fluxclient.gateway.openai.edit_form import form_fields
from fluxclient.gateway.openai.edit_json import IMAGES, json_fields
from fluxclient.gateway.openai.image_request import OPENAI_NAMES, ImageRequest
from fluxclient.inputs.source_image import drawn_steps

EDITS_PATH = "/v1/images/edits"

_STRENGTH = 0.6
"""What the server takes where none is said; here it only tells how previews are spread."""


class ImageEditRequest(ImageRequest):
    EVENTS: ClassVar[str] = "image_edit"
    TAKES_ALL_STEPS: ClassVar[bool] = False

    image: bytes
    """The file."""
    strength: Strength | None = None
    input_fidelity: Literal["high", "low"] | None = None  # accepted, as clients send it, and without effect

    def drawn_steps(self, total: int) -> int:
        return drawn_steps(total, _STRENGTH if self.strength is None else self.strength)


class ImageEditForm(ImageEditRequest):
    """All values come as text."""

    model_config = ConfigDict(strict=False)


class ImageEditJson(ImageEditRequest):
    @property
    def names(self) -> Mapping[str, str]:
        return {**OPENAI_NAMES, "image": IMAGES}


def max_image_share(headers: Headers, max_image_bytes: int) -> int:
    """How many bytes of a body its picture may take."""
    return (max_image_bytes + 2) // 3 * 4 if media_type(headers) == JSON else max_image_bytes


async def read_edit(request: Request, max_image_bytes: int, origins: Collection[str]) -> ImageEditRequest:
    """A form, or JSON. Pages of `origins` may send forms, too.

    Raises ApiError, InvalidArgument or RequestValidationError for a body that is none, and ClientLeft.
    """
    kind = media_type(request.headers)
    if kind == JSON:
        fields = await json_fields(request, max_image_bytes)
        return _validated(ImageEditJson, fields)
    _refuse_other_sites(request, origins)
    if kind != FORM:
        raise unsupported(request.headers, FORM, JSON)
    return _validated(ImageEditForm, await form_fields(request, max_image_bytes, ImageEditForm.model_fields))


def _validated(model: type[ImageEditRequest], fields: dict[str, Any]) -> ImageEditRequest:
    if fields.pop("mask", None) is not None:
        problem = "is not supported: what changes is the whole image, by its strength; leave the mask out"
        raise InvalidArgument(problem, field="mask")
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        problems = [{**problem, "loc": ("body", *problem["loc"])} for problem in error.errors()]
        raise RequestValidationError(problems) from None


def _refuse_other_sites(request: Request, origins: Collection[str]) -> None:
    """Any site's page can make the browser of whoever looks at it send a form here, and have pictures drawn.

    Browsers say where a form comes from, other programs need not. Behind a proxy `Host` may not be what the browser
    sees, but then it says `Sec-Fetch-Site`, which it does not over plain HTTP but on this very machine.
    """
    said = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if origin is not None and ("*" in origins or origin in origins):
        return
    if said is not None:
        foreign = said not in ("same-origin", "none")
    else:
        foreign = origin is not None and urlsplit(origin).netloc != request.headers.get("host")
    if foreign:
        message = f"Origin: is {shown(origin or said)}; forms are taken from this gateway's own page, and from programs"
        raise ApiError(403, message, code="foreign_origin")
