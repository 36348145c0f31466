"""Entries to rows: which count, who they belong to, what they cost. Pure: no I/O, and the clock is injected.

What was seen before is not decided here: whoever keeps the ledger answers which rows are new (`Ledger.insert_*`, or the
sets of a scan), and `increments` makes counters of those only.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Context, Decimal
from hashlib import blake2b
from typing import Any, Literal

from exporter.accounting import instants
from exporter.accounting.billing import BillingPolicy
from exporter.accounting.prices import PriceBook
from exporter.accounting.tool_errors import error_class
from exporter.accounting.usage import Usage, read_usage, written
from openclaw.fields import mapping
from openclaw.stores import Chunk, Details, Entry, Message, SessionInfo, Store
from openclaw.stores.entries import nested_details, unpacked
from openclaw.wrapped import TOOL_CALL, asked_for
from store.rows import CostBasis, ModelCall, Outcome, Reject, Session, SessionEvent, ToolCall, ToolResult

# What a delivery to a channel leaves in a transcript, under the name of a provider or a model: no model was called.
MIRRORS = frozenset({"delivery-mirror", "gateway-injected"})
NESTED_TOOL = "openclaw.nested-tool.v1"
RUN_FAILED = "run-failed-before-reply"
SPAWN = "sessions_spawn"  # the tool that starts a sub-agent
_EVENTS = ("compaction", "reset", "model_change")
_LONGEST_CALL_MS = 3_600_000
_MAX_EXIT_CODE = 2**31
_MAX_DURATION_MS = 2**31
MOST_WRAPPED = 2_000  # calls through `tool_call` whose tool is remembered, so that their results are named for it
# Sums of money are exact: the default context would round at 28 digits.
EXACT = Context(prec=200)

ResultOutcome = Literal["ok", "error", "nonzero_exit"]
Increments = dict[tuple[str, tuple[str, ...]], Decimal | int]


def fingerprint(*parts: str) -> bytes:
    """What identifies a row beside its id, in 16 bytes that are the same for ever."""
    return blake2b("\x1f".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()


@dataclass(slots=True)
class Facts:
    """The rows of one chunk. Lists are in the order of the entries; `source` is the store they came from."""

    gateway: str
    agent: str
    session_id: str
    source: Store
    entries: int = 0
    bytes: int = 0
    shadowed_calls: int = 0  # calls of a file that the database has too, whose rows win
    moved: bool = False  # calls of this session were counted from another store before
    calls: list[ModelCall] = field(default_factory=list)
    tool_calls: list[ToolCall] = field(default_factory=list)
    tool_results: list[ToolResult] = field(default_factory=list)
    events: list[SessionEvent] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)
    line_rejects: list[Reject] = field(default_factory=list)
    call_rejects: list[tuple[int, Reject]] = field(default_factory=list)  # index of the call, refused field

    def rejects(self, new_calls: Sequence[bool]) -> list[Reject]:
        """Refused lines, and refused fields of calls that are new: a copy's fields were counted with the original."""
        return [*self.line_rejects, *(reject for index, reject in self.call_rejects if new_calls[index])]

    def leave_out(self, counted: Sequence[bool]) -> tuple[list[ModelCall], list[ToolCall]]:
        """Take out calls that were counted in the other store: what was billed stays as it was billed.

        Gives what was taken out, with the tools that these calls asked for.
        """
        calls = [call for call, before in zip(self.calls, counted, strict=True) if before]
        entries = {call.entry_id for call in calls}
        tool_calls = [call for call in self.tool_calls if call.entry_id in entries]
        kept = [index for index, before in enumerate(counted) if not before]
        places = {index: place for place, index in enumerate(kept)}
        self.shadowed_calls += len(calls)
        self.calls = [self.calls[index] for index in kept]
        self.call_rejects = [(places[index], reject) for index, reject in self.call_rejects if index in places]
        self.tool_calls = [call for call in self.tool_calls if call.entry_id not in entries]
        return calls, tool_calls


