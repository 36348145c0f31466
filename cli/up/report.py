"""The table of `up`: one row for each part, as it is now, with what to do where it is not as it should be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.up import gateway as gateways
from cli.up import parts, secrets, theirs
from cli.up.supervision import last_line
from lobservatory.settings import Listen, Part, Settings
from openclaw import state_dir

YOURS = frozenset({"yours", "away"})  # states of a server that is used and was not started by us
_COLOURS = {
    **dict.fromkeys(("running", "yours", "found", "connected", "on"), "green"),
    **dict.fromkeys(("missing", "starting", "connecting"), "yellow"),
    "off": "dim",
}
# Where each part says that it works.
_PROBES = {
    "gateway": "/readyz",
    "exporter": "/healthz",
    "api": "/readyz",
    "prometheus": "/-/ready",
    "alertmanager": "/-/ready",
    "grafana": "/api/health",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `warning`: what a person may not expect of a part that works."""

    part: str
    state: str
    url: str
    note: str = ""
    warning: str = ""


def is_ready(name: str, listen: Listen) -> bool:
    """Whether a part that we have started says that it works."""
    return parts.answers(listen, _PROBES[name])


def part(name: str, listen: Listen, logs: Path, warning: str, *, ready: bool | None = None) -> Row:
    """A part that we have started; its last words where it does not answer. `ready`: where that is known already."""
    ready = is_ready(name, listen) if ready is None else ready
    log = logs / f"{name}.log"
    note = "" if ready else f"{last_line(log)} (log: {log})"
    url = parts.url(listen, "/metrics" if name == "exporter" else "")
    return Row(name, "running" if ready else "not ready", url, note, warning)


def openclaw(settings: Settings) -> Row:
    """What the exporter looks at; it looks again by itself when that is not there yet."""
    try:
        return Row("openclaw", "found", str(state_dir.resolve(settings.state_dir)))
    except state_dir.StateDirError as error:
        return Row("openclaw", "missing", "", f"{error}. Without an OpenClaw: `lobservatory demo`")


def is_clear(health: Mapping[str, Any]) -> bool:
    """Whether the exporter knows how it stands with the gateway."""
    return health.get("gateway_connection") == "connected" or bool(health.get("gateway_failure"))


def gateway(health: Mapping[str, Any], settings: Settings) -> Row:
    """The gateway, as the exporter finds it."""
    url = str(health.get("gateway_url") or settings.gateway_url)
    if not health:
        return Row("gateway", "unknown", url, "the exporter does not answer")
    if health.get("gateway_connection") == "connected":
        return Row("gateway", "connected", url)
    reason = str(health.get("gateway_failure") or "")
    if not reason:
        return Row("gateway", "connecting", url, "no answer yet. `lobservatory doctor` looks for longer")
    return Row("gateway", gateways.state(reason), url, gateways.remedy(reason, token=_has_token(settings)))


def _has_token(settings: Settings) -> bool:
    try:
        config = state_dir.load_config(state_dir.resolve(settings.state_dir))
    except state_dir.StateDirError:
        config = state_dir.OpenClawConfig()
    return bool(state_dir.gateway_token(settings, config).get_secret_value())


def yours(name: Part, url: str) -> Row:
    """A server that `LOBS_*_URL` names and that is used in place of ours."""
    variable = f"LOBS_{name.upper()}_URL"
    if not parts.is_part(name, url):
        return Row(
            name, "away", url, variable, f"no {name.capitalize()} answers there: start it, or correct {variable}"
        )
    if name == "grafana":
        return Row(name, "yours", url, f"{variable}. Its boards: docs/dashboards.md#into-a-grafana-of-your-own")
    lacking = " and ".join(theirs.lacking(name, url))
    return Row(name, "yours", url, variable, f"it lacks {lacking}: {theirs.HOW}" if lacking else "")


def features(settings: Settings, states: Mapping[str, str], *, demo: bool) -> list[Row]:
    """What is switched on, and what would switch on the rest. `states`: of the other rows. Shows no secret."""
    switches = [
        ("commands", settings.commands, "LOBS_COMMANDS=true turns them on (docs/commands.md)"),
        ("chat", settings.chat, "LOBS_CHAT=true turns it on (docs/chat.md)"),
    ]
    if demo:
        return [Row(name, "off", "", "not in the demo") for name in ("slack", "commands", "chat")]
    return [
        _slack(settings, states),
        *(Row(name, "on" if on else "off", "", "" if on else how) for name, on, how in switches),
    ]


def _slack(settings: Settings, states: Mapping[str, str]) -> Row:
    needed = ("prometheus", "alertmanager")
    away = " and ".join(name.capitalize() for name in needed if states.get(name) not in {"running", "yours"})
    webhook = bool(settings.slack_webhook_url.get_secret_value().strip())
    if states.get("alertmanager") == "yours":
        return Row("slack", "yours", "", "your Alertmanager decides who is told of alerts")
    if away:
        how = "alerts need" if webhook else "LOBS_SLACK_WEBHOOK_URL turns it on (docs/alerts.md), and alerts need"
        return Row("slack", "off", "", f"{how} {away}, see above")
    if settings.alertmanager_config is not None:
        return Row("slack", "yours", "", "LOBS_ALERTMANAGER_CONFIG decides who is told of alerts")
    if webhook:
        return Row("slack", "on", "", "try it with `lobservatory alert-test`")
    return Row("slack", "off", "", "alerts are shown, not sent: LOBS_SLACK_WEBHOOK_URL turns it on (docs/alerts.md)")


def show(console: Console, rows: Iterable[Row], title: str, data: Path, login: Path | None) -> None:
    """Print the table, and where passwords and logs of the data directory are. `login`: a file of the user's own."""
    rows = list(rows)
    table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    table.add_column("part", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("where, and what to do", overflow="fold")
    for row in rows:
        said = Text("  ".join(filter(None, (row.url, row.note))))
        if row.warning:
            said.append("\n" if said else "").append(row.warning, "yellow")
        table.add_row(row.part, Text(row.state, _COLOURS.get(row.state, "red")), said)
    console.print(table)
    own = any(row.part == "grafana" and row.state in {"running", "not ready"} for row in rows)
    grafana = "; Grafana: admin, grafana_admin_password" if own else ""
    files = f"{secrets.folder(data)} (web login: {login or 'api_password'}{grafana})"
    console.print(f"Passwords: {files}", soft_wrap=True, markup=False)
    console.print(f"Logs:      {data / 'logs'}", soft_wrap=True, markup=False)
