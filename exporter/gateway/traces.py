"""Runs as OpenTelemetry traces, by the GenAI conventions: `invoke_agent` → `chat` and `execute_tool`.

On when `OTEL_EXPORTER_OTLP_ENDPOINT` (or `…_TRACES_ENDPOINT`) is set; the SDK reads those variables itself. Off, not
even the SDK is imported. A run is sent when it has ended, whole. Ids are hashes of run ids, so that the same run is
the same trace whoever sends it and after any restart. A sub-agent's run is a child of the run that was at work in its
parent's session, and linked to it. Names, times, numbers; texts only when `LOBS_STORE_CONTENT` allows them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from exporter.gateway.contents import Contents, RunContent
from lobservatory import logging
from lobservatory.errors import LobservatoryError, one_line
from lobservatory.metrics.exposition import Sample
from store.operations import TERMINAL, DerivedOperation, DerivedStep
from store.traces import RunCall

log = logging.get(__name__)

MOST_RUNS: Final = 2_000  # followed, or kept because a sub-agent may still name them
MOST_WAITING: Final = 2_000  # ended and not sent yet; beyond it the oldest are dropped and counted
MOST_STEPS: Final = 500
BATCH: Final = 50  # runs
SETTLE: Final = 3.0  # seconds: the last model call becomes a row a moment after the run's end
LONGEST: Final = 30.0  # seconds that a run waits for its rows, when the ingest is behind
_SEND_LIMIT: Final = 30.0
_RETRIES: Final = 3
_PAUSE: Final = 1.0
_LAST_SEND: Final = 1.5  # seconds that a stop gives what waits, where nothing remembers it
_STEP: Final = 0.001  # seconds: just before
_NO_CONTENT: Final = RunContent()

Calls = Callable[[DerivedOperation], Awaitable[Sequence[RunCall]]]
Attribute = str | int | float


def _hash(kind: str, *parts: str, size: int) -> int:
    digest = hashlib.sha256("\0".join((kind, *parts)).encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:size], "big") or 1  # 0 is no id


def trace_id(operation: str) -> int:
    """128 bits: of the run at the root of the tree."""
    return _hash("trace", operation, size=16)


def span_id(operation: str, part: str = "") -> int:
    """64 bits: of a run, or of a part of it."""
    return _hash("span", operation, part, size=8)


@dataclass(frozen=True, slots=True)
class Span:
    """A span, before the SDK comes into it. Times in epoch nanoseconds."""

    trace: int
    span: int
    parent: int | None
    name: str
    start: int
    end: int
    client: bool = False
    error: str | None = None
    link: tuple[int, int] | None = None
    attributes: Mapping[str, Attribute] = field(default_factory=dict)


def _ns(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000) * 1_000


def _code(operation: DerivedOperation) -> str | None:
    if operation.status == "completed":
        return None
    return str((operation.disposition or {}).get("errorCode") or operation.status)[:64]


def _present(**attributes: Attribute | None) -> dict[str, Attribute]:
    return {name.replace("__", "."): value for name, value in attributes.items() if value is not None}


def tree(
    operation: DerivedOperation,
    calls: Sequence[RunCall],
    *,
    trace: int,
    parent: tuple[int, int] | None = None,
    content: RunContent = _NO_CONTENT,
) -> list[Span]:
    """The spans of an ended run. `parent`: (trace, span) of the run that started it."""
    started, ended = operation.started_at, operation.completed_at
    if started is None or ended is None:
        return []
    ended = max(started, ended)
    agent = operation.agent_id or "main"
    provider, model = operation.metadata.get("provider"), operation.metadata.get("model")
    if calls:
        provider, model = calls[-1].provider, calls[-1].model
    root = Span(
        trace,
        span_id(operation.id),
        parent[1] if parent else None,
        f"invoke_agent {agent}",
        _ns(started),
        _ns(ended),
        error=_code(operation),
        link=parent,
        attributes={
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.name": agent,
            "openclaw.gateway": operation.gateway,
            "openclaw.operation.id": operation.id,
            "openclaw.operation.type": operation.type,
            **_present(
                gen_ai__conversation__id=operation.session_id,
                gen_ai__provider__name=provider if isinstance(provider, str) else None,
                gen_ai__request__model=model if isinstance(model, str) else None,
                openclaw__run__id=operation.run_id,
                openclaw__channel=operation.channel,
                openclaw__cron__job__id=operation.cron_job_id,
                gen_ai__input__messages=content.asked,
                gen_ai__output__messages=content.answered,
            ),
        },
    )
    tools = [_tool(operation, step, trace, ended, content) for step in operation.steps if step.started_at is not None]
    chats = _chats(operation, calls, tools, trace=trace) if calls else _gaps(operation, tools, root)
    return [root, *sorted((*tools, *chats), key=lambda span: span.start)]


def _tool(operation: DerivedOperation, step: DerivedStep, trace: int, ended: datetime, content: RunContent) -> Span:
    started = step.started_at or ended
    done = step.completed_at or ended
    return Span(
        trace,
        span_id(operation.id, f"tool:{step.id}"),
        span_id(operation.id),
        f"execute_tool {step.name}",
        _ns(started),
        _ns(max(started, done)),
        error="tool_error" if step.status == "failed" else None,
        attributes={
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": step.name,
            "gen_ai.tool.call.id": step.id,
            **_present(
                gen_ai__tool__call__arguments=content.arguments.get(step.id),
                gen_ai__tool__call__result=content.results.get(step.id),
            ),
        },
    )


def _chats(
    operation: DerivedOperation, calls: Sequence[RunCall], tools: Sequence[Span], *, trace: int
) -> Iterator[Span]:
    """One for each model call that was counted. Where no duration is known, a call began when the one before it, or
    the last tool that ended before it, had ended."""
    before = _ns(operation.started_at) if operation.started_at is not None else 0
    for number, call in enumerate(calls):
        end = _ns(call.ended_at)
        start = max((before, *(tool.end for tool in tools if tool.end <= end)))
        if call.duration_ms is not None:
            start = end - call.duration_ms * 1_000_000
        yield Span(
            trace,
            span_id(operation.id, f"chat:{number}"),
            span_id(operation.id),
            f"chat {call.model}",
            min(start, end),
            end,
            client=True,
            error=None if call.outcome == "ok" else call.outcome,
            attributes={
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": call.provider,
                "gen_ai.request.model": call.model,
                # By the conventions all input counts, also what came from the cache.
                "gen_ai.usage.input_tokens": call.input_tokens + call.cache_read_tokens + call.cache_write_tokens,
                "gen_ai.usage.output_tokens": call.output_tokens,
                "gen_ai.usage.cache_read.input_tokens": call.cache_read_tokens,
                "gen_ai.usage.cache_creation.input_tokens": call.cache_write_tokens,
                "gen_ai.usage.reasoning.output_tokens": call.reasoning_tokens,
                "openclaw.billing": call.billing,
                **_present(openclaw__cost__usd=None if call.cost_usd is None else float(call.cost_usd)),
            },
        )
        before = max(before, end)


def _gaps(operation: DerivedOperation, tools: Sequence[Span], root: Span) -> Iterator[Span]:
    """Without rows: an agent in whose run no tool works waits for its model."""
    model = root.attributes.get("gen_ai.request.model")
    known = {
        name: root.attributes[name]
        for name in ("gen_ai.provider.name", "gen_ai.request.model")
        if name in root.attributes
    }
    at = root.start
    edges = [(tool.start, tool.end) for tool in sorted(tools, key=lambda tool: tool.start)]
    for number, (start, end) in enumerate([*edges, (root.end, root.end)]):
        if start > at:
            yield Span(
                root.trace,
                span_id(operation.id, f"chat:{number}"),
                root.span,
                f"chat {model}" if model else "chat",
                at,
                start,
                client=True,
                attributes={"gen_ai.operation.name": "chat", **known},
            )
        at = max(at, end)


@dataclass(slots=True)
class _Followed:
    operation: DerivedOperation
    trace: int
    parent: tuple[int, int] | None
    steps: OrderedDict[str, DerivedStep] = field(default_factory=OrderedDict)
    sent: bool = False
    due_since: float | None = None  # when its rows were asked for first

    @property
    def ended(self) -> float:
        """Epoch seconds."""
        return 0.0 if self.operation.completed_at is None else self.operation.completed_at.timestamp()


def _all_there(operation: DerivedOperation, calls: Sequence[RunCall]) -> bool:
    """Whether the ingest has come to the end of a run: one that was completed ends with a call after its last tool."""
    if operation.status != "completed":
        return bool(calls)
    last = max((step.started_at for step in operation.steps if step.started_at is not None), default=None)
    return bool(calls) and (last is None or calls[-1].ended_at >= last)


class Traces:
    """Follows runs and sends those that have ended. `send` takes spans, in a thread; it raises when they did not
    arrive. `calls` gives the model calls of a run; None: there are no rows. `save` keeps until when runs were sent:
    with it, `restore` must be called once. `contents`: what runs said, where it may be told."""

    def __init__(
        self,
        send: Callable[[Sequence[Span]], None],
        calls: Calls | None = None,
        *,
        save: Callable[[datetime], Awaitable[None]] | None = None,
        contents: Contents | None = None,
        settle: float = SETTLE,
        pause: float = _PAUSE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._send = send
        self._calls = calls
        self._save = save
        self._contents = contents
        self._settle = settle if calls is not None else 0.0
        self._pause = pause
        self._clock = clock
        self._since = clock() - settle
        self._runs: OrderedDict[str, _Followed] = OrderedDict()
        self._ended: deque[tuple[float, str]] = deque()
        self._filled = asyncio.Event()
        self._restored = asyncio.Event()
        if save is None:
            self._restored.set()
        self._newest = self._since  # end of the last run that was dealt with
        self._saved: float | None = None
        self._sent = 0
        self._dropped = {"queue_full": 0, "not_sent": 0}
        self._failing = False

    def restore(self, known: Iterable[DerivedOperation], sent_to: datetime | None) -> None:
        """Go on after a restart: with the runs that were at work, which others may name as their parent, and with those
        that ended since the last one was sent (None: nothing was ever sent, and history stays history)."""
        if sent_to is not None:
            self._since = self._newest = self._saved = sent_to.timestamp()
        self.add(known)
        self._restored.set()

    def add(self, operations: Iterable[DerivedOperation]) -> None:
        """Take in what was derived, in order."""
        for operation in operations:
            run = self._follow(operation)
            run.operation = operation
            for step in operation.steps:
                if step.id in run.steps or len(run.steps) < MOST_STEPS:
                    run.steps[step.id] = step
            if operation.status in TERMINAL and not run.sent:
                run.sent = True
                # What ended before that was sent by the process before this one.
                if operation.completed_at is not None and operation.completed_at.timestamp() > self._since:
                    self._wait_for(operation.id)

    def _wait_for(self, operation: str) -> None:
        if len(self._ended) >= MOST_WAITING:
            self._ended.popleft()
            self._dropped["queue_full"] += 1
        self._ended.append((self._clock() + self._settle, operation))
        self._filled.set()

    def _follow(self, operation: DerivedOperation) -> _Followed:
        run = self._runs.get(operation.id)
        if run is None:
            above = self._above(operation)
            trace = above.trace if above else trace_id(operation.id)
            parent = (above.trace, span_id(above.operation.id)) if above else None
            run = self._runs[operation.id] = _Followed(operation, trace, parent)
            waiting = {name for _, name in self._ended}
            while len(self._runs) > MOST_RUNS + len(waiting):
                oldest = next(iter(self._runs))
                if oldest in waiting:
                    self._runs.move_to_end(oldest)
                    continue
                del self._runs[oldest]
        self._runs.move_to_end(operation.id)
        return run

    def _above(self, operation: DerivedOperation) -> _Followed | None:
        """The run that started a sub-agent: the newest of its parent's session that began before it."""
        key = operation.metadata.get("parentSessionKey")
        if not key:
            return None
        began = operation.started_at
        fitting = [
            run
            for run in self._runs.values()
            if run.operation.session_key == key
            and run.operation.started_at is not None
            and (began is None or run.operation.started_at <= began + timedelta(seconds=1))
        ]
        return max(
            fitting,
            key=lambda run: run.operation.started_at.timestamp() if run.operation.started_at else 0.0,
            default=None,
        )

    # --- sending ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send until cancelled. What waits then is sent by the next process, or now where nothing remembers it."""
        await self._restored.wait()
        try:
            await self._note()
            while True:
                await self._filled.wait()
                due = self._ended[0][0] - self._clock() if self._ended else 0.0
                if due > 0:
                    await asyncio.sleep(due)
                await self.step()
        finally:
            if self._save is None and self._ended:
                batch = [span for _, name in self._ended for span in await self._spans(self._runs[name])]
                with contextlib.suppress(Exception):  # a stop goes on, whatever the backend does
                    async with asyncio.timeout(_LAST_SEND):
                        await asyncio.to_thread(self._send, batch)

    async def step(self) -> None:
        """Send what is due now."""
        batch: list[Span] = []
        for _ in range(BATCH):
            if not self._ended or self._ended[0][0] > self._clock():
                break
            run = self._runs.get(self._ended.popleft()[1])
            if run is not None:
                batch += await self._spans(run)
        if batch:
            await self._deliver(batch)
        if not self._ended:
            self._filled.clear()
        await self._note()

    async def _note(self) -> None:
        """Remember until when everything was sent, for the next process."""
        if self._save is None:
            return
        waiting = [self._runs[name].ended for _, name in self._ended if name in self._runs]
        # What still waits ended later than what is noted: the next process sends it (again), under the same ids.
        sent_to = min([self._newest, *(ended - _STEP for ended in waiting)])
        if sent_to == self._saved:
            return
        try:
            await self._save(datetime.fromtimestamp(sent_to, UTC))
        except Exception as error:  # noqa: BLE001 - the next note will do, and runs are sent twice at worst
            log.debug("how far runs were sent is not noted", error=str(error))
        else:
            self._saved = sent_to

    async def _spans(self, run: _Followed) -> list[Span]:
        operation = replace(run.operation, steps=tuple(run.steps.values()))
        calls: Sequence[RunCall] = ()
        if self._calls and operation.session_id and operation.started_at and operation.completed_at:
            try:
                calls = await self._calls(operation)
            except Exception as error:  # noqa: BLE001 - whatever keeps the rows away, the run has a trace without them
                log.debug("the calls of a run are not known", error=str(error))
            if run.due_since is None:
                run.due_since = self._clock()
            if self._clock() - run.due_since < LONGEST and not _all_there(operation, calls):
                self._wait_for(operation.id)
                return []
        self._newest = max(self._newest, run.ended)
        content = _NO_CONTENT if self._contents is None else self._contents.take(operation.id)
        return tree(operation, calls, trace=run.trace, parent=run.parent, content=content)

    async def _deliver(self, spans: Sequence[Span]) -> None:
        for attempt in range(_RETRIES):
            try:
                async with asyncio.timeout(_SEND_LIMIT):
                    await asyncio.to_thread(self._send, spans)
            except Exception as error:  # noqa: BLE001 - a backend of traces must never stop the exporter
                if not self._failing:
                    log.warning("traces cannot be sent", error=one_line(error))
                self._failing = True
                await asyncio.sleep(self._pause * 2**attempt)
            else:
                if self._failing:
                    log.info("traces are sent again")
                self._failing = False
                self._sent += len(spans)
                return
        self._dropped["not_sent"] += len(spans)

    def render(self) -> Iterable[Sample]:
        """Counters of this process."""
        yield Sample("lobservatory_spans_sent_total", (), self._sent)
        for reason, count in self._dropped.items():
            yield Sample("lobservatory_spans_dropped_total", (reason,), count)


