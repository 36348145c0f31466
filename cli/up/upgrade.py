"""A cluster of an older major version of PostgreSQL, brought to ours by dump and restore.

PostgreSQL's programs of one major version do not open the files of another. So the old server is started once more,
for us alone, and everything in it (roles, databases, rights) is dumped and restored into a new cluster beside, which
takes the place of the old one when the two hold the same rows. The old files are kept under another name.

Until then nothing of the old cluster is moved; whatever ends us in between, the next start begins anew.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import psycopg

from cli.up import clients, postgres
from cli.up.clients import Pause, Tell
from cli.up.postgres import SUPERUSER, Cluster, PostgresError
from lobservatory.errors import UserError
from lobservatory.given import path_of
from store import server
from store.server import RowCounts

VARIABLE = "LOBS_OLD_POSTGRES_BIN"
# Where systems install several major versions beside each other: Debian, PostgreSQL's own packages for Red Hat, SUSE,
# Alpine, Homebrew on either processor, Postgres.app.
PLACES = (
    "/usr/lib/postgresql/{}/bin",
    "/usr/pgsql-{}/bin",
    "/usr/lib/postgresql{}/bin",
    "/usr/libexec/postgresql{}",
    "/opt/homebrew/opt/postgresql@{}/bin",
    "/usr/local/opt/postgresql@{}/bin",
    "/Applications/Postgres.app/Contents/Versions/{}/bin",
)
_VERSION_SECONDS = 10.0
_OTHERS_KEEP = "postgres"  # the database that initdb makes; all others are created
# The new cluster and its WAL; a restore is seldom larger than what it was dumped from.
_SPACE = 2


def prepare(data_dir: Path, *, tell: Tell, pause: Pause) -> Cluster:
    """As `postgres.prepare`, also for a cluster of an older major version, which is migrated first.

    Only for who holds the data directory's lock. Raises PostgresError, UserError, and what `pause` raises.
    """
    try:
        root = postgres.cluster_root(data_dir)
        _finish(root)
        version = postgres.version_of(root)
        if version not in {None, postgres.newest()}:
            _migrate(data_dir, tell, pause)
    except OSError as error:
        raise PostgresError(f"{error.filename or data_dir}: {error.strerror or error}") from error
    return postgres.prepare(data_dir)


def as_it_is(data_dir: Path) -> Cluster | None:
    """The cluster of a data directory with the programs of its own version; None when there is none yet.

    Only for who holds the data directory's lock. Raises PostgresError.
    """
    try:
        root = postgres.cluster_root(data_dir)
        _finish(root)
        version = postgres.version_of(root)
        return None if version is None else postgres.existing(data_dir, _binaries(version, root, os.environ))
    except OSError as error:
        raise PostgresError(f"{error.filename or data_dir}: {error.strerror or error}") from error


def _migrate(data_dir: Path, tell: Tell, pause: Pause) -> None:
    old = as_it_is(data_dir)
    if old is None:
        raise AssertionError("only called for a cluster that is there")
    root, before, after = old.root, postgres.version_of(old.root), postgres.newest()
    beside = root / "next"
    # A server of either cluster, left by an earlier run that was killed.
    new = replace(old, root=beside, binaries=postgres.binaries_for_clients())
    for cluster in (old, new):
        cluster.stop_running()
    _clear(root)
    size = _check_space(old)
    heading = f"PostgreSQL {before} → {after}"
    try:
        postgres.make_directory(beside)
        tell(f"{heading}: reading the database of {size / 1e6:,.0f} MB …")
        with old.serve():
            dumped = _dump(old, beside, pause)
            rows = {name: _rows(old, name) for name in dumped}
        tell(f"{heading}: writing {sum(sum(tables.values()) for tables in rows.values()):,} rows into a new one …")
        bundled = postgres.bundled(after)
        if bundled is None:
            raise AssertionError("the newest version is one of the wheel")
        new = replace(new, binaries=postgres.reachable(bundled, after, root))
        postgres.initialise(beside, new.binaries, new.passwords[SUPERUSER])
        with new.serve():
            _load(new, dumped, beside, pause)
            tell(f"{heading}: comparing …")
            _compare(new, rows)
        pause(0)
        kept = _switch(root, before or "")
    except (UserError, PostgresError, psycopg.Error) as error:
        raise PostgresError(f"{heading}: {str(error).strip()}. The old database in {old.data} is as it was") from error
    finally:
        _clear(root)
    tell(f"{heading}: done. The old database is kept in {kept}; delete that folder when all is well")


def _dump(cluster: Cluster, folder: Path, pause: Pause) -> dict[str, Path]:
    """Write roles and every database; gives database → file. Raises UserError."""
    roles = folder / "roles.sql"
    clients.run("pg_dumpall", _url(cluster, _OTHERS_KEEP), "--roles-only", f"--file={roles}", pause=pause)
    with psycopg.connect(cluster.dsn(SUPERUSER, _OTHERS_KEEP)) as connection:
        files = {name: folder / f"{number}.dump" for number, name in enumerate(server.databases(connection))}
    for name, file in files.items():
        clients.run("pg_dump", _url(cluster, name), "--format=custom", "--compress=1", f"--file={file}", pause=pause)
    return files


def _load(cluster: Cluster, dumped: Mapping[str, Path], folder: Path, pause: Pause) -> None:
    """Restore roles and databases into a new cluster, with their owners and rights. Raises UserError."""
    roles = folder / "roles.sql"
    # initdb has made the superuser; that it be created is the one statement that cannot be repeated.
    known = f"CREATE ROLE {SUPERUSER};"
    text = roles.read_text(encoding="utf-8")
    roles.write_text("\n".join(line for line in text.split("\n") if line != known), encoding="utf-8")
    url = _url(cluster, _OTHERS_KEEP)
    clients.run(
        "psql", url, "--no-psqlrc", "--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1", f"--file={roles}",
        pause=pause,
    )  # fmt: skip
    for name, file in dumped.items():
        create = [] if name == _OTHERS_KEEP else ["--create"]
        clients.run("pg_restore", url, "--exit-on-error", *create, str(file), pause=pause)


def _rows(cluster: Cluster, database: str) -> RowCounts:
    with psycopg.connect(_url(cluster, database)) as connection:
        return server.row_counts(connection)


def _compare(cluster: Cluster, expected: Mapping[str, RowCounts]) -> None:
    for name, rows in expected.items():
        if _rows(cluster, name) != rows:
            raise PostgresError(f"the new database {name} does not have the rows of the old one")


def _switch(root: Path, version: str) -> Path:
    """Put the new cluster where the old one is; gives the old one's new name. A kill at any moment leaves one of them
    in its place, or what `_finish` needs."""
    (root / "next" / "data").rename(root / "data.ready")
    kept = root / f"data-{version}"
    number = 1
    while kept.exists():
        number += 1
        kept = root / f"data-{version}-{number}"
    (root / "data").rename(kept)
    _finish(root)
    return kept


def _finish(root: Path) -> None:
    """Do the last step of a switch: it was interrupted where there is a new cluster and none in use."""
    if not (root / "data").exists() and (root / "data.ready").exists():
        (root / "data.ready").rename(root / "data")


def _clear(root: Path) -> None:
    """Remove what a migration makes, but for its result."""
    for name in ("next", "data.ready"):
        shutil.rmtree(root / name, ignore_errors=True)


def _check_space(cluster: Cluster) -> int:
    """The size of a cluster in bytes. Raises PostgresError when there is no room for another one."""
    size = sum(path.lstat().st_size for path in cluster.data.rglob("*") if not path.is_dir())
    needed, free = size * _SPACE, shutil.disk_usage(cluster.root).free
    if free < needed:
        raise PostgresError(
            f"{cluster.data} is of PostgreSQL {postgres.version_of(cluster.root)} and has to be migrated to"
            f" {postgres.newest()}, which needs {needed / 1e6:,.0f} MB of free space; there are {free / 1e6:,.0f} MB."
            " Make room and start again"
        )
    return size


def _binaries(version: str, root: Path, environment: Mapping[str, str]) -> Path:
    """The folder with the server program of a major version. Raises PostgresError with what to do."""
    bundled = postgres.bundled(version)
    if bundled is not None:
        return postgres.reachable(bundled, version, root)
    newest, data = postgres.newest(), root / "data"
    if int(version) > int(newest):
        raise PostgresError(
            f"{data} is of PostgreSQL {version}, newer than the {newest} of this installation: run it with the version"
            " of Lobservatory that made it, or newer"
        )
    named = environment.get(VARIABLE)
    if named:
        try:
            program = path_of(named).absolute()
        except ValueError as error:
            raise PostgresError(f"{VARIABLE}: {error}") from error
        if _major(program) != version:
            raise PostgresError(f"{VARIABLE}: {program} is no `postgres` of version {version}, which {data} is of")
        return program.parent
    folders = [Path(place.format(version)) for place in PLACES]
    folders += [Path(folder) for folder in environment.get("PATH", "").split(os.pathsep) if folder]
    for folder in folders:
        if _major(folder / "postgres") == version:
            return folder
    raise PostgresError(
        f"{data} is of PostgreSQL {version}; this installation has {newest}. To migrate it, the server programs of"
        f" {version} are needed once. Debian, Ubuntu: apt install postgresql-{version}; macOS: brew install"
        f" postgresql@{version}; or set {VARIABLE} to the path of its `postgres`; then start again. With a backup you"
        f" need none of them: mv {data} {data}-{version}, then lobservatory restore FILE"
    )


def _major(program: Path) -> str | None:
    """The major version of a server program; None when it is none."""
    if not (program.is_file() and os.access(program, os.X_OK)):
        return None
    try:
        done = subprocess.run(  # noqa: S603 - a program of this machine that is called postgres
            [str(program), "--version"], env={"PATH": os.defpath, "LC_ALL": "C"}, stdin=subprocess.DEVNULL,
            capture_output=True, timeout=_VERSION_SECONDS, check=False, text=True, errors="replace",
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.match(r"postgres \(PostgreSQL\) (\d+)", done.stdout)
    return found[1] if found else None


def _url(cluster: Cluster, database: str) -> str:
    return cluster.dsn(SUPERUSER, quote(database, safe=""))
