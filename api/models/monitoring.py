"""Costs, hosts, alerts, and what else the monitoring calls show."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from api.models.agents import Agent, CronJob, CronRun, Session, TokenClasses
from api.models.base import Camel, Instant, Text, fields_of
from api.models.operations import Usd
from store import alerts as alert_rows
from store import monitoring as rows
from store.rows import AlertEvent as AlertRow


class CostGroup(Camel):
    """Calls, tokens and money of one model, agent, kind, channel or day."""

    name: str
    calls: int
    errors: int
    tokens: TokenClasses
    cost: Usd
    equivalent_cost: Usd = Field(description="List price of what a subscription covers; never in `cost`.")
    unpriced_calls: int = Field(description="Calls without a known price: their cost is not in `cost`.")

    @classmethod
    def of(cls, row: rows.CostGroup) -> Self:
        """The shape of a row."""
        return cls.model_validate(
            {
                **fields_of(row),
                "tokens": TokenClasses.of(row),
                "cost": row.cost_usd,
                "equivalent_cost": row.equivalent_cost_usd,
            }
        )


class CostWindow(Camel):
    """Money of a window."""

    cost: Usd
    equivalent_cost: Usd


class Costs(Camel):
    """Money by group, and by window as the boards show it."""

    range: str
    group: str
    total: Usd
    equivalent_total: Usd
    windows: dict[str, CostWindow] = Field(
        description="1h, today, 7d, 30d, month, month_projected; empty while nothing was ever spent."
    )
    groups: list[CostGroup]

    @classmethod
    def of(
        cls, range_: rows.Range, group: rows.Group, groups: Sequence[rows.CostGroup], windows: Sequence[rows.CostWindow]
    ) -> Self:
        """The shape of rows. What is unpriced is in no sum."""
        return cls(
            range=range_,
            group=group,
            total=sum((row.cost_usd for row in groups), Decimal(0)),
            equivalent_total=sum((row.equivalent_cost_usd for row in groups), Decimal(0)),
            windows={
                row.window_name: CostWindow(cost=row.cost_usd, equivalent_cost=row.equivalent_cost_usd)
                for row in windows
            },
            groups=[CostGroup.of(row) for row in groups],
        )


class SessionCount(Camel):
    """Sessions of a kind and status."""

    kind: str
    status: str
    number: int


class SessionsSummary(Camel):
    """Sessions: how many of what, and those that changed last."""

    counts: list[SessionCount]
    active_subagents: int
    sessions: list[Session]


class CronsSummary(Camel):
    """Scheduled jobs and their last runs."""

    jobs: list[CronJob]
    runs: list[CronRun]


class Host(Camel):
    """The newest sample of a gateway's host. Ratios are 0 to 1."""

    gateway: str
    ts: Instant
    cpu_ratio: float | None = None
    load1: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    swap_used_bytes: int | None = None
    disk_used_bytes: int | None = None
    disk_total_bytes: int | None = None
    network_receive_bytes: int | None = None
    network_transmit_bytes: int | None = None
    gateway_resident_bytes: int | None = None
    gateway_cpu_ratio: float | None = None


class Channel(Camel):
    """An account of a chat channel."""

    gateway: str
    channel: str
    account: str = ""
    configured: bool | None = None
    connected: bool | None = None
    last_inbound_at: Instant | None = None
    last_outbound_at: Instant | None = None
    last_error: str | None = None
    seen_at: Instant


class System(Camel):
    """Hosts and channels."""

    hosts: list[Host]
    channels: list[Channel]


class Approval(Camel):
    """A request to run a command."""

    gateway: str
    approval_id: str
    agent: str | None = None
    session_key: str | None = None
    status: str = Field(description="pending, allowed, denied, expired or cancelled.")
    requested_at: Instant | None = None
    expires_at: Instant | None = None
    resolved_at: Instant | None = None
    resolved_by: str | None = None
    seconds_left: float | None = Field(default=None, description="Of a pending one, until it expires.")

    @classmethod
    def of(cls, row: rows.Approval, now: datetime) -> Self:
        """The shape of a row."""
        waits = row.expires_at if row.status == "pending" else None
        left = None if waits is None else max(0.0, (waits - now).total_seconds())
        return cls.model_validate({**fields_of(row), "seconds_left": left})


class LogSignature(Camel):
    """Errors of a gateway's log that are alike."""

    gateway: str
    signature: str
    level: str
    sample: str
    count: int
    first_seen_at: Instant
    last_seen_at: Instant


