"""The folders that Prometheus and Alertmanager start from: our configuration, and the small files that differ.

Everything is written anew at each start, a file at a time and each as a whole. What each file is for is said at the
top of `provisioning/prometheus/prometheus.yml` and `provisioning/alertmanager/alertmanager.yml`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import yaml

from cli.up import parts, secrets
from cli.up.secrets import private_directory, write_private
from lobservatory.errors import SettingsError, UserError
from lobservatory.settings import Listen, Settings

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "provisioning" / "prometheus"
ALERTMANAGER = ROOT / "provisioning" / "alertmanager"
ALERTS = ROOT / "alerts"
RETENTION = "400d"
HISTORY = "http://127.0.0.1:8787/"  # how our configurations of Alertmanager write the API's address


def prepare_prometheus(
    directory: Path, settings: Settings, addresses: Mapping[str, Listen], gateway_token: str = ""
) -> Path:
    """Make `directory` ready and return the configuration file in it.

    `addresses`: part → address; `exporter`, `prometheus` and `alertmanager` are read, a missing part has no target,
    unless it is an Alertmanager that `LOBS_ALERTMANAGER_URL` names. `gateway_token` is written for
    `LOBS_OFFICIAL_METRICS` only. Raises UserError.
    """
    private_directory(directory)
    rules = private_directory(directory / "rules")
    targets = private_directory(directory / "targets")
    vault = private_directory(directory / "secrets")
    gateway = {"gateway": settings.gateway_name}
    alertmanager = urlsplit(parts.program_url("alertmanager", settings, addresses))
    files = {
        "lobservatory": (_target(addresses.get("exporter")), gateway),
        "alertmanager": (_host_and_port(alertmanager), {}),
        "prometheus": (_target(addresses.get("prometheus")), {}),
    }
    for name, (target, labels) in files.items():
        _write_targets(targets / f"{name}.json", [target] if target else [], labels)
    official = targets / "openclaw.json"
    write_private(vault / "openclaw-token", gateway_token if settings.official_metrics else "")
    if settings.official_metrics:
        _write_targets(official, *_official(settings))
    else:
        official.unlink(missing_ok=True)
    _copy_rules(rules)
    config = _copy(PROMETHEUS / "prometheus.yml", directory / "prometheus.yml")
    if alertmanager.scheme == "https" or alertmanager.path:
        _reach_alertmanager(config, alertmanager)
    return config


def _reach_alertmanager(config: Path, url: SplitResult) -> None:
    """Our configuration knows an Alertmanager of plain HTTP at the root; this one is elsewhere."""
    document = yaml.safe_load(config.read_text(encoding="utf-8"))
    document["alerting"]["alertmanagers"][0] |= {"scheme": url.scheme, "path_prefix": url.path or "/"}
    (job,) = [one for one in document["scrape_configs"] if one["job_name"] == "alertmanager"]
    job |= {"scheme": url.scheme, "metrics_path": f"{url.path}/metrics"}
    write_private(config, yaml.safe_dump(document, sort_keys=False))


def _official(settings: Settings) -> tuple[list[str], dict[str, str]]:
    url = urlsplit(settings.gateway_url)
    secure = url.scheme == "wss"
    target = _host_and_port(url._replace(scheme="https" if secure else "http"))
    return [target], {"gateway": settings.gateway_name, "__scheme__": "https" if secure else "http"}


def prometheus_arguments(config: Path, data: Path, listen: Listen) -> list[str]:
    """The arguments behind the program's name. `data` is for Prometheus alone."""
    return [
        f"--config.file={config}",
        f"--storage.tsdb.path={data}",
        f"--storage.tsdb.retention.time={RETENTION}",
        f"--web.listen-address={listen}",
    ]


