"""A backup restored into a fresh database, with real programs."""

from __future__ import annotations

import stat

import psycopg
import pytest
from psycopg import sql
from pydantic import SecretStr

from lobservatory.errors import UserError
from lobservatory.runner.backup import backup, restore
from lobservatory.runner.postgres import OWNER
from lobservatory.settings import Settings
from store.migrate import check_schema


def settings_of(dsn, tmp_path):
    return Settings(migrate_url=SecretStr(dsn), database_url=SecretStr(dsn), data_dir=tmp_path)


def content(dsn):
    """Every row of every table of ours."""
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
    name = "lobs_test_restored"
    with psycopg.connect(postgres_server.admin, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE template0 OWNER {}").format(
                sql.Identifier(name), sql.Identifier(OWNER)
            )
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
    with pytest.raises(UserError, match="there is no file"):
        restore(settings_of(filled, tmp_path), tmp_path / "none")
    with pytest.raises(UserError, match="pg_dump: error: connection"):
        backup(settings_of("postgresql://x:secretword@127.0.0.1:1/x", tmp_path), tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there"]
