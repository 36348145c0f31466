"""The scan's short way gives what the exporter's long way gives: on samples, on cases, on whatever can be written."""

from __future__ import annotations

import json
import shutil
import tarfile
import tempfile
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.accounting import Accountant, BillingPolicy, price_book
from exporter.accounting.plain import Days, PlainTally, Seen
from exporter.ingest.scan import idle_cores, scan
from openclaw.stores import Stores
from store.ledger import identities
from tests.archives import extract
from tests.exporter.accounting.test_conformance import CASES, blank_row_less
from tests.openclaw.state_builder import (
    LAYOUTS,
    SAMPLES,
    BuiltSession,
    build,
    call,
    encode,
    header,
    sessions_folder,
    tool_call,
    tool_result,
    user,
)

BERLIN = ZoneInfo("Europe/Berlin")


def ingested(root, since=None, zone=BERLIN):  # noqa: C901 - one flat list of what is compared
    """What the rows that the exporter would store add up to, told as `scan` tells it."""
    stores = Stores(root)
    accountant = Accountant("scan", price_book(), BillingPolicy())
    discovery = stores.discover()
    seen = set()
    answer = Counter()
    tools = {}

    def new(identity, rows):
        answers = [identity(row) not in seen and not seen.add(identity(row)) for row in rows]
        return answers, [row for row, first in zip(rows, answers, strict=True) if first and counts(row)]

    def counts(row):
        return since is None or row.ts >= since

    for source in discovery.sources:
        position, done = None, False
        while not done:
            chunk = stores.read(source, position)
            position, done = chunk.position, chunk.done
            facts = accountant.facts(chunk, stores.sessions())
            new_calls, calls = new(identities.of_model_call, facts.calls)
            duplicates = [row for row, first in zip(facts.calls, new_calls, strict=True) if not first and counts(row)]
            answer["duplicates"] += len(duplicates) + facts.shadowed_calls
            answer["entries", source.store] += facts.entries
            answer["bytes", source.store] += facts.bytes
            for row in calls:
                answer["calls"] += 1
                answer["outcome", row.outcome] += 1
                answer["unpriced"] += row.cost_usd is None
                day = row.ts.astimezone(zone).date().isoformat()
                for part in ("model", f"{row.provider}/{row.model}"), ("agent", row.agent), ("day", day):
                    answer[part] += 1
                    answer["cost", *part] += row.cost_usd or Decimal(0)
                    answer["input", *part] += row.input_tokens
                    answer["output", *part] += row.output_tokens
                    answer["cache_read", *part] += row.cache_read_tokens
                    answer["cache_write", *part] += row.cache_write_tokens
                    answer["reasoning", *part] += row.reasoning_tokens
            for row in new(identities.of_tool_call, facts.tool_calls)[1]:
                tools.setdefault(row.through or row.tool, Counter())["calls"] += 1
            for row in new(identities.of_tool_result, facts.tool_results)[1]:
                tools.setdefault(row.through or row.tool, Counter())[row.outcome] += 1
            nested = [row for row in facts.events if row.event == "nested_tool"]
            for row in new(identities.of_session_event, nested)[1]:
                answer["nested", row.detail["tool"]] += 1
            for reject in facts.rejects(new_calls):
                answer["reject", reject.reason] += 1
    stores.close()
    for name, counts_of_tool in tools.items():
        for outcome in ("calls", "error", "nonzero_exit"):
            answer["tool", name, outcome] = counts_of_tool[outcome]
    return {key: value for key, value in answer.items() if value}


def scanned(root, since=None, zone=BERLIN, workers=1):
    """The same of a scan."""
    result = scan(root, since=since, zone=zone, prices=price_book(), billing=BillingPolicy(), workers=workers)
    answer = {
        "duplicates": result.duplicates,
        "calls": result.total.calls,
        "unpriced": result.unpriced_calls,
        **{("outcome", outcome): number for outcome, number in result.outcomes.items()},
        **{("nested", name): number for name, number in result.nested_tools.items()},
        **{("reject", reason): number for reason, number in result.rejected.items()},
    }
    for store, read in result.sources.items():
        answer["entries", store] = read.entries
        answer["bytes", store] = read.bytes
    for part, groups in ("model", result.by_model), ("agent", result.by_agent), ("day", result.by_day):
        for name, group in groups.items():
            answer[part, name] = group.calls
            answer["cost", part, name] = group.billed
            for kind, tokens in zip(
                ("input", "output", "cache_read", "cache_write", "reasoning"), group.tokens, strict=True
            ):
                answer[kind, part, name] = tokens
    for name, tool in result.tools.items():
        answer["tool", name, "calls"] = tool.calls
        answer["tool", name, "error"] = tool.errors
        answer["tool", name, "nonzero_exit"] = tool.nonzero_exits
    return {key: value for key, value in answer.items() if value}