def prepare_alertmanager(directory: Path, settings: Settings, addresses: Mapping[str, Listen]) -> Path:
    """Make `directory` ready and return the configuration file in it: the user's own, else that with Slack when there
    is a webhook.

    `addresses`: part → address; `grafana` and `api` are read, a missing one is where the settings say; the API's
    default address stands for where it listens, in the user's own, too. Raises UserError.
    """
    private_directory(directory)
    webhook = settings.slack_webhook_url.get_secret_value()
    secret = directory / "slack_url"
    _copy(ALERTS / "slack.tmpl", directory / "slack.tmpl")
    api = addresses.get("api", settings.api_listen)
    grafana = addresses.get("grafana", settings.grafana_listen)
    links = settings.model_copy(update={"grafana_listen": grafana, "api_listen": api})
    write_private(directory / "links.tmpl", links_template(links))
    if webhook:
        write_private(secret, webhook)
    else:
        secret.unlink(missing_ok=True)
    write_private(directory / "api_token", _service_token(settings))
    config = directory / "alertmanager.yml"
    if settings.alertmanager_config is not None:
        _copy(settings.alertmanager_config, config, "LOBS_ALERTMANAGER_CONFIG: correct the path, or unset it")
    ours = ALERTMANAGER / "alertmanager.yml"
    # A copy that nobody changed is ours: without a webhook it could not even start.
    if settings.alertmanager_config is None or config.read_bytes() == ours.read_bytes():
        _copy(ours if webhook else ALERTMANAGER / "alertmanager-without-slack.yml", config)
    write_private(config, config.read_text(encoding="utf-8").replace(HISTORY, parts.url(api, "/")))
    return config


def _service_token(settings: Settings) -> str:
    """For the history of alerts; empty where no secrets were made (then the API refuses what Alertmanager tells)."""
    try:
        return secrets.read(settings.data_dir, "api_token")
    except SettingsError:
        return ""


def alertmanager_arguments(config: Path, data: Path, listen: Listen, settings: Settings) -> list[str]:
    """The arguments behind the program's name. Start it in the folder of `config`: it looks for `slack_url` there."""
    return [
        f"--config.file={config}",
        f"--storage.path={data}",
        f"--web.listen-address={listen}",
        f"--web.external-url={settings.alertmanager_url or parts.url(listen)}",
        "--cluster.listen-address=",
    ]


def links_template(settings: Settings) -> str:
    """The text of `links.tmpl`: what messages link to. The addresses have been checked to hold no template marks."""
    grafana = settings.address("grafana")
    runbooks = settings.runbook_url or parts.url(settings.api_listen, "/runbooks")
    defined = {
        "lobs.board": f'{grafana}{{{{ template "lobs.board.path" . }}}}' if grafana else "",
        "lobs.board.link": '<{{ template "lobs.board" . }}|Board>{{ template "lobs.more" . }}' if grafana else "",
        "lobs.runbook": f'<{runbooks}/{{{{ template "lobs.query" . }}}}.md|Runbook>',
    }
    return "".join(f'{{{{ define "{name}" }}}}{text}{{{{ end }}}}\n' for name, text in defined.items())


def _target(listen: Listen | None) -> str:
    """`host:port` as a program of this host reaches it; empty where there is nothing."""
    return _host_and_port(urlsplit(parts.url(listen))) if listen else ""


def _host_and_port(url: SplitResult) -> str:
    """`host:port`, with the port that the scheme means; empty for an empty address."""
    if not url.hostname:
        return ""
    return str(Listen(host=url.hostname, port=url.port or (443 if url.scheme == "https" else 80)))


def _write_targets(path: Path, targets: Sequence[str], labels: Mapping[str, str]) -> None:
    write_private(path, json.dumps([{"targets": list(targets), "labels": dict(labels)}], indent=2) + "\n")


def _copy_rules(folder: Path) -> None:
    """Our rules, and none of an older version's that we dropped. Rules of others (not `lobs-*`) stay."""
    sources = {path.name: path for path in (ALERTS / "rules").glob("lobs-*.yml")}
    for path in folder.glob("lobs-*.yml"):
        if path.name not in sources:
            path.unlink()
    for path in sources.values():
        _copy(path, folder / path.name)


def _copy(source: Path, target: Path, remedy: str = "Install Lobservatory again") -> Path:
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"{source} cannot be read: {reason}. {remedy}") from error
    write_private(target, text)
    return target
