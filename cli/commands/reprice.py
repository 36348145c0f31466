"""`lobservatory reprice`: what today's prices would change in rows; applied to equivalents, never to billed history."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands.scan import new_table, plain, print_whole, since_instant
from lobservatory.errors import UserError, one_line
from lobservatory.wording import counted, dollars

if TYPE_CHECKING:
    from exporter.accounting import PriceBook
    from store.reprice import Change

_MEANING = {
    "equivalent": "equivalent: the new price applies",
    "unpriced": "billed, had no price: stays without (--unpriced gives it one)",
    "billed": "billed: history, stays as it is",
}
_ASKED_FOR = "billed, had no price: the new price applies"


def reprice(
    *,
    since: Annotated[str, typer.Option("--since", help="Calls from this ISO date or time on, for example 2026-11-01.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
    unpriced: Annotated[
        bool, typer.Option("--unpriced", help="Also give billed calls a price that had none: this adds billed money.")
    ] = False,
) -> None:
    """Price equivalent money anew. What was billed, and counters, never change."""
    import asyncio  # noqa: PLC0415 - as above

    from cli.up.access import known_url  # noqa: PLC0415 - as above
    from exporter.accounting import price_book  # noqa: PLC0415 - `--help` does not wait for it
    from lobservatory import settings as settings_module  # noqa: PLC0415 - as above
    from openclaw.state_dir import load_config, resolve  # noqa: PLC0415 - as above

    settings = settings_module.load()
    start = since_instant(since, settings.zone)
    url = known_url(settings)
    if not url:
        raise UserError(
            "reprice: there are no rows without a database. Set LOBS_DATABASE_URL, or start the embedded one: "
            "lobservatory up"
        )
    config = load_config(resolve(settings.state_dir))
    if config.problem is not None:
        raise UserError(f"reprice: {config.problem}: without it the gateway's prices are not known")
    book = price_book(config.prices, settings.prices_file)
    changes = asyncio.run(_reprice(url, settings.gateway_name, start, book, apply=not dry_run, unpriced=unpriced))
    _print(changes, dry_run=dry_run, unpriced=unpriced)


async def _reprice(
    url: str, gateway: str, since: datetime, book: PriceBook, *, apply: bool, unpriced: bool
) -> list[Change]:
    import psycopg  # noqa: PLC0415 - as above

    from store import reprice as rows  # noqa: PLC0415 - as above

    try:
        async with await psycopg.AsyncConnection.connect(
            url, autocommit=True, connect_timeout=10, application_name="lobservatory reprice"
        ) as connection:
            prices = []
            for provider, model in await rows.models(connection, gateway, since):
                price = book.price(provider, model)
                if price is not None:
                    prices.append(
                        rows.ModelPrice(
                            provider,
                            model,
                            price.version,
                            price.input,
                            price.output,
                            price.cache_read,
                            price.cache_write,
                            price.cache_write_1h,
                            price.cache_write_5m,
                        )
                    )
            return await rows.reprice(connection, gateway, since, prices, apply=apply, unpriced=unpriced)
    except psycopg.Error as error:
        reason = one_line(error)
        raise UserError(f"reprice: nothing was changed: {reason}") from error


def _print(changes: Sequence[Change], *, dry_run: bool, unpriced: bool) -> None:
    from rich.console import Console  # noqa: PLC0415 - only for people

    if not changes:
        typer.echo("reprice: the prices of today give the same money; nothing to change")
        return
    table = new_table(("model", "calls", "US$ now", "US$ repriced", "change"))
    meaning = _MEANING | ({"unpriced": _ASKED_FOR} if unpriced else {})
    for change in changes:
        table.add_row(
            f"{plain(change.provider)}/{plain(change.model)}\n  {meaning[change.treatment]}",
            f"{change.calls:,}",
            dollars(change.old_usd),
            dollars(change.new_usd),
            dollars(change.new_usd - change.old_usd, sign="+"),
        )
    print_whole(Console(highlight=False), table)
    said = [("equivalent", "equivalent"), *([("unpriced", "billed, had no price")] if unpriced else [])]
    for treatment, words in said:
        applying = [change for change in changes if change.treatment == treatment]
        calls = sum(one.calls for one in applying)
        money = dollars(sum((one.new_usd - one.old_usd for one in applying), Decimal(0)), sign="+")
        if dry_run:
            typer.echo(f"dry run, nothing was changed: {counted(calls, 'call')} ({words}) would change by US$ {money}")
        else:
            typer.echo(f"{counted(calls, 'call')} ({words}) changed by US$ {money}; counters stay as they are")
