"""Whether anybody has set anything: asked before the model of all settings is loaded, which takes its time."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from lobservatory.errors import SettingsError

PREFIX = "LOBS_"


def config_file() -> Path | None:
    """The configuration file that is used. Raises SettingsError when the named one is not there."""
    named = os.environ.get("LOBS_CONFIG_FILE")
    if named:
        path = Path(named).expanduser()
        if not path.is_file():
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
