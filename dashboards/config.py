"""The one configuration of all boards: names, uids, defaults and what colours mean."""

from __future__ import annotations

from typing import Final, NamedTuple

from lobservatory.settings import Settings

FOLDER: Final = "OpenClaw"
TAG: Final = "lobservatory"  # the boards link to each other by this tag: a new board needs no edit elsewhere
REFRESH: Final = "30s"
TIME_FROM: Final = "now-24h"
TIMEZONE: Final = "browser"
MAX_OPEN_PANELS: Final = 20
FEW_POINTS: Final = 96  # of a panel; a quarter of an hour each over a day
MANY_POINTS: Final = 288

# The uids of our provisioned data sources. Boards never name them outside of the variables' defaults, so that an
# imported board works with any other data source of the same type.
PROMETHEUS_UID: Final = "lobs-prometheus"
POSTGRES_UID: Final = "lobs-postgres"
PROMETHEUS_TYPE: Final = "prometheus"
POSTGRES_TYPE: Final = "grafana-postgresql-datasource"
PROMETHEUS_VARIABLE: Final = "prometheus_datasource"
POSTGRES_VARIABLE: Final = "postgres_datasource"

# The job of our exporter in provisioning/prometheus.
JOB: Final = "lobservatory"

# Some alerts (ours about the pipeline) have no gateway: they concern every choice of gateways.
ALERT_GATEWAY: Final = 'gateway=~"$gateway|"'


class BoardRef(NamedTuple):
    """A board as others link to it. A uid never changes: bookmarks and links live on it."""

    uid: str
    title: str


OVERVIEW: Final = BoardRef("lobs-overview", "Overview")
COST: Final = BoardRef("lobs-cost", "Cost and tokens")
SESSIONS: Final = BoardRef("lobs-sessions", "Sessions")
SESSION: Final = BoardRef("lobs-session", "Session")
AGENTS: Final = BoardRef("lobs-agents", "Agents")
OPERATIONS: Final = BoardRef("lobs-operations", "Operations and tasks")
CRON: Final = BoardRef("lobs-cron", "Cron")
GATEWAY: Final = BoardRef("lobs-gateway", "Gateway and channels")
HOST: Final = BoardRef("lobs-host", "Host")
LOGS: Final = BoardRef("lobs-logs", "Logs and errors")
ALERTS: Final = BoardRef("lobs-alerts", "Alerts")
QUALITY: Final = BoardRef("lobs-quality", "Data quality")
OFFICIAL: Final = BoardRef("lobs-official", "Official plugin")

# Where our own pages and Alertmanager are for the browser. Texts that a user may change in Settings → Variables.
PAGES_VARIABLE: Final = "pages_url"
PAGES_URL: Final = f"http://{Settings.model_fields['api_listen'].default}"
ALERTMANAGER_VARIABLE: Final = "alertmanager_url"
ALERTMANAGER_URL: Final = f"http://{Settings.model_fields['alertmanager_listen'].default}"

# Names of Grafana's palette, so that every theme works. A colour means the same on every board.
OK: Final = "green"
BAD: Final = "red"
WARN: Final = "orange"
MUTED: Final = "text"
NO_GROUND: Final = "transparent"  # MUTED where the colour is that of the ground
NEUTRAL: Final = "blue"
MONEY: Final = "yellow"
EQUIVALENT: Final = "purple"  # list price of what a subscription covers: never the colour of money

TOKEN_COLOURS: Final = {"input": "blue", "output": "green", "cache_read": "purple", "cache_write": "orange"}
OUTCOME_COLOURS: Final = {"ok": OK, "error": BAD, "aborted": WARN, "nonzero_exit": "yellow"}

# Steps of what fills up, where the alerts HostDiskFull and ContextNearLimit have theirs.
FULL: Final = ((None, OK), (0.9, WARN), (0.95, BAD))
CONTEXT_FULL: Final = ((None, OK), (0.9, WARN))
