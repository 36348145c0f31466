"""`lobservatory scan`: the totals of a state directory, from its files alone."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from zoneinfo import ZoneInfo

from lobservatory import given
from lobservatory.errors import UserError
from lobservatory.wording import counted, dollars

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from exporter.ingest.scan import Group, Progress, ScanResult
    from lobservatory.settings import Billing


class Wanted(NamedTuple):
    """The settings that a scan needs, with the defaults of `lobservatory.settings`."""

    state_dir: Path | None = None
    timezone: str = "UTC"
    billing: Billing | None = None
    prices_file: Path | None = None


def wanted() -> Wanted:
    """What is set. Where nothing is, the model of all settings, which takes longer to load than most scans, is not."""
    if given.nothing_given(os.environ):
        return Wanted()
    from lobservatory import settings  # noqa: PLC0415 - see above

    all_settings = settings.load()
    return Wanted(all_settings.state_dir, all_settings.timezone, all_settings.billing, all_settings.prices_file)


_OPTIONS = ("--since", "--tz")
_WIDEST = 1000  # columns that a table may ask for


def run_plainly(arguments: list[str]) -> int | None:
    """Run with arguments that need no help and hold no mistake; None: let the command line's own parser see them.

    That parser and what it imports take several times as long as reading 100 MB.
    """
    values: dict[str, str] = {}
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name in _OPTIONS and name not in values:
            values[name] = value if equals else next(rest, "-")
        elif argument == "--json" or (argument[:1] not in {"-", ""} and "directory" not in values):
            values["--json" if argument == "--json" else "directory"] = argument
        else:
            return None
    if any(value.startswith("-") and name != "--json" for name, value in values.items()):
        return None
    gc.disable()  # a process that only reads and adds up makes no cycles, and ends soon
    directory = values.get("directory")
    return run(
        None if directory is None else Path(directory),
        as_json="--json" in values,
        since=values.get("--since"),
        tz=values.get("--tz"),
    )


def run(state_dir: Path | None, *, as_json: bool, since: str | None, tz: str | None) -> int:
    """Scan and print; the status with which the command ends. The command itself is declared in `app`."""
    from exporter.accounting import BillingPolicy, price_book  # noqa: PLC0415 - as above
    from exporter.ingest import scan as scanner  # noqa: PLC0415 - those who import our helpers do not wait for it
    from openclaw.state_dir import load_config, resolve  # noqa: PLC0415 - as above

    settings = wanted()
    zone = _zone(tz if tz is not None else settings.timezone)
    start = since_instant(since, zone) if since is not None else None
    directory = resolve(state_dir or settings.state_dir)
    config = load_config(directory)
    with _progress() as progress:
        result = scanner.scan(
            directory,
            zone=zone,
            since=start,
            billing=BillingPolicy(settings.billing, config.subscription_providers),
            prices=price_book(config.prices, settings.prices_file),
            progress=progress,
        )
    if as_json:
        import msgspec  # noqa: PLC0415 - as above

        text = msgspec.json.Encoder(decimal_format="number").encode(result.as_json())
        print(msgspec.json.format(text, indent=2).decode())  # noqa: T201 - the command's answer
    else:
        _print(directory, result)
    for warning in [*result.warnings, *(problem.text for problem in result.problems)]:
        print(f"lobservatory: {warning}", file=sys.stderr)  # noqa: T201 - as above
    if not result.complete:
        print(  # noqa: T201 - as above
            "lobservatory: the totals are incomplete: not everything could be read", file=sys.stderr
        )
        return 1
    return 0


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise UserError(f"--tz: {name!r} is not an IANA time zone, for example Europe/Berlin", status=2) from error


def since_instant(text: str, zone: ZoneInfo) -> datetime:
    """A date is midnight of the zone, a time without an offset is one of the zone."""
    try:
        if len(text) <= len("2026-11-21") and "T" not in text:
            return datetime.combine(date.fromisoformat(text), time(), zone).astimezone(UTC)
        instant = datetime.fromisoformat(text)
        return (instant if instant.tzinfo is not None else instant.replace(tzinfo=zone)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise UserError(
            f"--since: {text!r} is not an ISO date or time, for example 2026-11-01 or 2026-11-01T08:00:00+01:00",
            status=2,
        ) from error


@contextmanager
def _progress() -> Iterator[Progress | None]:
    """A bar on stderr when that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich import progress as bars  # noqa: PLC0415 - as above
    from rich.console import Console  # noqa: PLC0415 - only for people

    columns = (
        bars.TextColumn("reading sessions"),
        bars.BarColumn(),
        bars.TaskProgressColumn(),
        bars.TimeRemainingColumn(),
    )
    # No thread of its own: worker processes are forked while the bar is there.
    with bars.Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        task = bar.add_task("", total=1000)
        shown = 0

        def report(done: int, total: int) -> None:
            nonlocal shown
            if (thousandths := done * 1000 // total) > shown:
                shown = thousandths
                bar.update(task, completed=thousandths, refresh=True)

        yield report


def _print(directory: Path, result: ScanResult) -> None:
    from rich.console import Console  # noqa: PLC0415 - only for people
    from rich.table import Table  # noqa: PLC0415 - as above

    from exporter.ingest.scan import TOKEN_CLASSES  # noqa: PLC0415 - as above

    console = Console(highlight=False)
    total = result.total
    facts = Table.grid(padding=(0, 2))
    facts.add_row("state directory", str(directory))
    facts.add_row("cost, billed", f"${dollars(total.billed)}")
    facts.add_row("cost, equivalent", f"${dollars(total.equivalent)}  (list price of what a subscription covers)")
    outcomes = f"  ({_counts(result.outcomes)})" if total.calls else ""
    facts.add_row("model calls", f"{total.calls:,}{outcomes}")
    for name, tokens in zip(TOKEN_CLASSES, total.tokens, strict=True):
        note = "  (a part of output)" if name == "reasoning" else ""
        facts.add_row(f"tokens, {name.replace('_', ' ')}", f"{tokens:,}{note}")
    facts.add_row("calls without a price", f"{result.unpriced_calls:,}")
    facts.add_row("sessions", f"{len(result.sessions):,}")
    facts.add_row("duplicates", f"{result.duplicates:,}  (copies of calls, counted once)")
    facts.add_row("rejected", _counts(result.rejected) or "0")
    for store, counts in result.sources.items():
        read = (
            counted(counts.files, "file"),
            counted(counts.entries, "entry", "entries"),
            counted(counts.bytes, "byte"),
        )
        facts.add_row(f"read, {store}", ", ".join(read))
    console.print(facts)
    for title, groups in (
        ("model", result.by_model),
        ("agent", result.by_agent),
        ("kind", result.by_kind),
        ("day", result.by_day),
    ):
        if groups:
            print_whole(console, _table(title, groups, by_name=title == "day"))
    tools = new_table(("tool", "calls", "errors", "nonzero exits"))
    for name, tool in sorted(result.tools.items(), key=lambda item: (-item[1].calls, item[0])):
        tools.add_row(plain(name), f"{tool.calls:,}", f"{tool.errors:,}", f"{tool.nonzero_exits:,}")
    for name, calls in sorted(result.nested_tools.items()):
        tools.add_row(plain(f"{name} (nested)"), f"{calls:,}", "", "")
    if tools.row_count:
        print_whole(console, tools)


def _table(title: str, groups: dict[str, Group], *, by_name: bool) -> Table:
    from exporter.ingest.scan import TOKEN_CLASSES  # noqa: PLC0415 - only for people

    classes = TOKEN_CLASSES[:-1]  # reasoning is a part of output
    table = new_table((title, "calls", *(name.replace("_", " ") for name in classes), "US$"))
    names = sorted(groups) if by_name else sorted(groups, key=lambda name: (-groups[name].billed, name))
    for name in names:
        group = groups[name]
        tokens = (f"{number:,}" for number in group.tokens[: len(classes)])
        table.add_row(plain(name), f"{group.calls:,}", *tokens, dollars(group.billed))
    return table


def new_table(headings: tuple[str, ...]) -> Table:
    """A table whose first column has names, all others numbers."""
    from rich import box  # noqa: PLC0415 - only for people
    from rich.table import Table  # noqa: PLC0415 - as above

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    first, *others = headings
    table.add_column(first, overflow="fold", min_width=12)
    for heading in others:  # a word a line: what a narrow terminal leaves is for names
        table.add_column(heading.replace(" ", "\n"), justify="right", vertical="bottom", no_wrap=True)
    return table


def print_whole(console: Console, table: Table) -> None:
    """Print with lines longer than a narrow terminal rather than with a number that is cut or on two lines."""
    least = console.measure(table, options=console.options.update(max_width=_WIDEST)).minimum
    if least > console.width:
        table.width = least
    console.print(table, crop=False)


def plain(text: str) -> str:
    """A name from outside, harmless on a terminal."""
    from rich.markup import escape  # noqa: PLC0415 - only for people

    return escape("".join(letter if letter.isprintable() else "�" for letter in text))


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in sorted(counts.items()))
