"""`ETag` and `If-Match`, where two people can edit the same thing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Header
from fastapi.responses import JSONResponse

from api import errors

IfMatch = Annotated[
    str | None,
    Header(max_length=100, description="The ETag that you read; 412 when somebody has changed it since."),
]
ETAG: dict[str, Any] = {
    "ETag": {"description": "For `If-Match` of a change.", "schema": {"type": "string"}},
}


def named(if_match: str | None) -> str | None:
    """What `If-Match` names; None: any."""
    if if_match is None or if_match.strip() == "*":
        return None
    return if_match.strip().removeprefix("W/").strip('"')


def version(if_match: str | None) -> int | None:
    """The version that `If-Match` names; None: any. Raises StaleVersionError for what is no number."""
    text = named(if_match)
    if text is None:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 18:  # noqa: PLR2004 - digits of a bigint
        raise errors.StaleVersionError
    return int(text)


def with_etag(document: Mapping[str, Any], status: int = 200, **headers: str) -> JSONResponse:
    """A document with its `version` as its ETag."""
    return JSONResponse(document, status_code=status, headers={**headers, "ETag": f'"{document["version"]}"'})
