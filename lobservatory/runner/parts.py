"""The parts of one installation: how each is started, asked whether it is ready, and found when it is foreign."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from lobservatory.errors import UserError
from lobservatory.settings import Listen, Settings

_PROBE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Foreign:
    """A program of others that `up` starts when it is there."""

    name: str
    variable: str
    binaries: tuple[str, ...]
    how: str


FOREIGN = {
    "prometheus": Foreign(
        "prometheus",
        "LOBS_PROMETHEUS_BIN",
        ("prometheus",),
        "Debian, Ubuntu: apt install prometheus; macOS: brew install prometheus; or set LOBS_PROMETHEUS_BIN",
    ),
    "alertmanager": Foreign(
        "alertmanager",
        "LOBS_ALERTMANAGER_BIN",
        ("alertmanager", "prometheus-alertmanager"),
        "Debian, Ubuntu: apt install prometheus-alertmanager; macOS: brew install alertmanager; "
        "or set LOBS_ALERTMANAGER_BIN",
    ),
    "grafana": Foreign(
        "grafana",
        "LOBS_GRAFANA_BIN",
        ("grafana", "grafana-server"),
        "grafana.com/grafana/download (12 or newer); macOS: brew install grafana; or set LOBS_GRAFANA_BIN",
    ),
}


def find(foreign: Foreign, environment: Mapping[str, str]) -> Path | None:
    """The program's binary, or None. Raises UserError when the variable names something that cannot be run."""
    named = environment.get(foreign.variable)
    if named:
        path = Path(named).expanduser()
        if not (path.is_file() and os.access(path, os.X_OK)):
            raise UserError(f"{foreign.variable}: {path} is no program that can be run: correct it, or leave it empty")
        return path.absolute()
    for binary in foreign.binaries:
        # Debian keeps some servers out of an ordinary user's PATH.
        found = shutil.which(binary, path=os.pathsep.join([environment.get("PATH", os.defpath), "/usr/sbin"]))
        if found:
            return Path(found).absolute()
    return None


def grafana_home(binary: Path) -> Path | None:
    """Grafana's folder with `conf/defaults.ini` and `public/`, which it must be told; None when it is not found."""
    places: Sequence[Path] = (
        binary.resolve().parent.parent,
        Path("/usr/share/grafana"),
        Path("/opt/homebrew/opt/grafana/share/grafana"),
        Path("/usr/local/opt/grafana/share/grafana"),
    )
    return next((place for place in places if (place / "conf" / "defaults.ini").is_file()), None)


def concrete(listen: Listen) -> Listen:
    """The same address; port 0 becomes a port that is free now, so that the other parts can be told."""
    if listen.port:
        return listen
    with _bound(listen) as probe:
        return Listen(host=listen.host, port=probe.getsockname()[1])


def check_free(listen: Listen, variable: str) -> None:
    """Raises UserError when something listens on this address, naming the setting and, where it is known, who."""
    try:
        _bound(listen).close()
    except OSError as error:
        if isinstance(error, socket.gaierror):
            raise UserError(f"{variable}: the host of {listen} is not known: {error.strerror}") from error
        who = _listener(listen.port)
        taken = f"{listen} is taken{who}" if error.errno == 98 or who else f"{listen}: {error.strerror}"  # noqa: PLR2004 - EADDRINUSE
        raise UserError(
            f"{variable}: {taken}. Stop what listens there, or set {variable} to another address"
        ) from error


def _bound(listen: Listen) -> socket.socket:
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    probe = socket.socket(family, socket.SOCK_STREAM)
    try:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((listen.host, listen.port))
        # Binding alone succeeds beside another listener on some systems.
        probe.listen(1)
    except BaseException:
        probe.close()
        raise
    return probe


def _listener(port: int) -> str:
    """` by process 12 (name)`, or nothing where the system does not tell."""
    try:
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
                if connection.pid is None:
                    return ""
                return f" by process {connection.pid} ({psutil.Process(connection.pid).name()})"
    except psutil.Error:
        return ""
    return ""


def reachable(listen: Listen) -> str:
    """The host under which a program of this machine reaches an address, also that of a wildcard."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen.host, listen.host)  # noqa: S104 - compared, not bound


def url(listen: Listen, path: str = "") -> str:
    """An address as a person opens it."""
    return f"http://{Listen(host=reachable(listen), port=listen.port)}{path}"


def answers(listen: Listen, path: str) -> bool:
    """Whether an HTTP GET gets a 2xx. Never raises."""
    connection = http.client.HTTPConnection(reachable(listen), listen.port, timeout=_PROBE_SECONDS)
    try:
        connection.request("GET", path)
        return 200 <= connection.getresponse().status < 300  # noqa: PLR2004 - a success of any kind
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def health(listen: Listen) -> dict[str, Any]:
    """What the exporter says of itself; empty when it does not answer. Never raises."""
    connection = http.client.HTTPConnection(reachable(listen), listen.port, timeout=_PROBE_SECONDS)
    try:
        connection.request("GET", "/healthz")
        found = json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError):
        return {}
    else:
        return found if isinstance(found, dict) else {}
    finally:
        connection.close()


def configured(settings: Settings) -> dict[str, tuple[str, Listen]]:
    """Part → (variable, address), as the settings say."""
    return {
        "exporter": ("LOBS_METRICS_LISTEN", settings.metrics_listen),
        "api": ("LOBS_API_LISTEN", settings.api_listen),
        "prometheus": ("LOBS_PROMETHEUS_LISTEN", settings.prometheus_listen),
        "alertmanager": ("LOBS_ALERTMANAGER_LISTEN", settings.alertmanager_listen),
        "grafana": ("LOBS_GRAFANA_LISTEN", settings.grafana_listen),
    }


def listens(settings: Settings) -> dict[str, tuple[str, Listen]]:
    """As `configured`, every port concrete."""
    return {part: (variable, concrete(listen)) for part, (variable, listen) in configured(settings).items()}
