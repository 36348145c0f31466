"""Migrations: all of them, again, in parallel, interrupted, from a newer version; and who may do what."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

import store.migrate
from store.migrate import MigrateError, check_schema, migrate

VIEWS = {
    "model_calls", "tool_calls", "sessions", "session_events", "subagent_runs", "cron_jobs", "cron_runs", "channels",
    "exec_approvals", "agent_events", "host_samples", "log_signatures", "operations", "operation_steps", "tasks",
    "alert_events", "audit_log", "cost_hourly", "cost_daily", "operation_metrics", "agent_metrics", "activity_feed",
    "comments", "alert_rules", "alert_thresholds", "cost_snapshots", "nodes",
}  # fmt: skip
YOYO_MARKS = Path(__file__).parents[1] / "fixtures" / "yoyo_marks.sql"
MODEL_CALLS = [
    "ts", "gateway", "agent", "session_id", "session_key", "kind", "channel", "entry_id", "provider", "model",
    "outcome", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens",
    "cost_usd", "cost_basis", "billing", "duration_ms",
]  # fmt: skip


@pytest.mark.req("S0-16", "S1-15", "S2-15")
def test_every_view_that_others_rely_on_exists(postgres_reader_dsn):
    with psycopg.connect(postgres_reader_dsn) as connection:
        found = {row[0] for row in connection.execute("SELECT viewname FROM pg_views WHERE schemaname = 'public'")}
        assert found >= VIEWS
        for view in sorted(VIEWS):
            connection.execute(f"SELECT * FROM {view} LIMIT 1")
        columns = [column.name for column in connection.execute("SELECT * FROM model_calls").description]
    assert columns[: len(MODEL_CALLS)] == MODEL_CALLS


def test_a_second_migration_changes_nothing(postgres_owner_dsn, postgres_dsn):
    before = check_schema(postgres_dsn)
    assert migrate(postgres_owner_dsn) == before
    assert before.pending == ()


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM lobs.tokens",
        "INSERT INTO tasks (id, title) VALUES ('t', 'x')",
        "CREATE TABLE public.mine (a int)",
    ],
)
def test_the_reader_selects_views_and_nothing_else(postgres_reader_dsn, statement):
    with (
        psycopg.connect(postgres_reader_dsn) as connection,
        pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction)),
    ):
        connection.execute(statement)


def test_the_reader_may_ask_for_the_windows(postgres_reader_dsn):
    with psycopg.connect(postgres_reader_dsn) as connection:
        assert connection.execute("SELECT * FROM cost_windows('Europe/Berlin', now())").fetchall() == []
        assert connection.execute("SELECT * FROM cost_hour_baseline('Europe/Berlin', now())").fetchall() == []


@pytest.mark.parametrize("table", ["audit_log", "task_status_history"])
@pytest.mark.req("S3-12", "S4-17")
def test_what_is_append_only_stays_as_it_was(postgres_dsn, postgres_owner_dsn, table):
    for dsn in (postgres_dsn, postgres_owner_dsn):
        with psycopg.connect(dsn) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(f"DELETE FROM lobs.{table}")


def test_a_schema_newer_than_known_is_refused(postgres_owner_dsn, postgres_dsn):
    with psycopg.connect(postgres_owner_dsn, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO lobs_migrations._yoyo_migration (migration_hash, migration_id, applied_at_utc)"
            " VALUES ('x', '9999.from-the-future', now())"
        )
    for call in (lambda: migrate(postgres_owner_dsn), lambda: check_schema(postgres_dsn)):
        with pytest.raises(MigrateError, match=r"newer version of Lobservatory.*9999.from-the-future"):
            call()


def test_a_schema_older_than_needed_is_refused(postgres_owner_dsn, postgres_dsn):
    with psycopg.connect(postgres_owner_dsn, autocommit=True) as connection:
        connection.execute("DELETE FROM lobs_migrations._yoyo_migration WHERE migration_id LIKE '0008%'")
    with pytest.raises(MigrateError, match=r"lacks 1 migration .*lobservatory migrate"):
        check_schema(postgres_dsn)


def test_the_writer_cannot_migrate_and_is_told_who_can(postgres_owner_dsn, postgres_dsn):
    with psycopg.connect(postgres_owner_dsn, autocommit=True) as connection:
        connection.execute("DELETE FROM lobs_migrations._yoyo_migration WHERE migration_id LIKE '0008%'")
    with pytest.raises(MigrateError, match="owner"):
        migrate(postgres_dsn)


def test_no_database_is_one_clear_line():
    with pytest.raises(MigrateError, match="cannot be reached") as failure:
        migrate("postgresql://nobody@127.0.0.1:1/nothing")
    assert "\n" not in str(failure.value)


def test_a_database_that_is_not_in_utf8_is_refused(postgres_server):
    name = f"lobs_test_ascii_{os.getpid()}"
    with psycopg.connect(postgres_server.admin, autocommit=True) as connection:
        connection.execute(
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'"
        )
        try:
            with pytest.raises(MigrateError, match=r"as SQL_ASCII: make one with UTF-8 \(createdb --enc"):
                migrate(postgres_server.dsn(name))
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_failing_migration_leaves_nothing_behind(postgres_owner_dsn, tmp_path, monkeypatch):
    """Statements before the faulty one are rolled back, and so is the mark."""
    shutil.copytree(store.migrate._FOLDER, tmp_path / "migrations")
    folder = tmp_path / "migrations" / "core"
    (folder / "0999.half.sql").write_text("CREATE TABLE lobs.half (a int);\nSELECT 1 / 0;\n")
    monkeypatch.setattr(store.migrate, "_FOLDER", tmp_path / "migrations")
    with pytest.raises(MigrateError, match=r"0999.half failed and was rolled back: division by zero"):
        migrate(postgres_owner_dsn)
    with psycopg.connect(postgres_owner_dsn) as connection:
        assert connection.execute("SELECT to_regclass('lobs.half')").fetchone() == (None,)
    (folder / "0999.half.sql").write_text("CREATE TABLE lobs.half (a int);\n")
    assert "0999.half" in migrate(postgres_owner_dsn).applied


@pytest.fixture
def empty_dsn(postgres_server):
    """A database in which there is nothing yet, as its owner."""
    name = f"lobs_empty_{os.getpid()}"
    with psycopg.connect(postgres_server.admin, autocommit=True) as connection:
        connection.execute(
            f"CREATE DATABASE {name} OWNER lobs_owner" if postgres_server.cluster else f"CREATE DATABASE {name}"
        )
    try:
        yield postgres_server.dsn(name, "lobs_owner" if postgres_server.cluster else None)
    finally:
        with psycopg.connect(postgres_server.admin, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_two_migrators_at_once_do_it_once(empty_dsn):
    with ThreadPoolExecutor(3) as threads:
        states = list(threads.map(migrate, [empty_dsn] * 3))
    assert states[0] == states[1] == states[2]
    assert states[0].pending == ()


def test_a_migration_waits_for_another_one_and_then_says_so(empty_dsn, monkeypatch):
    monkeypatch.setattr(store.migrate, "_LOCK_SECONDS", 0.1)
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [store.migrate._LOCK])
        with pytest.raises(MigrateError, match="another migration is running"):
            migrate(empty_dsn)


def test_a_database_that_yoyo_migrated_goes_on_from_there(empty_dsn, tmp_path, monkeypatch):
    """The marks are as yoyo-migrations 9 left them after the first 22 files, beside its other tables."""
    whole, part = store.migrate._FOLDER, tmp_path / "migrations"
    shutil.copytree(whole, part)
    missing = {path.stem for path in (part / "core").glob("*.sql") if path.stem >= "0023"}
    for name in missing:
        (part / "core" / f"{name}.sql").unlink()
    monkeypatch.setattr(store.migrate, "_FOLDER", part)
    before = migrate(empty_dsn)
    with psycopg.connect(empty_dsn) as connection:
        ours = marks(connection)
        connection.execute("DROP SCHEMA lobs_migrations CASCADE")
        connection.execute(YOYO_MARKS.read_bytes())
        theirs = marks(connection)
        assert theirs == {mark for mark in ours if (whole / "core" / f"{mark[1]}.sql").exists()}
        for mark in ours - theirs:  # of a server with TimescaleDB: that database had none
            connection.execute("INSERT INTO lobs_migrations._yoyo_migration VALUES (%s, %s, now())", mark)
    monkeypatch.setattr(store.migrate, "_FOLDER", whole)
    after = migrate(empty_dsn)
    assert set(after.applied) == {*before.applied, *missing}
    assert after.pending == after.unknown == ()
    assert migrate(empty_dsn) == after


def marks(connection):
    """Hash and name of what is marked as applied."""
    query = "SELECT migration_hash, migration_id FROM lobs_migrations._yoyo_migration"
    return set(connection.execute(query).fetchall())
