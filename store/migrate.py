"""Bring a database to the schema that this version knows, or refuse clearly.

The files of `store/migrations/core` are applied in the order of their names, each in one transaction together with its
own mark; those of `store/migrations/timescale` follow whenever the extension with the community licence is there, also
on a database that was plain before. One migrator at a time: an advisory lock makes the others wait.

The marks are in a table that yoyo-migrations once made, and look as it made them.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from lobservatory.errors import LobservatoryError, one_line
from lobservatory.wording import counted
from store import alert_rules

_FOLDER = Path(__file__).parent / "migrations"
_SCHEMA = "lobs_migrations"
_MARKS = sql.Identifier(_SCHEMA, "_yoyo_migration")
_LOCK = 7305804402566886001  # any number that nobody else uses
_LOCK_SECONDS = 60.0
_CONNECT_SECONDS = 10
WRITER = "lobs_writer"
READER = "lobs_reader"


class MigrateError(LobservatoryError):
    """The schema cannot be brought up to date, or is not the one that this version needs. One clear line."""


@dataclass(frozen=True, slots=True)
class SchemaState:
    """What is applied. `pending` is what `migrate` would apply now; `unknown` are marks of a newer version."""

    applied: tuple[str, ...]
    pending: tuple[str, ...]
    unknown: tuple[str, ...]
    timescale: str | None  # version of the extension, when its community features can be used


def migrate(dsn: str) -> SchemaState:
    """Apply what is missing, give roles their rights, note which alerts there are. `dsn`: as the owner of the schema.

    Raises MigrateError.
    """
    with _connected(dsn) as connection:
        _lock(connection)
        refuse_newer(_state(connection).applied)
        _ensure_roles(connection)
        connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(_SCHEMA)))
        connection.execute(
            sql.SQL(
                "CREATE TABLE IF NOT EXISTS {} (migration_hash varchar(64) PRIMARY KEY, migration_id varchar(255),"
                " applied_at_utc timestamp)"
            ).format(_MARKS)
        )
        for path in _pending(_state(connection)):
            try:
                _apply(connection, path)
            except psycopg.Error as error:
                raise MigrateError(f"migration {path.stem} failed and was rolled back: {one_line(error)}") from error
        _grant(connection)
        alert_rules.keep(connection, alert_rules.shipped())
        return _state(connection)


def schema_state(dsn: str) -> SchemaState:
    """What is applied, as any role of ours. Raises MigrateError when the database cannot be reached."""
    with _connected(dsn) as connection:
        return _state(connection)


def check_schema(dsn: str) -> SchemaState:
    """Refuse a database whose schema is older or newer than this version. Raises MigrateError with what to do."""
    state = schema_state(dsn)
    refuse_newer(state.applied)
    # A plain database that has since got the extension works on; only the core is needed.
    missing = [name for name in state.pending if not name.startswith("timescale/")]
    if missing:
        raise MigrateError(
            f"the database lacks {counted(len(missing), 'migration')} (next: {missing[0]}): run lobservatory migrate"
        )
    return state


def set_timezone(connection: psycopg.Connection[Any], zone: str) -> None:
    """The zone of `cost_hourly` and `cost_daily`. Raises MigrateError for one that PostgreSQL does not know."""
    if not connection.execute("SELECT 1 FROM pg_timezone_names WHERE name = %s", [zone]).fetchone():
        raise MigrateError(f"LOBS_TIMEZONE: PostgreSQL does not know {zone!r}: give an IANA name such as Europe/Berlin")
    connection.execute(
        "INSERT INTO lobs.settings (key, value) VALUES ('timezone', %s)"
        " ON CONFLICT (key) DO UPDATE SET value = excluded.value WHERE settings.value <> excluded.value",
        [zone],
    )


@contextlib.contextmanager
def _connected(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    try:
        with psycopg.connect(
            dsn, autocommit=True, connect_timeout=_CONNECT_SECONDS, application_name="lobservatory migrate"
        ) as connection:
            encoding = connection.info.parameter_status("server_encoding")
            if encoding != "UTF8":
                raise MigrateError(
                    f"the database keeps text as {encoding}: make one with UTF-8"
                    " (createdb --encoding UTF8 --template template0)"
                )
            yield connection
    except psycopg.OperationalError as error:
        raise MigrateError(f"the database cannot be reached: {one_line(error)}") from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise MigrateError(f"{one_line(error)}: migrate as the owner of the schema (LOBS_MIGRATE_URL)") from error


def _lock(connection: psycopg.Connection[Any]) -> None:
    connection.execute("SELECT set_config('lock_timeout', %s, false)", [f"{_LOCK_SECONDS * 1000:.0f}"])
    try:
        connection.execute("SELECT pg_advisory_lock(%s)", [_LOCK])
    except psycopg.errors.LockNotAvailable as error:
        raise MigrateError("another migration is running on this database: wait for it to end") from error


def _timescale(connection: psycopg.Connection[Any]) -> str | None:
    """Version of TimescaleDB when its community features can be used here, else None."""
    row = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'").fetchone()
    if row is None:
        return None
    licence = connection.execute("SELECT current_setting('timescaledb.license', true)").fetchone()
    return str(row[0]) if licence and licence[0] == "timescale" else None


def refuse_newer(applied: Iterable[str]) -> None:
    """Raises MigrateError when a schema with these migrations is of a newer version than this one."""
    known = {*_names("core"), *_names("timescale")}
    unknown = [name for name in applied if name not in known]
    if unknown:
        raise MigrateError(
            f"the database was migrated by a newer version of Lobservatory (it knows {', '.join(unknown)}):"
            " install that version or newer; going back is not supported"
        )


def _names(folder: str) -> list[str]:
    """The migrations of a folder in the order in which they are applied."""
    return sorted(path.stem for path in (_FOLDER / folder).glob("*.sql"))


def _pending(state: SchemaState) -> list[Path]:
    """The files of what is to be applied, in order."""
    names = [name if name.startswith("timescale/") else f"core/{name}" for name in state.pending]
    return [_FOLDER / f"{name}.sql" for name in names]


def _apply(connection: psycopg.Connection[Any], path: Path) -> None:
    """Run a migration and mark it, in one transaction. Raises psycopg.Error."""
    with connection.transaction():
        connection.execute("SET LOCAL search_path TO public")  # the functions of extensions are there
        connection.execute(path.read_bytes())
        connection.execute(
            sql.SQL("INSERT INTO {} (migration_hash, migration_id, applied_at_utc) VALUES (%s, %s, %s)").format(_MARKS),
            [hashlib.sha256(path.stem.encode()).hexdigest(), path.stem, datetime.now(UTC).replace(tzinfo=None)],
        )


def _state(connection: psycopg.Connection[Any]) -> SchemaState:
    exists = connection.execute("SELECT to_regclass(%s)", [_MARKS.as_string(connection)]).fetchone()
    applied: list[str] = []
    if exists and exists[0] is not None:
        query = sql.SQL("SELECT migration_id FROM {} ORDER BY applied_at_utc, migration_id")
        applied = [row[0] for row in connection.execute(query.format(_MARKS))]
    version = _timescale(connection)
    core, extra = _names("core"), _names("timescale")
    pending = [name for name in core if name not in applied]
    if version is not None:
        pending += [f"timescale/{name}" for name in extra if name not in applied]
    known = {*core, *extra}
    return SchemaState(tuple(applied), tuple(pending), tuple(name for name in applied if name not in known), version)


def _ensure_roles(connection: psycopg.Connection[Any]) -> None:
    """Writer and reader must exist before they can be given rights."""
    for role in (WRITER, READER):
        if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone():
            continue
        try:
            connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(role)))
        except psycopg.errors.DuplicateObject:
            continue  # another database of the same server was migrated at this moment
        except psycopg.errors.InsufficientPrivilege as error:
            raise MigrateError(
                f"the role {role} is missing and may not be created by this user: run, as an administrator,"
                f" CREATE ROLE {role} LOGIN PASSWORD '…'"
            ) from error


def _grant(connection: psycopg.Connection[Any]) -> None:
    """The writer writes tables, the reader selects views and nothing else. The same result every time."""
    writer, reader = sql.Identifier(WRITER), sql.Identifier(READER)
    with connection.transaction():
        for statement in (
            "REVOKE ALL ON SCHEMA lobs FROM PUBLIC",
            "GRANT USAGE ON SCHEMA public TO {writer}, {reader}",
            "GRANT USAGE ON SCHEMA lobs, {marks} TO {writer}",
            "GRANT SELECT ON ALL TABLES IN SCHEMA {marks} TO {writer}",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA lobs TO {writer}",
            "REVOKE UPDATE, DELETE ON lobs.audit_log, lobs.task_status_history, lobs.identities FROM {writer}",
            "GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA lobs TO {writer}",
            "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA lobs TO {writer}",
        ):
            connection.execute(sql.SQL(statement).format(writer=writer, reader=reader, marks=sql.Identifier(_SCHEMA)))
        views = connection.execute(
            "SELECT c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"
            " WHERE n.nspname = 'public' AND c.relkind = 'v' AND c.relowner = (SELECT nspowner FROM pg_namespace"
            " WHERE nspname = 'lobs')"
        ).fetchall()
        for (view,) in views:
            connection.execute(
                sql.SQL("GRANT SELECT ON {} TO {}, {}").format(sql.Identifier("public", view), writer, reader)
            )
