"""A cluster of an older major version of PostgreSQL becomes one of ours, and nothing is lost on the way."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg
import pytest

from cli.up import postgres, upgrade
from cli.up.postgres import OWNER, READER, SUPERUSER, WRITER, PostgresError
from store.migrate import check_schema, migrate
from tests.conftest import missing

DEBIAN = Path("/usr/lib/postgresql")  # several versions, as on a machine whose PostgreSQL was upgraded
INSTALLED = sorted(path.parent.parent.name for path in DEBIAN.glob("*/bin/initdb"))
# The wheel has an older version beside its own on every machine; those of the system are tried as well.
BUNDLED = "16"
VERSIONS = [BUNDLED, *(version for version in INSTALLED if int(version) in range(15, 18) and version != BUNDLED)]


# Names that have to be quoted, and one that looks like a statement.
ANALYST = "CREATE ROLE lobs_superuser;"
OWN = "own: 1/2"


class Stopped(BaseException):
    """What a signal raises in `pause`."""


def programs(version, root):
    """The folder with initdb and postgres of that version, where the server's user can run them."""
    bundled = postgres.bundled(version)
    if bundled is not None:
        return postgres.reachable(bundled, version, root)
    folder = DEBIAN / version / "bin"
    if not (folder / "initdb").is_file():
        missing(f"PostgreSQL {version}", f"the wheel has only {postgres.newest()}: apt install postgresql-{version}")
    return folder


@pytest.fixture(scope="module")
def originals():
    """Version → a data directory as an older Lobservatory has left it; made on the first call."""
    folder = Path(tempfile.mkdtemp(prefix="lobs-pg-"))
    folder.chmod(0o755)
    made = {}

    def original(version):
        if version not in made:
            made[version] = folder / version
            fill(made[version], version)
        return made[version]

    yield original
    shutil.rmtree(folder, ignore_errors=True)


def fill(data, version):
    """Rows of ours, a role and a database of the user's own."""
    data.mkdir()
    root = postgres.cluster_root(data)
    binaries = programs(version, root)
    (data / "secrets").mkdir(mode=0o700)
    password = data / "secrets" / f"postgres_{SUPERUSER}"
    password.touch(mode=0o600)
    password.write_text("of the superuser\n")
    postgres.initialise(root, binaries, "of the superuser")
    with postgres.existing(data, binaries).run() as cluster:
        migrate(cluster.dsn(OWNER))
        with psycopg.connect(cluster.dsn(WRITER)) as connection:
            connection.execute("INSERT INTO lobs.tasks (id, title, tags) VALUES ('task_1', 'Grüße', '{a,b}')")
            connection.execute("INSERT INTO lobs.comments (task_id, author, content) VALUES ('task_1', 'a', 'ok')")
        with psycopg.connect(cluster.dsn(SUPERUSER), autocommit=True) as connection:
            connection.execute(f"CREATE ROLE \"{ANALYST}\" LOGIN PASSWORD 'analyst'")
            connection.execute(f'GRANT SELECT ON public.tasks TO "{ANALYST}"')
            connection.execute(f'CREATE DATABASE "{OWN}" OWNER lobs_owner')
        with psycopg.connect(cluster.dsn(OWNER), dbname=OWN) as connection:
            connection.execute("CREATE TABLE public.mine AS SELECT generate_series(1, 1000) AS n")
    assert postgres.version_of(root) == version


@pytest.fixture
def old(request, originals):
    """A copy for one test: data directory, version."""
    version = getattr(request, "param", BUNDLED)
    copy = Path(tempfile.mkdtemp(prefix="lobs-pg-"))
    subprocess.run(["cp", "-a", f"{originals(version)}/.", copy], check=True)  # with owners
    copy.chmod(0o755)
    yield copy, version
    shutil.rmtree(copy, ignore_errors=True)


