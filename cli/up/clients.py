"""PostgreSQL's client programs, of the wheel or of the system: `pg_dump`, `pg_dumpall`, `pg_restore`, `psql`.

Passwords go to them by their environment, never by their arguments. They run in a session of their own, so that Ctrl-C
reaches only us; `pause` then raises, and the program is ended.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from cli.up import postgres
from lobservatory.errors import UserError

Pause = Callable[[float], None]  # waits; may raise to end what is being waited for
Tell = Callable[[str], None]  # shows a line to the person

SECONDS = 6 * 3600  # for one run of a program; a database that takes longer needs other means
CONNECT_SECONDS = 10
_POLL_SECONDS = 0.1
_END_SECONDS = 10


def run(name: str, url: str | None, *arguments: str, pause: Pause = time.sleep) -> bytes:
    """What the program printed; `url`: what it connects to. Raises UserError with what it complained about."""
    argv, environment = command(name, url)
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complained:
        try:
            process = subprocess.Popen(  # noqa: S603 - a fixed program; arguments are ours and a path
                [*argv, *arguments], env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=complained,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise UserError(f"{name}: {error.strerror}") from error
        deadline = time.monotonic() + SECONDS
        try:
            while process.poll() is None:
                if time.monotonic() > deadline:
                    raise UserError(f"{name}: took too long")
                pause(_POLL_SECONDS)
        finally:
            end(process)
        if process.returncode:
            raise UserError(complaint(complained) or f"{name} ended with status {process.returncode}")
        said.seek(0)
        return said.read()


def command(name: str, url: str | None) -> tuple[list[str], dict[str, str]]:
    """The beginning of a command line, and its environment. Raises UserError."""
    environment = {"PATH": os.defpath, "LC_ALL": "C", "HOME": "/", "PGCONNECT_TIMEOUT": str(CONNECT_SECONDS)}
    if url is None:
        return [str(_program(name))], environment
    known = conninfo_to_dict(url)
    password = str(known.pop("password", "") or "")
    if password:
        environment["PGPASSWORD"] = password
    return [str(_program(name)), "--no-password", f"--dbname={make_conninfo('', **known)}"], environment


def complaint(file: IO[bytes]) -> str:
    """The first error that a program wrote, else its first line."""
    file.seek(0)
    lines = file.read(100_000).decode("utf-8", "replace").strip().splitlines()
    return next((line for line in lines if "error" in line.lower()), lines[0] if lines else "")


def end(process: subprocess.Popen[bytes]) -> None:
    """End a program that still runs."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _program(name: str) -> Path:
    try:
        found = postgres.binaries_for_clients() / name
        if found.is_file():
            return found
    except postgres.PostgresError:
        pass  # then that of the system, if there is one
    system = shutil.which(name)
    if system is None:
        raise UserError(f"{name} is not installed: run `make venv`, or install PostgreSQL's client programs")
    return Path(system)
