"""Session keys: what kind of session a key means. Pure."""

from __future__ import annotations

import re

_AGENT = re.compile(r"agent:[^:]*:")
_THREAD = re.compile(r":(?:thread|topic):.*$")
_FIRST = {
    "cron": "cron",
    "subagent": "subagent",
    "hook": "hook",
    "dashboard": "dashboard",
    "acp": "acp",
}
# `room` is what some channels call a channel; `dm` is what older versions wrote for `direct`.
_CHAT = {"direct": "direct", "dm": "direct", "group": "group", "channel": "channel", "room": "channel"}


def session_kind(key: str | None, *, created_via: str = "") -> str:
    """One of the catalogue's kinds. A sub-agent is known by its key, or by how it was made, never by having a parent.

    A run that a webhook started may have a key like a cron run's: only the store's index tells, not the key.
    """
    if not key:
        return "unknown"
    rest = _AGENT.sub("", key, count=1) if key.startswith("agent:") else key
    first, *others = rest.split(":")
    kind = _FIRST.get(first) if others else None
    if "subagent" in rest.split(":")[:-1] or (kind is None and created_via == "spawn"):
        kind = "subagent"
    elif first == "main" and (not others or others[0] in {"thread", "topic"}):
        kind = "main"
    elif kind is None:
        kind = next((_CHAT[part] for part in rest.split(":")[:-1] if part in _CHAT), "other")
    return kind


def thread_parent(key: str | None) -> str | None:
    """The key of the conversation that a thread or topic belongs to."""
    if not key or not _THREAD.search(key):
        return None
    return _THREAD.sub("", key) or None