def is_whole(cluster):
    """Everything that `original` has put in, as each of its roles."""
    check_schema(cluster.dsn(WRITER))
    with psycopg.connect(cluster.dsn(READER)) as connection:
        assert connection.execute("SELECT id, title, tags FROM tasks").fetchall() == [("task_1", "Grüße", ["a", "b"])]
        assert connection.execute("SHOW statement_timeout").fetchone() == ("15s",)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT * FROM lobs.comments")
    with psycopg.connect(cluster.dsn(WRITER)) as connection:
        assert connection.execute("SELECT content FROM lobs.comments").fetchall() == [("ok",)]
    with psycopg.connect(cluster.dsn(READER), user=ANALYST, password="analyst") as connection:
        assert connection.execute("SELECT count(*) FROM public.tasks").fetchone() == (1,)
    with psycopg.connect(cluster.dsn(OWNER), dbname=OWN) as connection:
        assert connection.execute("SELECT sum(n) FROM mine").fetchone() == (500500,)
        connection.execute("DROP TABLE mine")  # its owner, too, is who it was
        connection.rollback()


def migrated(data, version):
    """The result of a start that succeeds."""
    said = []
    cluster = upgrade.prepare(data, tell=said.append, pause=lambda _: None)
    assert postgres.version_of(cluster.root) == postgres.newest()
    with cluster.run():
        is_whole(cluster)
    assert sorted(path.name for path in cluster.root.iterdir() if path.is_dir()) == ["data", f"data-{version}"]
    return said, cluster


@pytest.mark.parametrize("old", VERSIONS, indirect=True)
def test_everything_is_there_afterwards_and_the_old_files_are_kept(old):
    data, version = old
    said, cluster = migrated(data, version)
    kept = cluster.root / f"data-{version}"
    heading = f"PostgreSQL {version} → {postgres.newest()}: "
    assert all(line.startswith(heading) for line in said)
    assert [line.removeprefix(heading).split()[0] for line in said] == ["reading", "writing", "comparing", "done."]
    assert str(kept) in said[-1]
    again = []
    upgrade.prepare(data, tell=again.append, pause=lambda _: None)
    assert again == []
    # What is kept is a whole cluster still.
    shutil.rmtree(cluster.data)
    kept.rename(cluster.data)
    before = upgrade.as_it_is(data)
    assert before is not None
    assert before.binaries != cluster.binaries
    with before.serve():
        is_whole(before)


KILLED = """
import os, signal, sys
from pathlib import Path
from cli.up import upgrade

def tell(line):
    if sys.argv[2] in line:
        os.kill(os.getpid(), signal.SIGKILL)

upgrade.prepare(Path(sys.argv[1]), tell=tell, pause=lambda _: None)
"""


@pytest.mark.parametrize("moment", ["writing", "comparing"])
def test_a_kill_in_between_leaves_the_old_one_as_it_was_and_the_next_start_does_it(old, moment):
    """Also where a server of the new cluster has outlived its starter."""
    data, version = old
    done = subprocess.run([sys.executable, "-P", "-c", KILLED, str(data), moment], check=False)
    assert done.returncode == -signal.SIGKILL
    assert postgres.version_of(postgres.cluster_root(data)) == version
    migrated(data, version)


def test_a_kill_between_the_two_renames_is_mended_by_the_next_start(old):
    data, version = old
    _, cluster = migrated(data, version)
    cluster.data.rename(cluster.root / "data.ready")
    said = []
    assert upgrade.prepare(data, tell=said.append, pause=lambda _: None).data.is_dir()
    assert said == []
    with cluster.run():
        is_whole(cluster)


def test_a_stop_leaves_the_old_one_as_it_was_and_nothing_beside(old):
    data, _ = old
    root = postgres.cluster_root(data)
    said = []

    def pause(_):
        if "writing" in said[-1]:
            raise Stopped

    with pytest.raises(Stopped):
        upgrade.prepare(data, tell=said.append, pause=pause)
    assert [path.name for path in root.iterdir() if path.is_dir()] == ["data"]
    cluster = upgrade.as_it_is(data)
    assert cluster is not None
    assert cluster.running_pid() is None
    with cluster.serve():
        is_whole(cluster)


