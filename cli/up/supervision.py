"""supervisord as our process keeper: its configuration (pure), and a client of its socket.

It was chosen because it restarts what crashes, stops in order and rotates logs. It runs in its own session, so that
Ctrl-C on the terminal reaches only `up`, which then stops the parts in order.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil
from supervisor.xmlrpc import SupervisorTransport

from cli.up.secrets import private_directory, write_private
from lobservatory.errors import UserError

# A path of a unix socket is limited to 104 (macOS) or 108 bytes; supervisord first binds `<path>.<pid>`.
_SOCKET_PATH_LIMIT = 90
_LOG_BYTES = "10MB"
_LOG_BACKUPS = 3
# A part that hangs delays the stop by 4 s. PostgreSQL writes what it has not written yet, which takes as long as it
# takes: killed, it would have to recover at the next start. Then supervisord itself, which looks once a second.
STOP_SECONDS = 4
LAST_STOP_SECONDS = 60
_SHUTDOWN_SECONDS = 5.0
START_SECONDS = 60.0
_POLL_SECONDS = 0.1

_NO_WAIT: Final = False  # the argument `wait` of supervisord's calls
RUNNING: Final = "RUNNING"
_GONE: Final = frozenset({"STOPPED", "EXITED", "FATAL", "UNKNOWN"})


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """One supervised process. `environment` is added to that of `up`; no secret belongs into it, only paths."""

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    clean: bool = False  # `environment` only: a foreign program need not see our settings
    user: str | None = None  # run as this user (root only)
    directory: Path | None = None
    stop_signal: str = "TERM"
    stop_seconds: int = STOP_SECONDS


@dataclass(frozen=True, slots=True)
class Status:
    """A program as supervisord sees it. `state` is its word, for example RUNNING, BACKOFF, FATAL."""

    name: str
    state: str
    pid: int
    note: str


def _word(text: str) -> str:
    """One word of a command: `%` starts an expansion there, quotes keep spaces. Raises UserError."""
    if any(mark in text for mark in ("\n", "\r", " ;", " #")):  # these end a value even within quotes
        raise UserError(f"{text!r} cannot be part of a command of supervisord: choose a plain path")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'


def _command(program: Program, socket: Path) -> str:
    """The command line. The environment goes through env(1): supervisord's own option for it cannot quote."""
    words: list[str] = []
    if program.clean:
        words = ["/usr/bin/env", "-i", f"SUPERVISOR_SERVER_URL=unix://{socket}"]
    elif program.environment:
        words = ["/usr/bin/env"]
    words += [f"{name}={value}" for name, value in program.environment.items()]
    return " ".join(_word(word) for word in (*words, *program.argv))


def configuration(programs: Iterable[Program], *, socket: Path, run: Path, logs: Path, user: str | None) -> str:
    """The text of supervisord's configuration file."""
    lines = [
        "[supervisord]",
        "nodaemon=true",
        "silent=true",
        f"logfile={_plain(logs / 'supervisord.log')}",
        f"logfile_maxbytes={_LOG_BYTES}",
        f"logfile_backups={_LOG_BACKUPS}",
        f"pidfile={_plain(run / 'supervisord.pid')}",
        f"childlogdir={_plain(logs)}",
        "umask=077",
        *([f"user={user}"] if user else []),
        "",
        "[unix_http_server]",
        f"file={_plain(socket)}",
        "chmod=0600",
        "",
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface",
    ]
    for program in programs:
        lines += [
            "",
            f"[program:{program.name}]",
            "command=" + _command(program, socket),
            "autostart=false",
            "autorestart=true",
            "startsecs=1",
            "startretries=10",
            f"stopsignal={program.stop_signal}",
            f"stopwaitsecs={program.stop_seconds}",
            # Whatever a part has started itself ends with it, also when it had to be killed. PostgreSQL's own
            # processes must not get SIGINT from us: its postmaster tells them.
            f"killasgroup={'false' if program.stop_signal == 'INT' else 'true'}",
            "redirect_stderr=true",
            # The one value in which supervisord looks for placeholders twice.
            f"stdout_logfile={_plain(logs / (program.name + '.log')).replace('%', '%%')}",
            f"stdout_logfile_maxbytes={_LOG_BYTES}",
            f"stdout_logfile_backups={_LOG_BACKUPS}",
            *([f"user={program.user}"] if program.user else []),
            *([f"directory={_plain(program.directory)}"] if program.directory else []),
        ]
    return "\n".join(lines) + "\n"


def _plain(path: Path) -> str:
    """A path as an unquoted value. Raises UserError for what supervisord's format cannot say."""
    text = str(path)
    if text != text.strip() or any(mark in text for mark in "\n\r;"):
        raise UserError(
            f"LOBS_DATA_DIR: {str(path)!r} cannot be used: it must not hold ",
            remedy=("or a line break, nor begin or end with a space"),
        )
    return text.replace("%", "%%")


