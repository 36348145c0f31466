"""A backup restored into a fresh database, with real programs."""

from __future__ import annotations

import os
import stat
from decimal import Decimal

import psycopg
import pytest
from psycopg import sql
from pydantic import SecretStr

from cli.up.backup import backup, restore
from cli.up.postgres import OWNER
from lobservatory.errors import UserError
from lobservatory.settings import Settings
from store.migrate import check_schema


def settings_of(dsn, tmp_path):
    return Settings(migrate_url=SecretStr(dsn), database_url=SecretStr(dsn), data_dir=tmp_path)


def content(dsn):
    """Every row of every table of ours, but for the edges that the jobs of TimescaleDB move by themselves."""
    with psycopg.connect(dsn) as connection:
        tables = connection.execute(
            "SELECT table_schema, table_name FROM information_schema.tables"
            " WHERE table_schema LIKE 'lobs%' AND table_type = 'BASE TABLE' ORDER BY 1, 2"
        ).fetchall()
        return {
            table: connection.execute(
                sql.SQL("SELECT coalesce(array_agg(t::text ORDER BY t::text), '{{}}') FROM {} AS t").format(
                    sql.Identifier(*table)
                )
            ).fetchone()[0]
            for table in tables
            if table != ("lobs", "usage_state")
        }


@pytest.fixture
def filled(postgres_dsn, postgres_owner_dsn):
    with psycopg.connect(postgres_dsn) as connection:
        connection.execute("INSERT INTO lobs.tasks (id, title, tags) VALUES ('task_1', 'Grüße', '{a,b}')")
        connection.execute("INSERT INTO lobs.comments (task_id, author, content) VALUES ('task_1', 'ana', 'ok')")
        connection.execute("INSERT INTO lobs.audit_log (phase, actor, action) VALUES ('started', 'ana', 'x')")
    return postgres_owner_dsn