def test_a_new_one_that_lacks_a_row_does_not_take_the_place(old, monkeypatch):
    data, version = old
    rows = upgrade._rows

    def one_less(cluster, database):
        counted = rows(cluster, database)
        if cluster.root.name == "next" and database == postgres.DATABASE:
            counted["lobs", "tasks"] -= 1
        return counted

    monkeypatch.setattr(upgrade, "_rows", one_less)
    with pytest.raises(PostgresError, match=r"does not have the rows of the old one.*data is as it was"):
        upgrade.prepare(data, tell=lambda _: None, pause=lambda _: None)
    root = postgres.cluster_root(data)
    assert [path.name for path in root.iterdir() if path.is_dir()] == ["data"]
    assert postgres.version_of(root) == version


def test_without_room_nothing_begins(old, monkeypatch):
    data, version = old
    full = shutil.disk_usage(data)._replace(free=10_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    said = []
    with pytest.raises(PostgresError, match=rf"PostgreSQL {version} .* there are 10 MB\. Make room"):
        upgrade.prepare(data, tell=said.append, pause=lambda _: None)
    assert said == []


@pytest.fixture
def only_ours(monkeypatch):
    """A wheel that has no older version beside."""
    ours = {postgres.newest(): postgres._installations()[postgres.newest()]}
    monkeypatch.setattr(postgres, "_installations", lambda: ours)
    monkeypatch.setattr(upgrade, "PLACES", ())
    monkeypatch.setenv("PATH", "/nowhere")


def test_programs_of_the_old_version_are_found_or_asked_for(old, request, monkeypatch):
    data, version = old
    root = postgres.cluster_root(data)
    folder = programs(version, root)
    request.getfixturevalue("only_ours")
    with pytest.raises(PostgresError, match=f"PostgreSQL {version}; .*apt install postgresql-{version};.*restore FILE"):
        upgrade.as_it_is(data)
    monkeypatch.setenv("PATH", f"/nowhere{os.pathsep}{folder}")
    assert upgrade.as_it_is(data).binaries == folder
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(upgrade, "PLACES", (f"{folder.parent}/{{}}", str(folder)))
    assert upgrade.as_it_is(data).binaries == folder
    monkeypatch.setattr(upgrade, "PLACES", ())
    monkeypatch.setenv(upgrade.VARIABLE, str(folder / "postgres"))
    assert upgrade.as_it_is(data).binaries == folder
    for wrong in (folder / "initdb", postgres.binaries_for_clients() / "postgres", folder / "none"):
        monkeypatch.setenv(upgrade.VARIABLE, str(wrong))
        with pytest.raises(
            PostgresError, match=f"LOBS_OLD_POSTGRES_BIN: {wrong} is no `postgres` of version {version}"
        ):
            upgrade.as_it_is(data)


def test_a_newer_one_is_left_to_newer_programs(old):
    data, _ = old
    (postgres.cluster_root(data) / "data" / "PG_VERSION").write_text("99\n")
    with pytest.raises(PostgresError, match="is of PostgreSQL 99, newer than"):
        upgrade.prepare(data, tell=lambda _: None, pause=lambda _: None)


def test_secrets_of_another_database_are_one_clear_line(old):
    data, _ = old
    (data / "secrets" / f"postgres_{SUPERUSER}").write_text("another\n")
    with pytest.raises(PostgresError, match=r"secrets belong to another database.*data is as it was"):
        upgrade.prepare(data, tell=lambda _: None, pause=lambda _: None)


def test_what_cannot_be_restored_is_named(old):
    data, version = old
    cluster = upgrade.as_it_is(data)
    assert cluster is not None
    with cluster.serve(), psycopg.connect(cluster.dsn(SUPERUSER), autocommit=True) as connection:
        # As one of an extension that the new programs lack.
        connection.execute("CREATE FUNCTION public.lost() RETURNS int LANGUAGE sql AS 'SELECT 1'")
        connection.execute(
            "UPDATE pg_proc SET prolang = (SELECT oid FROM pg_language WHERE lanname = 'c'), prosrc = 'lost',"
            " prosqlbody = NULL, probin = '$libdir/nowhere' WHERE proname = 'lost'"
        )
    with pytest.raises(PostgresError, match=r"pg_restore: error.*data is as it was"):
        upgrade.prepare(data, tell=lambda _: None, pause=lambda _: None)
    assert postgres.version_of(postgres.cluster_root(data)) == version
