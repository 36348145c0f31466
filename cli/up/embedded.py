"""The embedded database for a command of its own, `backup` or `restore`, also while no `lobservatory up` runs."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

from cli.up import postgres, secrets, upgrade
from cli.up.access import database_url
from cli.up.clients import Pause, Tell
from cli.up.postgres import OWNER, SUPERUSER, Cluster
from cli.up.up import busy, holder, is_running, lock
from cli.up.up import prepare as directories
from lobservatory.errors import UserError
from lobservatory.settings import Settings


@contextlib.contextmanager
def as_it_is(settings: Settings, command: str, tell: Tell) -> Iterator[str]:
    """A URL of the database that may read all of it; where it does not run, it does for as long as this lasts.

    Raises UserError, SettingsError, PostgresError.
    """
    nothing = UserError(
        f"{command}: there is no database in {settings.data_dir}: `lobservatory up` makes one. Is it another one's?"
        " Set LOBS_DATA_DIR, or LOBS_DATABASE_URL for a PostgreSQL of your own"
    )
    if not settings.data_dir.expanduser().is_dir():
        raise nothing
    place = directories(settings)
    postgres.forget_libpq_variables()
    with lock(place, command) as mine:
        if not mine and holder(place)[1] != "up":
            raise UserError(f"{command}: {busy(place)}")
        if not mine or is_running(place.data):
            yield _running(settings)
            return
        cluster = upgrade.as_it_is(place.data)
        if cluster is None:
            raise nothing
        tell(f"{command}: starting the database in {cluster.root} for this …")
        cluster.stop_running()
        with cluster.serve():
            yield cluster.dsn(SUPERUSER)


@contextlib.contextmanager
def to_fill(settings: Settings, command: str, tell: Tell, pause: Pause) -> Iterator[Cluster]:
    """The embedded database, made where it is not yet, running with its roles for as long as this lasts. Nobody else
    can start it meanwhile. Raises UserError, PostgresError."""
    place = directories(settings)
    postgres.forget_libpq_variables()
    with lock(place, command) as mine:
        if not mine:
            raise UserError(f"{command}: {busy(place)}")
        if is_running(place.data):
            raise UserError(
                f"{command}: an earlier `lobservatory up` has left its parts running: stop them first"
                " (`lobservatory up --stop`)"
            )
        secrets.create(place.data)
        root = postgres.cluster_root(place.data)
        version = postgres.version_of(root)
        if version not in {None, postgres.newest()}:
            raise occupied(command, root, f"a database of PostgreSQL {version}")
        cluster = upgrade.prepare(place.data, tell=tell, pause=pause)
        cluster.stop_running()  # a server that an earlier, killed run has left
        tell(f"{command}: starting the database in {cluster.root} for this …")
        with cluster.run():
            yield cluster


def occupied(command: str, root: Path, what: str) -> UserError:
    """The refusal to write into a database with content."""
    data = root / "data"
    return UserError(
        f"{command}: {data} holds {what}, and nothing is written over it. Move it away and try again:"
        f" {shlex.join(['mv', str(data), str(root / 'data-before-restore')])}; or set LOBS_DATA_DIR to another folder"
    )


def _running(settings: Settings) -> str:
    """The database of a running `up`, as its owner."""
    parts = urlsplit(database_url(settings))
    password = quote(secrets.read(settings.data_dir, f"postgres_{OWNER}"), safe="")
    return parts._replace(netloc=f"{OWNER}:{password}@{parts.hostname}:{parts.port}").geturl()