class Accountant:
    """Turns chunks into rows for one gateway.

    `now`: the clock, epoch seconds. `digest`: makes the fingerprint of a row from the texts that identify it beside
    its id; a scan, whose rows nobody keeps, has a cheaper one.
    """

    def __init__(
        self,
        gateway: str,
        prices: PriceBook,
        billing: BillingPolicy,
        *,
        now: Callable[[], float] = time.time,
        digest: Callable[..., bytes] = fingerprint,
    ) -> None:
        self.gateway = gateway
        self.digest = digest
        self.prices = prices
        self.billing = billing
        self._now = now
        self._wrapped: OrderedDict[tuple[str, str, str], str] = OrderedDict()

    def wraps(self, facts: Facts, call_id: str, tool: str) -> None:
        """Remember which tool a call through `tool_call` is of: its result may come with a later chunk."""
        self._wrapped[facts.agent, facts.session_id, call_id] = tool
        while len(self._wrapped) > MOST_WRAPPED:
            self._wrapped.popitem(last=False)

    def wrapped(self, facts: Facts, call_id: str) -> str:
        """The tool of a call through `tool_call`, where it is known."""
        return self._wrapped.get((facts.agent, facts.session_id, call_id), TOOL_CALL)

    def facts(self, chunk: Chunk, sessions: Mapping[tuple[str, str], SessionInfo]) -> Facts:
        """The rows of a chunk. `sessions`: what the indexes know (`Stores.sessions`)."""
        source = chunk.source
        info = sessions.get((source.agent, chunk.session_id))
        facts = Facts(
            gateway=self.gateway,
            agent=source.agent,
            session_id=chunk.session_id,
            source=source.store,
            entries=len(chunk.entries),
            bytes=chunk.bytes_read,
            line_rejects=[
                Reject(self.gateway, source.agent, source.store, reject.reason, reject.location)
                for reject in chunk.rejects
            ],
        )
        work = _Work(self, facts, info, chunk.written_ms, int(self._now() * 1000))
        for entry in chunk.entries:
            if chunk.shadowed and isinstance(entry.id, str) and entry.id in chunk.shadowed:
                facts.shadowed_calls += is_call(entry)
            else:
                work.entry(entry)
        if chunk.entries or info is not None:
            facts.sessions.append(work.session(archive=source.store == "archive"))
        return facts


def is_call(entry: Entry) -> bool:
    """One model call is one message of an assistant with a usage object, unless it only mirrors a delivery."""
    message = entry.message
    return (
        entry.type == "message"
        and message is not None
        and message.role == "assistant"
        and isinstance(message.usage, dict)
        and message.model not in MIRRORS
        and message.provider not in MIRRORS
    )


def has_rows(kind: Any, custom_type: Any) -> bool:
    """Whether an entry that is neither a message nor a header tells of something that has rows."""
    if kind == "custom":
        return bool(custom_type == NESTED_TOOL)
    return bool(custom_type == RUN_FAILED) if kind == "custom_message" else kind in _EVENTS


