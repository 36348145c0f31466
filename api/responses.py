"""What the document says of answers besides their bodies: the problems of a route, and the header of the next page."""

from __future__ import annotations

from typing import Any

from api.errors import MEDIA_TYPE

_TEXTS = {
    400: "The body is not JSON.",
    401: "No valid token.",
    403: "The token may not do this, or a page of another origin sent it.",
    404: "There is no such thing.",
    405: "Not with this method.",
    408: "The body did not arrive in time.",
    409: "It does not fit the present state.",
    412: "It has been changed since.",
    413: "The body is too large.",
    422: "A field is wrong.",
    428: "A confirmation is needed.",
    429: "Too many requests; Retry-After says when.",
    502: "The gateway refused.",
    503: "A dependency is away.",
}
_BODY = (400, 408, 413, 422)


# Of a list that is an array: the next page is named by a header.
PAGED: dict[int | str, dict[str, Any]] = {
    200: {
        "headers": {
            "X-Next-Cursor": {
                "description": "Give it as `cursor` for the next page; absent: there is none.",
                "schema": {"type": "string"},
            }
        }
    }
}


def problems(*statuses: int, body: bool = False) -> dict[int | str, dict[str, Any]]:
    """Answers of a route besides its success: those every protected route has, and `statuses`."""
    every = {401, 403, 422, 429, 503, *statuses, *(_BODY if body else ())}
    return {
        status: {
            "description": _TEXTS[status],
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in sorted(every)
    }
