"""What is said in headers: `ETag` and `If-Match`, where two people can edit the same thing, and the next page."""

from __future__ import annotations

from typing import Annotated, Protocol, TypeVar

from fastapi import Header, Query, Response

from api import errors
from api.models.base import Cursor

IfMatch = Annotated[
    str | None,
    Header(max_length=100, description="The ETag that you read; 412 when somebody has changed it since."),
]
NextCursor = Annotated[
    Cursor | None, Query(description="The header `X-Next-Cursor` of the page before, of the same `sort`.")
]


class _Versioned(Protocol):
    @property
    def version(self) -> int | str: ...


Versioned = TypeVar("Versioned", bound=_Versioned)


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


def tagged(response: Response, answer: Versioned) -> Versioned:
    """The answer, with its version as its ETag."""
    response.headers["ETag"] = f'"{answer.version}"'
    return answer


def name_next(response: Response, cursor: str | None) -> None:
    """Say where the next page of a list begins, if there is one."""
    if cursor:
        response.headers["X-Next-Cursor"] = cursor
