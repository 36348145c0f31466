"""Prometheus, Alertmanager and Grafana under `up`: their command lines, and our provisioning with this run's values.

None of them gets our environment: it may hold the gateway's token.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from cli.up import monitoring, parts, postgres, secrets
from cli.up.supervision import Program
from lobservatory.settings import Listen, Part, Settings

ROOT = Path(__file__).resolve().parents[2]
PROVISIONING = ROOT / "provisioning"
DASHBOARDS = ROOT / "dashboards" / "json"


@dataclass(frozen=True, slots=True)
class Database:
    """How Grafana reaches the database as `lobs_reader`; the password is in the secrets."""

    address: str
    name: str
    tls: str


def database(settings: Settings, cluster: postgres.Cluster | None) -> Database:
    """The embedded database, or that of `LOBS_DATABASE_URL`."""
    if cluster is not None:
        return Database(f"{postgres.HOST}:{cluster.port}", postgres.DATABASE, "disable")
    url = urlsplit(settings.database_url.get_secret_value())
    host = url.hostname or "127.0.0.1"
    local = host in {"127.0.0.1", "::1", "localhost"}
    tls = parse_qs(url.query).get("sslmode", ["disable" if local else "verify-full"])[0]
    return Database(f"{host}:{url.port or 5432}", url.path.lstrip("/") or postgres.DATABASE, tls)


def programs(
    settings: Settings,
    data: Path,
    addresses: Mapping[str, Listen],
    found: Mapping[Part, Path | None],
    cluster: postgres.Cluster | None,
) -> list[Program]:
    """Those of the three that were found and have an address in this run, in the order of their start."""
    made = []
    here = {part: binary for part, binary in found.items() if binary is not None and part in addresses}
    if "prometheus" in here:
        made.append(_prometheus(here["prometheus"], settings, data, addresses))
    if "alertmanager" in here:
        made.append(_alertmanager(here["alertmanager"], settings, data, addresses))
    if "grafana" in here:
        made.append(_grafana(here["grafana"], settings, data, addresses, database(settings, cluster)))
    return made


def configuration(data: Path, name: str) -> Path:
    """The folder that one of the three starts from; written anew at each start, removed at the stop."""
    return data / "run" / name


def _prometheus(binary: Path, settings: Settings, data: Path, addresses: Mapping[str, Listen]) -> Program:
    token = settings.gateway_token.get_secret_value()
    folder = configuration(data, "prometheus")
    config = monitoring.prepare_prometheus(folder, settings, addresses, token)
    store = secrets.private_directory(data / "prometheus")
    arguments = monitoring.prometheus_arguments(config, store, addresses["prometheus"])
    return Program("prometheus", [str(binary), *arguments], clean=True, environment=_clean(data), directory=folder)


def _alertmanager(binary: Path, settings: Settings, data: Path, addresses: Mapping[str, Listen]) -> Program:
    folder = configuration(data, "alertmanager")
    config = monitoring.prepare_alertmanager(folder, settings, addresses)
    store = secrets.private_directory(data / "alertmanager")
    arguments = monitoring.alertmanager_arguments(config, store, addresses["alertmanager"], settings)
    return Program("alertmanager", [str(binary), *arguments], clean=True, environment=_clean(data), directory=folder)


def _clean(data: Path, **more: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TZ", "SSL_CERT_FILE") if name in os.environ}
    return {**kept, "HOME": str(data), **more}


def boards(settings: Settings, data: Path, addresses: Mapping[str, Listen]) -> Path:
    """The folder of boards for Grafana: the committed one, or, where our pages or Alertmanager are not at their usual
    addresses, a copy whose links lead to them.
    """
    # The boards are built with the addresses that are the settings' defaults.
    usual = {name: parts.url(Settings.model_fields[f"{name}_listen"].default) for name in ("api", "alertmanager")}
    real = {name: parts.url(addresses[name]) for name in usual if name in addresses}
    if settings.alertmanager_url:
        real["alertmanager"] = settings.alertmanager_url
    moved = {f'"{usual[name]}"': f'"{address}"' for name, address in real.items() if address != usual[name]}
    if not moved:
        return DASHBOARDS
    folder = configuration(data, "grafana") / "boards"
    folder.mkdir(parents=True, exist_ok=True)
    for path in DASHBOARDS.glob("*.json"):
        text = path.read_text(encoding="utf-8")
        for built, address in moved.items():
            text = text.replace(built, address)
        (folder / path.name).write_text(text, encoding="utf-8")
    return folder


def _grafana(binary: Path, settings: Settings, data: Path, addresses: Mapping[str, Listen], store: Database) -> Program:
    """As `provisioning/grafana/datasources/lobservatory.yaml` says."""
    home = parts.grafana_home(binary)
    listen = addresses["grafana"]
    vault = secrets.folder(data)
    argv = [str(binary), *([] if binary.name == "grafana-server" else ["server"])]
    argv += ["--config", str(PROVISIONING / "grafana" / "grafana.ini")]
    argv += ["--homepath", str(home)] if home else []
    state = secrets.private_directory(data / "grafana")
    return Program(
        "grafana",
        argv,
        clean=True,
        environment=_clean(
            data,
            LOBS_GRAFANA_PROMETHEUS_URL=parts.program_url("prometheus", settings, addresses),
            LOBS_GRAFANA_POSTGRES_ADDRESS=store.address,
            LOBS_GRAFANA_POSTGRES_DATABASE=store.name,
            LOBS_GRAFANA_POSTGRES_SSLMODE=store.tls,
            LOBS_GRAFANA_POSTGRES_PASSWORD=f"$__file{{{vault / 'postgres_lobs_reader'}}}",
            LOBS_GRAFANA_DASHBOARDS_DIR=str(boards(settings, data, addresses)),
            LOBS_GRAFANA_ADMIN_PASSWORD=f"$__file{{{vault / 'grafana_admin_password'}}}",
            LOBS_GRAFANA_HTTP_ADDR=listen.host,
            LOBS_GRAFANA_HTTP_PORT=str(listen.port),
            LOBS_GRAFANA_DATA_DIR=str(state),
            LOBS_GRAFANA_PROVISIONING_DIR=str(PROVISIONING / "grafana"),
            **(bundled_plugins(home) if home else {}),
        ),
    )


def bundled_plugins(home: Path, packaged: Path = Path("/var/lib/grafana/plugins-bundled")) -> dict[str, str]:
    """Where Grafana finds its data sources, as variables for it; none when it finds them itself.

    From 13.2 on they are plugins in `data/plugins-bundled`, which the packages for Debian and Red Hat move to where
    their own service looks (grafana#130921). Where we may not read that, Grafana must fetch them.
    """
    core = home / "public" / "app" / "plugins" / "datasource" / "prometheus"
    if core.is_dir() or (home / "data" / "plugins-bundled").is_dir():
        return {}
    if os.access(packaged, os.R_OK | os.X_OK):
        return {"GF_PATHS_BUNDLED_PLUGINS": str(packaged)}
    return {"GF_PLUGINS_PREINSTALL_DISABLED": "false"}