def socket_path(run: Path) -> Path:
    """Where supervisord listens: in `run`, or in a short private directory when that path is too long."""
    path = run / "supervisor.sock"
    if len(os.fsencode(path)) <= _SOCKET_PATH_LIMIT:
        return path
    name = hashlib.sha256(os.fsencode(run)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"lobservatory-{os.getuid()}-{name}" / "supervisor.sock"


class Supervision:
    """One supervisord and its programs, found again by the place of its socket."""

    def __init__(self, run: Path, logs: Path) -> None:
        self.run = run
        self.logs = logs
        self.socket = socket_path(run)
        self._process: subprocess.Popen[bytes] | None = None

    # --- life -----------------------------------------------------------------------------------------------

    def start(self, programs: Sequence[Program], environment: Mapping[str, str]) -> None:
        """Start supervisord with these programs, none of them started yet. Raises UserError."""
        private_directory(self.socket.parent)
        if self.socket.parent.stat().st_uid != os.getuid():
            raise UserError(
                f"{self.socket.parent} belongs to another user: remove it, or choose a shorter LOBS_DATA_DIR"
            )
        config = self.run / "supervisord.conf"
        user = "root" if os.geteuid() == 0 else None
        text = configuration(programs, socket=self.socket, run=self.run, logs=self.logs, user=user)
        write_private(config, text)
        log = self.logs / "supervisord.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter with a file that we wrote
                [sys.executable, "-P", "-m", "supervisor.supervisord", "-n", "-c", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(environment),
                start_new_session=True,
            )
        end = time.monotonic() + START_SECONDS
        while not self.alive():
            if self._process.poll() is not None or time.monotonic() > end:
                raise UserError(f"supervisord did not start: {last_line(log)} (log: {log})")
            time.sleep(_POLL_SECONDS)

    def alive(self) -> bool:
        """Whether a supervisord answers on our socket."""
        try:
            return bool(self._call("supervisor.getState"))
        except (OSError, xmlrpc.client.Error, ValueError):
            return False

    def shutdown(self, last: Iterable[str] = ("postgres",)) -> None:
        """Stop the programs (`last` after the others), then supervisord, then whatever is still there."""
        last = tuple(last)
        if self.alive():
            names = [status.name for status in self.statuses()]
            self.stop_programs(names_of(names, last, within=False), STOP_SECONDS)
            self.stop_programs(names_of(names, last, within=True), LAST_STOP_SECONDS)
            with contextlib.suppress(OSError, xmlrpc.client.Error):
                self._call("supervisor.shutdown")
        if self._process is not None:
            try:
                self._process.wait(timeout=_SHUTDOWN_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        self.sweep()

    def sweep(self) -> None:
        """End every process that our supervisord, this or an earlier one, has left; then remove its files.

        A process is known by `SUPERVISOR_SERVER_URL`, which supervisord gives to its children, and supervisord itself
        by its configuration's path.
        """
        found = list(self._leftovers())
        # SIGINT is PostgreSQL's fast shutdown and ends the other parts in order, too.
        _send(found, signal.SIGINT)
        _, found = psutil.wait_procs(found, timeout=STOP_SECONDS + 2)
        _send([process for process in found if not _is_database(process)], signal.SIGKILL)
        _, found = psutil.wait_procs(found, timeout=LAST_STOP_SECONDS)
        _send(found, signal.SIGKILL)
        psutil.wait_procs(found, timeout=1)
        for path in (self.socket, self.run / "supervisord.pid", self.run / "supervisord.conf"):
            path.unlink(missing_ok=True)
        for path in self.socket.parent.glob(f"{self.socket.name}.*"):
            path.unlink(missing_ok=True)
        if self.socket.parent != self.run:
            with contextlib.suppress(OSError):
                self.socket.parent.rmdir()

    def _leftovers(self) -> Iterable[psutil.Process]:
        url, config = f"unix://{self.socket}", str(self.run / "supervisord.conf")
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                ours = config in process.cmdline() and "supervisor.supervisord" in process.cmdline()
                if ours or process.environ().get("SUPERVISOR_SERVER_URL") == url:
                    yield process

    # --- programs -------------------------------------------------------------------------------------------

    def start_program(self, name: str) -> None:
        """Start one without waiting for it. One that runs already is left alone."""
        try:
            self._call("supervisor.startProcess", name, _NO_WAIT)
        except xmlrpc.client.Fault as fault:
            if "ALREADY_STARTED" not in fault.faultString:
                raise UserError(f"{name} could not be started: {fault.faultString}") from fault

    def stop_programs(self, names: Sequence[str], seconds: float) -> None:
        """Stop these at once and wait until each is gone; supervisord kills what takes longer than its `seconds`."""
        waiting = set(names)
        for name in names:
            with contextlib.suppress(xmlrpc.client.Fault):  # not running: that is what we want
                self._call("supervisor.stopProcess", name, _NO_WAIT)
        end = time.monotonic() + seconds + 2
        while waiting and time.monotonic() < end:
            waiting &= {status.name for status in self.statuses() if status.state not in _GONE}
            if waiting:
                time.sleep(_POLL_SECONDS)

    def statuses(self) -> list[Status]:
        """All programs, now; none when supervisord does not answer."""
        try:
            answer = self._call("supervisor.getAllProcessInfo")
        except (OSError, xmlrpc.client.Error, ValueError):
            return []
        return [
            Status(info["name"], info["statename"], int(info["pid"]), info["spawnerr"] or info["description"])
            for info in answer
        ]

    def _call(self, method: str, *arguments: Any) -> Any:
        transport = SupervisorTransport(None, None, f"unix://{self.socket}")
        with contextlib.closing(transport):
            proxy = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)
            call: Callable[..., Any] = proxy
            for part in method.split("."):
                call = getattr(call, part)
            return call(*arguments)


def _send(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):  # it has ended
            process.send_signal(number)


def _is_database(process: psutil.Process) -> bool:
    try:
        return process.name() == "postgres"
    except psutil.Error:
        return False


def names_of(names: Iterable[str], last: Iterable[str], *, within: bool) -> list[str]:
    """Those of `names` that are (or are not) within `last`."""
    chosen = set(last)
    return [name for name in names if (name in chosen) is within]


def last_line(log: Path) -> str:
    """The last line that a part has written, for a message; empty when there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = file.read().decode("utf-8", "replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1][:300] if lines else ""
