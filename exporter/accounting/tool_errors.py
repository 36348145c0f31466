"""The kind of a tool's failure, from what its result tells in names and numbers. Pure.

The text of an error is content: it is looked at and not kept.
"""

from __future__ import annotations

from typing import Final, Literal

from openclaw.stores import Details

ErrorClass = Literal["timeout", "signal", "exit_status", "not_run", "not_found", "denied", "invalid", "other"]

_TOLD: Final = 500  # characters of an error's text in which its kind is looked for
_MARKS: Final[tuple[tuple[ErrorClass, tuple[str, ...]], ...]] = (
    ("timeout", ("timed out", "timeout", "etimedout")),
    ("not_found", ("not found", "no such file", "enoent", "does not exist")),
    ("denied", ("denied", "permission", "eacces", "eperm", "not allowed", "forbidden", "not permitted")),
    ("invalid", ("invalid", "required", "must be", "validation", "unexpected")),
)


def error_class(outcome: Literal["ok", "error", "nonzero_exit"], details: Details | None) -> ErrorClass | None:
    """timeout, signal, exit_status, not_run (a command that never began: denied by a person, or not startable),
    not_found, denied, invalid or other; None when there was no failure.

    OpenClaw 2026.4.27 does not flag an error that its details have (`status` error): its kind is told all the same.
    """
    if outcome == "ok" and (details is None or details.status != "error"):
        return None
    if details is None:
        return "other"
    if details.timedOut is True or details.noOutputTimedOut is True:
        return "timeout"
    if outcome == "nonzero_exit" or (type(details.exitCode) is int and details.exitCode):
        return "signal" if details.exitSignal else "exit_status"
    return _told(details)


def _told(details: Details) -> ErrorClass:
    text = details.error[:_TOLD].lower() if isinstance(details.error, str) else ""
    for name, marks in _MARKS:
        if any(mark in text for mark in marks):
            return name
    if details.exitSignal:
        return "signal"
    return "not_run" if details.status == "failed" else "other"
