"""Tools that a model calls through another tool. From 2026.9 on it has only some tools at hand and calls the others as
`tool_call {id, args}`: what it asked for is the tool that these arguments name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from openclaw.fields import mapping, text

TOOL_CALL: Final = "tool_call"
_NAMES: Final = ("id", "toolId", "name")  # of the member that chooses the tool, as the gateway reads them
_INNER_ID: Final = re.compile(r"^tool_search_code:(?P<parent>[^:]+):")


def asked_for(tool: str, arguments: Any) -> str:
    """The name of the tool that was asked for; `tool` itself where it is no other's cloak, or does not tell."""
    if tool != TOOL_CALL:
        return tool
    given = mapping(arguments)
    for level in (given, mapping(given, "args"), mapping(given, "input")):
        for member in _NAMES:
            chosen = text(level.get(member), 256)
            if chosen is not None and chosen.strip():
                return chosen.strip().rsplit(":", 1)[-1] or tool  # `openclaw:core:sessions_spawn` is an id
    return tool


def parent_of(event: Mapping[str, Any]) -> str | None:
    """The call of which the call in a pushed event is a part; None for one that the model asked for."""
    inner = _INNER_ID.match(text(event.get("toolCallId"), 200) or "")
    return text(event.get("parentToolCallId")) or (inner["parent"] if inner else None)
