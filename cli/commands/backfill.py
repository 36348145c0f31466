"""`lobservatory backfill`: history for Prometheus of the time before it scraped us, from stored rows.

Counters are written as OpenMetrics text, one sample a quarter hour, and made into blocks by promtool. Every series ends
at the value with which it was first scraped, so that nothing rises or falls where the two meet; what lies behind that
instant is never touched.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from lobservatory.errors import UserError, one_line
from lobservatory.given import is_file, path_of
from lobservatory.wording import counted

if TYPE_CHECKING:
    from exporter.metrics.registry import Registry
    from lobservatory.settings import Settings

Key = tuple[str, tuple[str, ...]]  # metric, label values in the order of the catalogue

BLOCK: Final = timedelta(hours=162)  # the longest that promtool makes in one piece without asking for more
STEP: Final = timedelta(minutes=15)
_MARK: Final = "lobservatory-backfill"  # a file in each of our blocks, which Prometheus leaves alone; the gateway
_ZERO: Final = Decimal(0)
_ASK_SECONDS: Final = 30
_PROMTOOL_SECONDS: Final = 600  # for one block
_LONG_AGO: Final = datetime(2020, 1, 1, tzinfo=UTC)  # no call is older: such times are refused when they are read


@dataclass(frozen=True, slots=True)
class Scraped:
    """Since when Prometheus has our counters, what they showed then, and the labels that it gives to their target."""

    first: datetime | None  # None: never
    values: Mapping[Key, Decimal] = field(default_factory=dict)
    target: Mapping[str, str] = field(default_factory=dict)
    keeps: timedelta | None = None  # None: unknown


def backfill(
    *,
    into: Annotated[
        Path | None,
        typer.Option("--into", help="Prometheus' data directory. Default: that of `lobservatory up`."),
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Not before this ISO date or time. Default: the first stored call.")
    ] = None,
    prometheus: Annotated[
        str | None,
        typer.Option("--prometheus", help="Its address, to learn what it has. Default: that of `lobservatory up`."),
    ] = None,
) -> None:
    """Give Prometheus the history of before its first scrape, from stored rows. It may go on running."""
    from cli.commands.scan import since_instant  # noqa: PLC0415 - as above
    from cli.up import up  # noqa: PLC0415 - as above
    from lobservatory import settings as settings_module  # noqa: PLC0415 - `--help` does not wait for it

    settings = settings_module.load()
    start = None if since is None else since_instant(since, settings.zone)
    address = prometheus or up.urls(settings).get("prometheus")
    if address is None:
        raise UserError("backfill: there is no Prometheus here: give its address with --prometheus")
    if into is None and prometheus is None and "prometheus" not in up.addresses(settings):
        raise UserError(f"backfill: the Prometheus at {address} is yours: give its data directory with --into")
    blocks, samples = run(settings, into or settings.data_dir / "prometheus", address, since=start)
    made = f"{counted(blocks, 'block')} with {counted(samples, 'sample')}"
    typer.echo(f"backfill: {made}; Prometheus finds {'it' if blocks == 1 else 'them'} within a minute")


def run(settings: Settings, into: Path, address: str, *, since: datetime | None = None) -> tuple[int, int]:
    """Blocks and samples written into Prometheus' data directory: all of them or none. Raises UserError."""
    promtool = _promtool()
    if not into.is_dir():
        raise UserError(f"backfill: {into} is no directory: give Prometheus' data directory with --into")
    with _alone(into):
        return _filled(settings, promtool, into, address, since)


def _filled(settings: Settings, promtool: Path, into: Path, address: str, since: datetime | None) -> tuple[int, int]:
    import psycopg  # noqa: PLC0415 - `--help` does not wait for it

    from cli.up import up  # noqa: PLC0415 - as above
    from cli.up.access import database_url  # noqa: PLC0415 - as above
    from store import history  # noqa: PLC0415 - as above

    url, gateway = database_url(settings), settings.gateway_name
    _refuse_again(into, gateway)
    scraped = asked(address, gateway, up.addresses(settings)["exporter"].url.removeprefix("http://"))
    try:
        with psycopg.connect(url, connect_timeout=10) as connection:
            history.hold_still(connection)
            oldest = history.first_call(connection, gateway)
            if oldest is None:
                raise UserError(f"backfill: there are no calls of gateway {gateway!r} in the database")
            until = scraped.first or datetime.now(UTC)
            known = scraped.values if scraped.first else history.totals(connection, gateway)
            first = max(oldest, since or oldest, until - scraped.keeps if scraped.keeps else oldest)
            first = history.quarter_of(first)
            last = history.quarter_of(until)
            if first >= last:
                raise UserError(
                    f"backfill: Prometheus has all since {until:%Y-%m-%d %H:%M} UTC: there is nothing before"
                )
            counters = Counters(known)
            # In one go from the very beginning: what was counted before `first` is where the series start.
            for at, metric, labels, amount in history.increments(connection, gateway, oldest, until):
                counters.add(at, metric, labels, amount)
    except psycopg.Error as error:
        raise UserError(f"backfill: {one_line(error)}") from error
    try:
        return _blocks(promtool, counters.samples(first, last), into, scraped.target, gateway)
    except OSError as error:
        raise UserError(f"backfill: {into} cannot be written: {error.strerror}") from error


