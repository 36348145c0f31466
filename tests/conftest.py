"""Fixtures that every room may use: a real PostgreSQL, and the rule for parts that a machine lacks."""

from __future__ import annotations

import atexit
import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import psycopg
import pytest
from hypothesis import settings as hypothesis_settings
from psycopg import sql

from cli.up import postgres
from lobservatory.settings import Settings
from store.migrate import migrate
from tests.tools import TOOLS

# Of the shell that tests are started from. Its settings are for its own installation, gateway and database, and tests
# read what programs print.
FOREIGN = ("LOBS_", "OPENCLAW_", "OTEL_", "PG", "SUPERVISOR_", "TYPER_")
PRESENTATION = {"CLICOLOR_FORCE", "COLUMNS", "FORCE_COLOR", "LINES", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"}
GIVEN = {"LOBS_TEST_DSN", *(tool.variable for tool in TOOLS.values())}


def _leave_the_shell_behind() -> None:
    """Forget what the developer's shell and configuration say of us and of OpenClaw; subprocesses inherit that."""
    for name in set(os.environ) - GIVEN:
        if name.startswith(FOREIGN) or name in PRESENTATION:
            del os.environ[name]
    for name in ("no_proxy", "NO_PROXY"):  # what tests start is on this machine
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1", "localhost", "::1")))
    # A configuration home with everything of the developer's (pip's and npm's registries) but our own folder.
    real = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    ours = Path(tempfile.mkdtemp(prefix="lobs-config-"))
    atexit.register(shutil.rmtree, ours, ignore_errors=True)
    for path in real.iterdir() if real.is_dir() else ():
        if path.name != "lobservatory":
            (ours / path.name).symlink_to(path)
    os.environ["XDG_CONFIG_HOME"] = str(ours)


_leave_the_shell_behind()

# Where the parts of an installation listen; the developer's own, or a distribution's Prometheus, may be there.
USUAL = {field.default.port for name, field in Settings.model_fields.items() if name.endswith("_listen")} | {
    18789
}  # the gateway's
_met: list[str] = []


def _notice(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect" and isinstance(arguments[1], tuple) and arguments[1][1] in USUAL:
        _met.append(f"{arguments[1][0]}:{arguments[1][1]}")


sys.addaudithook(_notice)


@pytest.fixture(scope="session", autouse=True)
def _elsewhere() -> Iterator[None]:
    """Tests and what they start run in an empty folder: in the checkout there may be somebody's lobservatory.toml."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="lobs-elsewhere-") as folder:
        Path(folder).chmod(0o755)
        os.chdir(folder)
        yield
        os.chdir(before)


@pytest.fixture(autouse=True)
def _own_servers_only() -> Iterator[None]:
    """A test that asks at a usual address gets another answer on the machine of somebody who has a server there."""
    _met.clear()
    yield
    assert not _met, f"this test connects to {', '.join(sorted(set(_met)))}, where anybody's server may answer"


# How long an example takes is the machine's business, not a property.
hypothesis_settings.register_profile("untimed", deadline=None)
hypothesis_settings.load_profile("untimed")

pytest_plugins = ["tests.servers", "tests.live.fixtures", "tests.otlp"]

TEMPLATE = "lobs_test_template"
# Files whose tests wait for real gateways and servers for a minute and more; what is left to the end should be short.
LONG_FIRST = (
    "tests/house/test_house_fresh_machine.py",
    "tests/live/",
    "tests/dashboards/",
    "tests/alerts/",
    "tests/exporter/",
    "tests/house/",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the rooms by how long they take, each as it was."""

    def rank(item: pytest.Item) -> int:
        return next((n for n, room in enumerate(LONG_FIRST) if item.nodeid.startswith(room)), len(LONG_FIRST))

    items.sort(key=rank)


def missing(what: str, how: str) -> NoReturn:
    """A real component is not on this machine: skip loudly; with CI=true that is a failure.

    `what`: the component; `how`: how to get it.
    """
    text = f"{what} is missing: {how}"
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(text)
    pytest.skip(text)


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A server that tests may fill. `admin` is a DSN that may create databases and roles."""

    admin: str
    cluster: postgres.Cluster | None  # None with LOBS_TEST_DSN

    def dsn(self, database: str, role: str | None = None) -> str:
        """A DSN of one database as a role (None: as the administrator)."""
        if role is not None and self.cluster is not None:
            return self.cluster.dsn(role, database)
        parts = urlsplit(self.admin)
        query = dict(parse_qsl(parts.query))
        if role is not None:  # a server that is not ours: its roles' passwords are unknown and stay as they are
            query["options"] = f"-c role={role}"
        return urlunsplit(parts._replace(path=f"/{database}", query=urlencode(query, quote_via=quote)))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The server of LOBS_TEST_DSN, else an embedded one; with a migrated template database."""
    given = os.environ.get("LOBS_TEST_DSN")
    if given:
        server = PostgresServer(given, None)
        template = f"{TEMPLATE}_{os.getpid()}"
        _create(server, template, None)
        try:
            _extend(server, template)
            migrate(server.dsn(template))
            _seal(server, template)
            yield server
        finally:
            _drop(server, template)
        return
    # Not pytest's own temporary folder: as root the server runs as another user, who cannot enter that.
    folder = Path(tempfile.mkdtemp(prefix="lobs-pg-", dir=_memory()))
    folder.chmod(0o755)
    try:
        cluster = postgres.prepare(folder, durable=False)
        with cluster.run():
            server = PostgresServer(cluster.dsn(postgres.SUPERUSER, "postgres"), cluster)
            _create(server, f"{TEMPLATE}_{os.getpid()}", postgres.OWNER)
            migrate(server.dsn(f"{TEMPLATE}_{os.getpid()}", postgres.OWNER))
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


_MEMORY_BYTES = 2 * 1024**3  # for what three processes of tests need at most


def _memory() -> str | None:
    """A folder in memory, where a database for each test costs a tenth; None: there is none that is large enough."""
    place = "/dev/shm"
    if not os.access(place, os.W_OK) or shutil.disk_usage(place).free < _MEMORY_BYTES:
        return None
    return None if os.statvfs(place).f_flag & os.ST_NOEXEC else place  # the server's programs may be copied there


_numbers = itertools.count(1)


@contextmanager
def fresh_database(server: PostgresServer) -> Iterator[str]:
    """The name of a fresh, migrated database, for fixtures with a longer life than one test."""
    name = f"lobs_test_{os.getpid()}_{next(_numbers)}"
    _create(server, name, None, template=f"{TEMPLATE}_{os.getpid()}")
    try:
        yield name
    finally:
        _drop(server, name)


@pytest.fixture
def postgres_database(postgres_server: PostgresServer) -> Iterator[str]:
    """The name of a fresh, migrated database of this test alone."""
    with fresh_database(postgres_server) as name:
        yield name


@pytest.fixture
def postgres_dsn(postgres_server: PostgresServer, postgres_database: str) -> str:
    """A fresh, migrated database as `lobs_writer`, the role of exporter and API."""
    return postgres_server.dsn(postgres_database, postgres.WRITER)


@pytest.fixture
def postgres_owner_dsn(postgres_server: PostgresServer, postgres_database: str) -> str:
    """The same database as its owner (with LOBS_TEST_DSN: as the administrator), for migrations and for looking."""
    return postgres_server.dsn(postgres_database, postgres.OWNER if postgres_server.cluster else None)


@pytest.fixture
def postgres_reader_dsn(postgres_server: PostgresServer, postgres_database: str) -> str:
    """The same database as `lobs_reader`, the role of Grafana and chat: SELECT on views only."""
    return postgres_server.dsn(postgres_database, postgres.READER)


def _create(server: PostgresServer, name: str, owner: str | None, template: str = "template0") -> None:
    # Copied as files, which takes a fifth of the time where nothing waits for the disk.
    statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(
        sql.Identifier(name), sql.Identifier(template)
    )
    if owner:
        statement += sql.SQL(" OWNER {}").format(sql.Identifier(owner))
    elif template != "template0" and server.cluster:
        statement += sql.SQL(" OWNER {}").format(sql.Identifier(postgres.OWNER))
    with psycopg.connect(server.admin, autocommit=True) as connection:
        connection.execute(statement)


def _extend(server: PostgresServer, name: str) -> None:
    """With TimescaleDB where the server has it loaded."""
    with psycopg.connect(server.dsn(name), autocommit=True) as connection:
        loaded = connection.execute("SELECT current_setting('shared_preload_libraries')").fetchone()
        if loaded and "timescaledb" in loaded[0]:
            connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")


def _seal(server: PostgresServer, name: str) -> None:
    """Keep everyone out: TimescaleDB's scheduler connects to each database, and one in use is no template."""
    with psycopg.connect(server.admin, autocommit=True) as connection:
        connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(sql.Identifier(name)))
        connection.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (name,))


def _drop(server: PostgresServer, name: str) -> None:
    with psycopg.connect(server.admin, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
