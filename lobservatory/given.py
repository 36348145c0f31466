"""Whether anybody has set anything: asked before the model of all settings is loaded, which takes its time."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from lobservatory.errors import SettingsError

PREFIX = "LOBS_"


def path_of(text: str) -> Path:
    """A path as a person writes it. Raises ValueError for one that cannot be."""
    if "\0" in text:
        raise ValueError("there is no path with a NUL character in it")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{text!r} begins with a user who has no home directory here") from error


def is_file(path: Path) -> bool:
    """Whether there is such a file. Never raises, also where the name alone is impossible."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def config_file() -> Path | None:
    """The configuration file that is used. Raises SettingsError when the named one is not there."""
    named = os.environ.get("LOBS_CONFIG_FILE")
    if named:
        try:
            path = path_of(named)
        except ValueError as error:
            raise SettingsError(f"LOBS_CONFIG_FILE: {error}") from error
        if not is_file(path):
            raise SettingsError(f"LOBS_CONFIG_FILE: there is no file {path}")
        return path
    config_home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    for path in (Path("lobservatory.toml"), config_home / "lobservatory" / "lobservatory.toml"):
        if path.is_file():
            return path
    return None


def nothing_given(environment: Mapping[str, str]) -> bool:
    """Whether every setting has its default: no file, and no variable of ours."""
    return not any(name.startswith(PREFIX) for name in environment) and config_file() is None
