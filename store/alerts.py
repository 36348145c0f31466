"""Alerts as Alertmanager tells them: one row per firing, and a message to live clients for each change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb

from store import outbox
from store.pool import Connection
from store.rows import OutboxEvent


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


async def delete_threshold(connection: Connection, alert: str, severity: str, gateway: str, agent: str) -> bool:
    """Back to the settings'; whether there was one."""
    cursor = await connection.execute(
        "DELETE FROM lobs.alert_thresholds WHERE alert = %s AND severity = %s AND gateway = %s AND agent = %s",
        [alert, severity, gateway, agent],
    )
    return cursor.rowcount > 0


async def record(connection: Connection, alerts: Sequence[Alert]) -> int:
    """Keep what is new of them and publish it (topic `alerts`); gives how many. A repeated notification changes
    nothing, and a late "firing" does not take a "resolved" back."""
    events = []
    for alert in sorted(alerts, key=lambda one: (one.fingerprint, one.starts_at)):
        cursor = await connection.execute(
            "INSERT INTO lobs.alert_events AS e"
            " (fingerprint, gateway, alert, severity, status, starts_at, ends_at, labels, annotations)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)"
            " ON CONFLICT (fingerprint, starts_at) DO UPDATE SET status = excluded.status, ends_at = excluded.ends_at,"
            " annotations = excluded.annotations, received_at = now()"
            " WHERE e.status = 'firing' AND excluded.status = 'resolved'"
            " RETURNING *",
            [
                alert.fingerprint,
                alert.labels.get("gateway"),
                alert.labels.get("alertname", "unknown"),
                alert.labels.get("severity"),
                alert.status,
                alert.starts_at,
                alert.ends_at,
                Jsonb(dict(alert.labels)),
                Jsonb(dict(alert.annotations)),
            ],
        )
        row = await cursor.fetchone()
        if row is not None:
            events.append(OutboxEvent("alerts", alert.status, document(row), row["gateway"]))
    await outbox.publish(connection, events)
    return len(events)


def document(row: Mapping[str, Any]) -> dict[str, Any]:
    """An alert as clients get it."""
    return {
        "id": str(row["id"]),
        "alert": row["alert"],
        "severity": row["severity"],
        "gateway": row["gateway"],
        "status": row["status"],
        "startsAt": row["starts_at"].isoformat().replace("+00:00", "Z"),
        "endsAt": row["ends_at"] and row["ends_at"].isoformat().replace("+00:00", "Z"),
        "summary": row["annotations"].get("summary"),
        "description": row["annotations"].get("description"),
        "runbook": row["annotations"].get("runbook_url"),
        "labels": row["labels"],
    }