class LogLine(Camel):
    """A line of a gateway's log. `id` grows with each line that was read."""

    id: int
    ts: Instant
    gateway: str
    level: str
    subsystem: str
    session: str | None
    message: str


class AlertEvent(Camel):
    """One firing of an alert."""

    id: str
    alert: str
    severity: str | None = None
    gateway: str | None = None
    status: Literal["firing", "resolved"]
    told: bool = Field(
        description="Alertmanager told of it. False: inhibited, silenced, or somebody was away; Prometheus knew it."
    )
    starts_at: Instant
    ends_at: Instant | None = None
    summary: str | None = None
    description: str | None = None
    action: str | None = Field(default=None, description="The first thing to do.")
    board: str | None = Field(default=None, description="Path of the board in Grafana.")
    runbook: str | None = Field(default=None, description="Path of the runbook in the repository.")
    labels: dict[str, str] = {}

    @classmethod
    def of(cls, row: AlertRow) -> Self:
        """The shape of a row."""
        said = {name: row.annotations.get(name) for name in ("summary", "description", "action", "board", "runbook")}
        return cls.model_validate({**fields_of(row), **said, "id": str(row.id)})


class BannerAlert(AlertEvent):
    """An alert with where to go from it."""

    board_url: str | None = Field(description="None where there is no Grafana.")
    runbook_url: str | None = Field(description="None where the alert names no runbook.")
    silence_url: str | None = Field(description="None where there is no Alertmanager.")


class Banner(Camel):
    """What every page shows at its top."""

    worst: Literal["critical", "warning", "info"] | None = Field(description="The worst that fires; None: all is well.")
    firing: int
    alerts: list[BannerAlert] = Field(description="The worst and newest first, at most 200.")
    watchdog_heard_at: Instant | None = Field(description="When the chain of alerts was heard last; None: never.")
    watchdog_silent: bool = Field(description="It was heard once and is not any more: alerts cannot be trusted.")


class Alerts(Camel):
    """Alerts of a range, newest first."""

    firing: int
    alerts: list[AlertEvent]


class Summary(Camel):
    """All of it in one document."""

    generated_at: Instant
    stale: bool = Field(description="A newer one is being made; ask again in a few seconds.")
    costs: Costs
    sessions: SessionsSummary
    crons: CronsSummary
    agents: list[Agent]
    system: System
    alerts: Alerts


class AuditRow(Camel):
    """Who did what. Rows are never changed."""

    id: int
    at: Instant
    request_id: str | None = None
    phase: str = Field(description="started, succeeded, failed or refused.")
    actor: str
    action: str
    gateway: str | None = None
    target: str | None = None
    detail: dict[str, Any] = {}


class NotifiedAlert(BaseModel):
    """One alert of a notification."""

    model_config = ConfigDict(extra="ignore")

    status: Literal["firing", "resolved"]
    labels: Annotated[dict[Text, Text], Field(max_length=100)]
    annotations: Annotated[dict[Text, Text], Field(max_length=100)] = {}
    starts_at: AwareDatetime = Field(alias="startsAt")
    ends_at: AwareDatetime | None = Field(default=None, alias="endsAt")
    fingerprint: Annotated[Text, Field(min_length=1, max_length=64)]

    def ended(self) -> datetime | None:
        """When it ended; Alertmanager writes the year 1 for "not yet"."""
        return self.ends_at if self.status == "resolved" and self.ends_at and self.ends_at.year > 1 else None

    def began(self) -> datetime:
        """When it began."""
        return max(self.starts_at, datetime(1970, 1, 1, tzinfo=UTC))

    def row(self) -> alert_rows.Alert:
        """As the store keeps it."""
        return alert_rows.Alert(
            fingerprint=self.fingerprint,
            status=self.status,
            starts_at=self.began(),
            ends_at=self.ended(),
            labels=self.labels,
            annotations=self.annotations,
        )


class Notification(BaseModel):
    """What Alertmanager's webhook receiver sends (version 4)."""

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={
            "examples": [
                {
                    "version": "4",
                    "status": "firing",
                    "alerts": [
                        {
                            "status": "firing",
                            "labels": {"alertname": "GatewayDown", "severity": "critical", "gateway": "home"},
                            "annotations": {"summary": "The gateway does not answer"},
                            "startsAt": "2026-01-29T10:00:00Z",
                            "endsAt": "0001-01-01T00:00:00Z",
                            "fingerprint": "b2c1f5a0d9e8c7b6",
                        }
                    ],
                }
            ]
        },
    )

    alerts: Annotated[list[NotifiedAlert], Field(max_length=1000)]


class Recorded(Camel):
    """How many alerts were new or changed."""

    recorded: int
