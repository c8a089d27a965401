"""The form of OpenAI's `POST /v1/images/edits`: image to image."""

from __future__ import annotations

from typing import ClassVar, Literal
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ConfigDict, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from fluxclient.errors import InvalidArgument
from fluxclient.gateway.errors import BODY_TOO_LARGE, INVALID_FORM, ApiError, ClientLeft
from fluxclient.gateway.image_request import ImageRequest
from fluxclient.request import Options
from fluxclient.source_image import drawn_steps

EDITS_PATH = "/v1/images/edits"

_FORM = "multipart/form-data"
_MOST_FILES = 8  # more than one is refused by name, and many are not worth reading
_MOST_FIELDS = 100
_STRENGTH = 0.6
"""What the server takes where none is said; here it only tells how previews are spread."""


class ImageEditRequest(ImageRequest):
    """As ImageRequest, but all values come as text."""

    model_config = ConfigDict(strict=False)
    EVENTS: ClassVar[str] = "image_edit"
    TAKES_ALL_STEPS: ClassVar[bool] = False

    image: bytes
    """The file."""
    strength: float | None = None
    input_fidelity: Literal["high", "low"] | None = None  # accepted, as clients send it, and without effect

    def options(self) -> Options:
        options: Options = {**super().options(), "image": self.image}
        if self.strength is not None:
            options["strength"] = self.strength
        return options

    def drawn_steps(self, total: int) -> int:
        return drawn_steps(total, _STRENGTH if self.strength is None else self.strength)


async def read_edit(request: Request, max_image_bytes: int) -> ImageEditRequest:
    """Raises ApiError, InvalidArgument or RequestValidationError for a form that is none, and ClientLeft."""
    _refuse_other_sites(request)
    if not request.headers.get("content-type", "").lower().startswith(_FORM):
        raise ApiError(400, f"body: must be a form, sent with Content-Type: {_FORM}", code=INVALID_FORM)
    try:
        async with request.form(max_files=_MOST_FILES, max_fields=_MOST_FIELDS) as form:
            fields = await _fields(form, max_image_bytes)
    except ClientDisconnect:
        raise ClientLeft from None
    except HTTPException as error:
        if error.status_code != 400:
            raise
        raise ApiError(400, f"body: is no form that can be read: {error.detail}", code=INVALID_FORM) from None
    try:
        return ImageEditRequest.model_validate(fields)
    except ValidationError as error:
        problems = [{**problem, "loc": ("body", *problem["loc"])} for problem in error.errors()]
        raise RequestValidationError(problems) from None


async def _fields(form: FormData, max_image_bytes: int) -> dict[str, str | bytes]:
    """Each once, the image as its file."""
    fields: dict[str, str | bytes] = {}
    for sent, value in form.multi_items():
        name = sent.removesuffix("[]")  # OpenAI's clients send `image[]` where they were given a list
        if name == "mask":
            problem = "is not supported: what changes is the whole image, by its strength; leave the mask out"
            raise InvalidArgument(problem, field="mask")
        if name in fields:
            raise InvalidArgument("is there more than once; must be one", field=name)
        if not isinstance(value, UploadFile):
            fields[name] = value
        elif name == "image":
            fields[name] = await _file(value, max_image_bytes)
        elif name in ImageEditRequest.model_fields:
            raise InvalidArgument("is a file; must be text", field=name)
        else:
            fields[name] = value.filename or ""  # refused as unknown
    return fields


async def _file(upload: UploadFile, most: int) -> bytes:
    if upload.size is not None and upload.size > most:
        message = f"image: is {upload.size} bytes; must be at most {most}"
        raise ApiError(413, message, code=BODY_TOO_LARGE, param="image")
    return await upload.read()


def _refuse_other_sites(request: Request) -> None:
    """Any site's page can make the browser of whoever looks at it send a form here, and have pictures drawn.

    Browsers say where a form comes from, other programs need not. Behind a proxy `Host` may not be what the browser
    sees, but then it says `Sec-Fetch-Site`, which it does not over plain HTTP but on this very machine.
    """
    said = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if said is not None:
        foreign = said not in ("same-origin", "none")
    else:
        foreign = origin is not None and urlsplit(origin).netloc != request.headers.get("host")
    if foreign:
        message = f"Origin: is {origin or said!r}; forms are taken from this gateway's own page, and from programs"
        raise ApiError(403, message, code="foreign_origin")
