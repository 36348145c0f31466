"""Transcripts added up without rows: what a scan needs of each entry, and nothing else.

Nearly all entries are *plain*: exactly of the form that OpenClaw writes, with numbers and times that no rule has to
look at twice. Those are added up here. Everything else (missing fields, odd numbers, impossible times, unknown costs,
nested tools, broken lines) is handed to `odd`, which asks the `Accountant`; so what counts, and for how much, is
decided there and by the functions that both share. Tests compare the two on every corpus.

The text of a long tool result is not parsed: its beginning and its end must be of the known form, and nothing between
may be another's beginning, which is left where a torn line was written on. In a text no quote is without a backslash,
so that nothing in it can look like any of these.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Annotated, Any

import msgspec

from exporter.accounting import instants
from exporter.accounting.accountant import (
    MIRRORS,
    NESTED_TOOL,
    ResultOutcome,
    has_rows,
    outcome_of_call,
    outcome_of_result,
    text,
)
from exporter.accounting.usage import LARGEST, number, without_cached
from exporter.accounting.usage import SMALLEST as _SMALLEST

Name = tuple[str, str, str]  # provider, model, day
Odd = Callable[[bytes], None]

_Count = Annotated[int, msgspec.Meta(ge=0, le=LARGEST)]


class _Part(msgspec.Struct, gc=False):
    type: str
    name: str = ""


class _Cost(msgspec.Struct, gc=False):
    total: Any


class _Usage(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    input: _Count
    output: _Count
    cacheRead: _Count  # noqa: N815 - the store's own names
    cacheWrite: _Count  # noqa: N815 - as above
    cost: _Cost
    totalTokens: _Count | None = None  # noqa: N815 - as above
    reasoningTokens: _Count | None = None  # noqa: N815 - as above


class _Message(msgspec.Struct, gc=False):
    role: str
    content: list[_Part] | str | None = None
    usage: _Usage | None = None
    provider: str = ""
    model: str = ""
    stopReason: str | None = None  # noqa: N815 - the store's own names
    customType: Any = None  # noqa: N815 - as above


class _Entry(msgspec.Struct, gc=False):
    type: str
    id: str = ""
    timestamp: str = ""
    message: _Message | None = None
    customType: Any = None  # noqa: N815 - the store's own name


class _ResultDetails(msgspec.Struct, gc=False):
    exitCode: int | None = None  # noqa: N815 - the store's own name


class _ResultMessage(msgspec.Struct, gc=False):
    role: str
    toolCallId: str  # noqa: N815 - the store's own names
    toolName: str  # noqa: N815 - as above
    isError: bool  # noqa: N815 - as above
    details: _ResultDetails | None = None


class _Result(msgspec.Struct, gc=False):
    type: str
    id: str
    timestamp: str
    message: _ResultMessage


_decode = msgspec.json.Decoder(_Entry, float_hook=Decimal).decode
_decode_lines = msgspec.json.Decoder(_Entry, float_hook=Decimal).decode_lines
_decode_result = msgspec.json.Decoder(_Result).decode

_HEAD = 320  # bytes of an entry within which its role stands; ids are UUIDs, so that it is near byte 175
_TAIL = 512  # bytes at its end within which the flag of a tool result stands
_LONG = 1024  # bytes from which cutting out the text is quicker than skipping it
_RESULT = b'"message":{"role":"toolResult","toolCallId":"'  # the longer, the faster it is found
_CONTENT = b',"content":['
_DETAILS = b'],"details":{'
_ERROR = b',"isError":'
_CLOSED = ord("]")
_OPEN, _CLOSE = b"{}"
_OUTPUT = b',"aggregated":"'
_SECONDS = frozenset(f":{minute:02}:{second:02}." for minute in range(60) for second in range(60))
_MILLISECONDS = frozenset(f"{number:03}Z" for number in range(1000))
_HOUR = timedelta(hours=1)


class Print(bytes):
    """A fingerprint that also has what it is made of, as a plain entry gives it."""

    parts: tuple[Any, ...]


def digest(*parts: str) -> bytes:
    """The scan's fingerprint of a row (`Accountant.digest`)."""
    time, *others = parts
    if len(others) == len(("model", "usage")):
        *tokens, cost = others.pop().split("|")
        values = (*others, *(_number_of(part) for part in tokens), cost)
    else:
        values = tuple(others)
    value = Print()
    value.parts = (_time_of(time), *values)
    return value


