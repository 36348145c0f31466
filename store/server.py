"""What concerns a whole PostgreSQL server: its roles, its databases, and TimescaleDB where it has it.

Every function takes a connection of a role that may do it, and raises psycopg.Error. To create and to drop a database
it has to be in autocommit mode.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
from psycopg import sql

RowCounts = Mapping[tuple[str, str], int]  # schema and table → rows


def keep_role(connection: psycopg.Connection[Any], role: str, password: str) -> None:
    """A role that logs in with this password, made where it is not yet."""
    known = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone()
    connection.execute(
        sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(
            sql.SQL("ALTER" if known else "CREATE"), sql.Identifier(role), password
        )
    )


def only_read(connection: psycopg.Connection[Any], role: str) -> None:
    """What the role asks is short and changes nothing."""
    for setting, value in (("statement_timeout", "15s"), ("default_transaction_read_only", "on")):
        connection.execute(sql.SQL("ALTER ROLE {} SET {} = {}").format(sql.Identifier(role), sql.SQL(setting), value))


def let_monitor(connection: psycopg.Connection[Any], role: str) -> None:
    """The role may ask for the size of a database and of the server's WAL."""
    connection.execute(sql.SQL("GRANT pg_monitor TO {}").format(sql.Identifier(role)))


def keep_database(connection: psycopg.Connection[Any], name: str, owner: str) -> None:
    """A database of this owner, made where it is not yet."""
    if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
        create_database(connection, name, owner)
    connection.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(name), sql.Identifier(owner)))


def create_database(connection: psycopg.Connection[Any], name: str, owner: str) -> None:
    """An empty database for text in UTF-8."""
    connection.execute(
        sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE template0 ENCODING 'UTF8'").format(
            sql.Identifier(name), sql.Identifier(owner)
        )
    )


def drop_database(connection: psycopg.Connection[Any], name: str) -> None:
    """End a database where there is one, also while somebody is connected to it."""
    connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def rename_database(connection: psycopg.Connection[Any], name: str, new: str) -> None:
    """Give a database another name."""
    connection.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(name), sql.Identifier(new)))


def databases(connection: psycopg.Connection[Any]) -> list[str]:
    """The databases that can hold something of somebody."""
    rows = connection.execute("SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY 1")
    return [name for (name,) in rows]


def row_counts(connection: psycopg.Connection[Any]) -> RowCounts:
    """The rows of every table of this database that is not PostgreSQL's own."""
    tables = connection.execute(
        "SELECT schemaname, tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
    ).fetchall()
    counted = {}
    for table in tables:
        row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(*table))).fetchone()
        counted[table] = row[0] if row else 0
    return counted


def create_loaded_timescale(connection: psycopg.Connection[Any]) -> None:
    """TimescaleDB in this database, where the server has it loaded; only a superuser may create it."""
    loaded = connection.execute("SELECT current_setting('shared_preload_libraries')").fetchone()
    if loaded and "timescaledb" in loaded[0]:
        _create_timescale(connection)


def create_available_timescale(connection: psycopg.Connection[Any]) -> bool:
    """TimescaleDB in this database; whether the server has it."""
    if not connection.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'timescaledb'").fetchone():
        return False
    _create_timescale(connection)
    return True


def _create_timescale(connection: psycopg.Connection[Any]) -> None:
    connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")


@contextlib.contextmanager
def restoring_timescale(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """For the length of the block a database with TimescaleDB can be restored into this one, which has it too."""
    connection.execute("SELECT public.timescaledb_pre_restore()")
    try:
        yield
    finally:
        connection.execute("SELECT public.timescaledb_post_restore()")