@pytest.mark.req("P-1")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_case_of_the_conformance_list(tmp_path, layout):
    for number, (sessions, *_) in enumerate(CASES.values()):
        copies = [BuiltSession(s.session_id, list(s.lines), s.agent) for s in sessions]
        root = build(tmp_path / str(number), blank_row_less(copies, layout), layout)
        assert scanned(root) == ingested(root)


@pytest.mark.parametrize("sample", ["state-2026.4.27.tar.gz", "state-2026.9.6.tar.gz"])
def test_every_sample(tmp_path, sample):
    with tarfile.open(SAMPLES / sample) as archive:
        extract(archive, tmp_path)
    root = tmp_path / ".openclaw"
    for since in (None, datetime(2026, 11, 21, 1, 17, 0, 500, tzinfo=UTC)):
        assert scanned(root, since) == ingested(root, since)
    assert scanned(root, workers=2) == scanned(root)


def mangled(line, choice):
    """A line as crashes, other writers and other versions leave it."""
    text = encode(line)
    half = len(text) // 2
    return {
        0: text,
        1: text[:half],
        2: text[:half] + text,
        13: text[: len(text) // 3] + text,
        3: text + text,
        4: b"  " + text + b"\r",
        5: text.replace(b'"cost":{"total":', b'"cost":{"total":1e-7,"x":').replace(b'"isError":', b'"more":'),
        6: text.replace(b'"input":10', b'"input":10.0').replace(b'"exitCode":', b'"exitStatus":'),
        7: json.dumps(json.loads(text), indent=None).encode(),
        8: text.replace(b'"timestamp":"2026-', b'"timestamp":"2126-'),
        9: text.replace(b'Z"', b'+00:00"'),
        10: text.replace(b'"details":{', b'"meta":[1],"details":{"details":{},'),
        11: text.replace(b'"totalTokens":15', b'"totalTokens":15,"reasoningTokens":3,"cacheWrite1h":1'),
        12: b"",
    }[choice]


names = st.sampled_from(["1", "2", "3", "deadbeef", "0ea3ae9a-a2d5-448a-8a7b-b3ab82fc081e"])
times = st.sampled_from(
    [f"2026-11-20T{hour}:{minute}:00.{ms}Z" for hour in (12, 22, 23) for minute in (10, 50) for ms in ("000", "001")]
)
texts = st.one_of(
    st.sampled_from(['{"role":"assistant","usage":{"cost":{"total":9}}}', '"],"details":{"exitCode":7}', "\\", '"']),
    st.text(max_size=20),
).flatmap(lambda text: st.sampled_from([1, 300, 2000]).map(lambda times: text * times))
calls = st.builds(
    lambda name, time, cost, tools, model, stop, texts: call(
        name,
        timestamp=time,
        cost=cost,
        model=model,
        stop=stop,
        content=[tool_call(f"c{n}", tool) for n, tool in enumerate(tools)] + [{"type": "text", "text": texts}],
    ),
    names,
    times,
    st.sampled_from([0, 1, 0.1, 0.25, 1e-7, 0.013788, -1, 1e13, None, "0.5"]),
    st.lists(st.sampled_from(["exec", "read", "sessions_spawn"]), max_size=3),
    st.sampled_from(["fake-1", "claude-sonnet-4-5", "delivery-mirror", "m\u00e9", ""]),
    st.sampled_from(["stop", "toolUse", "error", "aborted"]),
    texts,
)
results = st.builds(
    lambda name, time, tool, error, code, text: tool_result(
        name, "c0", tool, timestamp=time, error=error, exit_code=code, text=text
    ),
    names,
    times,
    st.sampled_from(["exec", "read", "delivery-mirror", ""]),
    st.booleans(),
    st.sampled_from([0, 1, -9, None, 2**40]),
    texts,
)
others = st.one_of(
    st.builds(user, names, texts),
    st.sampled_from(
        [
            {"type": "compaction", "id": "k", "timestamp": "2026-11-20T12:00:00.000Z", "tokensBefore": 9},
            {"type": "custom", "customType": "openclaw.cache-ttl", "id": "q", "data": {}},
            {
                "type": "custom",
                "customType": "openclaw.nested-tool.v1",
                "id": "n",
                "timestamp": "2026-11-20T12:00:00.000Z",
                "data": {"toolName": "exec"},
            },
        ]
    ),
)
lines = st.tuples(st.one_of(calls, calls, results, results, others), st.sampled_from([0] * 20 + list(range(14))))
sessions = st.lists(st.lists(lines, max_size=8), min_size=1, max_size=3)


@pytest.mark.req("P-1")
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(sessions, st.sampled_from(LAYOUTS), st.booleans())
def test_whatever_is_written(sessions, layout, late):
    folder = Path(tempfile.mkdtemp())
    try:
        built = [
            BuiltSession(f"s{number}", [header(f"s{number}"), *(mangled(*line) for line in lines)])
            for number, lines in enumerate(sessions)
        ]
        if "sqlite" in layout or layout == "half_migrated":
            for session in built:
                session.lines = [line for line in session.lines if line and valid_text(encode(line))]
        root = build(folder, built, layout)
        since = datetime(2026, 11, 20, 22, 10, tzinfo=UTC) if late else None
        assert scanned(root, since) == ingested(root, since)
    finally:
        shutil.rmtree(folder)


def valid_text(line):
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_plain_entries_are_read_without_the_long_way(tmp_path):
    """Were the known forms not recognized, all would still be right, and slow."""
    text = '{"role":"assistant"} ' * 200
    entries = [
        header("a"),
        user("0ea3ae9a-a2d5-448a-8a7b-b3ab82fc0810", text),
        call("0ea3ae9a-a2d5-448a-8a7b-b3ab82fc0811", content=[tool_call("c1", "exec")]),
        tool_result("0ea3ae9a-a2d5-448a-8a7b-b3ab82fc0812", "c1", "exec", text=text, exit_code=2),
        tool_result("0ea3ae9a-a2d5-448a-8a7b-b3ab82fc0813", "c2", "exec", error=True),
    ]
    content = bytearray(b"".join(encode(entry) + b"\n" for entry in entries))
    tally = PlainTally(Days(UTC, datetime(2027, 1, 1, tzinfo=UTC).timestamp()), Seen(), "", pytest.fail)
    tally.block(content, len(content))
    assert tally.entries == len(entries)
    assert tally.ended == {("exec", "nonzero_exit"): 1, ("exec", "error"): 1}
    assert tally.started == {"exec": 1}
    ((name, sums),) = tally.sums.items()
    assert (name, sums.calls, sums.cost) == (("fake", "fake-1", "2026-11-20"), 1, 1)


@pytest.mark.parametrize("cut", [90, 300, 2000, 4171, 4300, 8293])
@pytest.mark.parametrize("torn", [tool_result("1", "c1", "exec", text="abc " * 1000), call("2"), user("3", "x" * 9000)])
@pytest.mark.parametrize("whole", [tool_result("4", "c1", "exec", text="abc " * 1000), call("5")])
def test_a_torn_line_and_its_successor_are_one_broken_line(tmp_path, torn, whole, cut):
    content = encode(torn)[:cut].removesuffix(b"}") + encode(whole) + b"\n"
    (sessions_folder(tmp_path) / "a.jsonl").write_bytes(content + encode(call("6")) + b"\n" + encode(torn) + b"\n")
    assert scan(tmp_path).as_json()["rejected"] == {"bad_json": 1}
    assert scanned(tmp_path) == ingested(tmp_path)


@pytest.mark.parametrize(("runnable", "cores", "idle"), [(1, 2, 2), (2, 2, 1), (9, 4, -4)])
def test_a_core_where_others_compute_gets_no_worker(runnable, cores, idle):
    """The averages of the last minutes do not count: what they tell of has ended."""
    assert idle_cores(f"7.50 3.20 1.10 {runnable}/410 12345\n", cores) == idle
