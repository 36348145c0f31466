"""The patterns of texts, and what is said of a text that does not match."""

from __future__ import annotations

from collections.abc import Mapping

IDENTIFIER = r"^[^\s\x00-\x1f/?#]+$"
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
NAME_WITH_SPACES = r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$"
SKILL_KEY = r"^[A-Za-z0-9@][A-Za-z0-9@._-]*$"
SLUG = r"^@?[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?$"
ONE_LINE = r"^[^\x00-\x1f]+$"
PATH = r"^[/~][^\x00-\x1f]*$"
CRON = r"^[0-9A-Za-z*/,?#LW \-]+$"
TIME_ZONE = r"^[A-Za-z][A-Za-z0-9_+/-]*$"

SAID: Mapping[str, str] = {
    IDENTIFIER: "must be a name without spaces, control characters, /, ? and #",
    NAME: "must be of the letters A to Z, digits, ., _ and -, and begin with a letter or digit",
    NAME_WITH_SPACES: "must be of the letters A to Z, digits, spaces, ., _ and -, and begin with a letter or digit",
    SKILL_KEY: "must be of the letters A to Z, digits, @, ., _ and -, and begin with a letter, a digit or @",
    SLUG: "must be of the letters A to Z, digits, ., _ and -, for example skill or @owner/skill",
    ONE_LINE: "must be without control characters",
    PATH: "must be a path that begins with / or ~ and is without control characters",
    CRON: "must be a cron expression, for example 0 3 * * *",
    TIME_ZONE: "must be an IANA time zone, for example Europe/Berlin",
}
