"""What can go wrong and be said: one base for all rooms, and the one place that turns it into words for somebody.

`end` makes an exit of it, `sentence` the text of a problem document, `one_line` the text of a log line.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn


class LobservatoryError(Exception):
    """Something that whoever meets it can understand, and mostly put right.

    `what`: what is wrong; it names the input. `why`: the cause, where another one said it. `remedy`: what to do.
    `field`: the argument or setting that is wrong, for programs. The text has them on one line, or one line for each
    problem where there are several, and never holds a secret.
    """

    exit_status = 1  # of a program that ends with it

    def __init__(self, what: str, field: str | None = None, *, why: str = "", remedy: str = "") -> None:
        text = f"{what}: {why}" if why else what
        super().__init__(f"{text}; {remedy}" if remedy else text)
        self.what = what
        self.why = why
        self.remedy = remedy
        self.field = field


class UserError(LobservatoryError):
    """Something that the person at the keyboard can put right. `status`: of the exit."""

    def __init__(self, what: str, *, why: str = "", remedy: str = "", status: int = 1) -> None:
        super().__init__(what, why=why, remedy=remedy)
        self.exit_status = status


class SettingsError(LobservatoryError):
    """A setting is unknown, missing or wrong. The text names it and says what to do."""

    exit_status = 2


class StartError(LobservatoryError):
    """A process cannot start with these settings and surroundings."""


class NotFoundError(LobservatoryError):
    """There is no such thing, or whoever asks may not see it."""


class ConflictError(LobservatoryError):
    """It is there and does not allow it: an illegal transition, a taken name, a circle, a key of another request."""


class InvalidValueError(LobservatoryError):
    """A value that no row can have."""


def end(
    program: str, error: LobservatoryError, *, status: int | None = None, redact: Callable[[str], str] = str
) -> NoReturn:
    """End a program with what is wrong on stderr, each line after its name. `status` None: the error's own."""
    for line in redact(str(error)).splitlines() or ["failed"]:
        print(f"{program}: {line}", file=sys.stderr)  # noqa: T201 - this is the program's answer
    raise SystemExit(error.exit_status if status is None else status) from None


def sentence(error: LobservatoryError) -> str:
    """The text as a sentence, as a client gets it."""
    text = str(error)
    return text[:1].upper() + text[1:].removesuffix(".") + "."


def one_line(error: BaseException) -> str:
    """The first line of any error's text, as a log has it; where it has none, its kind."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
