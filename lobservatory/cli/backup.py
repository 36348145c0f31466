"""`lobservatory backup` and `lobservatory restore`: the database as one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lobservatory import settings as settings_module


def backup(file: Annotated[Path, typer.Argument(help="A file that is not there yet.")]) -> None:
    """Write the whole database into a file. Everything may go on running."""
    from lobservatory.runner import backup as runner  # noqa: PLC0415 - `--help` needs no database

    size = runner.backup(settings_module.load(), file)
    typer.echo(f"backup: {file} ({size / 1e6:.1f} MB). Keep the folder secrets/ of the data directory with it")


def restore(file: Annotated[Path, typer.Argument(help="A file of `lobservatory backup`.")]) -> None:
    """Fill an empty database from a backup and bring its schema up to date."""
    from lobservatory.runner import backup as runner  # noqa: PLC0415

    runner.restore(settings_module.load(), file)
    typer.echo(f"restore: the database has the content of {file}")
