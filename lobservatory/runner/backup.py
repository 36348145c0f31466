"""Backup and restore of the database, with the `pg_dump` and `pg_restore` of the wheel or of the system.

A backup is PostgreSQL's own custom format, without owners and privileges: a restore gives them anew. Passwords go to
the programs by their environment, never by their arguments.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import IO, Any
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
_KNOWS_TRANSACTION_TIMEOUT = 170_000  # pg_restore sets it; an older server refuses the name


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
            timescale = _needs_timescale(connection, path)
            if timescale:
                connection.execute("SELECT public.timescaledb_pre_restore()")
            try:
                if connection.info.server_version >= _KNOWS_TRANSACTION_TIMEOUT:
                    _run(
                        "pg_restore", url, "--exit-on-error", "--no-owner", "--no-privileges", "--single-transaction",
                        str(path),
                    )  # fmt: skip
                else:
                    _restore_by_script(url, path)
            finally:
                if timescale:
                    connection.execute("SELECT public.timescaledb_post_restore()")
    except psycopg.Error as error:
        raise UserError(f"restore: {str(error).strip().splitlines()[0]}") from error
    migrate(url)


def _needs_timescale(connection: psycopg.Connection[Any], path: Path) -> bool:
    """Whether the backup is of a database with TimescaleDB; then the extension is there (its version has to be that
    of the backup). Raises UserError."""
    if b" EXTENSION - timescaledb" not in _run("pg_restore", None, "--list", str(path)):
        return False
    if not connection.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'timescaledb'").fetchone():
        raise UserError(
            "restore: the backup is of a database with TimescaleDB, which this server does not have: restore it on one "
            "with the same version of the extension"
        )
    connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
    return True


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


def _restore_by_script(url: str, path: Path) -> None:
    """For a server that is older than our programs: the script of pg_restore without the setting that it does not
    know, through psql in one transaction. It ends only when pg_restore has said that its script is complete."""
    argv, environment = _command("psql", url)
    argv += ["--no-psqlrc", "--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1", "--file=-"]
    script, _ = _command("pg_restore", None)
    script += ["--no-owner", "--no-privileges", "--file=-", str(path)]
    with (
        tempfile.TemporaryFile() as said,
        tempfile.TemporaryFile() as complained,
        subprocess.Popen(script, env=environment, stdout=subprocess.PIPE, stderr=complained) as source,  # noqa: S603 - as below
        subprocess.Popen(  # noqa: S603 - as below
            argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said
        ) as target,
    ):
        if source.stdout is None or target.stdin is None:
            raise AssertionError("pipes were asked for")
        try:
            for line in source.stdout:
                if line.startswith(b"SET transaction_timeout"):
                    break
                target.stdin.write(line)
            shutil.copyfileobj(source.stdout, target.stdin)
            if source.wait(_SECONDS) == 0:
                target.stdin.close()
        except BrokenPipeError:
            source.kill()
            target.wait(_SECONDS)  # it has refused something, and says what
        finally:
            if not target.stdin.closed:
                target.kill()  # before it sees the end of a script that is not complete, and commits
                target.wait(_SECONDS)
                with contextlib.suppress(BrokenPipeError):
                    target.stdin.close()
        if source.wait(_SECONDS) or target.wait(_SECONDS):
            raise UserError(_complaint(said) or _complaint(complained) or "pg_restore and psql failed")


def _complaint(file: IO[bytes]) -> str:
    """The first error that a program wrote."""
    file.seek(0)
    lines = file.read(100_000).decode("utf-8", "replace").splitlines()
    return next((line for line in lines if "error" in line.lower()), "")


def _command(name: str, url: str | None) -> tuple[list[str], dict[str, str]]:
    """The beginning of a command line, and its environment; `url`: what it connects to."""
    environment = {"PATH": os.defpath, "LC_ALL": "C", "HOME": "/", "PGCONNECT_TIMEOUT": str(_CONNECT_SECONDS)}
    if url is None:
        return [str(_program(name))], environment
    known = conninfo_to_dict(url)
    password = str(known.pop("password", "") or "")
    if password:
        environment["PGPASSWORD"] = password
    return [str(_program(name)), "--no-password", f"--dbname={make_conninfo('', **known)}"], environment


def _run(name: str, url: str | None, *arguments: str) -> bytes:
    """What the program printed."""
    argv, environment = _command(name, url)
    try:
        done = subprocess.run(  # noqa: S603 - a fixed program; arguments are ours and a path
            [*argv, *arguments], env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS,
            check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{name}: {error.strerror if isinstance(error, OSError) else 'took too long'}") from error
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise UserError(lines[0] if lines else f"{name} ended with status {done.returncode}")
    return done.stdout
