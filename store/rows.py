"""The rows that go into the database: what the exporter knows, in the words of the views.

Every instant is an aware UTC `datetime`, money is a `Decimal` in US dollars (exact: it is never rounded and never
a float), durations are milliseconds. Texts of prompts, replies and tool output are in none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

Outcome = Literal["ok", "error", "aborted"]
CostBasis = Literal["reported", "priced", "unpriced"]
BillingMode = Literal["billed", "equivalent"]


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One model call = one assistant entry with usage. Identity: (gateway, agent, entry_id, fingerprint).

    `fingerprint` (16 bytes) hashes the raw timestamp, the model and the whole usage tuple as they were written, so that
    equal 8-hex ids of unrelated sessions stay two calls and a re-read stays one.
    """

    gateway: str
    agent: str
    session_id: str
    entry_id: str
    fingerprint: bytes
    ts: datetime
    provider: str
    model: str
    kind: str
    outcome: Outcome
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    cost_usd: Decimal | None  # None exactly when unpriced
    cost_basis: CostBasis
    billing: BillingMode
    session_key: str | None = None
    parent_session_key: str | None = None
    channel: str | None = None
    run_id: str | None = None
    duration_ms: int | None = None
    error_code: str | None = None
    price_version: str | None = None
    ts_flag: str | None = None  # "future", "past", "message", "file": why ts is not the entry's own timestamp
    cache_write_1h_tokens: int | None = None  # parts of cache_write_tokens whose lifetime the entry tells
    cache_write_5m_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One `toolCall` part of an assistant entry. Identity: (gateway, agent, entry_id, fingerprint, position).

    `tool` is what the model asked for; `through`, the tool by which it did where that was another, is in no table.
    """

    gateway: str
    agent: str
    session_id: str
    entry_id: str
    fingerprint: bytes
    position: int
    call_id: str
    tool: str
    ts: datetime
    kind: str
    run_id: str | None = None
    through: str | None = None


@dataclass(frozen=True, slots=True)
class ToolResult:
    """One `toolResult` entry; completes the tool call with the same session and call id. Identity as a model call."""

    gateway: str
    agent: str
    session_id: str
    entry_id: str
    fingerprint: bytes
    call_id: str
    tool: str
    ts: datetime
    outcome: Literal["ok", "error", "nonzero_exit"]
    exit_code: int | None = None
    duration_ms: int | None = None
    output_bytes: int | None = None
    error_class: str | None = None  # timeout, signal, exit_status, not_run, not_found, denied, invalid, other
    through: str | None = None  # as of a tool call


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """Something in a session that is no call: `compaction`, `reset`, `model_change`, `nested_tool`, `run_failed`, …"""

    gateway: str
    agent: str
    session_id: str
    entry_id: str
    fingerprint: bytes
    ts: datetime
    event: str
    detail: Mapping[str, Any] = field(default_factory=dict)  # names and numbers, no content


@dataclass(frozen=True, slots=True)
class Session:
    """What is known of a session. None means "not known here" and never overwrites what was known before."""

    gateway: str
    agent: str
    session_id: str
    session_key: str | None = None
    kind: str | None = None
    channel: str | None = None
    parent_session_key: str | None = None
    label: str | None = None
    status: str | None = None
    provider: str | None = None
    model: str | None = None
    context_tokens: int | None = None
    context_limit: int | None = None
    started_at: datetime | None = None
    updated_at: datetime | None = None
    ended_at: datetime | None = None
    archived: bool | None = None


@dataclass(frozen=True, slots=True)
class Reject:
    """An entry or a field that was refused. `location` is the source's name and an offset or a sequence number."""

    gateway: str
    agent: str
    source: str
    reason: str
    location: str


@dataclass(frozen=True, slots=True)
class Position:
    """How far one source (a file, or one session of a database) has been read.

    `offset` is bytes for a file and the last `seq` for a database session; `fingerprint` and `generation` tell
    whether it is still the same content: device:inode:header for a file, the rewrite generation for a database.
    """

    gateway: str
    source_key: str
    offset: int
    generation: int = 0
    fingerprint: str = ""
    size: int = 0
    mtime_ns: int = 0


