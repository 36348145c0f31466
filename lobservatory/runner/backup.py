"""Backup and restore of the database, with the `pg_dump` and `pg_restore` of the wheel or of the system.

A backup is PostgreSQL's own custom format, without owners and privileges: a restore gives them anew. Passwords go to
the programs by their environment, never by their arguments.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from urllib.parse import quote, urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from lobservatory.errors import UserError
from lobservatory.runner import postgres
from lobservatory.runner.access import database_url
from lobservatory.settings import Settings, read_secret
from store.migrate import migrate

_SECONDS = 6 * 3600  # for one run of a program; a database that takes longer needs other means
_CONNECT_SECONDS = 10
_PRIVATE = 0o600


def backup(settings: Settings, path: Path) -> int:
    """Write the whole database into a new file of mode 0600; gives its size in bytes. Raises UserError."""
    if path.exists():
        raise UserError(f"backup: {path} is there already: name a new file")
    url = _owner_url(settings)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE))
    except OSError as error:
        raise UserError(f"backup: {path} cannot be written: {error.strerror}") from error
    try:
        _run("pg_dump", url, "--format=custom", "--no-owner", "--no-privileges", f"--file={fresh}")
        size = fresh.stat().st_size
        fresh.rename(path)
    finally:
        fresh.unlink(missing_ok=True)
    return size


def restore(settings: Settings, path: Path) -> None:
    """Fill an empty database from a backup, then bring its schema up to date. As a whole or not at all. Raises
    UserError, MigrateError."""
    if not path.is_file():
        raise UserError(f"restore: there is no file {path}")
    url = _owner_url(settings)
    try:
        with psycopg.connect(url, autocommit=True, connect_timeout=_CONNECT_SECONDS) as connection:
            if connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = 'lobs'").fetchone():
                raise UserError(
                    "restore: the database is not empty. Restore into a new one: CREATE DATABASE … OWNER lobs_owner, "
                    "then name it in LOBS_MIGRATE_URL and LOBS_DATABASE_URL"
                )
            timescale = connection.execute("SELECT 1 FROM pg_extension WHERE extname = 'timescaledb'").fetchone()
            if timescale:
                connection.execute("SELECT public.timescaledb_pre_restore()")
            try:
                _run(
                    "pg_restore", url, "--exit-on-error", "--no-owner", "--no-privileges",
                    *([] if timescale else ["--single-transaction"]), str(path),
                )  # fmt: skip
            finally:
                if timescale:
                    connection.execute("SELECT public.timescaledb_post_restore()")
    except psycopg.Error as error:
        raise UserError(f"restore: {str(error).strip().splitlines()[0]}") from error
    migrate(url)


def _owner_url(settings: Settings) -> str:
    """The database as its owner. Raises UserError and SettingsError."""
    given = settings.migrate_url.get_secret_value() or settings.database_url.get_secret_value()
    if given:
        return given
    parts = urlsplit(database_url(settings))
    secret = settings.data_dir / "secrets" / f"postgres_{postgres.OWNER}"
    password = quote(read_secret(secret, str(secret)), safe="")
    return parts._replace(netloc=f"{postgres.OWNER}:{password}@{parts.hostname}:{parts.port}").geturl()


def _program(name: str) -> Path:
    try:
        found = postgres.binaries_for_clients() / name
        if found.is_file():
            return found
    except postgres.PostgresError:
        pass  # then that of the system, if there is one
    system = shutil.which(name)
    if system is None:
        raise UserError(f"{name} is not installed: run `make venv`, or install PostgreSQL's client programs")
    return Path(system)


def _run(name: str, url: str, *arguments: str) -> None:
    known = conninfo_to_dict(url)
    password = str(known.pop("password", "") or "")
    environment = {"PATH": os.defpath, "LC_ALL": "C", "HOME": "/", "PGCONNECT_TIMEOUT": str(_CONNECT_SECONDS)}
    if password:
        environment["PGPASSWORD"] = password
    argv = [str(_program(name)), "--no-password", f"--dbname={make_conninfo('', **known)}", *arguments]
    try:
        done = subprocess.run(  # noqa: S603 - a fixed program; arguments are ours and a path
            argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{name}: {error.strerror if isinstance(error, OSError) else 'took too long'}") from error
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise UserError(lines[0] if lines else f"{name} ended with status {done.returncode}")
