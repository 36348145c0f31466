"""Alerts as Alertmanager and Prometheus know them: one row per firing, a message to live clients for each change."""

# ruff: noqa: S608 - what is put into statements is names, expressions and constants of ours
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from psycopg.types.json import Jsonb

from store import feed, messages, outbox
from store.pool import Connection
from store.reading import columns, first, read
from store.rows import AlertEvent, OutboxEvent


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert of a notification. Identity: (fingerprint, starts_at)."""

    fingerprint: str
    status: str  # firing, resolved
    starts_at: datetime
    ends_at: datetime | None
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Known:
    """What the history has of one firing."""

    id: int
    labels: Mapping[str, str]
    status: str
    told: bool
    starts_at: datetime
    ends_at: datetime | None


@dataclass(frozen=True, slots=True)
class Watchdog:
    """When the alert that fires always came last. `told_at`: while its silence has been told."""

    heard_at: datetime
    told_at: datetime | None


_EVENT = columns(AlertEvent)
SLACK = timedelta(minutes=1)  # Prometheus and Alertmanager may differ so much in when a firing began
_COMPLETING = 7305804402566886020  # any number that nobody else uses
HEARD_WITHIN = timedelta(hours=3)  # Alertmanager repeats what fires each hour; older news may have ended untold


@dataclass(frozen=True, slots=True)
class ThresholdOverride:
    """A threshold set at run time. "" in `gateway` or `agent`: all of them."""

    alert: str
    severity: str
    gateway: str
    agent: str
    value: float
    updated_at: datetime | None = None
    updated_by: str | None = None


async def thresholds(connection: Connection) -> list[ThresholdOverride]:
    """Every threshold that was set at run time."""
    cursor = await connection.execute(
        "SELECT alert, severity, gateway, agent, value, updated_at, updated_by FROM lobs.alert_thresholds"
        " ORDER BY alert, severity, gateway, agent LIMIT 10000"
    )
    return [ThresholdOverride(**row) for row in await cursor.fetchall()]


async def set_threshold(connection: Connection, override: ThresholdOverride) -> ThresholdOverride:
    """Set or replace one; gives it with its time."""
    cursor = await connection.execute(
        "INSERT INTO lobs.alert_thresholds (alert, severity, gateway, agent, value, updated_by)"
        " VALUES (%s, %s, %s, %s, %s, %s)"
        " ON CONFLICT (alert, severity, gateway, agent)"
        " DO UPDATE SET value = excluded.value, updated_by = excluded.updated_by, updated_at = now()"
        " RETURNING alert, severity, gateway, agent, value, updated_at, updated_by",
        [override.alert, override.severity, override.gateway, override.agent, override.value, override.updated_by],
    )
    row = await cursor.fetchone()
    if row is None:
        raise RuntimeError("INSERT … RETURNING gave no row")
    return ThresholdOverride(**row)


async def locked_threshold(
    connection: Connection, alert: str, severity: str, gateway: str, agent: str
) -> ThresholdOverride | None:
    """The one that was set, kept as it is until the transaction ends; None: there is none."""
    cursor = await connection.execute(
        "SELECT alert, severity, gateway, agent, value, updated_at, updated_by FROM lobs.alert_thresholds"
        " WHERE alert = %s AND severity = %s AND gateway = %s AND agent = %s FOR UPDATE",
        [alert, severity, gateway, agent],
    )
    row = await cursor.fetchone()
    return None if row is None else ThresholdOverride(**row)


async def delete_threshold(connection: Connection, alert: str, severity: str, gateway: str, agent: str) -> bool:
    """Back to the settings'; whether there was one."""
    cursor = await connection.execute(
        "DELETE FROM lobs.alert_thresholds WHERE alert = %s AND severity = %s AND gateway = %s AND agent = %s",
        [alert, severity, gateway, agent],
    )
    return cursor.rowcount > 0


async def record(connection: Connection, alerts: Sequence[Alert]) -> int:
    """Keep what is new of them, publish it (topic `alerts`) and add it to the activity feed; gives how many.

    A repeated notification changes nothing but when it was heard, and a late "firing" does not take a "resolved" back.
    What was known untold becomes told.
    """
    changed = []
    for alert in sorted(alerts, key=lambda one: (one.fingerprint, one.starts_at)):
        tells = await _tell(connection, alert)
        row = await first(
            connection,
            AlertEvent,
            "INSERT INTO lobs.alert_events AS e"
            " (fingerprint, gateway, alert, severity, status, starts_at, ends_at, labels, annotations)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)"
            " ON CONFLICT (fingerprint, starts_at) DO UPDATE SET status = excluded.status, ends_at = excluded.ends_at,"
            " annotations = excluded.annotations, received_at = now(), heard_at = now()"
            " WHERE e.status = 'firing' AND excluded.status = 'resolved'"
            f" RETURNING {_EVENT}",
            _values(alert),
        )
        if row is not None:
            changed.append(row)
            continue
        if tells is not None:
            changed.append(tells)
        await connection.execute(
            "UPDATE lobs.alert_events SET heard_at = now()"
            " WHERE fingerprint = %s AND starts_at = %s AND status = 'firing'",
            [alert.fingerprint, alert.starts_at],
        )
    await _publish(connection, changed)
    for row in changed:
        await feed.add(
            connection,
            type="alert",
            actor="alertmanager",
            action=row.status,
            target_type="alert",
            target_id=row.alert,
            metadata={
                "severity": row.severity,
                "gateway": row.gateway,
                "summary": row.annotations.get("summary"),
            },
        )
    return len(changed)