class _Work:
    """One chunk in the making."""

    def __init__(
        self, accountant: Accountant, facts: Facts, info: SessionInfo | None, written_ms: int, now_ms: int
    ) -> None:
        self._accountant = accountant
        self._facts = facts
        self._info = info
        self._kind = info.kind if info is not None else "unknown"
        self._written_ms = written_ms
        self._now_ms = now_ms
        self._started_ms: int | None = None

    def entry(self, entry: Entry) -> None:
        """Add the rows of one entry. What is none of these is nothing that counts."""
        if entry.type == "message":
            if entry.message is not None:
                self._message(entry, entry.message)
        elif entry.type == "session":
            started = instants.parse(entry.timestamp)
            self._started_ms = started if started is not None and started > 0 else None
        elif has_rows(entry.type, entry.customType):
            self._other(entry)

    def _message(self, entry: Entry, message: Message) -> None:
        if message.role == "assistant":
            self._assistant(entry, message)
        elif message.role == "toolResult":
            self._tool_result(entry, message)
        elif message.customType == NESTED_TOOL:
            self._nested_tool(entry, message.details)

    def _other(self, entry: Entry) -> None:
        if entry.type == "custom":
            self._nested_tool(entry, entry.data or entry.details)
        elif entry.type == "custom_message":
            self._event(entry, "run_failed", run_id=text(entry.details.runId) if entry.details else None)
        elif entry.type == "compaction":
            self._event(
                entry, "compaction", tokens_before=_count(entry.tokensBefore), tokens_after=_count(entry.tokensAfter)
            )
        elif entry.type == "reset":
            self._event(entry, "reset", reason=text(entry.reason))
        elif entry.type == "model_change":
            self._event(entry, "model_change", provider=text(entry.provider), model=text(entry.modelId))

    # --- calls --------------------------------------------------------------------------------------------

    def _assistant(self, entry: Entry, message: Message) -> None:
        facts = self._facts
        usage = message.usage if isinstance(message.usage, dict) else None
        model = text(message.model) or "unknown"
        time_written, instant = self._instant(entry, message.timestamp)
        print_of_entry = self._accountant.digest(time_written, model, written(usage) if usage is not None else "")
        entry_id = _entry_id(entry)
        ts = instants.to_datetime(instant.ms)
        run_id = text(message.openclaw.runId) if message.openclaw is not None else None
        if isinstance(message.content, list):
            parts = [part for part in message.content if part.type == "toolCall"]
            for position, part in enumerate(parts):
                call_id, stored = text(part.id) or "", text(part.name) or "unknown"
                tool = stored
                if stored == TOOL_CALL:
                    tool = text(asked_for(stored, unpacked(part.arguments))) or stored
                    self._accountant.wraps(facts, call_id, tool)
                facts.tool_calls.append(
                    ToolCall(
                        gateway=facts.gateway,
                        agent=facts.agent,
                        session_id=facts.session_id,
                        entry_id=entry_id,
                        fingerprint=print_of_entry,
                        position=position,
                        call_id=call_id,
                        tool=tool,
                        ts=ts,
                        kind=self._kind,
                        run_id=run_id,
                        through=stored if tool != stored else None,
                    )
                )
        provider = text(message.provider) or "unknown"
        if usage is None or model in MIRRORS or provider in MIRRORS:
            return
        checked = read_usage(usage)
        cost, basis, version = self._cost(provider, model, checked)
        info = self._info
        facts.calls.append(
            ModelCall(
                gateway=facts.gateway,
                agent=facts.agent,
                session_id=facts.session_id,
                entry_id=entry_id,
                fingerprint=print_of_entry,
                ts=ts,
                provider=provider,
                model=model,
                kind=self._kind,
                outcome=outcome_of_call(message.stopReason),
                input_tokens=checked.input,
                output_tokens=checked.output,
                cache_read_tokens=checked.cache_read,
                cache_write_tokens=checked.cache_write,
                reasoning_tokens=checked.reasoning,
                cost_usd=cost,
                cost_basis=basis,
                billing=self._accountant.billing.mode(provider),
                session_key=info.session_key if info is not None else None,
                parent_session_key=info.parent_session_key if info is not None else None,
                channel=info.channel if info is not None else None,
                run_id=run_id,
                duration_ms=_duration(message.timestamp, instant),
                error_code=_error_code(message),
                price_version=version,
                ts_flag=instant.flag,
                cache_write_1h_tokens=checked.cache_write_1h or None,
                cache_write_5m_tokens=checked.cache_write_5m or None,
            )
        )
        if not checked.rejected and not instant.bad:
            return
        refused = [("bad_number", name) for name in checked.rejected] + [("bad_time", "timestamp")] * instant.bad
        for reason, name in refused:
            # By identity, not by place: the same field of a copy is the same reject.
            location = f"{entry_id}:{print_of_entry.hex()[:16]}:{name}"
            reject = Reject(facts.gateway, facts.agent, facts.source, reason, location)
            facts.call_rejects.append((len(facts.calls) - 1, reject))

    def _cost(self, provider: str, model: str, usage: Usage) -> tuple[Decimal | None, CostBasis, str | None]:
        if usage.cost is not None:
            return usage.cost, "reported", None
        if not usage.tokens:
            return Decimal(0), "priced", None  # nothing used costs nothing, at any price
        if not usage.cost_refused:
            price = self._accountant.prices.price(provider, model)
            cost = price.cost(usage) if price is not None else None
            if price is not None and cost is not None:
                return cost, "priced", price.version
        return None, "unpriced", None

    def _instant(self, entry: Entry, message_time: Any) -> tuple[str, instants.Instant]:
        """The time as written, for identity, and the time that counts."""
        return instants.read(
            entry.timestamp, message_time, written_ms=entry.written_ms or self._written_ms, now_ms=self._now_ms
        )

    # --- tools and events ---------------------------------------------------------------------------------

    def _tool_result(self, entry: Entry, message: Message) -> None:
        facts = self._facts
        details = message.details
        exit_code = _exit_code(details.exitCode) if details is not None else None
        call_id = text(message.toolCallId) or ""
        outcome = outcome_of_result(message.isError, None if details is None else details.exitCode)
        stored = text(message.toolName) or "unknown"
        tool = self._called(details, call_id) if stored == TOOL_CALL else stored
        time_written, instant = self._instant(entry, message.timestamp)
        facts.tool_results.append(
            ToolResult(
                gateway=facts.gateway,
                agent=facts.agent,
                session_id=facts.session_id,
                entry_id=_entry_id(entry),
                fingerprint=self._accountant.digest(time_written, call_id, str(message.toolName), outcome),
                call_id=call_id,
                tool=tool,
                ts=instants.to_datetime(instant.ms),
                outcome=outcome,
                exit_code=exit_code,
                duration_ms=_milliseconds(details.durationMs) if details is not None else None,
                output_bytes=entry.size,
                error_class=error_class(outcome, details),
                through=stored if tool != stored else None,
            )
        )
        if details is not None and details.childSessionKey and message.toolName == SPAWN:
            # Who started whom, for when the index has forgotten it.
            self._event(
                entry,
                "subagent_spawned",
                child_session_key=text(details.childSessionKey),
                run_id=text(details.runId),
            )

    def _called(self, details: Details | None, call_id: str) -> str:
        """Which tool a result of `tool_call` is of: it says so itself when it did not fail."""
        told = mapping(unpacked(details.tool)) if details is not None else {}
        return text(told.get("name")) or self._accountant.wrapped(self._facts, call_id)

    def _nested_tool(self, entry: Entry, details: Details | None) -> None:
        details = details if details is not None else Details()
        parent = text(details.parentToolCallId)
        if parent is not None and (tool := text(details.toolName)) is not None:
            self._accountant.wraps(self._facts, parent, tool)
        child = text(details.childSessionKey)
        if child is None and details.toolName == SPAWN and (told := nested_details(details)) is not None:
            child = text(told.childSessionKey)
        self._event(
            entry,
            "nested_tool",
            tool=text(details.toolName) or "unknown",
            is_error=bool(details.isError),
            call_id=text(details.toolCallId),
            parent_call_id=parent,
            child_session_key=child,
            run_id=text(details.runId),
        )

    def _event(self, entry: Entry, event: str, **detail: Any) -> None:
        facts = self._facts
        message_time = entry.message.timestamp if entry.message is not None else None
        time_written, instant = self._instant(entry, message_time)
        facts.events.append(
            SessionEvent(
                gateway=facts.gateway,
                agent=facts.agent,
                session_id=facts.session_id,
                entry_id=_entry_id(entry),
                fingerprint=self._accountant.digest(time_written, event),
                ts=instants.to_datetime(instant.ms),
                event=event,
                detail={name: value for name, value in detail.items() if value is not None},
            )
        )

    def session(self, *, archive: bool) -> Session:
        """What this chunk and the index know of the session."""
        row = (
            session_row(self._accountant.gateway, self._info)
            if self._info is not None
            else Session(
                gateway=self._facts.gateway,
                agent=self._facts.agent,
                session_id=self._facts.session_id,
                archived=True if archive else None,
            )
        )
        if row.started_at is not None or self._started_ms is None:
            return row
        return _with_start(row, self._started_ms)


