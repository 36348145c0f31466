"""What must be there before the exporter can go on: the state directory, the database, the gateway's token. What is
missing is waited for."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import psycopg

from lobservatory import logging
from lobservatory.errors import SettingsError, StartError
from lobservatory.settings import Settings
from openclaw.state_dir import StateDirError, gateway_token, load_config, resolve
from store.ledger.checkpoint import CheckpointLedger
from store.ledger.contract import Ledger
from store.ledger.postgres import PostgresLedger
from store.migrate import MigrateError, check_schema, set_timezone

log = logging.get(__name__)

RETRY_STATE_DIR: Final = 10.0  # seconds between two looks for a state directory that is not there
RETRY_DATABASE: Final = (1.0, 10.0)  # first and longest wait for a database that is not ready


class Missing:
    """The parts that are missing now. Changes with how people are told: once when a part is missing, and once when it
    has come; metrics go on."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    def __contains__(self, part: str) -> bool:
        """Whether it is missing."""
        return part in self._said

    def say(self, part: str, text: str) -> None:
        """What is wrong with a part."""
        if self._said.get(part) != text:
            log.error(text, part=part)
            self._said[part] = text

    def found(self, part: str) -> None:
        """It is there."""
        if self._said.pop(part, None) is not None:
            log.info("found", part=part)


class StateDirectory:
    """The state directory that is watched: found, and held against a second exporter. Changes with where it is looked
    for and how it is held. `path`: where it is, or would be."""

    def __init__(self, settings: Settings, missing: Missing) -> None:
        self.path = state_dir_or_candidate(settings)
        self._named = settings.state_dir
        self._missing = missing
        self._held: Path | None = None

    def hold_now(self, stack: contextlib.ExitStack | contextlib.AsyncExitStack) -> None:
        """Hold it until the stack ends, if it is there. Raises StartError."""
        if self.path.is_dir():
            self._hold(self.path, stack)

    async def found(self, stack: contextlib.AsyncExitStack) -> Path:
        """Wait for it, and hold it until the stack ends, if that was not done before. Raises StartError."""
        while True:
            try:
                found = resolve(self._named)
            except StateDirError as error:
                self._missing.say("state directory", str(error))
                await asyncio.sleep(RETRY_STATE_DIR)
            else:
                break
        self._missing.found("state directory")
        if self._held != found:
            self._hold(found, stack)
        return found

    def _hold(self, path: Path, stack: contextlib.ExitStack | contextlib.AsyncExitStack) -> None:
        stack.enter_context(only_one(path))
        self._held = path


def state_dir_or_candidate(settings: Settings) -> Path:
    """Where the state directory is, or would be."""
    with contextlib.suppress(StateDirError):
        return resolve(settings.state_dir)
    named = settings.state_dir or os.environ.get("OPENCLAW_STATE_DIR") or Path.home() / ".openclaw"
    return Path(named).expanduser()


@contextlib.contextmanager
def only_one(state_dir: Path) -> Iterator[None]:
    """Hold the state directory against a second exporter. The lock is on the directory itself, which is only opened
    for reading, and ends with the process. Raises StartError."""
    descriptor = os.open(state_dir, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartError(
                f"another exporter already watches {state_dir}: stop it, or give this one another LOBS_STATE_DIR"
            ) from None
        except OSError as error:
            # A network file system without locks: the ledger's own lock remains.
            log.warning("the state directory cannot be locked", state_dir=str(state_dir), error=error.strerror)
        yield
    finally:
        os.close(descriptor)


class GatewayToken:
    """The gateway's token as it is when it is asked for, which is at every connect. Changes with where it may come
    from. `reload` gives the settings anew, for a token that has changed in its file."""

    def __init__(
        self, settings: Settings, reload: Callable[[], Settings] | None, state_dir: Path, missing: Missing
    ) -> None:
        self._settings = settings
        self._reload = reload or (lambda: settings)
        self._state_dir = state_dir
        self._missing = missing

    def __call__(self) -> str:
        """The token, which no line of the log will show."""
        try:
            settings = self._reload()
        except SettingsError as error:
            self._missing.say("settings", str(error))
            settings = self._settings
        token = gateway_token(settings, load_config(self._state_dir)).get_secret_value()
        logging.REDACTOR.learn(token)
        return token


async def found_ledger(settings: Settings, missing: Missing) -> Ledger:
    """The ledger: that of the database once it is there with our schema; without one, that of a file."""
    dsn = settings.database_url.get_secret_value()
    if not dsn:
        return CheckpointLedger(settings.data_dir, settings.gateway_name)
    delay = RETRY_DATABASE[0]
    while True:
        try:
            await asyncio.to_thread(_prepare_database, dsn, settings.timezone)
        except (MigrateError, psycopg.Error) as error:
            missing.say("database", str(error).strip())
            await asyncio.sleep(delay)
            delay = min(delay * 2, RETRY_DATABASE[1])
        else:
            missing.found("database")
            return PostgresLedger(dsn, settings.gateway_name)


def _prepare_database(dsn: str, timezone: str) -> None:
    check_schema(dsn)
    with psycopg.connect(dsn, autocommit=True, connect_timeout=10) as connection:
        set_timezone(connection, timezone)
