"""`lobservatory up`: start in order, show one table, watch, stop in order."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NoReturn
from urllib.parse import urlsplit

from rich import progress as bars
from rich.console import Console

from cli.up import foreign, parts, placement, postgres, report, secrets, upgrade
from cli.up.report import Row
from cli.up.supervision import LAST_STOP_SECONDS, RUNNING, Program, Supervision, last_line
from exporter.accounting import price_book
from lobservatory.errors import UserError
from lobservatory.password import password_file
from lobservatory.settings import PARTS, Listen, Part, Settings
from store.migrate import check_schema, migrate

_READY_SECONDS = 60.0
_WATCH_SECONDS = 2.0
_POLL_SECONDS = 0.2
_REVIVE_SECONDS = 60.0
_GIVE_UP_SECONDS = 15.0  # a part that has not stayed up for a second by then is shown as it is
_GATEWAY_SECONDS = 5.0  # until the table is shown without its answer
_PIPE_WIDTH = 160
_POSTGRES = "postgres"
_ORDER = ("openclaw", "gateway", "database", _POSTGRES, "exporter", "api", *PARTS)  # of the table
_STATE = "up.json"
_DATABASE_URL = "database_url"
_READER_URL = "reader_url"


class FirstScan:
    """A bar while the exporter reads sessions for the first time, where a person looks; gone when it has ended."""

    def __init__(self, console: Console, exporter: Listen) -> None:
        self._console = console
        self._exporter = exporter
        self._bar: bars.Progress | None = None
        self._ended = not console.is_terminal

    def show(self) -> None:
        """Look once more. After the end nobody is asked."""
        if self._ended:
            return
        health = parts.health(self._exporter)
        self._ended = health.get("first_scan") == "done"
        if health.get("first_scan") == "running" and self._bar is None:
            columns = (bars.TextColumn("reading sessions"), bars.BarColumn(), bars.TaskProgressColumn())
            self._bar = bars.Progress(*columns, console=self._console, transient=True, auto_refresh=False)
            self._bar.add_task("", total=1.0)
            self._bar.start()
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=float(health.get("progress") or 0.0), refresh=True)
            if self._ended:
                self.close()
                self._console.print("All sessions have been read once.")

    def close(self) -> None:
        """Give the terminal back as it was."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class StopRequested(BaseException):
    """SIGINT, SIGTERM or SIGHUP came."""