@dataclass(frozen=True, slots=True)
class CronJob:
    """A scheduled job as it is now."""

    gateway: str
    job_id: str
    agent: str | None
    name: str
    schedule: str
    enabled: bool
    period_seconds: float | None
    next_run_at: datetime | None
    last_run_at: datetime | None
    last_status: str | None
    last_duration_ms: int | None
    consecutive_errors: int
    last_error: str | None = None
    delivery_status: str | None = None


@dataclass(frozen=True, slots=True)
class CronRun:
    """One run of a job. Identity: (gateway, job_id, started_at)."""

    gateway: str
    job_id: str
    started_at: datetime
    finished_at: datetime | None
    status: str
    error: str | None = None
    session_id: str | None = None


@dataclass(frozen=True, slots=True)
class SubagentRun:
    """One run of a sub-agent. Identity: (gateway, run_id)."""

    gateway: str
    run_id: str
    child_session_key: str
    parent_session_key: str | None
    status: str
    label: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Agent:
    """A configured agent, as the gateway lists it."""

    gateway: str
    agent: str
    name: str | None = None
    model: str | None = None
    workspace: str | None = None
    is_default: bool | None = None


@dataclass(frozen=True, slots=True)
class AgentState:
    """What an agent does at `at`: `idle`, `thinking`, `tool`, `waiting`, `error` or `offline`."""

    gateway: str
    agent: str
    state: str
    at: datetime
    activity: str | None = None


@dataclass(frozen=True, slots=True)
class Channel:
    """One account of a chat channel as it is now. None: the gateway does not tell."""

    gateway: str
    channel: str
    account: str = ""
    configured: bool | None = None
    connected: bool | None = None
    last_inbound_at: datetime | None = None
    last_outbound_at: datetime | None = None
    last_error: str | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """A device that is paired with the gateway as its node. None: the gateway does not tell."""

    gateway: str
    node_id: str
    name: str | None = None
    platform: str | None = None
    version: str | None = None
    paired: bool | None = None
    connected: bool | None = None
    connected_at: datetime | None = None
    last_seen_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ExecApproval:
    """A request to run a command. `status`: pending, allowed, denied, expired, cancelled. `command` is content."""

    gateway: str
    approval_id: str
    status: str
    agent: str | None = None
    session_key: str | None = None
    command: str | None = None
    requested_at: datetime | None = None
    expires_at: datetime | None = None
    resolved_at: datetime | None = None
    resolved_by: str | None = None
    terminal_reason: str | None = None
    decision: str | None = None  # allow-once, allow-always or deny


@dataclass(frozen=True, slots=True)
class CostSnapshot:
    """Token classes and cost of the last 30 days at one instant, by the gateway's or by our own account."""

    gateway: str
    ts: datetime
    source: Literal["gateway", "lobservatory"]
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    cost_usd: Decimal


@dataclass(frozen=True, slots=True)
class HostSample:
    """The host at one instant; ratios are 0 to 1."""

    gateway: str
    ts: datetime
    cpu_ratio: float | None
    load1: float | None
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    swap_used_bytes: int | None
    disk_used_bytes: int | None
    disk_total_bytes: int | None
    network_receive_bytes: int | None
    network_transmit_bytes: int | None
    gateway_resident_bytes: int | None
    gateway_cpu_ratio: float | None


@dataclass(frozen=True, slots=True)
class AgentEvent:
    """What an agent just did: thinking, tool_start, tool_end, message_in, message_out, subagent_spawned, …"""

    gateway: str
    agent: str
    ts: datetime
    event: str
    activity: str | None = None  # "Reading notes.md": never content
    tool: str | None = None
    session_key: str | None = None
    run_id: str | None = None
    heat: int = 0  # messages of the agent, in and out, in the 60 s before; told to live clients


@dataclass(frozen=True, slots=True)
class AlertEvent:
    """One firing of an alert. `told`: Alertmanager told of it."""

    id: int
    alert: str
    severity: str | None
    gateway: str | None
    status: str
    told: bool
    starts_at: datetime
    ends_at: datetime | None
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class OutboxEvent:
    """A message for live clients; its id is given by the database, in commit order. `topic`: operations, agents,
    tasks, feed, alerts. `payload` is what the client gets."""

    topic: str
    kind: str
    payload: Mapping[str, Any]
    gateway: str | None = None


@dataclass(frozen=True, slots=True)
class Total:
    """The running total of one counter series, committed together with the rows that raised it."""

    metric: str
    labels: tuple[str, ...]  # in the order of the catalogue
    value: Decimal