def _with_start(row: Session, started_ms: int) -> Session:
    values = {name: getattr(row, name) for name in Session.__slots__}
    return Session(**{**values, "started_at": instants.to_datetime(started_ms)})


def session_row(gateway: str, info: SessionInfo) -> Session:
    """What an index says of a session, as a row; an unknown kind is None, which overwrites nothing."""

    def instant(ms: int | None) -> Any:
        return instants.to_datetime(ms) if ms is not None and ms < 10**14 else None

    return Session(
        gateway=gateway,
        agent=info.agent,
        session_id=info.session_id,
        session_key=info.session_key,
        kind=info.kind if info.kind != "unknown" else None,
        channel=info.channel,
        parent_session_key=info.parent_session_key,
        label=info.label,
        status=info.status,
        provider=info.provider,
        model=info.model,
        context_tokens=info.context_tokens,
        context_limit=info.context_limit,
        started_at=instant(info.started_ms),
        updated_at=instant(info.updated_ms),
        ended_at=instant(info.ended_ms),
        archived=info.archived,
    )


def _entry_id(entry: Entry) -> str:
    """Its id; without one the hash of its bytes, so that reading it again is no second call."""
    return text(entry.id) or f"hash:{entry.digest}"


def text(value: Any) -> str | None:
    """Names and ids as text that every sink can hold; None for nothing."""
    if type(value) is str and value.isascii() and "\x00" not in value:
        return value or None
    if value is None or isinstance(value, dict | list) or value == "":
        return None
    name = value if isinstance(value, str) else str(value)
    if not name.isascii():
        name = name.encode("utf-8", "replace").decode()  # JavaScript can write half a character
    return name.replace("\x00", "")


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 2**53 else None


