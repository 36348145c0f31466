"""What keeps the gateway running: its unit of systemd (of the user or of the system), or its job of launchd."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from exporter.collectors.programs import Program, ProgramFailedError, ProgramMissingError
from lobservatory.metrics.exposition import Sample
from lobservatory.metrics.labels import SERVICE_STATES

LIMIT = 3.0
UNIT = "openclaw-gateway.service"
JOB = "ai.openclaw.gateway"
_PROPERTIES = "--property=LoadState,ActiveState,NRestarts,ExecMainStatus"
_LAUNCHD = re.compile(r"^\t(?P<name>state|runs|last exit code) = (?P<value>.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Service:
    """`restarts`: how often the manager has started it anew; `exit_status`: of its last end."""

    manager: str
    state: str
    restarts: int | None = None
    exit_status: int | None = None


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"\d{1,9}", text.strip()) else None


def of_systemd(manager: str, output: str) -> Service | None:
    """From `systemctl show`; None when there is no such unit."""
    values = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
    if values.get("LoadState") != "loaded":
        return None
    state = values.get("ActiveState", "")
    return Service(
        manager,
        {"reloading": "active"}.get(state, state if state in SERVICE_STATES else "unknown"),
        _whole(values.get("NRestarts")),
        _whole(values.get("ExecMainStatus")),
    )


def of_launchd(output: str) -> Service | None:
    """From `launchctl print`; None when that is not what it printed."""
    values = {match["name"]: match["value"].strip() for match in _LAUNCHD.finditer(output)}
    if "state" not in values:
        return None
    runs, status = _whole(values.get("runs")), _whole(values.get("last exit code"))
    running = values["state"] == "running"
    return Service(
        "launchd",
        "active" if running else "failed" if status else "inactive",
        None if runs is None else max(0, runs - 1),
        status,
    )


class ServiceCollector:
    """Asks the managers that the host has. A gateway that nothing keeps running has nothing to show."""

    name = "service"

    def __init__(self, gateway: str, *, interval: float = 30.0, limit: float = LIMIT, user: int | None = None) -> None:
        self.interval = interval
        self.deadline = 3 * limit + 3
        self._gateway = gateway
        self._user = user if user is not None else os.getuid() if hasattr(os, "getuid") else 0
        self._systemctl = Program("systemctl", limit)
        self._launchctl = Program("launchctl", limit)
        self._services: tuple[Service, ...] = ()

    async def refresh(self) -> None:
        """Raises ProgramHangsError."""
        try:
            asked = [
                of_systemd("systemd_user", await self._ask(self._systemctl, ("--user", "show", UNIT, _PROPERTIES))),
                of_systemd("systemd", await self._ask(self._systemctl, ("show", UNIT, _PROPERTIES))),
                of_launchd(await self._ask(self._launchctl, ("print", f"gui/{self._user}/{JOB}"))),
            ]
        except BaseException:  # the deadline's too; but never before: a scrape would find a gap in every refresh
            self._services = ()
            raise
        self._services = tuple(service for service in asked if service is not None)

    async def _ask(self, program: Program, arguments: Sequence[str]) -> str:
        """Empty where there is no such manager, or it does not answer this user or know the gateway."""
        try:
            return await program.run(arguments)
        except (ProgramMissingError, ProgramFailedError):
            return ""

    def render(self) -> Iterable[Sample]:
        """The state of each manager that has a unit of the gateway."""
        for service in self._services:
            labels = (self._gateway, service.manager)
            for state in SERVICE_STATES:
                yield Sample("claw_service_state", (*labels, state), float(service.state == state))
            if service.restarts is not None:
                yield Sample("claw_service_restarts", labels, service.restarts)
            if service.exit_status is not None:
                yield Sample("claw_service_last_exit_status", labels, service.exit_status)
