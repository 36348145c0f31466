"""Whether the database is as it should be: what the health check and `doctor` ask it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import AsyncConnection

from store.migrate import READER, WRITER


@dataclass(frozen=True, slots=True)
class Roles:
    """The roles of exporter, API and boards."""

    missing: tuple[str, ...]
    superuser: bool  # one of them
    readable_tables: int  # base tables that the reader may read, who should see views only


@dataclass(frozen=True, slots=True)
class Watchdog:
    """When the alert that fires always was heard last."""

    heard_at: datetime
    minutes_ago: int


async def ensure_answers(connection: AsyncConnection[Any]) -> None:
    """Raises psycopg.Error when the database answers nothing."""
    await connection.execute("SELECT 1")


def roles(connection: psycopg.Connection[Any]) -> Roles:
    """Whether they are there, and whether they can do more than they should. Raises psycopg.Error."""
    query = "SELECT rolname, rolsuper FROM pg_roles WHERE rolname = ANY(%s)"
    known = dict(connection.execute(query, [[WRITER, READER]]).fetchall())
    if READER not in known:
        readable = None
    else:
        readable = connection.execute(
            "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = 'lobs' AND c.relkind IN ('r', 'p') AND has_table_privilege(%s, c.oid, 'SELECT')",
            [READER],
        ).fetchone()
    missing = tuple(role for role in (WRITER, READER) if role not in known)
    return Roles(missing, superuser=any(known.values()), readable_tables=readable[0] if readable else 0)


def watchdog(connection: psycopg.Connection[Any]) -> Watchdog | None:
    """None: it was never heard. Raises psycopg.Error."""
    row = connection.execute(
        "SELECT heard_at, extract(epoch FROM now() - heard_at)::bigint / 60 FROM public.alert_watchdog"
    ).fetchone()
    return Watchdog(*row) if row else None
