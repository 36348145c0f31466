"""Passwords and tokens, generated once, each in a file of mode 0600 under `<data_dir>/secrets` (0700).

Their values are never printed, logged or put on a command line; processes get the path of the file.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from lobservatory.errors import UserError
from lobservatory.settings import read_secret

SERVICES = {
    "api_password": "password of the web login and of POST /api/auth/login",
    "api_token": "service token of the API: Alertmanager's webhook and scripts of this host",
    "grafana_admin_password": "password of Grafana's user admin",
}
# The embedded database makes its own when it is initialised; compose wants them before its database starts.
DATABASE = {
    "postgres_lobs_superuser": "the database's superuser",
    "postgres_lobs_owner": "role lobs_owner: migrations",
    "postgres_lobs_writer": "role lobs_writer: exporter and API",
    "postgres_lobs_reader": "role lobs_reader: Grafana",
}
_BYTES = 32  # 256 bit: no dictionary and no rate limit is needed to keep it safe
_PRIVATE = 0o600


def folder(data_dir: Path) -> Path:
    """Where the secrets of a data directory are."""
    return data_dir / "secrets"


def private_directory(path: Path) -> Path:
    """Make `path` with mode 0700 when it is missing. Raises UserError; never changes a directory that is there."""
    try:
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"LOBS_DATA_DIR: {path} cannot be made: {error.strerror}. Set LOBS_DATA_DIR to a directory of yours"
        ) from error
    return path


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, as a whole or not at all. Raises UserError."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        fresh.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def create(data_dir: Path, *, database: bool = False) -> Path:
    """Generate what is missing and return the folder. Raises UserError when one can be read by others.

    `database`: also the passwords of the database's roles.
    """
    try:
        data_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"LOBS_DATA_DIR: {data_dir} cannot be made: {error.strerror}. "
            "Set LOBS_DATA_DIR to a directory that you may write"
        ) from error
    place = private_directory(folder(data_dir))
    for name in (*SERVICES, *(DATABASE if database else ())):
        path = place / name
        if not path.exists():
            write_private(path, secrets.token_urlsafe(_BYTES) + "\n")
    for problem in problems(data_dir):
        raise UserError(problem)
    return place


def read(data_dir: Path, name: str) -> str:
    """One secret. Raises SettingsError when its file cannot be read."""
    return read_secret(folder(data_dir) / name, name)


def problems(data_dir: Path) -> list[str]:
    """One line for each secret that others may read, or that is empty."""
    place = folder(data_dir)
    found = []
    try:
        paths = [place, *sorted(path for path in place.iterdir() if path.is_file())]
    except OSError as error:
        return [f"{place}: {error.strerror}: `lobservatory up` makes it"]
    for path in paths:
        status = path.stat()
        if stat.S_IMODE(status.st_mode) & 0o077:
            found.append(f"{path} can be read by others: chmod {'700' if path == place else '600'} {path}")
        elif path != place and not status.st_size:
            found.append(f"{path} is empty: delete it, and the next `lobservatory up` makes a new one")
    return found
