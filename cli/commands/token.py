"""`lobservatory token`: make, list and revoke tokens of the API, without the API."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from lobservatory import settings as settings_module
from lobservatory.errors import UserError

if TYPE_CHECKING:
    from store.auth import Token

app = typer.Typer(help="Make, list and revoke tokens of the API.", no_args_is_help=True, pretty_exceptions_enable=False)


class Scope(StrEnum):
    """What a token may do; each includes those before it."""

    READ = "read"
    WRITE = "write"
    COMMAND = "command"
    ADMIN = "admin"


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose it is: it stands in the audit log.")],
    *,
    scope: Annotated[Scope, typer.Option(help="What it may do.")] = Scope.READ,
    gateway: Annotated[list[str] | None, typer.Option(help="Only this gateway; may be repeated.")] = None,
    days: Annotated[int, typer.Option(min=0, max=3650, help="It expires after so many days; 0: never.")] = 365,
) -> None:
    """Make a token and print it: this once, and stored nowhere. Its id goes to stderr, for `token revoke`."""
    from cli.up import tokens  # noqa: PLC0415 - `--help` needs no database

    if not 0 < len(name) <= 200 or not name.isprintable():  # noqa: PLR2004 - as the API has it
        raise UserError("token create: the name must have 1 to 200 printable characters")
    order = list(Scope)
    held = [one.value for one in order[: order.index(scope) + 1]]
    row, value = tokens.create(settings_module.load(), name, held, gateway or None, days)
    typer.echo(f"token create: {row.id}, {_end(row)}; `lobservatory token revoke {row.id}` ends it", err=True)
    typer.echo(value)


@app.command("list")
def list_() -> None:
    """Every token that is valid or was: id, name, scope, gateways, end, last use. Never a value."""
    from cli.up import tokens  # noqa: PLC0415

    for row in tokens.every(settings_module.load()):
        used = f"used {row.last_used_at:%Y-%m-%d %H:%M}Z" if row.last_used_at else "never used"
        scope = row.scopes[-1] if row.scopes else "none"
        gateways = "all gateways" if row.gateways is None else ",".join(row.gateways)
        typer.echo(f"{row.id}\t{row.name}\t{scope}\t{gateways}\t{_end(row)}\t{used}")


def _end(row: Token) -> str:
    if row.revoked_at:
        return "revoked"
    return f"until {row.expires_at:%Y-%m-%d}" if row.expires_at else "no end"


@app.command()
def revoke(token_id: Annotated[str, typer.Argument(help="The id, as `lobservatory token list` shows it.")]) -> None:
    """End a token now; its live connections end within 10 seconds."""
    from cli.up import tokens  # noqa: PLC0415

    if not tokens.revoke(settings_module.load(), token_id):
        raise UserError(f"token revoke: there is no token {token_id!r}", remedy="`lobservatory token list` shows them")
    typer.echo(f"{token_id} is revoked")
