"""Backup and restore of the default installation: nothing runs, and the database is the embedded one."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from pydantic import SecretStr

from cli.up import postgres, upgrade
from cli.up import up as runner
from cli.up.backup import backup, restore
from cli.up.postgres import OWNER, READER, SUPERUSER, WRITER
from lobservatory.errors import UserError
from lobservatory.settings import Settings
from store.contents import is_blank
from store.migrate import check_schema, migrate
from tests.conftest import fresh_database
from tests.servers import PATIENCE_SECONDS, wait_for

PROGRAM = Path(sys.executable).with_name("lobservatory")


@pytest.fixture(scope="module")
def dumps(postgres_server):
    """A folder with `good.dump` and what is wrong in other ways."""
    folder = Path(tempfile.mkdtemp(prefix="lobs-dumps-"))
    with fresh_database(postgres_server) as name:
        dsn = postgres_server.dsn(name, OWNER if postgres_server.cluster else None)
        settings = Settings(migrate_url=SecretStr(dsn), data_dir=folder / "none")
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("CREATE TABLE public.of_others (n int)")
            connection.execute("INSERT INTO lobs.tasks (id, title) VALUES ('task_1', 'Grüße')")
            connection.execute(
                "INSERT INTO lobs.model_calls (ts, gateway, agent, session_id, kind, entry_id, identity, provider,"
                " model, outcome, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens,"
                " reasoning_tokens, cost_usd, cost_basis, billing) SELECT '2026-11-01Z'::timestamptz + i * interval"
                " '1 day', 'gw', 'a', 's', 'main', 'e' || i, gen_random_uuid(), 'p', 'm', 'ok', i, 1, 0, 0, 0, 0.25,"
                " 'reported', 'billed' FROM generate_series(1, 20) AS i"
            )
            backup(settings, folder / "good.dump")
            (folder / "cut.dump").write_bytes((folder / "good.dump").read_bytes()[:-200])
            (folder / "text.dump").write_text("not a dump")
            with psycopg.connect(postgres_server.dsn(name), autocommit=True) as admin:
                # Restored last, and only by a superuser: everything else is there by then.
                admin.execute("CREATE FUNCTION public.f() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'")
                admin.execute("CREATE EVENT TRIGGER f ON ddl_command_start EXECUTE FUNCTION public.f()")
                backup(settings, folder / "failing.dump")
                admin.execute("DROP FUNCTION public.f() CASCADE")
            connection.execute(
                "INSERT INTO lobs_migrations._yoyo_migration (migration_hash, migration_id, applied_at_utc)"
                " VALUES ('x', '9999.of-the-future', now())"
            )
            backup(settings, folder / "newer.dump")
            connection.execute("DROP SCHEMA lobs CASCADE")
            backup(settings, folder / "foreign.dump")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def data():
    """A data directory that is not there yet, where the server's user can enter it."""
    folder = Path(tempfile.mkdtemp(prefix="lobs-pg-"))
    folder.chmod(0o755)
    yield folder / "data"
    shutil.rmtree(folder)