class SendError(LobservatoryError):
    """The backend did not take the spans."""


def otlp_sender(gateway: str, version: str) -> Callable[[Sequence[Span]], None]:
    """Sends over OTLP/HTTP, as the variables `OTEL_EXPORTER_OTLP_*`, `OTEL_SERVICE_NAME` and
    `OTEL_RESOURCE_ATTRIBUTES` say. This is what imports the SDK."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - off costs nothing
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - as above
    from opentelemetry.sdk.trace import ReadableSpan  # noqa: PLC0415 - as above
    from opentelemetry.sdk.trace.export import SpanExportResult  # noqa: PLC0415 - as above
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope  # noqa: PLC0415 - as above
    from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags  # noqa: PLC0415 - as above

    exporter = OTLPSpanExporter()
    found = Resource.create({"service.instance.id": gateway})
    if str(found.attributes.get("service.name", "")).startswith("unknown_service"):
        found = found.merge(Resource({"service.name": "openclaw"}))
    scope = InstrumentationScope("lobservatory", version)
    sampled = TraceFlags(TraceFlags.SAMPLED)

    def context(trace: int, span: int) -> Any:
        return SpanContext(trace, span, is_remote=False, trace_flags=sampled)

    def readable(span: Span) -> Any:
        attributes = {**span.attributes, **({"error.type": span.error} if span.error else {})}
        return ReadableSpan(
            name=span.name,
            context=context(span.trace, span.span),
            parent=None if span.parent is None else context(span.trace, span.parent),
            resource=found,
            attributes=attributes,
            links=() if span.link is None else (Link(context(*span.link), {"openclaw.link": "spawned_by"}),),
            kind=SpanKind.CLIENT if span.client else SpanKind.INTERNAL,
            instrumentation_scope=scope,
            status=Status(StatusCode.ERROR if span.error else StatusCode.UNSET),
            start_time=span.start,
            end_time=span.end,
        )

    def send(spans: Sequence[Span]) -> None:
        if exporter.export([readable(span) for span in spans]) is not SpanExportResult.SUCCESS:
            raise SendError("the OTLP endpoint did not take them: see OTEL_EXPORTER_OTLP_ENDPOINT")

    return send