class Signals:
    """Turns the signals that mean "stop" into something that can be waited for, without a race."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._stopping = False

    @contextlib.contextmanager
    def handled(self) -> Iterator[Signals]:
        """Install the handlers, restore the old ones at the end."""
        wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, self._note) for number in wanted}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(self._read)
            os.close(self._write)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._write, b"s")

    def pause(self, seconds: float) -> None:
        """Wait; raises StopRequested at the first signal. Later ones change nothing: the stop is under way."""
        if not self._stopping and select.select([self._read], [], [], seconds)[0]:
            self._stopping = True
            raise StopRequested


@dataclass(frozen=True, slots=True)
class Place:
    """Where one installation keeps its files."""

    data: Path

    @property
    def run(self) -> Path:
        """Files of the present run."""
        return self.data / "run"

    @property
    def logs(self) -> Path:
        """Rotating logs of the parts."""
        return self.data / "logs"


def up(
    settings: Settings,
    *,
    overrides: Mapping[str, str] | None = None,
    before: Mapping[Program, Listen] | None = None,
    temporary: bool = False,
    title: str = "Lobservatory",
) -> int:
    """Run everything until a signal; the exit status.

    `overrides`: `LOBS_*` variables for the parts, beside the environment. `before`: programs that are ready before the
    exporter starts, with their addresses. `temporary`: the data directory is emptied first and removed at the end.
    Raises UserError when it cannot start.
    """
    console = _console()
    place = prepare(settings)
    with lock(place) as mine:
        if not mine:
            return _already(settings, place, console)
        with Signals().handled() as signals:
            run = _Run(settings, place, console, signals, overrides or {}, before or {}, title, temporary)
            asked = False
            try:
                run.start()
                run.watch()
            except StopRequested:
                asked = True
                console.print("Stopping …")
            finally:
                began = time.monotonic()
                run.stop()
                if temporary:
                    run.remove(keep=() if asked else ("logs",))  # an error's message names a log
                if asked or run.programs:
                    console.print(f"Everything is stopped ({time.monotonic() - began:.1f} s).")
    return 0


def stop(settings: Settings) -> int:
    """Stop a running one, or what a crashed one has left. Exit status 0; 1 when nothing ran."""
    place = prepare(settings)
    console = _console()
    with lock(place) as mine:
        if not mine:
            pid, _ = holder(place)
            os.kill(pid, signal.SIGTERM)
            console.print(f"Asked process {pid} to stop everything.")
            return 0
        supervision = Supervision(place.run, place.logs)
        ran = supervision.alive()
        supervision.shutdown()
        _remove_files(place)
        console.print("Stopped what an earlier run had left." if ran else "Nothing was running.")
        return 0 if ran else 1


def prepare(settings: Settings) -> Place:
    """Make the directories. Raises UserError when the data directory cannot be used."""
    place = Place(settings.data_dir.expanduser().absolute())
    try:
        place.data.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"LOBS_DATA_DIR: {place.data} cannot be made: {error.strerror}. Set LOBS_DATA_DIR to a directory of yours"
        ) from error
    if not os.access(place.data, os.W_OK | os.X_OK):
        owner = f" (it belongs to user id {place.data.stat().st_uid}, you are {os.geteuid()})"
        raise UserError(
            f"LOBS_DATA_DIR: {place.data} cannot be written{owner}. Set LOBS_DATA_DIR to a directory of yours"
        )
    secrets.private_directory(place.run)
    secrets.private_directory(place.logs)
    return place


def _remove_files(place: Place) -> None:
    """What belongs to one run only."""
    for path in (place.run / _STATE, place.run / _DATABASE_URL, place.run / _READER_URL):
        path.unlink(missing_ok=True)
    for name in parts.FOREIGN:
        shutil.rmtree(foreign.configuration(place.data, name), ignore_errors=True)


@contextlib.contextmanager
def lock(place: Place, command: str = "up") -> Iterator[bool]:
    """Whether this process is the only one that runs this data directory's parts. The kernel gives the lock back, also
    on kill -9."""
    path = place.run / "up.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UserError(f"LOBS_DATA_DIR: {path} cannot be opened: {error.strerror}") from error
    mine = True
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            mine = False
        else:
            os.truncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()} {command}".encode())
        yield mine
    finally:
        if mine:
            path.unlink(missing_ok=True)
        os.close(descriptor)


def holder(place: Place) -> tuple[int, str]:
    """Process and command that hold the lock. Raises UserError."""
    try:
        pid, command = (place.run / "up.lock").read_text(encoding="ascii").split()
        return int(pid), command
    except (OSError, ValueError) as error:
        raise UserError(
            "another `lobservatory` command is starting or stopping just now: try again in a moment"
        ) from error


def busy(place: Place) -> str:
    """Who else uses the data directory, and what to do."""
    pid, command = holder(place)
    if command == "up":
        return f"`lobservatory up` is running here as process {pid}: stop it first (`lobservatory up --stop`)"
    return f"`lobservatory {command}` is using {place.data} as process {pid}: try again when it has ended"


def _already(settings: Settings, place: Place, console: Console) -> int:
    pid, command = holder(place)
    if command != "up":
        raise UserError(busy(place))
    known = _state(place.data)
    if not known:
        console.print(f"Already running: process {pid} is starting it just now.")
        return 0
    addresses = {name: Listen.parse(text) for name, text in known["addresses"].items()}
    shown = [Row(**row) for row in known["rows"]]
    rows = [_now(row, settings, place, addresses) for row in shown]
    console.print(f"Already running since {known['since']} as process {pid}; stop it with Ctrl-C there, or with")
    console.print("`lobservatory up --stop`.")
    report.show(console, rows, known["title"], place.data, settings.api_password_file)
    return 0


def _now(row: Row, settings: Settings, place: Place, addresses: Mapping[str, Listen]) -> Row:
    """The row of a run that was started earlier, as it is at this moment."""
    if row.part == "gateway":
        return report.gateway(parts.health(addresses["exporter"]), settings)
    if row.part in addresses:
        return report.part(row.part, addresses[row.part], place.logs, row.warning)
    for name in PARTS:
        if name == row.part and row.state in report.YOURS:
            return report.yours(name, row.url)
    if row.part == _POSTGRES:
        states = {status.name: status.state for status in Supervision(place.run, place.logs).statuses()}
        running = states.get(_POSTGRES) == RUNNING
        return dataclasses.replace(row, state="running" if running else "not ready")
    return report.openclaw(settings) if row.part == "openclaw" else row


def is_running(data: Path) -> bool:
    """Whether parts of an `up` run in this data directory, also after it was killed; not after a power cut."""
    place = Place(data.expanduser().absolute())
    return Supervision(place.run, place.logs).alive()


def _state(data: Path) -> dict[str, Any]:
    """What the run that is going on in this data directory has told of itself; empty when there is none, also where
    one could not take its file away."""
    if not is_running(data):
        return {}
    try:
        known: dict[str, Any] = json.loads((data / "run" / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known


def addresses(settings: Settings) -> dict[str, Listen]:
    """Part → address that it listens on: of the run that is going on in this data directory, else of the settings."""
    running = _state(settings.data_dir)
    if running:
        return {name: Listen.parse(text) for name, text in running["addresses"].items()}
    return {name: listen for name, (_, listen) in parts.configured(settings).items() if name not in settings.without}


def urls(settings: Settings) -> dict[Part, str]:
    """Where programs find Prometheus, Alertmanager and Grafana, as far as there are any: of the run that is going on in
    this data directory, else as the settings say. Nobody's `LOBS_ALERTMANAGER_URL` is asked then: it is for messages.
    """
    running = _state(settings.data_dir)
    if running:
        return {part: running["urls"][part] for part in PARTS if part in running["urls"]}
    found = {part: getattr(settings, f"{part}_listen").url for part in PARTS if part not in settings.without}
    return found | ({"prometheus": settings.address("prometheus")} if "prometheus" in found else {})


@dataclass(frozen=True, slots=True)
class Server:
    """A Prometheus, Alertmanager or Grafana. `whose`: `ours`, started by the run that is going on; `yours`, named for
    it; `unknown`, what answers at the usual address while no run is going on, and that may be anybody's.
    """

    url: str
    whose: Literal["ours", "yours", "unknown"]


def servers(settings: Settings) -> dict[Part, Server]:
    """As `urls`, with what is known of each."""
    running = _state(settings.data_dir)
    found: dict[Part, Server] = {}
    for part, url in urls(settings).items():
        if running:
            found[part] = Server(url, "ours" if part in running["addresses"] else "yours")
        else:
            found[part] = Server(url, "yours" if url == getattr(settings, f"{part}_url") else "unknown")
    return found


@dataclass
class _Run:
    """One run, from the first start to the last stop."""

    settings: Settings
    place: Place
    console: Console
    signals: Signals
    overrides: Mapping[str, str]
    before: Mapping[Program, Listen]
    title: str
    temporary: bool
    cluster: postgres.Cluster | None = None
    programs: list[Program] = field(default_factory=list)
    addresses: dict[str, Listen] = field(default_factory=dict)

    placed: placement.Placement = field(init=False)

    def __post_init__(self) -> None:
        self.supervision = Supervision(self.place.run, self.place.logs)

    def start(self) -> None:
        """Start everything in order and show the table. Raises UserError, PricesError, PasswordError, StopRequested."""
        if self.supervision.alive():
            self.console.print("An earlier run ended without stopping its parts; stopping them first.")
        self.supervision.shutdown()
        if self.temporary:
            self.remove(keep=("run", "logs"))
        # Without these the exporter and the API would end again and again.
        price_book((), self.settings.prices_file)
        secrets.create(self.place.data)
        password_file(self.settings).load()
        found = {name: parts.find(part, os.environ) for name, part in parts.FOREIGN.items()}
        self.placed = placement.place(self.settings, found)
        self.settings = self.placed.settings
        self.addresses = {**self.placed.addresses, **{program.name: at for program, at in self.before.items()}}
        with self.console.status("Starting …") if self.console.is_terminal else contextlib.nullcontext():
            self._prepare(found)
            self.supervision.start(self.programs, self._environment())
            rows = [self._database()]
            first = [program.name for program in self.before]
            rest = [program.name for program in self.programs if program.name not in {_POSTGRES, *first}]
            for names in (first, rest):
                for name in names:
                    self.supervision.start_program(name)
                rows += self._await(names)
            # How it stands with a gateway that works is said by the exporter.
            rows = [row for row in rows if row.part not in first or row.state != "running"]
            rows = [report.openclaw(self.settings), self._gateway(), *rows, *self._others()]
        rows.sort(key=lambda row: _ORDER.index(row.part))
        states = {row.part: row.state for row in rows}
        rows += report.features(self.settings, states, demo=self.temporary)
        state = {
            "title": self.title,
            "since": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
            "rows": [dataclasses.asdict(row) for row in rows],
            "addresses": {name: str(listen) for name, listen in self.addresses.items()},
            "urls": self.placed.urls,
        }
        secrets.write_private(self.place.run / _STATE, json.dumps(state))
        report.show(self.console, rows, self.title, self.place.data, self.settings.api_password_file)
        self.console.print("Ctrl-C stops everything.")

    def stop(self) -> None:
        """Stop everything in order and remove what belongs to this run only."""
        self.supervision.shutdown()
        _remove_files(self.place)

    def remove(self, keep: Sequence[str]) -> None:
        """Delete a temporary data directory, and the database that root may have put elsewhere."""
        for path in self.place.data.iterdir():
            if path.name in keep:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        if self.cluster is not None:
            shutil.rmtree(self.cluster.root, ignore_errors=True)
        if not keep:
            self.place.data.rmdir()

    def watch(self) -> NoReturn:
        """Say when a part crashed and was started again; try anew what supervisord has given up."""
        with contextlib.closing(FirstScan(self.console, self.addresses["exporter"])) as reading:
            self._watch(reading)

    def _watch(self, reading: FirstScan) -> NoReturn:
        pids = {status.name: status.pid for status in self.supervision.statuses()}
        given_up: dict[str, float] = {}
        while True:
            self.signals.pause(_WATCH_SECONDS)
            reading.show()
            statuses = self.supervision.statuses()
            if not statuses and not self.supervision.alive():
                log = self.place.logs / "supervisord.log"
                raise UserError(f"supervisord is gone, so everything is being stopped. Its log: {log}")
            for status in statuses:
                log = self.place.logs / f"{status.name}.log"
                now = time.monotonic()
                if status.state == "FATAL":
                    if status.name not in given_up:
                        said = f"{status.name} does not start: {last_line(log)} (log: {log}); trying every minute"
                        self.console.print(said, markup=False)
                        given_up[status.name] = now
                    elif now - given_up[status.name] > _REVIVE_SECONDS:
                        given_up[status.name] = now
                        self.supervision.start_program(status.name)
                elif status.state == RUNNING:
                    given_up.pop(status.name, None)
                    if pids.get(status.name) not in {0, None, status.pid}:
                        self.console.print(f"{status.name} had ended and was started again (log: {log})", markup=False)
                    pids[status.name] = status.pid

    def _environment(self) -> dict[str, str]:
        """What the parts get: the environment of `up`, and what it has decided."""
        decided = {
            "LOBS_DATA_DIR": str(self.place.data),
            "LOBS_METRICS_LISTEN": str(self.addresses["exporter"]),
            "LOBS_API_LISTEN": str(self.addresses["api"]),
            "LOBS_WITHOUT": ",".join(self.settings.without),
            "PYTHONUNBUFFERED": "1",
        }
        # The API asks Prometheus and links to all three.
        decided |= {f"LOBS_{part.upper()}_URL": self.settings.address(part) for part in PARTS}
        if self.cluster is not None:
            decided["LOBS_DATABASE_URL"] = ""
            decided["LOBS_DATABASE_URL_FILE"] = str(self.place.run / _DATABASE_URL)
            decided["LOBS_READER_URL"] = ""
            decided["LOBS_READER_URL_FILE"] = str(self.place.run / _READER_URL)
        return {**os.environ, **decided, **self.overrides}

    def _prepare(self, found: Mapping[Part, Path | None]) -> None:
        """All programs, in the order of their start."""
        if not self.settings.database_url.get_secret_value():
            postgres.forget_libpq_variables()
            self.cluster = cluster = upgrade.prepare(
                self.place.data, tell=partial(self.console.print, markup=False), pause=self.signals.pause
            )
            cluster.stop_running()
            self.programs.append(
                Program(
                    _POSTGRES,
                    cluster.argv(),
                    environment=cluster.environment(),
                    clean=True,
                    user=cluster.user.name if cluster.user else None,
                    directory=cluster.root,
                    stop_signal="INT",
                    stop_seconds=LAST_STOP_SECONDS,
                )
            )
            secrets.write_private(self.place.run / _DATABASE_URL, cluster.dsn(postgres.WRITER) + "\n")
            secrets.write_private(self.place.run / _READER_URL, cluster.dsn(postgres.READER) + "\n")
        self.programs += self.before
        # -P: a folder `api` or `store` in the working directory must not shadow ours.
        self.programs += [Program(name, [sys.executable, "-P", "-m", name]) for name in ("exporter", "api")]
        self.programs += foreign.programs(self.settings, self.place.data, self.addresses, found, self.cluster)

    def _database(self) -> Row:
        """Start the embedded database and bring it up to date, or look at yours. Raises UserError, MigrateError."""
        if self.cluster is None:
            url = self.settings.database_url.get_secret_value()
            owner = self.settings.migrate_url.get_secret_value()
            if owner:
                migrate(owner)
            check_schema(url)
            where = urlsplit(url)
            return Row("database", "yours", f"{where.hostname or ''}{where.path}", "LOBS_DATABASE_URL")
        self.supervision.start_program(_POSTGRES)
        log = self.place.logs / f"{_POSTGRES}.log"
        self.signals.pause(0)
        try:
            self.cluster.wait_ready()
            self.cluster.create_roles()
        except postgres.PostgresError as error:
            raise UserError(f"{error}: {last_line(log)} (log: {log})") from error
        migrate(self.cluster.dsn(postgres.OWNER))
        self.signals.pause(0)
        return Row(_POSTGRES, "running", f"127.0.0.1:{self.cluster.port}/{postgres.DATABASE}", "embedded")

    def _gateway(self) -> Row:
        """Whether the exporter is connected, as soon as that is clear; a slow gateway does not keep the table back."""
        end = time.monotonic() + _GATEWAY_SECONDS
        while True:
            health = parts.health(self.addresses["exporter"])
            if report.is_clear(health) or time.monotonic() > end:
                return report.gateway(health, self.settings)
            self.signals.pause(_POLL_SECONDS)

    def _others(self) -> Iterator[Row]:
        """Those of the three that this run does not start."""
        for name in PARTS:
            if name in self.placed.yours:
                yield report.yours(name, self.placed.yours[name])
            elif name in self.placed.off:
                yield Row(name, "off", "", "LOBS_WITHOUT names it")
            elif name in self.placed.missing:
                yield Row(name, "missing", "", parts.FOREIGN[name].how)

    def _warning(self, name: str) -> str:
        """What is not as a person may expect of a part that runs."""
        said = [parts.exposure(name, self.addresses[name])]
        for part in PARTS:
            url = getattr(self.settings, f"{part}_url")
            if part == name and not self.temporary:  # the demo uses no server of yours, whatever is set
                said.append(self.placed.moved.get(part, ""))
            if part == name and url and not parts.is_part(part, url):
                said.append(f"no {part.capitalize()} answers at LOBS_{part.upper()}_URL ({url}), where links lead")
        return "\n".join(filter(None, said))

    def _await(self, names: Sequence[str]) -> list[Row]:
        """Wait until each part answers, at most a minute for all; one row for each."""
        began = time.monotonic()
        waiting = list(names)
        ready: set[str] = set()
        while waiting and time.monotonic() - began < _READY_SECONDS:
            states = {status.name: status.state for status in self.supervision.statuses()}
            # Ours has stayed up, and it answers: where ours ended at once, another one's may answer at the address.
            stayed = [name for name in waiting if states.get(name) == RUNNING]
            ready |= {name for name in stayed if report.is_ready(name, self.addresses[name])}
            failing = {"FATAL"} if time.monotonic() - began < _GIVE_UP_SECONDS else {"FATAL", "BACKOFF"}
            waiting = [name for name in waiting if name not in ready and states.get(name) not in failing]
            if waiting:
                self.signals.pause(_POLL_SECONDS)
        return [
            report.part(name, self.addresses[name], self.place.logs, self._warning(name), ready=name in ready)
            for name in names
        ]


def _console() -> Console:
    """As wide as the terminal; in a file or a pipe wide enough for a path."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_PIPE_WIDTH)
