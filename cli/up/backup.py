"""Backup and restore of the database, yours or the embedded one, which is started for it where it does not run.

A backup is PostgreSQL's own custom format, without owners and privileges: a restore gives them anew.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

from cli.up import clients, embedded
from cli.up.clients import Pause, Tell
from cli.up.postgres import DATABASE, OWNER, READER, SUPERUSER, WRITER, Cluster
from lobservatory.errors import UserError, one_line
from lobservatory.settings import Settings
from store import server
from store.contents import Contents, contents, is_blank, is_ours
from store.migrate import MigrateError, check_schema, migrate, refuse_newer

_PRIVATE = 0o600
_KNOWS_TRANSACTION_TIMEOUT = 170_000  # pg_restore sets it; an older server refuses the name
_CHUNK = 1 << 20
# What the embedded database is restored into; it gets its name when all is well.
_FRESH = f"{DATABASE}_restored"


def _silent(_line: str) -> None:
    """For who shows nothing."""


def backup(settings: Settings, path: Path, *, tell: Tell = _silent, pause: Pause = time.sleep) -> int:
    """Write the whole database into a new file of mode 0600; gives its size in bytes.

    Raises UserError, SettingsError, PostgresError, and what `pause` raises.
    """
    if str(path) == "-":
        raise UserError("backup: it cannot be written to standard output: name a new file")
    if path.exists():
        raise UserError(f"backup: {path} is there already: name a new file")
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE))
    except OSError as error:
        raise UserError(f"backup: {path} cannot be written: {error.strerror}") from error
    try:
        with _to_read(settings, tell) as url:
            clients.run(
                "pg_dump", url, "--format=custom", "--no-owner", "--no-privileges", f"--file={fresh}", pause=pause
            )
        size = fresh.stat().st_size
        fresh.rename(path)
    finally:
        fresh.unlink(missing_ok=True)
    return size


@contextlib.contextmanager
def _to_read(settings: Settings, tell: Tell) -> Iterator[str]:
    given = _given(settings)
    if given:
        yield given
    else:
        with embedded.as_it_is(settings, "backup", tell) as url:
            yield url


def restore(settings: Settings, path: Path, *, tell: Tell = _silent, pause: Pause = time.sleep) -> Contents:
    """Fill an empty database from a backup, bring its schema up to date and read it; gives what it has now.

    The embedded one, which is made where it is not yet, as a whole or not at all; one of yours likewise, but for a
    migration that fails. Raises UserError, MigrateError, PostgresError, and what `pause` raises.
    """
    path = path.resolve() if path.is_file() else path  # /dev/stdin is another one for the programs that we start
    listed = _check_file(path, pause)
    given = _given(settings)
    try:
        if not given:
            with embedded.to_fill(settings, "restore", tell, pause) as cluster:
                return _into_embedded(cluster, path, listed, tell, pause)
        with psycopg.connect(given, autocommit=True, connect_timeout=clients.CONNECT_SECONDS) as connection:
            if is_ours(connection):
                raise UserError(
                    "restore: the database is not empty. Restore into a new one: CREATE DATABASE … OWNER lobs_owner, "
                    "then name it in LOBS_MIGRATE_URL and LOBS_DATABASE_URL"
                )
            tell(f"restore: restoring {path} …")
            _fill(connection, given, path, listed, pause)
        migrate(given)
        check_schema(given)
        return contents(given)
    except psycopg.Error as error:
        raise UserError(f"restore: {one_line(error)}") from error


def _given(settings: Settings) -> str:
    """The URL of a database of yours as its owner; empty: it is the embedded one."""
    return settings.migrate_url.get_secret_value() or settings.database_url.get_secret_value()


def _check_file(path: Path, pause: Pause) -> bytes:
    """The table of contents of a backup that this version can restore. Raises UserError."""
    if not path.is_file():
        wrong = "is a folder, not a backup" if path.is_dir() else "is no regular file (it is read more than once)"
        wrong = wrong if path.exists() else "is not there"
        raise UserError(f"restore: {path} {wrong}: give the file that `lobservatory backup` wrote")
    try:
        listed = clients.run("pg_restore", None, "--list", str(path), pause=pause)
    except UserError as error:
        raise UserError(f"restore: {path} is no backup that can be read: {error}") from error
    if b" SCHEMA - lobs " not in listed:
        raise UserError(
            f"restore: {path} is a dump of another database than ours: name a file of `lobservatory backup`"
        )
    try:
        marks = clients.run(
            "pg_restore", None, "--data-only", "--schema=lobs_migrations", "--table=_yoyo_migration", "--file=-",
            str(path), pause=pause,
        )  # fmt: skip
        refuse_newer(_applied(marks.decode("utf-8", "replace")))
    except (UserError, MigrateError) as error:
        raise UserError(f"restore: {path} cannot be restored here: {error}") from error
    return listed


def _applied(script: str) -> Iterator[str]:
    """The migrations that the script of a dump has marked as applied."""
    lines = iter(script.splitlines())
    for line in lines:
        if line.startswith("COPY "):
            columns = line.partition("(")[2].partition(")")[0].split(", ")
            for row in lines:
                if row == "\\.":
                    break
                yield dict(zip(columns, row.split("\t"), strict=True))["migration_id"]


def _into_embedded(cluster: Cluster, path: Path, listed: bytes, tell: Tell, pause: Pause) -> Contents:
    """Restore beside the empty database, then put the full one in its place."""
    with psycopg.connect(cluster.dsn(SUPERUSER), autocommit=True) as connection:
        if not is_blank(connection):
            raise embedded.occupied("restore", cluster.root, "a database with content")
    with psycopg.connect(cluster.dsn(SUPERUSER, "postgres"), autocommit=True) as admin:
        server.drop_database(admin, _FRESH)  # of one that was killed
        server.create_database(admin, _FRESH, OWNER)
        try:
            tell(f"restore: restoring {path} …")
            url = cluster.dsn(OWNER, _FRESH)
            with psycopg.connect(url, autocommit=True) as connection:
                _fill(connection, url, path, listed, pause)
            migrate(url)
            # As the two that will use it, with the passwords that they have.
            check_schema(cluster.dsn(WRITER, _FRESH))
            found = contents(cluster.dsn(READER, _FRESH))
            pause(0)
        except BaseException:
            server.drop_database(admin, _FRESH)
            raise
        server.drop_database(admin, DATABASE)
        server.rename_database(admin, _FRESH, DATABASE)
    return found


def _fill(connection: psycopg.Connection[Any], url: str, path: Path, listed: bytes, pause: Pause) -> None:
    """Everything of the backup, in one transaction. Raises UserError, psycopg.Error."""
    timescale = _needs_timescale(connection, listed)
    try:
        with server.restoring_timescale(connection) if timescale else contextlib.nullcontext():
            _restore(connection.info.server_version, url, path, pause)
    except UserError as error:
        raise UserError(f"restore: {path} was not restored, nothing is changed: {error}") from error


def _restore(server_version: int, url: str, path: Path, pause: Pause) -> None:
    if server_version >= _KNOWS_TRANSACTION_TIMEOUT:
        clients.run(
            "pg_restore", url, "--exit-on-error", "--no-owner", "--no-privileges", "--single-transaction", str(path),
            pause=pause,
        )  # fmt: skip
    else:
        _by_script(url, path, pause)


def _needs_timescale(connection: psycopg.Connection[Any], listed: bytes) -> bool:
    """Whether the backup is of a database with TimescaleDB; then the extension is there (its version has to be that
    of the backup). Raises UserError."""
    if b" EXTENSION - timescaledb" not in listed:
        return False
    if not server.create_available_timescale(connection):
        raise UserError(
            "restore: the backup is of a database with TimescaleDB, which this server does not have: restore it on one "
            "with the same version of the extension"
        )
    return True


def _by_script(url: str, path: Path, pause: Pause) -> None:
    """For a server that is older than our programs: the script of pg_restore without the setting that it does not
    know, through psql in one transaction. It ends only when pg_restore has said that its script is complete."""
    argv, environment = clients.command("psql", url)
    argv += ["--no-psqlrc", "--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1", "--file=-"]
    script, _ = clients.command("pg_restore", None)
    script += ["--no-owner", "--no-privileges", "--file=-", str(path)]
    with (
        tempfile.TemporaryFile() as said,
        tempfile.TemporaryFile() as complained,
        subprocess.Popen(  # noqa: S603 - fixed programs; arguments are ours and a path
            script, env=environment, stdout=subprocess.PIPE, stderr=complained, start_new_session=True
        ) as source,
        subprocess.Popen(  # noqa: S603 - as above
            argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said,
            start_new_session=True,
        ) as target,
    ):  # fmt: skip
        if source.stdout is None or target.stdin is None:
            raise AssertionError("pipes were asked for")
        try:
            for line in source.stdout:
                if line.startswith(b"SET transaction_timeout"):
                    break
                target.stdin.write(line)
            while chunk := source.stdout.read(_CHUNK):
                pause(0)
                target.stdin.write(chunk)
            if source.wait(clients.SECONDS) == 0:
                target.stdin.close()
        except BrokenPipeError:
            source.kill()
            target.wait(clients.SECONDS)  # it has refused something, and says what
        finally:
            if not target.stdin.closed:
                target.kill()  # before it sees the end of a script that is not complete, and commits
                target.wait(clients.SECONDS)
                with contextlib.suppress(BrokenPipeError):
                    target.stdin.close()
        if source.wait(clients.SECONDS) or target.wait(clients.SECONDS):
            raise UserError(clients.complaint(said) or clients.complaint(complained) or "pg_restore and psql failed")
