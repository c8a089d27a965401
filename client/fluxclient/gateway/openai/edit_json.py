"""An edit as JSON with the picture in a data URL, OpenAI's second form."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from fastapi import Request
from starlette.requests import ClientDisconnect

from fluxclient.errors import InvalidArgument, shown
from fluxclient.gateway.errors import BAD_BODY, BODY_TOO_LARGE, INVALID_JSON, ApiError, ClientLeft

IMAGES = "images"

_DATA_URL = "must be a data URL: data:image/png;base64,..."


async def json_fields(request: Request, max_image_bytes: int) -> dict[str, Any]:
    """The image as its file. Raises ApiError or InvalidArgument for a body that is none, and ClientLeft."""
    try:
        fields = json.loads(await request.body())
    except ClientDisconnect:
        raise ClientLeft from None
    except (ValueError, RecursionError):
        raise ApiError(400, BAD_BODY, code=INVALID_JSON) from None
    if not isinstance(fields, dict):
        raise ApiError(400, BAD_BODY, code=INVALID_JSON)
    sent = [name for name in (IMAGES, "image") if fields.get(name) is not None]
    if not sent:
        raise ApiError(400, f"{IMAGES}: is missing", code="missing_required_parameter", param=IMAGES)
    if len(sent) > 1:
        raise InvalidArgument("is there, and so is image; must be one of them", field=IMAGES)
    (name,) = sent
    file = _file(_only(fields[name], name), name, max_image_bytes)
    return {**{key: value for key, value in fields.items() if key not in (IMAGES, "image")}, "image": file}


def _only(references: object, name: str) -> str:
    """The data URL of the one picture, which may be in a list, and in an object."""
    if isinstance(references, list):
        if len(references) != 1:
            raise InvalidArgument(f"holds {len(references)} pictures; must be one", field=name)
        references = references[0]
    if isinstance(references, dict):
        if "file_id" in references:
            problem = "names a file_id, and no files are kept here; send the picture itself, as image_url: a data URL"
            raise InvalidArgument(problem, field=name)
        if set(references) != {"image_url"}:
            problem = (
                f'has the keys {shown(sorted(references))}; must be like {{"image_url": "data:image/png;base64,..."}}'
            )
            raise InvalidArgument(problem, field=name)
        references = references["image_url"]
    if not isinstance(references, str):
        raise InvalidArgument(f"is {shown(references)}; {_DATA_URL}", field=name)
    return references


def _file(url: str, name: str, most: int) -> bytes:
    head, comma, text = url.partition(",")
    scheme = head.partition(":")[0].lower()
    if scheme in ("http", "https"):
        problem = f"is {shown(url[:200])}, and pictures of other machines are not fetched; {_DATA_URL}"
        raise InvalidArgument(problem, field=name)
    if scheme != "data" or not comma or not head.lower().endswith(";base64"):
        raise InvalidArgument(f"is {shown(url[:200])}; {_DATA_URL}", field=name)
    try:
        file = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):  # ValueError: not even ASCII
        raise InvalidArgument(f"is {shown(url[:200])}, whose base64 cannot be read; {_DATA_URL}", field=name) from None
    if len(file) > most:
        raise ApiError(413, f"{name}: is {len(file)} bytes; must be at most {most}", code=BODY_TOO_LARGE, param=name)
    return file