def outcome_of_call(stop_reason: Any) -> Outcome:
    """How a model call ended."""
    if stop_reason == "error":
        return "error"
    return "aborted" if stop_reason == "aborted" else "ok"


def outcome_of_result(is_error: Any, exit_code: Any) -> ResultOutcome:
    """How a tool call ended: an error of the tool is one whatever its exit status."""
    if is_error:
        return "error"
    return "nonzero_exit" if _exit_code(exit_code) else "ok"


def _error_code(message: Message) -> str | None:
    if message.stopReason not in {"error", "aborted"}:
        return None
    code = text(message.errorCode) or text(message.errorType)
    return code[:64] if code is not None else None


def _exit_code(value: Any) -> int | None:
    return value if type(value) is int and abs(value) < _MAX_EXIT_CODE else None


def _milliseconds(value: Any) -> int | None:
    if isinstance(value, Decimal) and value.is_finite() and 0 <= value < _MAX_DURATION_MS:
        return int(value)
    return value if type(value) is int and 0 <= value < _MAX_DURATION_MS else None


def _duration(message_time: Any, instant: instants.Instant) -> int | None:
    """A message carries the time at which its call began, its entry the time at which it was stored."""
    began = message_time if type(message_time) is int else instants.parse(message_time)
    if began is None or instant.flag is not None or not 0 <= instant.ms - began <= _LONGEST_CALL_MS:
        return None
    return instant.ms - began
