"""`lobservatory backup` and `lobservatory restore`: the database as one file."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from lobservatory import settings as settings_module
from lobservatory.errors import UserError

_INTERRUPTED = 130  # as shells count an end by Ctrl-C


def backup(file: Annotated[Path, typer.Argument(help="A file that is not there yet.")]) -> None:
    """Write the whole database into a file. Everything may go on running, or not run."""
    from cli.up import backup as database  # noqa: PLC0415 - `--help` needs no database

    with _until_a_signal("backup: stopped; there is no new file") as pause:
        size = database.backup(settings_module.load(), file, tell=typer.echo, pause=pause)
    typer.echo(f"backup: {file} ({size / 1e6:.1f} MB). Keep the folder secrets/ of the data directory with it")


def restore(file: Annotated[Path, typer.Argument(help="A file of `lobservatory backup`.")]) -> None:
    """Fill an empty database from a backup and bring its schema up to date. The embedded one is made and started."""
    from cli.up import backup as database  # noqa: PLC0415

    with _until_a_signal("restore: stopped before its end; the database is as it was") as pause:
        found = database.restore(settings_module.load(), file, tell=typer.echo, pause=pause)
    typer.echo(f"restore: done. Now in the database: {found}")


@contextlib.contextmanager
def _until_a_signal(said: str) -> Iterator[Callable[[float], None]]:
    """A pause that the signals which mean "stop" end; then everything is put in order, and the command ends so."""
    from cli.up.up import Signals, StopRequested  # noqa: PLC0415

    with Signals().handled() as signals:
        try:
            yield signals.pause
        except StopRequested:
            raise UserError(said, status=_INTERRUPTED) from None
