"""Sessions as the gateway lists them: by kind and state, the fullest context of each agent, runs in progress."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from exporter.collectors.activity import Activity
from lobservatory.metrics.exposition import Sample
from lobservatory.metrics.labels import SESSION_STATES
from openclaw.client import GatewayClient
from openclaw.fields import flag, instant, items, mapping, number, text, whole
from openclaw.state_records import ASK_RECORDS, StateRecords
from openclaw.stores.keys import session_kind
from store.rows import Session

PAGE = 100
MAX_PAGES = 100
NO_PERSON = frozenset({"cron", "hook", "subagent"})  # kinds of sessions that nobody talks to

# Told what was listed and when it was asked for, so that runs whose events were missed are known.
Listener = Callable[[Sequence[Mapping[str, Any]], datetime], None]
SaveSessions = Callable[[Sequence[Session]], Awaitable[None]]


async def list_sessions(client: GatewayClient) -> list[Mapping[str, Any]]:
    """All sessions, page by page, each session id once (a cron run is listed under two keys). Raises GatewayError."""
    found: dict[str, Mapping[str, Any]] = {}
    params: dict[str, Any] = {"limit": PAGE}
    for _ in range(MAX_PAGES):
        answer = await client.call("sessions.list", params, timeout=15.0)
        for session in items(answer, "sessions"):
            identity = text(session.get("sessionId")) or text(session.get("key"))
            if identity is None:
                continue
            known = found.get(identity)
            if known is None or (text(known.get("status")) is None and text(session.get("status")) is not None):
                found[identity] = session
        following = whole(mapping(answer).get("nextOffset"))
        if mapping(answer).get("hasMore") is not True or not following:
            break
        params = {"limit": PAGE, "offset": following}
    return list(found.values())


def agent_of(session: Mapping[str, Any]) -> str:
    """The agent of a session: 2026.9 names it, before only the key tells."""
    key = text(session.get("key")) or ""
    named = text(session.get("agentId"))
    return named or (key.split(":")[1] if key.startswith("agent:") and key.count(":") > 1 else "main")


def kind_of(session: Mapping[str, Any]) -> str:
    """One of the catalogue's kinds."""
    return session_kind(text(session.get("key")), created_via=text(session.get("createdVia")) or "")


def state_of(session: Mapping[str, Any]) -> str:
    """One of the catalogue's states."""
    if session.get("hasActiveRun") is True:
        return "running"
    status = text(session.get("status")) or "unknown"
    if status == "running" and session.get("hasActiveRun") is False:
        return "unknown"  # the status was left behind by a run that is no more
    return status if status in SESSION_STATES else "unknown"


def context_ratio(session: Mapping[str, Any]) -> float | None:
    """Share of the context that is used, where the gateway's count is fresh."""
    used, limit = number(session.get("totalTokens")), number(session.get("contextTokens"))
    if used is None or not limit or session.get("totalTokensFresh") is False:
        return None
    return used / limit


def to_row(gateway: str, session: Mapping[str, Any]) -> Session | None:
    """The row of a session; None when it has no id yet."""
    session_id = text(session.get("sessionId"))
    if session_id is None:
        return None
    kind = kind_of(session)
    return Session(
        gateway=gateway,
        agent=agent_of(session),
        session_id=session_id,
        session_key=text(session.get("key")),
        # A webhook's run has a cron-like key; only the store's index tells them apart.
        kind=None if kind in {"cron", "unknown"} else kind,
        channel=text(session.get("channel")) or text(session.get("lastChannel")),
        parent_session_key=text(session.get("spawnedBy")) or text(session.get("parentSessionKey")),
        label=text(session.get("label"), 200),
        status=state_of(session),
        provider=text(session.get("modelProvider")),
        model=text(session.get("model")),
        context_tokens=whole(session.get("totalTokens")) if session.get("totalTokensFresh") is not False else None,
        context_limit=whole(session.get("contextTokens")),
        started_at=instant(session.get("startedAt")) or instant(session.get("createdAt")),
        updated_at=instant(session.get("updatedAt")),
        ended_at=instant(session.get("endedAt")),
        archived=flag(session.get("archived")),
    )


