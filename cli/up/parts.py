"""The parts of one installation: how each is started, asked whether it is ready, and found when it is foreign."""

from __future__ import annotations

import errno
import http.client
import ipaddress
import json
import os
import shutil
import socket
import urllib.error
import urllib.request
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from lobservatory.errors import UserError
from lobservatory.given import is_file, path_of
from lobservatory.settings import Listen, Part, Settings

_PROBE_SECONDS = 2.0
_MOST_BYTES = 4 * 1024 * 1024
_MOST_PORTS = 100  # that are tried when the wanted one is taken
_WITHOUT_LOGIN = frozenset({"exporter", "prometheus", "alertmanager"})
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, slots=True)
class Foreign:
    """A program of others that `up` starts when it is there."""

    name: Part
    title: str
    variable: str
    binaries: tuple[str, ...]
    how: str


FOREIGN: dict[Part, Foreign] = {
    "prometheus": Foreign(
        "prometheus",
        "a Prometheus",
        "LOBS_PROMETHEUS_BIN",
        ("prometheus",),
        "Debian, Ubuntu: apt install prometheus; macOS: brew install prometheus; or set LOBS_PROMETHEUS_BIN",
    ),
    "alertmanager": Foreign(
        "alertmanager",
        "an Alertmanager",
        "LOBS_ALERTMANAGER_BIN",
        ("alertmanager", "prometheus-alertmanager"),
        "Debian, Ubuntu: apt install prometheus-alertmanager; macOS: brew install alertmanager; "
        "or set LOBS_ALERTMANAGER_BIN",
    ),
    "grafana": Foreign(
        "grafana",
        "a Grafana",
        "LOBS_GRAFANA_BIN",
        ("grafana", "grafana-server"),
        "grafana.com/grafana/download (12 or newer); macOS: brew install grafana; or set LOBS_GRAFANA_BIN",
    ),
}


def find(foreign: Foreign, environment: Mapping[str, str]) -> Path | None:
    """The program's binary, or None. Raises UserError when the variable names something that cannot be run."""
    named = environment.get(foreign.variable)
    if named:
        try:
            path = path_of(named)
        except ValueError as error:
            raise UserError(f"{foreign.variable}: {error}") from error
        if not (is_file(path) and os.access(path, os.X_OK)):
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
        taken = error.errno == errno.EADDRINUSE
        why = f"{listen} is taken{_listener(listen.port)}" if taken else f"{listen}: {error.strerror}"
        raise UserError(f"{variable}: {why}. Stop what listens there, or set {variable} to another address") from error


def next_free(listen: Listen, variable: str, unwanted: Collection[int]) -> Listen:
    """The same address when it is free, else its host with the next free port that is not in `unwanted`.

    Raises UserError when the address cannot be used for another reason, or when everything near it is taken.
    """
    for port in range(listen.port, min(listen.port + _MOST_PORTS, 65536)):
        candidate = Listen(host=listen.host, port=port)
        if port != listen.port and port in unwanted:
            continue
        try:
            _bound(candidate).close()
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                break
        else:
            return candidate
    check_free(listen, variable)
    return listen  # it has become free meanwhile


def taken(part: Part, listen: Listen) -> str:
    """What to say where `listen` is not this part's because somebody else is there."""
    foreign, variable = FOREIGN[part], part.upper()
    said = f"{listen} is taken{_listener(listen.port)}"
    if is_part(part, url(listen)):
        use = f"to use that one, set LOBS_{variable}_URL={url(listen)}"
        return f"{said}, {foreign.title}: {use}; else stop it, or set LOBS_{variable}_LISTEN (docs/operation.md)"
    return f"{said}: stop that, or set LOBS_{variable}_LISTEN"


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


def url(listen: Listen, path: str = "") -> str:
    """An address as a person opens it."""
    return f"{listen.url}{path}"


def answers(listen: Listen, path: str) -> bool:
    """Whether an HTTP GET gets a 2xx. Never raises."""
    try:
        with _OPENER.open(url(listen, path), timeout=_PROBE_SECONDS):
            return True
    except (OSError, http.client.HTTPException):
        return False


def ask(address: str) -> Any:
    """The decoded JSON of a GET; None when nothing answers, {} when what answers is something else. Never raises."""
    try:
        with _OPENER.open(address, timeout=_PROBE_SECONDS) as response:
            return json.loads(response.read(_MOST_BYTES))
    except (urllib.error.HTTPError, ValueError):
        return {}
    except (OSError, http.client.HTTPException):
        return None


def health(listen: Listen) -> dict[str, Any]:
    """What the exporter says of itself; empty when it does not answer. Never raises."""
    found = ask(url(listen, "/healthz"))
    return found if isinstance(found, dict) else {}


def is_part(part: Part, address: str) -> bool:
    """Whether a server of this kind answers at the address: a proxy whose server is down does not. Never raises."""
    path, *keys = {
        "prometheus": ("/api/v1/status/buildinfo", "data", "version"),
        "alertmanager": ("/api/v2/status", "versionInfo"),
        "grafana": ("/api/health", "database"),
    }[part]
    found = ask(f"{address}{path}")
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found is not None


def exposure(part: str, listen: Listen) -> str:
    """What to say of an address that others than this machine can reach; empty for the loopback."""
    if not _is_open(listen.host):
        return ""
    login = " and without a log-in" if part in _WITHOUT_LOGIN else ""
    return (
        f"open to the network ({listen}), unencrypted{login}: listen on 127.0.0.1 and put a proxy with TLS in front "
        "(docs/security.md)"
    )


def _is_open(host: str) -> bool:
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError:
        return False  # nobody can listen there
    addresses = [ipaddress.ip_address(address.partition("%")[0]) for address in found]
    plain = [getattr(address, "ipv4_mapped", None) or address for address in addresses]
    return not all(address.is_loopback for address in plain)


def program_url(part: Part, settings: Settings, addresses: Mapping[str, Listen]) -> str:
    """Where our programs find a part: in this run, else where the settings name one that is running; empty: nowhere."""
    if part in addresses:
        return url(addresses[part])
    return "" if part in settings.without else str(getattr(settings, f"{part}_url"))


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