@contextmanager
def _alone(into: Path) -> Iterator[None]:
    """Raises UserError while another one fills the same directory. The kernel gives the lock back, also on kill -9."""
    try:
        descriptor = os.open(into, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise UserError(f"backfill: {into} cannot be read: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise UserError(f"backfill: another one writes into {into} just now: wait for its end") from error
    finally:
        os.close(descriptor)


def _refuse_again(into: Path, gateway: str) -> None:
    """Raises UserError when blocks of an earlier backfill are there, which Prometheus may not have loaded yet.

    Once it has, it may compact them into others that nobody can tell from its own: then its answers tell (`asked`).
    """
    ours = sorted(path.parent.name for path in into.glob(f"*/{_MARK}") if _reads(path) == gateway)
    if ours:
        raise UserError(
            f"backfill: {into} has {counted(len(ours), 'block')} of an earlier one already ({', '.join(ours)}): "
            "to make them anew, stop Prometheus and delete them first"
        )


def _reads(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""  # Prometheus has removed the block meanwhile


class Counters:
    """Increments by series and quarter hour, under the labels that the exporter shows."""

    def __init__(self, known: Mapping[Key, Decimal]) -> None:
        from exporter.metrics.registry import Registry  # noqa: PLC0415 - it takes a while to load
        from store.rows import Total  # noqa: PLC0415 - as above

        self._known = known
        self._registry: Registry = Registry()
        # What already has a series keeps it; only the others are looked at by the guard.
        self._registry.restore([Total(metric, labels, value) for (metric, labels), value in known.items()])
        self._steps: dict[Key, dict[datetime, Decimal]] = defaultdict(dict)

    def add(self, at: datetime, metric: str, labels: tuple[str, ...], amount: Decimal) -> None:
        """Count, at the beginning of a quarter hour."""
        for key in self._registry.admit({(metric, labels): amount}):
            steps = self._steps[key]
            steps[at] = steps.get(at, _ZERO) + amount

    def samples(self, first: datetime, last: datetime) -> Iterator[tuple[Key, list[tuple[datetime, Decimal]]]]:
        """Each series with its values at its quarter hours; the one at `t` is what was counted before `t`. A series
        begins at its first increment, or at `first`."""
        for key, steps in sorted(self._steps.items()):
            # So that it ends where it was when it was scraped for the first time. Never below 0, never falling.
            value = self._known.get(key, sum(steps.values(), _ZERO)) - sum(steps.values(), _ZERO)
            value += sum((amount for at, amount in steps.items() if at < first), _ZERO)
            at = max(first, min(steps))
            values = []
            while at <= last:
                values.append((at, max(_ZERO, value)))
                value += steps.get(at, _ZERO)
                at += STEP
            if values:
                yield key, values


def _blocks(
    promtool: Path,
    samples: Iterable[tuple[Key, list[tuple[datetime, Decimal]]]],
    into: Path,
    target: Mapping[str, str],
    gateway: str,
) -> tuple[int, int]:
    written = 0
    with tempfile.TemporaryDirectory(prefix="backfill-", dir=into) as name:
        folder = Path(name)
        made = folder / "made"
        made.mkdir()
        # By block: promtool reads its whole input once for every block.
        pieces: dict[int, list[str]] = defaultdict(list)
        for key, values in samples:
            for number, lines in _lines(key, values, target).items():
                pieces[number].append(lines)
                written += lines.count("\n")
        for number in sorted(pieces):
            text = folder / "block.om"
            text.write_text(_with_types(pieces.pop(number)), encoding="utf-8")
            _run(promtool, text, made)
        blocks = [path for path in sorted(made.iterdir()) if (path / "meta.json").is_file()]
        for block in blocks:
            (block / _MARK).write_text(gateway, encoding="utf-8")
        for block in blocks:
            block.rename(into / block.name)
    return len(blocks), written


def _lines(key: Key, values: Iterable[tuple[datetime, Decimal]], target: Mapping[str, str]) -> dict[int, str]:
    """The lines of one series by the number of their block."""
    from lobservatory.metrics.catalogue import METRICS  # noqa: PLC0415 - as above

    metric, labels = key
    names = next(one.labels for one in METRICS if one.name == metric)
    text = ",".join(f'{name}="{value}"' for name, value in (*zip(names, labels, strict=True), *target.items()))
    pieces: dict[int, list[str]] = defaultdict(list)
    for at, value in values:
        seconds = int(at.timestamp())
        pieces[seconds // int(BLOCK.total_seconds())].append(f"{metric}{{{text}}} {_number(value)} {seconds}\n")
    return {number: "".join(lines) for number, lines in pieces.items()}


def _with_types(series: list[str]) -> str:
    """OpenMetrics: series come in the order of their metrics."""
    parts, before = [], ""
    for lines in series:
        metric = lines.partition("{")[0]
        if metric != before:
            parts.append(f"# TYPE {metric.removesuffix('_total')} counter\n")
            before = metric
        parts.append(lines)
    return "".join([*parts, "# EOF\n"])


def _number(value: Decimal) -> str:
    return str(int(value)) if value == value.to_integral_value() else repr(float(value))


def _promtool() -> Path:
    beside = os.environ.get("LOBS_PROMETHEUS_BIN", "")
    try:
        found = path_of(beside).parent / "promtool" if beside else None
    except ValueError as error:
        raise UserError(f"LOBS_PROMETHEUS_BIN: {error}") from error
    if found is not None and is_file(found):
        return found
    on_path = shutil.which("promtool")
    if on_path is None:
        raise UserError(
            "backfill: promtool is missing: it comes with Prometheus (Debian, Ubuntu: apt install prometheus; macOS: "
            "brew install prometheus); or set LOBS_PROMETHEUS_BIN to the prometheus beside it"
        )
    return Path(on_path)


def _run(promtool: Path, text: Path, made: Path) -> None:
    argv = [
        str(promtool), "tsdb", "create-blocks-from", "--max-block-duration=162h", "openmetrics", "--quiet", str(text),
        str(made),
    ]  # fmt: skip
    try:
        done = subprocess.run(  # noqa: S603 - a fixed program with paths of ours
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PROMTOOL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise UserError("backfill: promtool took too long for one block") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines()
        raise UserError(f"backfill: promtool: {lines[-1] if lines else f'status {done.returncode}'}")


def asked(address: str, gateway: str, listen: str) -> Scraped:
    """What a Prometheus says of its scrapes of this gateway's exporter. Raises UserError."""
    selector = f"claw_source_entries_total{{gateway={json.dumps(gateway, ensure_ascii=False)}}}"
    now = math.floor(datetime.now(UTC).timestamp())
    keeps = _duration(_ask(address, "status/flags").get("storage.tsdb.retention.time", ""))
    day = 86_400
    begin = max(_LONG_AGO.timestamp(), now - (keeps or timedelta(days=15)).total_seconds())
    days = math.ceil((now - begin) / day)
    # Days with scrapes, then the instant in the first of them.
    found = _ask(
        address,
        "query_range",
        query=f"count(count_over_time({selector}[1d]))",
        start=now - days * day,
        end=now,
        step=day,
    )["result"]
    if not found:
        return Scraped(None, target={"instance": listen, "job": "lobservatory"}, keeps=keeps)
    end = int(found[0]["values"][0][0])
    begun = _ask(address, "query", query=f"min(min_over_time(timestamp({selector})[1d:1s]))", time=end)["result"]
    if not begun:
        raise UserError("backfill: Prometheus has only just begun to scrape: try again in a minute")
    first = float(begun[0]["value"][1])
    # The first of each series: the smallest, as counters rise.
    values: dict[Key, Decimal] = {}
    target: dict[str, str] = {}
    from lobservatory.metrics.catalogue import METRICS  # noqa: PLC0415 - `--help` does not wait for it
    from store.history import METRICS as ours  # noqa: N811, PLC0415 - as above

    for metric in METRICS:
        if metric.name not in ours:
            continue
        query = f"min_over_time({metric.name}{selector.removeprefix('claw_source_entries_total')}[2m])"
        for row in _ask(address, "query", query=query, time=first + 119)["result"]:
            labels = row["metric"]
            values[metric.name, tuple(labels.get(name, "") for name in metric.labels)] = Decimal(row["value"][1])
            target = {name: value for name, value in labels.items() if name not in {*metric.labels, "__name__"}}
    before = math.floor(first / STEP.total_seconds()) * int(STEP.total_seconds())
    query = f"count(claw_model_calls_total{selector.removeprefix('claw_source_entries_total')})"
    if before < first and _ask(address, "query", query=query, time=before)["result"]:
        raise UserError("backfill: Prometheus has history from before its first scrape already: it was backfilled")
    return Scraped(datetime.fromtimestamp(first, UTC), values, target, keeps)


def _ask(address: str, path: str, **parameters: object) -> Any:
    url = f"{address.rstrip('/')}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    try:
        with urllib.request.urlopen(url, timeout=_ASK_SECONDS) as response:  # noqa: S310 - an address of the user's own
            return json.load(response)["data"]
    except urllib.error.HTTPError as error:
        raise UserError(f"backfill: {address} answered {error.code}: is that Prometheus?") from error
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"backfill: Prometheus does not answer at {address}: start it, or give its address with --prometheus",
            remedy=("without its answer blocks could overlap what it has scraped"),
        ) from error


def _duration(text: str) -> timedelta | None:
    """Prometheus' way to write durations, such as 400d or 15d12h; None for what is not given."""
    units = {"y": 365 * 86_400, "w": 7 * 86_400, "d": 86_400, "h": 3600, "m": 60, "s": 1}
    seconds, number = 0, ""
    for mark in text.replace("ms", ""):
        if mark.isdigit():
            number += mark
        elif mark in units and number:
            seconds, number = seconds + int(number) * units[mark], ""
    return timedelta(seconds=seconds) if seconds else None