def lobservatory(data, *arguments, **environment):
    """The command, as a person gives it; status, output and complaints."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LOBS_", "OPENCLAW_"))}
    done = subprocess.run(
        [str(PROGRAM), *map(str, arguments)],
        env={**clean, "LOBS_DATA_DIR": str(data), **environment},
        cwd=data.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def nothing_runs(data):
    """The cluster, which nobody serves and nobody has locked."""
    assert list((data / "run").iterdir()) == []
    cluster = upgrade.as_it_is(data)
    assert cluster is not None
    assert cluster.running_pid() is None
    return cluster


def is_restored(data):
    """As the roles that will use it see it, with the passwords that the data directory has."""
    cluster = nothing_runs(data)
    with cluster.serve():
        check_schema(cluster.dsn(WRITER))
        with psycopg.connect(cluster.dsn(READER)) as connection:
            assert connection.execute("SELECT count(*), sum(cost_usd) FROM model_calls").fetchone() == (20, 5)
            assert connection.execute("SELECT title FROM tasks").fetchall() == [("Grüße",)]
        with psycopg.connect(cluster.dsn(SUPERUSER), autocommit=True) as connection:
            found = connection.execute("SELECT datname FROM pg_database WHERE NOT datistemplate ORDER BY 1").fetchall()
            assert found == [("lobservatory",), ("postgres",)]


@pytest.mark.req("S2-14")
def test_into_nothing_and_out_of_what_does_not_run(data, dumps):
    """Restore, back up, refuse, move away as told, restore: the whole way with the commands alone."""
    status, said, complained = lobservatory(data, "restore", dumps / "good.dump")
    assert (status, complained) == (0, "")
    assert said.splitlines()[-1] == (
        "restore: done. Now in the database: model calls: 20 (US$ 5.00 billed, 2026-11-02 to 2026-11-21), sessions: 0,"
        " tasks: 1"
    )
    is_restored(data)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (data / "secrets").iterdir()} == {0o600}
    assert {"api_password", "api_token", "postgres_lobs_owner"} < {path.name for path in (data / "secrets").iterdir()}

    again = data.parent / "again.dump"
    status, said, complained = lobservatory(data, "backup", again)
    assert (status, complained) == (0, "")
    assert "starting the database" in said
    nothing_runs(data)

    status, _, complained = lobservatory(data, "restore", again)
    assert status == 1
    move = re.search(r"mv \S+ [^\s;]+", complained)
    assert move, complained
    is_restored(data)
    subprocess.run(shlex.split(move[0]), check=True)
    status, _, complained = lobservatory(data, "restore", again)
    assert (status, complained) == (0, "")
    is_restored(data)


def test_a_backup_that_is_no_good_changes_nothing_and_a_good_one_can_follow(data, dumps):
    for name, said in (
        ("text.dump", "is no backup that can be read: pg_restore: error"),
        ("foreign.dump", "is a dump of another database"),
        ("newer.dump", "newer version of Lobservatory (it knows 9999.of-the-future)"),
        ("cut.dump", "cannot be restored here: pg_restore: error"),
        (".", "is a folder, not a backup"),
        ("none.dump", "is not there: give the file"),
    ):
        status, _, complained = lobservatory(data, "restore", dumps / name)
        assert status == 1
        assert said in complained
        assert str(dumps / name) in complained
        assert not data.exists(), "nothing was made for it"
    status, _, complained = lobservatory(data, "restore", dumps / "failing.dump")
    assert status == 1
    assert "failing.dump was not restored, nothing is changed: pg_restore: error" in complained
    cluster = nothing_runs(data)
    with cluster.serve(), psycopg.connect(cluster.dsn(SUPERUSER)) as connection:
        assert is_blank(connection)
        assert connection.execute("SELECT 1 FROM pg_database WHERE datname ~ 'restored'").fetchone() is None
    # As an `up` that came no further than the schema: no row of anybody is in it.
    with cluster.serve():
        migrate(cluster.dsn(OWNER))
    assert lobservatory(data, "restore", dumps / "good.dump")[0] == 0
    is_restored(data)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO lobs.boards (id, name) VALUES ('mine', 'mine')",
        "INSERT INTO lobs.host_samples (ts, gateway) VALUES (now(), 'gw')",
    ],
)
def test_one_row_of_somebody_is_content(postgres_owner_dsn, statement):
    with psycopg.connect(postgres_owner_dsn) as connection:
        assert is_blank(connection)
        connection.execute(statement)
        assert not is_blank(connection)


def test_secrets_of_the_old_machine_are_used_when_they_were_copied(data, dumps):
    (data / "secrets").mkdir(parents=True, mode=0o700)
    for name in ("api_password", "postgres_lobs_superuser", "postgres_lobs_reader"):
        (data / "secrets" / name).touch(mode=0o600)
        (data / "secrets" / name).write_text(f"old {name}\n")
    assert lobservatory(data, "restore", dumps / "good.dump")[0] == 0
    is_restored(data)
    assert (data / "secrets" / "api_password").read_text() == "old api_password\n"
    assert nothing_runs(data).passwords[READER] == "old postgres_lobs_reader"


def test_who_else_uses_the_data_directory_is_named(data, dumps):
    place = runner.prepare(Settings(data_dir=data))
    pid = os.getpid()
    with runner.lock(place):
        status, _, complained = lobservatory(data, "restore", dumps / "good.dump")
        assert status == 1
        assert f"restore: `lobservatory up` is running here as process {pid}: stop it first" in complained
    with runner.lock(place, "restore"):
        for command in (["up"], ["backup", data / "new.dump"], ["restore", dumps / "good.dump"]):
            status, _, complained = lobservatory(data, *command)
            assert status == 1
            assert f"`lobservatory restore` is using {data} as process {pid}: try again" in complained
    assert sorted(path.name for path in data.iterdir()) == ["logs", "run"]


def test_a_backup_of_nothing_says_so_and_makes_nothing(data):
    status, _, complained = lobservatory(data, "backup", data.parent / "new.dump")
    assert status == 1
    assert f"backup: there is no database in {data}: `lobservatory up` makes one" in complained
    assert list(data.parent.iterdir()) == []


def test_ctrl_c_stops_the_server_and_leaves_nothing_half(data, dumps):
    def tell(line):
        if "restoring" in line:
            os.kill(os.getpid(), signal.SIGINT)

    with runner.Signals().handled() as signals, pytest.raises(runner.StopRequested):
        restore(Settings(data_dir=data), dumps / "good.dump", tell=tell, pause=signals.pause)
    cluster = nothing_runs(data)
    with cluster.serve(), psycopg.connect(cluster.dsn(SUPERUSER)) as connection:
        assert is_blank(connection)
        assert connection.execute("SELECT 1 FROM pg_database WHERE datname ~ 'restored'").fetchone() is None


def test_ctrl_c_while_the_database_is_made_is_said_as_later(data, dumps):
    """A terminal sends it to the whole process group, initdb included."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LOBS_", "OPENCLAW_"))}
    process = subprocess.Popen(
        [str(PROGRAM), "restore", str(dumps / "good.dump")],
        env={**clean, "LOBS_DATA_DIR": str(data)},
        cwd=data.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for(lambda: list(data.rglob("data.partial/base/1/PG_VERSION")) or process.poll() is not None, "initdb")
    os.killpg(process.pid, signal.SIGINT)
    _, complained = process.communicate(timeout=PATIENCE_SECONDS)
    assert complained == "lobservatory: restore: stopped before its end; the database is as it was\n"
    assert process.returncode == 130
    assert lobservatory(data, "restore", dumps / "good.dump")[0] == 0
    is_restored(data)


def test_standard_input_is_restored_where_it_is_a_file(data, dumps):
    command = [str(PROGRAM), "restore", "/dev/stdin"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LOBS_", "OPENCLAW_"))}
    environment = {**clean, "LOBS_DATA_DIR": str(data)}
    good = dumps / "good.dump"
    done = subprocess.run(
        command, env=environment, input=good.read_bytes(), capture_output=True, check=False, cwd=data.parent
    )
    assert done.stderr.decode() == (
        "lobservatory: restore: /dev/stdin is no regular file (it is read more than once): give the file that"
        " `lobservatory backup` wrote\n"
    )
    with good.open("rb") as stream:
        subprocess.run(command, env=environment, stdin=stream, capture_output=True, check=True, cwd=data.parent)
    is_restored(data)


KILLED = """
import os, signal, sys
from pathlib import Path
from cli.up import backup
from lobservatory.settings import Settings

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

backup.check_schema = die  # everything is restored and migrated, and nothing is decided
backup.restore(Settings(data_dir=Path(sys.argv[1])), Path(sys.argv[2]))
"""


def test_a_killed_restore_can_be_tried_again(data, dumps):
    """Its server goes on running without it."""
    done = subprocess.run([sys.executable, "-P", "-c", KILLED, str(data), str(dumps / "good.dump")], check=False)
    assert done.returncode == -signal.SIGKILL
    cluster = upgrade.as_it_is(data)
    assert cluster is not None
    assert cluster.running_pid() is not None
    assert lobservatory(data, "restore", dumps / "good.dump")[0] == 0
    is_restored(data)


def test_a_database_of_an_older_version_is_content(data, dumps):
    cluster = postgres.prepare(data)
    (cluster.data / "PG_VERSION").write_text("15\n")
    with pytest.raises(UserError, match=r"holds a database of PostgreSQL 15, and nothing is written over it.*mv "):
        restore(Settings(data_dir=data), dumps / "good.dump")


def test_a_database_of_yours_is_told_of_a_newer_backup_before_anything_is_written(dumps, postgres_server, tmp_path):
    with fresh_database(postgres_server) as name:
        dsn = postgres_server.dsn(name, OWNER if postgres_server.cluster else None)
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("DROP SCHEMA lobs, lobs_migrations CASCADE")
            with pytest.raises(UserError, match="newer version of Lobservatory"):
                restore(Settings(migrate_url=SecretStr(dsn), data_dir=tmp_path), dumps / "newer.dump")
            names = connection.execute(sql.SQL("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'lobs%'"))
            assert names.fetchall() == []