class SessionsCollector:
    """Polls `sessions.list`; while the gateway cannot be asked, the stores' indexes say which sessions there are."""

    name = "sessions"

    def __init__(
        self,
        gateway: str,
        client: GatewayClient,
        *,
        interval: float = 15.0,
        records: StateRecords | None = None,
        save: SaveSessions | None = None,
        listener: Listener | None = None,
        activity: Activity | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.interval = interval
        self.deadline = 60.0
        self._gateway = gateway
        self._client = client
        self._records = records
        self._save = save
        self._listener = listener
        self._now = now
        self._activity = activity
        self._running: dict[str, float] = {}  # key of a session at work → when a poll first saw it so, epoch seconds
        self._samples: tuple[Sample, ...] = ()

    async def refresh(self) -> None:
        """Raises GatewayError; then nothing is shown, because old sessions are not present ones."""
        asked_at = self._now()
        try:
            sessions = await list_sessions(self._client)
        except ASK_RECORDS:
            self._samples = ()
            if self._records is None:
                raise
            # Their rows come with the transcripts, and which of them is at work nobody can tell.
            self._samples = tuple(self._kinds(await asyncio.to_thread(self._records.sessions)))
            return
        except BaseException:  # the deadline's too; but never before: a scrape would find a gap in every refresh
            self._samples = ()
            raise
        self._samples = (*self._count(sessions), *self._people(sessions), *self._signs_of_life(sessions, asked_at))
        if self._listener is not None:
            self._listener(sessions, asked_at)
        if self._save is not None:
            rows = [to_row(self._gateway, session) for session in sessions]
            await self._save([row for row in rows if row is not None])

    def _kinds(self, sessions: Sequence[Mapping[str, Any]]) -> Iterator[Sample]:
        """From the records."""
        kinds = Counter((text(session.get("kind")) or kind_of(session), state_of(session)) for session in sessions)
        for (kind, state), count in sorted(kinds.items()):
            yield Sample("claw_sessions", (self._gateway, kind, state), count)

    def _count(self, sessions: Sequence[Mapping[str, Any]]) -> Iterator[Sample]:
        kinds: Counter[tuple[str, str]] = Counter()
        active: Counter[str] = Counter()
        fullest: dict[str, float] = {}
        subagents = 0
        for session in sessions:
            agent, kind, state = agent_of(session), kind_of(session), state_of(session)
            kinds[kind, state] += 1
            running = state == "running"
            active[agent] += running
            subagents += running and kind == "subagent"
            ratio = context_ratio(session)
            if ratio is not None:
                fullest[agent] = max(ratio, fullest.get(agent, 0.0))
        for (kind, state), count in sorted(kinds.items()):
            yield Sample("claw_sessions", (self._gateway, kind, state), count)
        for agent, count in sorted(active.items()):
            yield Sample("claw_active_runs", (self._gateway, agent), count)
        for agent, ratio in sorted(fullest.items()):
            yield Sample("claw_session_context_ratio_max", (self._gateway, agent), ratio)
        yield Sample("claw_subagents_running", (self._gateway,), subagents)

    def _people(self, sessions: Sequence[Mapping[str, Any]]) -> Iterator[Sample]:
        newest: dict[str, float] = {}
        for session in sessions:
            at = instant(session.get("lastInteractionAt"))
            if at is not None and kind_of(session) not in NO_PERSON:
                agent = agent_of(session)
                newest[agent] = max(at.timestamp(), newest.get(agent, 0.0))
        for agent, seconds in sorted(newest.items()):
            yield Sample("claw_agent_last_human_timestamp_seconds", (self._gateway, agent), seconds)

    def _signs_of_life(self, sessions: Sequence[Mapping[str, Any]], asked_at: datetime) -> Iterator[Sample]:
        """Of each agent's runs in progress, the quietest. A run that was quiet before we came is given the benefit of
        the doubt: its silence counts from the first poll that saw it."""
        running = {
            text(session.get("key")) or "": session for session in sessions if session.get("hasActiveRun") is True
        }
        now = asked_at.timestamp()
        self._running = {key: self._running.get(key, now) for key in running}
        quietest: dict[str, float] = {}
        for key, session in running.items():
            told = instant(session.get("updatedAt"))
            event = self._activity.last_event(key) if self._activity is not None else None
            at = max(self._running[key], told.timestamp() if told is not None else 0.0, event or 0.0)
            agent = agent_of(session)
            quietest[agent] = min(at, quietest.get(agent, at))
        for agent, at in sorted(quietest.items()):
            yield Sample("claw_active_run_last_event_timestamp_seconds", (self._gateway, agent), at)

    def render(self) -> Iterable[Sample]:
        """Counts of the last poll, and what events told since."""
        yield from self._samples
        if self._activity is None:
            return
        agents = {sample.labels[1] for sample in self._samples if sample.metric == "claw_active_runs"}
        repeats, failures = self._activity.repeats(), self._activity.failed_compactions
        for agent in sorted(agents | set(failures)):
            yield Sample("claw_compaction_failures_total", (self._gateway, agent), failures[agent])
        for agent in sorted(agents):
            yield Sample("claw_tool_call_repeats_max", (self._gateway, agent), repeats.get(agent, 0))
