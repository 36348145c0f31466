"""What the use of a tool is called. No content passes: a text names a tool and at most the name of a file."""

from __future__ import annotations

from pathlib import PurePosixPath

from openclaw.wrapped import TOOL_CALL

THINKING = "Thinking"  # between two tools
_FILE_TOOLS = {"read": "Reading", "write": "Writing", "edit": "Editing", "apply_patch": "Editing"}
_ACTIVITIES = {
    "exec": "Running a command",
    "bash": "Running a command",
    "process": "Watching a command",
    "sessions_spawn": "Starting a sub-agent",
    "sessions_send": "Writing to another session",
    "web_search": "Searching the web",
    "web_fetch": "Fetching a page",
    "browser": "Using the browser",
    "message": "Sending a message",
    "memory_search": "Searching memory",
    "memory_get": "Reading memory",
    "cron": "Planning a job",
    "image": "Looking at an image",
    TOOL_CALL: "Using a tool",
}


def file_name(hint: str | None) -> str | None:
    """The last part of a path, when it is short and plain; `hint` may begin with a word such as `from`."""
    if not hint:
        return None
    name = PurePosixPath(hint.strip().split(" ")[-1].replace("\\", "/")).name
    return name if 0 < len(name) <= 64 and name.isprintable() else None  # noqa: PLR2004 - as label values


def activity_text(tool: str, hint: str | None = None) -> str:
    """What using a tool is called: `Reading notes.md`, `Running a command`, `Using calendar`."""
    if tool in _FILE_TOOLS:
        return f"{_FILE_TOOLS[tool]} {file_name(hint) or 'a file'}"
    return _ACTIVITIES.get(tool) or f"Using {tool}"
