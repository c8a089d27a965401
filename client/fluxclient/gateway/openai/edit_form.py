"""An edit as a form with a file in it, as OpenAI's clients send it."""

from __future__ import annotations

from collections.abc import Collection
from email.message import Message

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from fluxclient.errors import InvalidArgument, shown
from fluxclient.gateway.errors import BODY_TOO_LARGE, INVALID_FORM, ApiError, ClientLeft

_MOST_FILES = 8  # more than one is refused by name, and many are not worth reading
_MOST_FIELDS = 100


async def form_fields(request: Request, max_image_bytes: int, known: Collection[str]) -> dict[str, str | bytes]:
    """Each once, the image as its file; fields that are not `known` may be anything.

    Raises ApiError or InvalidArgument for a form that is none, and ClientLeft.
    """
    _refuse_charsets(request)
    try:
        async with request.form(max_files=_MOST_FILES, max_fields=_MOST_FIELDS) as form:
            return await _fields(form, max_image_bytes, known)
    except ClientDisconnect:
        raise ClientLeft from None
    except HTTPException as error:
        if error.status_code != 400:
            raise
        raise ApiError(400, f"body: is no form that can be read: {error.detail}", code=INVALID_FORM) from None


def _refuse_charsets(request: Request) -> None:
    """Starlette takes the name of any codec of Python, and some take long."""
    content_type = Message()
    content_type["content-type"] = request.headers["content-type"]
    charset = content_type.get_param("charset", "utf-8")
    if not isinstance(charset, str) or charset.lower() not in ("utf-8", "utf8", "us-ascii"):
        raise ApiError(400, f"body: is a form in {shown(charset)}; must be in UTF-8", code=INVALID_FORM)


async def _fields(form: FormData, max_image_bytes: int, known: Collection[str]) -> dict[str, str | bytes]:
    fields: dict[str, str | bytes] = {}
    for sent, value in form.multi_items():
        name = sent.removesuffix("[]")  # OpenAI's clients send `image[]` where they were given a list
        if name in fields:
            raise InvalidArgument("is there more than once; must be one", field=name)
        if not isinstance(value, UploadFile):
            fields[name] = value
        elif name == "image":
            fields[name] = await _file(value, max_image_bytes)
        elif name in known:
            raise InvalidArgument("is a file; must be text", field=name)
        else:
            fields[name] = value.filename or ""  # refused by its name
    return fields


async def _file(upload: UploadFile, most: int) -> bytes:
    if upload.size is not None and upload.size > most:
        message = f"image: is {upload.size} bytes; must be at most {most}"
        raise ApiError(413, message, code=BODY_TOO_LARGE, param="image")
    return await upload.read()
