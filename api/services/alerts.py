"""What fires now, and whether alerts come at all.

The alert Watchdog fires always; Alertmanager repeats it every five minutes to our webhook. When it stays away although
it came before, Prometheus or Alertmanager is dead: then nobody else can tell, so this process does, by Slack and in the
history. A dead host tells nothing; docs/alerts.md shows how a service outside hears of that.
"""

from __future__ import annotations

import asyncio
import json
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import structlog

from api import errors
from api.models.monitoring import AlertEvent, Banner, BannerAlert
from api.security.scopes import Actor
from api.services.agents import gateways_of
from api.services.alert_history import AlertHistory
from lobservatory.settings import Settings
from lobservatory.thresholds import Severity
from store import alerts as rows
from store.pool import Pool

log = structlog.get_logger(__name__)

WATCHDOG = "Watchdog"
SILENT_AFTER = timedelta(minutes=15)  # three repeats
CHECK_SECONDS = 30.0
_SLACK_SECONDS = 10.0
SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "info")


class AlertService:
    """The banner of pages, and the other end of the dead-man's switch."""

    def __init__(self, pool: Pool, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool = pool
        self._settings = settings
        self._clock = clock
        self._started = clock()
        self._history = AlertHistory(pool, settings.address("prometheus"))
        self._untold: tuple[str, str, str] | None = None  # color, title, text that Slack has not taken yet

    async def banner(self, actor: Actor) -> Banner:
        """What fires in the gateways that the actor may see."""
        async with self._pool.connection() as connection:
            found = await rows.firing(connection, gateways_of(actor))
            watchdog = await rows.watchdog(connection)
        alerts = [self._linked(AlertEvent.of(row)) for row in found]
        severities = [one.severity for one in alerts]
        return Banner(
            worst=next((one for one in SEVERITIES if one in severities), None),
            firing=len(alerts),
            alerts=alerts,
            watchdog_heard_at=watchdog.heard_at if watchdog else None,
            watchdog_silent=watchdog is not None and datetime.now(UTC) - watchdog.heard_at > SILENT_AFTER,
        )

    def _linked(self, alert: AlertEvent) -> BannerAlert:
        grafana, alertmanager = self._settings.address("grafana"), self._settings.address("alertmanager")
        board = alert.board if alert.board and alert.board.startswith("/d/") else "/d/lobs-overview"
        names = {"alertname": alert.alert} | ({"gateway": alert.gateway} if alert.gateway else {})
        matchers = ",".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in names.items())
        query = f"?var-gateway={urllib.parse.quote(alert.gateway, safe='')}" if alert.gateway else ""
        runbooks = self._settings.runbook_url or f"{self._settings.api_listen.url}/runbooks"
        return BannerAlert(
            **alert.model_dump(),
            board_url=f"{grafana}{board}{query}" if grafana else None,
            runbook_url=f"{runbooks}/{urllib.parse.quote(alert.alert, safe='')}.md" if alert.runbook else None,
            silence_url=f"{alertmanager}/#/silences/new?filter={urllib.parse.quote(f'{{{matchers}}}', safe='')}"
            if alertmanager
            else None,
        )

    async def watch(self) -> None:
        """Tell once when the watchdog has gone silent, and once when it is back; complete the history; for ever."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            try:
                await self.check()
                await self._history.look()
            except errors.DATABASE_AWAY as error:
                log.warning("the watchdog could not be looked up", error=type(error).__name__)

    async def check(self) -> None:
        """One look. What Slack does not take is tried again at the next one; when it is over by then, it is dropped."""
        # Nobody listened before this process started.
        listening = self._clock() - self._started >= SILENT_AFTER.total_seconds()
        async with self._pool.connection() as connection:
            silent_at = await rows.claim_silence(connection, SILENT_AFTER) if listening else None
            back_at = await rows.claim_return(connection)
            if silent_at is not None:
                await rows.record(connection, [_silence(silent_at, None)])
            if back_at is not None:
                await rows.record(connection, [_silence(back_at, max(datetime.now(UTC), back_at))])
        if silent_at is not None:
            self._untold = ("danger", "🔴 Alerts are not delivered any more", _SILENT)
        if back_at is not None:
            back = ("good", "✅ Resolved: Alerts are delivered again", "The alert that fires always came again.")
            self._untold = None if self._untold else back
        await self._tell()

    async def _tell(self) -> None:
        webhook = self._settings.slack_webhook_url.get_secret_value().strip()
        if self._untold is None or not webhook:
            self._untold = None
            return
        color, title, text = self._untold
        message = {"attachments": [{"color": color, "title": title, "fallback": title, "text": text}]}
        try:
            await asyncio.to_thread(_post, webhook, message)
        except (OSError, ValueError) as error:
            log.warning("Slack could not be told of the watchdog; trying again", error=type(error).__name__)
        else:
            self._untold = None


_SILENT = (
    "Prometheus or Alertmanager is down, or cannot reach the API: the alert that fires always has not come for 15"
    " minutes.\n→ Start them again; `lobservatory doctor` says what does not answer."
)


def _silence(told_at: datetime, ended_at: datetime | None) -> rows.Alert:
    return rows.Alert(
        fingerprint="watchdog",
        status="resolved" if ended_at else "firing",
        starts_at=told_at,
        ends_at=ended_at,
        labels={"alertname": WATCHDOG, "severity": "critical"},
        annotations={
            "summary": "Alerts are not delivered any more",
            "description": "The alert that fires always has not come for 15 minutes.",
            "action": "Start Prometheus and Alertmanager again; lobservatory doctor says what does not answer.",
            "runbook": f"alerts/runbooks/{WATCHDOG}.md",
            "board": "/d/lobs-alerts",
        },
    )


def _post(url: str, message: object) -> None:
    """Raises OSError and ValueError. The address is the user's own setting."""
    body = json.dumps(message).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310 - the user's
    with urllib.request.urlopen(request, timeout=_SLACK_SECONDS):  # noqa: S310 - as above
        return
