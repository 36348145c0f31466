"""The commands of docs/operation.md that save and bring back the database, as they stand there."""

import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from cli.up import postgres
from store.migrate import migrate
from tests.house.test_house_up import PROGRAM, Installation, count, installation
from tests.servers import PATIENCE_SECONDS, wait_for

ROOT = Path(__file__).resolve().parents[2]
__all__ = ["installation"]  # a fixture


def blocks(section):
    """The commands of each block of a section, one a line."""
    page = (ROOT / "docs" / "operation.md").read_text(encoding="utf-8")
    found = re.search(rf"^#+ {section}\n(.*?)(?=^#+ |\Z)", page, re.MULTILINE | re.DOTALL)
    assert found is not None
    return [block.strip().splitlines() for block in re.findall(r"```sh\n(.*?)```", found[1], re.DOTALL)]


def shell(place, commands):
    """Run commands as a person would, with our programs and PostgreSQL's on PATH."""
    folder = place.folder / "bin"
    folder.mkdir(exist_ok=True)
    sudo = folder / "sudo"
    sudo.write_text('#!/bin/sh\nshift 2\nexec "$@"\n')  # -u postgres
    sudo.chmod(0o755)
    path = [folder, Path(sys.executable).parent, postgres.binaries_for_clients(), place.environment["PATH"]]
    environment = {**place.environment, "PATH": ":".join(map(str, path))}
    done = subprocess.run(
        ["sh", "-eu", "-c", "\n".join(commands)], cwd=place.folder, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def in_folder(place, commands, **replaced):
    """The commands with this test's places instead of the examples'."""
    text = "\n".join(commands).replace("/var/backups", str(place.folder))
    text = text.replace("lobservatory-2026-11-21.dump", "lobservatory-*.dump")
    for old, new in replaced.items():
        text = text.replace(old, new)
    return text.splitlines()


def stop(process):
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_SECONDS) == 0


def url_of(place):
    return (place.data / "run" / "database_url").read_text(encoding="utf-8").strip()


@pytest.mark.req("S2-14")
def test_what_was_backed_up_while_it_ran_is_shown_by_a_new_installation(installation, postgres_server):
    backup, restore, own = blocks("Backup and restore")
    process, output = installation.up()
    installation.ready(process, output)
    wait_for(lambda: count(url_of(installation), "model_calls") == 32, "rows")
    with psycopg.connect(url_of(installation)) as connection:
        connection.execute("INSERT INTO lobs.tasks (id, title) VALUES ('task_1', 'kept')")
    shell(installation, in_folder(installation, backup))
    (file,) = installation.folder.glob("lobservatory-*.dump")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600

    # What outlives a killed `up` is saved as it is, and not restored into.
    process.kill()
    process.wait(PATIENCE_SECONDS)
    served = installation.statuses()["postgres"].pid
    program = str(PROGRAM)
    assert "starting the database" not in shell(installation, [f"{program} backup left.dump"])
    assert (installation.folder / "left.dump").stat().st_size > 1000
    told = shell(installation, [f"! {program} restore left.dump 2>&1"])
    assert "has left its parts running: stop them first (`lobservatory up --stop`)" in told
    assert installation.statuses()["postgres"].pid == served
    shell(installation, [f"{program} up --stop"])
    installation.assert_nothing_left()

    # A new machine: another data directory, and no sessions to read again.
    shutil.rmtree(installation.folder / ".openclaw")
    new = Installation(installation.folder, **installation.environment)
    new.data = installation.folder / "new"
    new.environment["LOBS_DATA_DIR"] = str(new.data)
    first, second = in_folder(new, restore)
    try:
        assert "model calls: 32 " in shell(new, [first])
        assert second == "lobservatory up"
        process, output = new.up(*shlex.split(second)[2:])
        state = new.ready(process, output)
        assert {row["state"] for row in state["rows"] if row["part"] in {"postgres", "exporter", "api"}} == {"running"}
        assert (count(url_of(new), "model_calls"), count(url_of(new), "tasks")) == (32, 1)
        stop(process)
        new.assert_nothing_left()
    finally:
        new.close()

    name = "lobservatory_restored"
    with psycopg.connect(postgres_server.admin, autocommit=True) as admin:
        drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        admin.execute(drop)
        info = admin.info
        new.environment |= {
            "PGHOST": info.host,
            "PGPORT": str(info.port),
            "PGUSER": info.user,
            "PGPASSWORD": info.password,
        }
        own = in_folder(
            new,
            own,
            **{
                f"postgresql://{role}@127.0.0.1/{name}": shlex.quote(
                    postgres_server.dsn(name, role if postgres_server.cluster else None)
                )
                for role in (postgres.OWNER, postgres.WRITER)
            },
        )
        try:
            assert "model calls: 32 " in shell(new, own)
            assert count(postgres_server.dsn(name), "tasks") == 1
        finally:
            admin.execute(drop)


def test_up_migrates_the_database_of_an_older_postgresql(installation):
    ((command,),) = blocks("A new major version of PostgreSQL")
    assert re.fullmatch(r"LOBS_OLD_POSTGRES_BIN=\S+/postgres lobservatory up", command)
    installation.data.mkdir()
    root = postgres.cluster_root(installation.data)
    bundled = postgres.bundled("16")
    assert bundled is not None
    binaries = postgres.reachable(bundled, "16", root)
    (installation.data / "secrets").mkdir(mode=0o700)
    password = installation.data / "secrets" / f"postgres_{postgres.SUPERUSER}"
    password.touch(mode=0o600)
    password.write_text("old\n")
    postgres.initialise(root, binaries, "old")
    with postgres.existing(installation.data, binaries).run() as cluster:
        migrate(cluster.dsn(postgres.OWNER))
        with psycopg.connect(cluster.dsn(postgres.WRITER)) as connection:
            connection.execute("INSERT INTO lobs.tasks (id, title) VALUES ('task_1', 'kept')")
    installation.environment["LOBS_OLD_POSTGRES_BIN"] = str(binaries / "postgres")
    process, output = installation.up()
    installation.ready(process, output)
    said = output.read_text(encoding="utf-8")
    assert f"PostgreSQL 16 → {postgres.newest()}: done. The old database is kept in " in said
    with psycopg.connect(url_of(installation)) as connection:
        assert connection.execute("SELECT title FROM tasks").fetchall() == [("kept",)]
        assert connection.info.server_version // 10000 == int(postgres.newest())
    stop(process)
    installation.assert_nothing_left()
