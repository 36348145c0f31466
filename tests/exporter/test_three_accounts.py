"""`lobservatory scan`, the rows in the database and `/metrics` say the same of every corpus, to the last digit."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import tempfile
from collections import Counter
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest
import typer
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families as parse_text
from psycopg import sql
from typer.testing import CliRunner

from cli.app import scan
from exporter.accounting import Accountant, BillingPolicy, price_book
from exporter.ingest.ingest import Ingest
from exporter.ingest.watch import Watch
from exporter.metrics.registry import OTHER, Registry, plain
from openclaw.state_dir import load_config
from openclaw.stores import Stores
from store.ledger.postgres import PostgresLedger
from tests.exporter.accounting.test_conformance import BESIDE, CASES, LIVE
from tests.lab import labels_of
from tests.openclaw.state_builder import LAYOUTS, BuiltSession, build, call, header, tool_call, tool_result

CLASSES = ("input", "output", "cache_read", "cache_write", "reasoning")


def scanned(state):
    """What the command prints."""
    app = typer.Typer()
    app.command()(scan)
    done = CliRunner().invoke(app, [str(state), "--json", "--tz", "UTC"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout, parse_float=Decimal)


async def ingested(state, dsn, gateway):
    """What `/metrics` says after the first scan, as {metric: {labels: exact value}}; the rows are in the database."""
    config = load_config(state)
    registry = Registry()
    watch, stores, ledger = Watch(state), Stores(state), PostgresLedger(dsn, gateway)
    ingest = Ingest(
        gateway=gateway,
        stores=stores,
        accountant=Accountant(gateway, price_book(config.prices), BillingPolicy(None, config.subscription_providers)),
        ledger=ledger,
        watch=watch,
        registry=registry,
    )
    await ledger.open()
    try:
        await ingest.look()
    finally:
        await ledger.close()
        watch.stop()
        stores.close()
    shown = {}
    for family in parse_text(registry.render()):
        for sample in family.samples:
            shown.setdefault(sample.name, {})[labels_of(sample)] = Decimal(str(sample.value))
    return shown


def added(shown, metric, *places):
    """The sums of a metric by some of its labels (places); 0 is nothing."""
    sums = Counter()
    for labels, value in shown.get(metric, {}).items():
        sums["/".join(labels[place] for place in places)] += value
    return {name: value for name, value in sums.items() if value}


def as_label(name):
    """The same where the guard of labels has folded what is long or not plain."""
    return "/".join(part if plain(part) else OTHER for part in name.split("/", 1))


def near(ours, theirs):
    """Metrics are floating point numbers; everything else is exact."""
    return ours == pytest.approx({name: float(value) for name, value in theirs.items()}, rel=1e-12)


def compare(answer, shown, connection, gateway):
    def ask(query, *more):
        return connection.execute(sql.SQL(query), [gateway, *more]).fetchall()

    total = [answer["calls"], *(answer["tokens"][name] for name in CLASSES)]
    ((*counted, billed, equivalent, unpriced),) = ask(
        "SELECT count(*), coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0),"
        " coalesce(sum(cache_read_tokens), 0), coalesce(sum(cache_write_tokens), 0),"
        " coalesce(sum(reasoning_tokens), 0), coalesce(sum(cost_usd) FILTER (WHERE billing = 'billed'), 0),"
        " coalesce(sum(cost_usd) FILTER (WHERE billing = 'equivalent'), 0),"
        " count(*) FILTER (WHERE cost_basis = 'unpriced') FROM model_calls WHERE gateway = %s"
    )
    assert counted == total
    assert billed == answer["cost_usd"]["billed"]
    assert equivalent == answer["cost_usd"]["equivalent"]
    assert unpriced == answer["unpriced_calls"]

    tokens = added(shown, "claw_tokens_total", -1)
    reasoning = added(shown, "claw_reasoning_tokens_total").get("", 0)
    calls = added(shown, "claw_model_calls_total").get("", 0)
    assert [calls, *(tokens.get(name, 0) for name in CLASSES[:-1]), reasoning] == total
    assert float(added(shown, "claw_cost_usd_total").get("", 0)) == pytest.approx(float(billed), rel=1e-12)
    assert float(added(shown, "claw_equivalent_cost_usd_total").get("", 0)) == pytest.approx(float(equivalent))
    assert added(shown, "claw_unpriced_calls_total").get("", 0) == unpriced
    assert added(shown, "claw_duplicate_entries_total").get("", 0) == answer["duplicates"]

    for name, column, labels in (
        ("by_agent", "agent", (0,)),
        ("by_model", "provider || '/' || model", (1, 2)),
        ("by_kind", "kind", (3,)),
        ("by_day", "to_char(ts AT TIME ZONE 'UTC', 'YYYY-MM-DD')", None),
    ):
        rows = ask(
            f"SELECT {column}, count(*), coalesce(sum(cost_usd) FILTER (WHERE billing = 'billed'), 0)"
            " FROM model_calls WHERE gateway = %s GROUP BY 1"
        )
        groups = {group: (value["calls"], value["cost_usd"]) for group, value in answer[name].items()}
        assert {group: (count, cost) for group, count, cost in rows} == groups, name
        if labels is not None:
            counts, money = Counter(), Counter()
            for one, count, cost in rows:
                counts[as_label(one)] += count
                money[as_label(one)] += cost
            assert added(shown, "claw_model_calls_total", *labels) == counts, name
            money = {one: cost for one, cost in money.items() if cost}
            assert near({k: float(v) for k, v in added(shown, "claw_cost_usd_total", *labels).items()}, money), name
    rows = ask("SELECT date::text, sum(calls) FROM cost_daily WHERE gateway = %s GROUP BY 1")
    assert dict(rows) == {day: value["calls"] for day, value in answer["by_day"].items()}

    rejects = dict(ask("SELECT reason, count(*) FROM rejects WHERE gateway = %s GROUP BY 1"))
    assert added(shown, "claw_rejected_entries_total", -1) == rejects == answer["rejected"]
    tools = Counter({name: tool["calls"] for name, tool in answer["tools"].items() if tool["calls"]})
    if tools.pop("tool_call", 0):  # the metric and the rows name what was called through it
        tools.update(answer["nested_tools"])
    assert added(shown, "claw_tool_calls_started_total", -1) == tools
    outcomes = {
        outcome: {name: tool[key] for name, tool in answer["tools"].items() if tool[key]}
        for outcome, key in (("error", "errors"), ("nonzero_exit", "nonzero_exits"))
    }
    for outcome, expected in outcomes.items():
        rows = dict(
            ask("SELECT tool, count(*) FROM tool_calls WHERE gateway = %s AND outcome = %s GROUP BY 1", outcome)
        )
        metric = Counter()
        for (_agent, tool, how), value in shown.get("claw_tool_calls_total", {}).items():
            metric[tool] += int(value) if how == outcome else 0
        assert rows == expected == dict(+metric), outcome
    entries = {store: counts["entries"] for store, counts in answer["sources"].items() if counts["entries"]}
    assert added(shown, "claw_source_entries_total", -1) == entries
    return answer


async def agree(state, dsn, gateway="g"):
    answer = await asyncio.to_thread(scanned, state)
    shown = await ingested(state, dsn, gateway)
    with psycopg.connect(dsn) as connection:
        return compare(answer, shown, connection, gateway)


@pytest.mark.req("P-1", "P-3")
async def test_of_recorded_gateways(state_dir, postgres_dsn):
    answer = await agree(state_dir, postgres_dsn)
    assert answer["calls"] > 20
    assert answer["cost_usd"]["billed"] > 0


def all_cases():
    """Every case of the list in one state directory: the agents of each have names of their own."""
    for number, (sessions, *_) in enumerate(CASES.values()):
        for one in sessions:
            lines = [line for line in one.lines if line != b""]  # a store of rows has no blank lines
            yield BuiltSession(f"{number}-{one.session_id}", lines, f"{one.agent}{number}", key=one.key)


@pytest.mark.req("P-1", "P-3")
@pytest.mark.parametrize("layout", LAYOUTS)
async def test_of_the_list_of_right_answers_in_every_layout(layout, postgres_dsn, tmp_path):
    answer = await agree(build(tmp_path / "state", list(all_cases()), layout), postgres_dsn)
    assert answer["calls"] > 1000
    assert answer["rejected"].keys() >= {"bad_json", "not_object", "bad_number", "bad_time"}
    assert answer["unpriced_calls"] > 0


@pytest.mark.req("P-1", "P-3")
@pytest.mark.parametrize("layout", LAYOUTS)
async def test_of_whatever_lies_beside_a_session(layout, postgres_dsn, tmp_path):
    agents = [f"agent{number}" for number in range(len(BESIDE))]
    state = build(tmp_path / "state", [BuiltSession("a", [header("a"), *LIVE], agent) for agent in agents], layout)
    for agent, (write, *_) in zip(agents, BESIDE.values(), strict=True):
        write(state, agent)
    answer = await agree(state, postgres_dsn)
    assert answer["calls"] == sum(calls for _, calls, *_ in BESIDE.values())


costs = st.none() | st.decimals(0, 1000, places=9).map(float) | st.sampled_from([0, -1, "free", 1e-8, 0.1])
entries = st.builds(
    lambda number, cost, second, model, tools, stop: (number, cost, second, model, tools, stop),
    st.integers(0, 9),
    costs,
    st.integers(0, 59),
    st.sampled_from([("fake", "fake-1"), ("anthropic", "claude-sonnet-4-5"), ("openai", "nobody-knows")]),
    st.lists(st.sampled_from(["exec", "read"]), max_size=2),
    st.sampled_from(["stop", "error", "aborted", "toolUse"]),
)


def made(number, cost, second, model, *more):
    """A call and the results of its tools. Equal numbers are equal ids, so that copies and look-alikes come about."""
    tools, stop = more
    usage = {"input": 7 * number, "output": number, "cacheRead": second, "cacheWrite": 0, "cost": {"total": cost}}
    if cost is None:
        del usage["cost"]
    at = f"2026-11-{19 + second % 3}T23:59:{second:02}.000Z"
    calls = [tool_call(f"c{number}{place}{name}", name) for place, name in enumerate(tools)]
    provider, name = model
    yield call(f"{number:08x}", usage=usage, timestamp=at, provider=provider, model=name, stop=stop, content=calls)
    for place, tool in enumerate(tools):
        yield tool_result(
            f"r{number}{place}{tool}",
            f"c{number}{place}{tool}",
            tool,
            error=second % 5 == 0,
            exit_code=second % 2,
            timestamp=at,
        )


# Each example is a whole ingest: of a failure the first that is found is told, not the smallest.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)

sessions = st.lists(
    st.tuples(st.sampled_from(["main", "ops"]), st.lists(entries | st.just(b"{broken"), max_size=6)), max_size=5
)


@pytest.mark.req("P-1", "P-3")
def test_of_anything(postgres_dsn):
    numbers = itertools.count()

    @settings(max_examples=25, deadline=None, phases=PHASES, suppress_health_check=list(HealthCheck))
    @given(sessions, st.sampled_from(LAYOUTS))
    def check(generated, layout):
        built = []
        for number, (agent, parts) in enumerate(generated):
            lines = [header(f"s{number}")]
            for part in parts:
                lines += [part] if isinstance(part, bytes) else made(*part)
            built.append(BuiltSession(f"s{number}", lines, agent, key=f"agent:{agent}:dashboard:{number}"))
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(agree(build(Path(folder), built, layout), postgres_dsn, f"g{next(numbers)}"))

    check()


def hostile_line(
    number, *, usage='{"input":10,"output":1,"cost":{"total":1}}', at='"2026-11-20T10:00:00.{:03}Z"', **more
):
    """One call as text, so that members may be what no encoder would write."""
    message = {"role": '"assistant"', "provider": '"p"', "model": '"m"', "usage": usage} | more
    body = ",".join(f'"{name}":{value}' for name, value in message.items())
    time = f'"timestamp":{at.format(number)},' if at else ""
    return f'{{"type":"message","id":"h{number}",{time}"message":{{{body}}}}}'


USAGES = (  # of one call each, and its money in billionths of a dollar
    ('{"input":10,"output":1,"cost":{"total":1e-9}}', 1),
    ('{"input":10,"output":1,"cost":{"total":0.1}}', 10**8),
    ('{"input":10,"output":1,"cost":{"total":-0.0}}', 0),
    ('{"input":10,"output":1,"cost":{"total":NaN}}', 0),
    ('{"input":10,"output":1,"cost":{"total":-1}}', 0),
    ('{"input":10,"output":1,"cost":{"total":1e13}}', 0),
    ('{"input":10,"output":1,"cost":{"total":1e400}}', 0),
    ('{"input":10,"output":1,"cost":{"total":"0.5"}}', 0),
    ('{"input":10,"output":1,"cost":[0.5]}', 0),
    ('{"input":10,"output":1,"cost":true}', 0),
    ('{"input":10,"output":1,"cost":0.25}', 25 * 10**7),
    ('{"input":123456789012345678901234567890,"output":1,"cost":{"total":1}}', 10**9),
    ('{"input":-5,"output":1,"cost":{"total":1}}', 10**9),
    ('{"input":1.5,"output":1.0,"cost":{"total":1}}', 10**9),
    ('{"input":1,"input":7,"output":1,"cost":{"total":3},"cost":{"total":2}}', 2 * 10**9),
    ("{}", 0),
)
TIMES = (
    '"2026-11-20T10:00:00Z"',
    "1763632800",
    "1763632800000",
    '"1763632800000"',
    '"nonsense"',
    "null",
    "-1",
    "1e99",
    "",
)


def hostile_state(root):
    """A state directory as nobody should leave it."""
    sessions = root / "agents" / "main" / "sessions"
    sessions.mkdir(parents=True)
    (root / "openclaw.json").write_text("{}")
    head = '{"type":"session","id":"%s","timestamp":"2026-11-20T09:00:00.000Z"}'
    usages = [head % "usages", *(hostile_line(number, usage=usage) for number, (usage, _) in enumerate(USAGES))]
    (sessions / "usages.jsonl").write_bytes("\r\n".join([*usages, ""]).encode())
    times = [head % "times", *(hostile_line(100 + number, at=at) for number, at in enumerate(TIMES))]
    (sessions / "times.jsonl").write_text("\n".join([*times, ""]))
    bom = b"\xef\xbb\xbf" + (head % "bom").encode() + b"\n" + hostile_line(200).encode() + b"\n"
    (sessions / "bom.jsonl").write_bytes(bom)
    names = [
        hostile_line(300, model='"half \\ud83d"'),
        hostile_line(301, model='"nul \\u0000 in it"'),
        hostile_line(302, provider='"a\\"}b\\n\\u202e"'),
        hostile_line(303, model=json.dumps("m" * 10_000)),
        hostile_line(304, model="17", provider="null"),
        hostile_line(305, content="[" * 200 + "]" * 200),
    ]
    encodings = [
        hostile_line(306).encode("utf-16"),
        hostile_line(307, model='"caf\u00e9"').encode("latin-1"),
        b"\0" * 100,
        b"\xff\xfe",
    ]
    lines = [(head % "names").encode(), *(name.encode() for name in names), *encodings]
    (sessions / "names.jsonl").write_bytes(b"\n".join([*lines, b""]))
    # The same file under a second name, a folder and a pipe that are called like transcripts, nothing at all.
    (sessions / "hard.jsonl").hardlink_to(sessions / "usages.jsonl")
    (sessions / "folder.jsonl").mkdir()
    os.mkfifo(sessions / "pipe.jsonl")
    (sessions / "empty.jsonl").touch()
    # Equal ids with another usage, in one file and in another session.
    twice = [head % "twice", hostile_line(0, usage='{"input":2,"output":2,"cost":{"total":5}}', at=TIMES[0])]
    (sessions / "twice.jsonl").write_text("\n".join([*twice, twice[1], hostile_line(1, at=TIMES[0]), ""]))
    # An agent of another name for the same folder, and one whose name is no text.
    (root / "agents" / "again").symlink_to(root / "agents" / "main")
    odd = Path(os.fsdecode(os.fsencode(root / "agents") + b"/od\xffd \xe2\x80\xae"))
    (odd / "sessions").mkdir(parents=True)
    (odd / "sessions" / "o.jsonl").write_text(f"{head % 'o'}\n{hostile_line(400)}\n")


@pytest.mark.req("P-1", "P-3")
async def test_of_a_hostile_state_directory(postgres_dsn, tmp_path):
    hostile_state(tmp_path / "state")
    answer = await agree(tmp_path / "state", postgres_dsn)
    # 9 of `times`, one of `bom`, 7 of `names`, 2 of `twice` (5 and 1 US$), one of the other agent.
    assert answer["calls"] == len(USAGES) + len(TIMES) + 1 + 7 + 2 + 1
    money = Decimal(sum(billionths for _, billionths in USAGES)).scaleb(-9) + len(TIMES) + 1 + 7 + 5 + 1 + 1
    assert answer["cost_usd"]["billed"] == money
    assert answer["rejected"] == {"bad_json": 3, "bad_number": 10, "bad_time": 5}
    assert answer["unpriced_calls"] == 7  # whose cost was refused
    assert answer["duplicates"] == 1  # within a file; the second name of a file is no second file