async def _tell(connection: Connection, alert: Alert) -> AlertEvent | None:
    """The row of this firing that was untold until now, if there is one: from now on it is the notification's.

    It may begin later than the notification says: whoever looked at Prometheus did not see further back.
    """
    return await first(
        connection,
        AlertEvent,
        "UPDATE lobs.alert_events SET told = true, fingerprint = %(fingerprint)s, starts_at = %(starts_at)s,"
        " annotations = %(annotations)s, received_at = now()"
        " WHERE id = (SELECT id FROM lobs.alert_events WHERE NOT told AND labels = %(labels)s"
        "  AND starts_at >= %(starts_at)s::timestamptz - %(slack)s"
        "  AND starts_at <= coalesce(%(ends_at)s::timestamptz, now())"
        "  ORDER BY starts_at LIMIT 1 FOR UPDATE)"
        " AND NOT EXISTS (SELECT FROM lobs.alert_events"
        "  WHERE fingerprint = %(fingerprint)s AND starts_at = %(starts_at)s AND told)"
        f" RETURNING {_EVENT}",
        {
            "fingerprint": alert.fingerprint,
            "starts_at": alert.starts_at,
            "ends_at": alert.ends_at,
            "labels": Jsonb(dict(alert.labels)),
            "annotations": Jsonb(dict(alert.annotations)),
            "slack": SLACK,
        },
    )


async def known_since(connection: Connection, since: datetime) -> list[Known]:
    """Every firing of the history that was not over then. Nobody else completes it before this transaction ends."""
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", [_COMPLETING])
    return await read(
        connection,
        Known,
        f"SELECT {columns(Known)} FROM lobs.alert_events WHERE ends_at IS NULL OR ends_at >= %s",
        [since],
    )


async def complete(connection: Connection, untold: Sequence[Alert], ended: Mapping[int, datetime]) -> None:
    """Add what nobody told of, and the ends that nobody told (id → when); live clients hear of both."""
    changed = []
    for alert in untold:
        changed += await read(
            connection,
            AlertEvent,
            "INSERT INTO lobs.alert_events"
            " (fingerprint, gateway, alert, severity, status, starts_at, ends_at, labels, annotations, told)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, false) ON CONFLICT (fingerprint, starts_at) DO NOTHING"
            f" RETURNING {_EVENT}",
            _values(alert),
        )
    for number, ended_at in ended.items():
        changed += await read(
            connection,
            AlertEvent,
            "UPDATE lobs.alert_events SET status = 'resolved', ends_at = greatest(%s, starts_at)"
            f" WHERE id = %s AND status = 'firing' RETURNING {_EVENT}",
            [ended_at, number],
        )
    await _publish(connection, changed)


def _values(alert: Alert) -> list[Any]:
    return [
        alert.fingerprint,
        alert.labels.get("gateway"),
        alert.labels.get("alertname", "unknown"),
        alert.labels.get("severity"),
        alert.status,
        alert.starts_at,
        alert.ends_at,
        Jsonb(dict(alert.labels)),
        Jsonb(dict(alert.annotations)),
    ]


async def _publish(connection: Connection, changed: Sequence[AlertEvent]) -> None:
    await outbox.publish(
        connection, [OutboxEvent("alerts", row.status, messages.alert(row), row.gateway) for row in changed]
    )


async def firing(connection: Connection, gateways: Sequence[str] | None) -> list[AlertEvent]:
    """What fires now, the worst and newest first: the newest row of each, heard within `HEARD_WITHIN`.

    Not what is untold: another alert says it already, or somebody silenced it.
    """
    return await read(
        connection,
        AlertEvent,
        f"SELECT {_EVENT} FROM (SELECT DISTINCT ON (fingerprint) * FROM public.alert_events"
        "  WHERE status = 'firing' AND told AND heard_at > now() - %(within)s"
        "  AND (%(gateways)s::text[] IS NULL OR gateway IS NULL OR gateway = ANY(%(gateways)s))"
        "  ORDER BY fingerprint, starts_at DESC) AS newest"
        " ORDER BY array_position(ARRAY['critical', 'warning', 'info'], severity) NULLS LAST, starts_at DESC, id DESC"
        " LIMIT 200",
        {"within": HEARD_WITHIN, "gateways": None if gateways is None else list(gateways)},
    )


async def hear_watchdog(connection: Connection) -> None:
    """The alert that fires always came again."""
    await connection.execute(
        "INSERT INTO lobs.alert_watchdog (heard_at) VALUES (now()) ON CONFLICT (one) DO UPDATE SET heard_at = now()"
    )


async def watchdog(connection: Connection) -> Watchdog | None:
    """None when it was never heard."""
    return await first(connection, Watchdog, "SELECT heard_at, told_at FROM public.alert_watchdog")


async def claim_silence(connection: Connection, longest: timedelta) -> datetime | None:
    """When the watchdog has been silent for longer and nobody has told so: from now on somebody has."""
    cursor = await connection.execute(
        "UPDATE lobs.alert_watchdog SET told_at = now() WHERE told_at IS NULL AND heard_at < now() - %s"
        " RETURNING told_at",
        [longest],
    )
    row = await cursor.fetchone()
    return row["told_at"] if row else None


async def claim_return(connection: Connection) -> datetime | None:
    """When the watchdog is heard again after its silence was told: when that was told."""
    cursor = await connection.execute(
        "WITH old AS (SELECT told_at FROM lobs.alert_watchdog WHERE heard_at > told_at FOR UPDATE)"
        " UPDATE lobs.alert_watchdog AS w SET told_at = NULL FROM old WHERE w.heard_at > w.told_at"
        " RETURNING old.told_at"
    )
    row = await cursor.fetchone()
    return row["told_at"] if row else None