@pytest.fixture
def empty(postgres_server):
    name = f"lobs_test_restored_{os.getpid()}"
    with psycopg.connect(postgres_server.admin, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'").format(sql.Identifier(name))
            + (sql.SQL(" OWNER {}").format(sql.Identifier(OWNER)) if postgres_server.cluster else sql.SQL(""))
        )
        yield name
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.mark.req("S2-14")
def test_a_backup_gives_the_same_rows_roles_and_rules_in_a_fresh_database(filled, empty, postgres_server, tmp_path):
    file = tmp_path / "one.dump"
    assert backup(settings_of(filled, tmp_path), file) == file.stat().st_size > 1000
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    target = postgres_server.dsn(empty, OWNER if postgres_server.cluster else None)
    restore(settings_of(target, tmp_path), file)
    found = content(target)
    assert found == content(filled)
    assert len(found["lobs", "tasks"]) == len(found["lobs", "audit_log"]) == 1
    check_schema(target)
    with psycopg.connect(postgres_server.dsn(empty, "lobs_reader")) as reader:
        assert reader.execute("SELECT count(*) FROM public.tasks").fetchone() == (1,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute("SELECT * FROM lobs.tokens")
    with psycopg.connect(postgres_server.dsn(empty, "lobs_writer")) as writer:
        writer.execute("INSERT INTO lobs.comments (task_id, author, content) VALUES ('task_1', 'bo', 'next')")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            writer.execute("DELETE FROM lobs.audit_log")
    with pytest.raises(UserError, match="not empty"):
        restore(settings_of(target, tmp_path), file)


def test_a_broken_file_changes_nothing(filled, empty, postgres_server, tmp_path):
    file = tmp_path / "one.dump"
    backup(settings_of(filled, tmp_path), file)
    file.write_bytes(file.read_bytes()[:-200])
    target = postgres_server.dsn(empty, OWNER if postgres_server.cluster else None)
    with pytest.raises(UserError, match="pg_restore: error"):
        restore(settings_of(target, tmp_path), file)
    assert content(target) == {}


def test_mistakes_are_one_clear_line(filled, tmp_path):
    there = tmp_path / "there"
    there.write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        backup(settings_of(filled, tmp_path), there)
    assert there.read_text() == "mine"
    with pytest.raises(UserError, match="cannot be written"):
        backup(settings_of(filled, tmp_path), tmp_path / "no" / "folder")
    with pytest.raises(UserError, match="is not there"):
        restore(settings_of(filled, tmp_path), tmp_path / "none")
    with pytest.raises(UserError, match="pg_dump: error: connection"):
        backup(settings_of("postgresql://x:secretword@127.0.0.1:1/x", tmp_path), tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there"]


@pytest.fixture
def timescale(postgres_owner_dsn):
    with psycopg.connect(postgres_owner_dsn, autocommit=True) as connection:
        if connection.execute("SELECT 1 FROM pg_extension WHERE extname = 'timescaledb'").fetchone() is None:
            # No registry has it, so also a build machine skips; who changes backups runs this by hand.
            pytest.skip("TimescaleDB is missing: set LOBS_TEST_DSN to a server that has it loaded")
        yield connection


@pytest.mark.req("S2-14", "P-19")
def test_hypertables_and_continuous_aggregates_come_back_and_go_on(
    timescale, empty, postgres_owner_dsn, postgres_server, tmp_path
):
    """Compressed, settled and marked quarter hours, into a database that has not even the extension."""
    insert = (
        "INSERT INTO lobs.model_calls (ts, gateway, agent, session_id, kind, entry_id, identity, provider, model,"
        " outcome, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens, cost_usd,"
        " cost_basis, billing) SELECT now() - i * interval '5 hours', 'gw', 'a', 's', 'main', 'e' || i,"
        " gen_random_uuid(), 'p', 'm', 'ok', i, 1, 0, 0, 0, i * 0.001, 'reported', 'billed'"
        " FROM generate_series(%s::int, %s::int) AS i"
    )
    timescale.execute(insert, [1, 900])
    timescale.execute("CALL lobs.policy_usage(0, NULL)")
    timescale.execute(
        "SELECT compress_chunk(c) FROM show_chunks('lobs.model_calls', older_than => interval '90 days') c"
    )
    timescale.execute("INSERT INTO lobs.usage_marks (bucket) SELECT min(bucket) FROM usage_15m")
    views = "SELECT * FROM usage_15m ORDER BY bucket", "SELECT * FROM cost_daily ORDER BY day"
    before = [timescale.execute(view).fetchall() for view in views]
    backup(settings_of(postgres_owner_dsn, tmp_path), tmp_path / "one.dump")
    target = postgres_server.dsn(empty)
    restore(settings_of(target, tmp_path), tmp_path / "one.dump")
    with psycopg.connect(target, autocommit=True) as connection:
        assert [connection.execute(view).fetchall() for view in views] == before
        jobs = "SELECT proc_name FROM timescaledb_information.jobs WHERE job_id >= 1000 ORDER BY 1"
        assert connection.execute(jobs).fetchall() == timescale.execute(jobs).fetchall()
        compressed = "SELECT count(*) FROM timescaledb_information.chunks WHERE is_compressed"
        assert connection.execute(compressed).fetchone() == timescale.execute(compressed).fetchone() != (0,)
        connection.execute(insert, [901, 1000])
        connection.execute("SELECT lobs.rebuild_usage(min(ts), max(ts)) FROM lobs.model_calls")
        connection.execute("SELECT pg_advisory_lock(7305804402566886004)")  # the job's own run may be under way
        connection.execute("CALL lobs.policy_usage(0, NULL)")
        assert connection.execute("SELECT count(*) FROM lobs.usage_marks").fetchone() == (0,)
        assert connection.execute("SELECT sum(calls), sum(cost_usd) FROM cost_daily").fetchone() == (
            1000,
            Decimal("500.5"),
        )