def identity(entry_id: str, print_of_row: bytes) -> int:
    """The number under which a row was seen, of which an equal row of another source has the same.

    64 bits: of ten million calls, two have the same by accident once in 300,000 times.
    """
    assert isinstance(print_of_row, Print)  # noqa: S101 - made by `digest`
    return hash((entry_id, *print_of_row.parts))


def first_time(since: datetime) -> str:
    """The first time that is not before an instant, as entries write it."""
    ms = -((instants.EPOCH - since) // timedelta(milliseconds=1))
    return _time_of(str(ms))


def _time_of(written: str) -> str:
    try:
        instant = instants.to_datetime(int(written))
    except (ValueError, OverflowError):
        return written
    return instant.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


_MOST_DIGITS = 20


def _number_of(written: str) -> int | str | None:
    # Beyond 20 digits it is no count of anything, and Python refuses to convert more than 4,300.
    if not written.isdecimal() or len(written) > _MOST_DIGITS:
        return written or None
    return int(written) if str(int(written)) == written else written


class Days:
    """Days of one zone by the hour in which something happened."""

    def __init__(self, zone: tzinfo, now: float) -> None:
        self._zone = zone
        self._earliest = instants.EARLIEST
        self._latest = instants.EPOCH + timedelta(seconds=now)
        self.hours: dict[str, str | None] = {}
        self._quarters: dict[int, str] = {}

    def of_hour(self, hour: str) -> str | None:
        """The day of `2026-11-20T12` (UTC); None where the hour has two, or is none whose time needs no look."""
        if hour not in self.hours:
            self.hours[hour] = self._find(hour)
        return self.hours[hour]

    def _find(self, hour: str) -> str | None:
        try:
            start = datetime.fromisoformat(f"{hour}:00:00+00:00")
            if start.isoformat()[: len(hour)] != hour or not self._earliest <= start <= self._latest:
                return None
            first, last = self.of(start), self.of(start + _HOUR - timedelta(milliseconds=1))
        except (ValueError, OverflowError):
            return None
        return first if first == last else None

    def of(self, ts: datetime) -> str:
        """The ISO date in the zone. Every offset since 2020 is a multiple of a quarter of an hour."""
        quarter = int(ts.timestamp()) // 900
        day = self._quarters.get(quarter)
        if day is None:
            day = self._quarters[quarter] = ts.astimezone(self._zone).date().isoformat()
        return day


class Sums:
    """Calls, tokens by class and reported cost of plain calls with one provider, model and day."""

    __slots__ = ("cache_read", "cache_write", "calls", "cost", "input", "output", "reasoning")

    def __init__(self) -> None:
        self.calls = self.input = self.output = self.cache_read = self.cache_write = self.reasoning = 0
        self.cost = Decimal(0)


class Seen:
    """What was seen so far: identities of calls, results and nested tools, and how many tools an entry called."""

    __slots__ = ("keys", "tools")

    def __init__(self) -> None:
        self.keys: set[int] = set()
        self.tools: dict[int, int] = {}

    def first(self, key: int) -> bool:
        """Whether it is new; it is not any more."""
        before = len(self.keys)
        self.keys.add(key)
        return len(self.keys) > before

    def meets(self, other: Seen) -> bool:
        """Whether something was seen by both."""
        return not (self.keys.isdisjoint(other.keys) and self.tools.keys().isdisjoint(other.tools))

    def include(self, other: Seen) -> None:
        """Add what another has seen, where nothing is in both."""
        self.keys |= other.keys
        self.tools |= other.tools


class PlainTally:
    """What the plain entries of one source add."""

    def __init__(self, days: Days, seen: Seen, since: str, odd: Odd) -> None:
        """`since`: only what happened from this time on, as entries write it; "" for all."""
        self.entries = 0
        self.duplicates = 0
        self.touched = False  # whether anything happened since then
        self.sums: dict[Name, Sums] = {}
        self.failed: dict[str, int] = {}  # calls that did not end well, by outcome
        self.started: dict[str, int] = {}  # tool calls by name
        self.ended: dict[tuple[str, ResultOutcome], int] = {}  # tool results by name and outcome
        self._outcomes: dict[tuple[str, bool, int | None], ResultOutcome] = {}
        self._days = days
        self._hours = days.hours
        self._seen = seen
        self._since = since
        self._odd = odd

    def block(self, content: bytearray, end: int) -> None:
        """Add the lines of a block, the last of which ends with its newline at `end`."""
        find, rfind = content.find, content.rfind
        others: list[bytearray] = []  # lines between tool results
        results: list[tuple[int, int]] = []
        rest = 0
        head = find(_RESULT, 0, end)
        while head >= 0:
            start = rfind(b"\n", rest, head) + 1 or rest
            newline = find(b"\n", head, end)
            following = find(_RESULT, head + 1, end)
            if head - start < _HEAD and not 0 <= following < newline:
                others.append(content[rest:start])
                rest = newline + 1
                results.append((start, newline))
            head = following  # within the same line where a torn one lies before a whole one: then neither is cut
            while 0 <= head < newline:
                head = find(_RESULT, head + 1, end)
        others.append(content[rest:end])
        self._lines(b"".join(others).split(b"\n"))
        for start, newline in results:
            self._result(content, start, newline)

    def row(self, row: bytes) -> None:
        """Add an entry that stands alone."""
        if row.find(_RESULT, 0, _HEAD) >= 0 and row.count(_RESULT) == 1:
            self._result(row, 0, len(row))
        else:
            self._line(row)

    def _lines(self, lines: list[bytes]) -> None:
        """Add lines that are no tool results; the last one is empty, as it stands behind the last newline."""
        lines.pop()
        # Where each begins and ends as an object does, no value can reach over a line's end: as many values as lines
        # are one of each line.
        if {line[:1] for line in lines} == {b"{"} and {line[-1:] for line in lines} == {b"}"}:
            with contextlib.suppress(ValueError, RecursionError):
                entries = _decode_lines(b"\n".join(lines))
                if len(entries) == len(lines):
                    self._entries(entries, lines)
                    return
        for line in lines:
            self._line(line)

    def _line(self, line: bytes) -> None:
        try:
            entry = _decode(line)
        except (ValueError, RecursionError):
            self._odd(line)
        else:
            self._entries([entry], [line])

    def _entries(self, entries: list[_Entry], lines: list[bytes]) -> None:
        """Add entries that are no tool results, and hand the odd ones on."""
        for place, entry in enumerate(entries):
            message = entry.message
            if entry.type != "message":
                plain = not has_rows(entry.type, entry.customType)
            elif message is None:
                plain = True
            elif message.role != "assistant":
                plain = message.role != "toolResult" and message.customType != NESTED_TOOL
            else:
                plain = self._call(entry, message)
            if not plain:
                self.entries -= 1
                self._odd(lines[place])
        self.entries += len(entries)

    def _call(self, entry: _Entry, message: _Message) -> bool:  # noqa: C901, PLR0911, PLR0912 - half of a scan's time
        """Add an entry of an assistant; whether it is plain."""
        usage, written = message.usage, entry.timestamp
        if usage is None or not entry.id:
            return False
        day = self._hours.get(written[:13]) or self._days.of_hour(written[:13])
        if day is None or written[13:20] not in _SECONDS or written[20:] not in _MILLISECONDS:
            return False
        cost = usage.cost.total
        if type(cost) is not Decimal and type(cost) is not int:
            return False
        if not _SMALLEST <= cost <= _LARGEST and cost:
            return False
        written_cost = str(cost)
        if written_cost[-1] == "0" or "E" in written_cost:  # 0.50, or 1E-7
            written_cost = number(cost)
        model = message.model
        name = (message.provider, model, day)
        sums = self.sums.get(name)
        if sums is None:
            if not (_is_plain_name(message.provider) and _is_plain_name(model)):
                return False
            sums = self.sums[name] = Sums()
        tokens_in, tokens_out, cache_read, cache_write = usage.input, usage.output, usage.cacheRead, usage.cacheWrite
        total, reasoning = usage.totalTokens, usage.reasoningTokens
        key = hash(  # as `identity` of `digest`
            (entry.id, written, model, tokens_in, tokens_out, cache_read, cache_write, reasoning, total, written_cost)
        )
        counts = not self._since or written >= self._since
        self.touched = self.touched or counts
        if type(message.content) is list:
            for part in message.content:
                if part.type == "toolCall":
                    self._tools(message.content, key, counts=counts)
                    break
        keys = self._seen.keys
        if key in keys:
            self.duplicates += counts
            return True
        keys.add(key)
        if counts:
            if message.stopReason in _FAILED:
                outcome = outcome_of_call(message.stopReason)
                self.failed[outcome] = self.failed.get(outcome, 0) + 1
            if cache_read and tokens_in >= cache_read:
                tokens_in = without_cached(tokens_in, tokens_out, cache_read, total)
            sums.calls += 1
            sums.input += tokens_in
            sums.output += tokens_out
            sums.cache_read += cache_read
            sums.cache_write += cache_write
            if reasoning:
                sums.reasoning += reasoning
            sums.cost += cost
        return True

    def _tools(self, content: list[_Part], key: int, *, counts: bool) -> None:
        """Add the tools that an entry calls, of which a copy may have more."""
        names = [text(part.name) or "unknown" for part in content if part.type == "toolCall"]
        known = self._seen.tools.get(key, 0)
        if known < len(names):
            self._seen.tools[key] = len(names)
            if counts:
                for name in names[known:]:
                    self.started[name] = self.started.get(name, 0) + 1

    def _result(self, content: bytes | bytearray, start: int, end: int) -> None:
        """Add a tool result."""
        line = _cut(content, start, end)
        try:
            plain = self._ended(_decode_result(line), line)
        except (ValueError, RecursionError):
            plain = False
        if not plain:
            self._odd(bytes(content[start:end]))

    def _ended(self, entry: _Result, content: bytes | bytearray) -> bool:
        """Add a tool result; whether it is plain."""
        message, written = entry.message, entry.timestamp
        if entry.type != "message" or message.role != "toolResult" or not entry.id:
            return False
        day = self._hours.get(written[:13]) or self._days.of_hour(written[:13])
        if day is None or written[13:20] not in _SECONDS or written[20:] not in _MILLISECONDS:
            return False
        exit_code = message.details.exitCode if message.details is not None else None
        if exit_code is None and _OUTPUT in content:
            return False  # it may stand behind the output, in what was cut out
        name = message.toolName
        ending = (name, message.isError, exit_code)
        outcome = self._outcomes.get(ending)
        if outcome is None:
            if not _is_plain_name(name):
                return False
            outcome = self._outcomes[ending] = outcome_of_result(message.isError, exit_code)
        counts = not self._since or written >= self._since
        self.touched = self.touched or counts
        self.entries += 1
        if self._seen.first(hash((entry.id, written, message.toolCallId, name, outcome))) and counts:
            self.ended[name, outcome] = self.ended.get((name, outcome), 0) + 1
        return True


_LARGEST = Decimal(LARGEST)
_FAILED = ("error", "aborted")


def _is_plain_name(name: str) -> bool:
    return text(name) == name and name not in MIRRORS


def _cut(content: bytes | bytearray, start: int, end: int) -> bytes | bytearray:
    """A tool result without the text of its content and its output, where it is long and of the known form.

    `"` without a backslash before it is never a part of a text. So these marks are of the structure itself; where
    they are of another level of it than they seem, what is left is no JSON, and the entry is read as a whole.
    """
    if end - start < _LONG:
        return content[start:end]
    opened = content.find(_CONTENT, start, start + _HEAD)
    ends = content.rfind(_ERROR, end - _TAIL, end)
    if opened < 0 or ends < 0:
        return content[start:end]
    opened += len(_CONTENT)
    if content[ends - 1] == _CLOSED:  # no details
        return content[start:opened] + content[ends - 1 : end]
    details = content.rfind(_DETAILS, opened, ends)
    if details < 0:
        return content[start:end]
    output = content.find(_OUTPUT, details, details + _HEAD) + len(_OUTPUT)
    closed = content.rfind(b'"', output, ends)
    if output < details or closed < 0:
        return content[start:opened] + content[details:end]
    return content[start:opened] + content[details:output] + content[closed:end]
