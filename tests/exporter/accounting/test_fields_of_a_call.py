"""Usage, time, price, billing and attribution of single calls, and the counters that they raise."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.accounting import Accountant, BillingPolicy, PriceBook, PricesError, increments, instants, price_book
from exporter.accounting.prices import load_prices, table
from exporter.accounting.tool_errors import error_class
from exporter.accounting.usage import read_usage, written
from lobservatory.metrics.catalogue import CATALOGUE
from lobservatory.settings import Billing
from openclaw.state_dir import ModelPrice
from openclaw.stores import Details, Stores
from tests.openclaw.state_builder import BuiltSession, build, call, encode, header, tool_call, tool_result

NOW = int(datetime(2026, 11, 21, tzinfo=UTC).timestamp() * 1000)
WRITTEN = NOW - 1000


def ms(text):
    return int(datetime.fromisoformat(text).timestamp() * 1000)


numbers = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**14), 10**14),
    st.decimals(allow_nan=False),
    st.sampled_from([Decimal("NaN"), Decimal("1E+9999999"), Decimal("-1E+9999999"), Decimal("1E-9999999")]),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.integers(), max_size=1),
)


@given(
    st.dictionaries(
        st.sampled_from(
            ["input", "output", "cacheRead", "cacheWrite", "reasoningTokens", "totalTokens", "cacheWrite1h"]
        ),
        numbers,
    ),
    st.one_of(numbers, st.fixed_dictionaries({"total": numbers})),
)
def test_any_usage_is_read_without_a_wrong_number(fields, cost):
    usage = read_usage({**fields, "cost": cost})
    for value in (usage.input, usage.output, usage.cache_read, usage.cache_write, usage.reasoning):
        assert type(value) is int
        assert 0 <= value <= 10**12
    assert usage.cache_write_1h + usage.cache_write_5m <= usage.cache_write
    assert usage.cost is None or 0 <= usage.cost <= 10**12
    assert isinstance(written({**fields, "cost": cost}), str)


def test_equal_numbers_are_equal_however_they_are_written():
    one = {"input": 3, "output": Decimal("5.0"), "cost": {"total": Decimal("1E+1")}}
    other = {"input": Decimal(3), "output": 5, "cost": 10}
    assert written(one) == written(other)
    assert written(one) != written({**one, "totalTokens": 8})


@pytest.mark.parametrize(
    ("entry_time", "message_time", "expected", "flag", "bad"),
    [
        ("2026-11-20T12:00:00.123Z", None, "2026-11-20T12:00:00.123Z", None, False),
        ("2026-11-20T13:00:00+01:00", None, "2026-11-20T12:00:00Z", None, False),
        ("2026-11-20T12:00:00", None, "2026-11-20T12:00:00Z", None, False),
        (ms("2026-11-20T12:00:00Z"), None, "2026-11-20T12:00:00Z", None, False),
        (None, ms("2026-11-20T12:00:00Z"), "2026-11-20T12:00:00Z", "message", False),
        ("", ms("2026-11-20T12:00:00Z"), "2026-11-20T12:00:00Z", "message", False),
        (None, None, WRITTEN, "file", False),
        ("2026-11-21T23:00:00Z", None, "2026-11-21T23:00:00Z", None, False),
        ("2026-11-23T00:00:00Z", ms("2026-11-20T12:00:00Z"), "2026-11-20T12:00:00Z", "future", True),
        ("2019-12-31T23:59:59Z", None, WRITTEN, "past", True),
        (0, None, WRITTEN, "past", True),
        ("soon", ms("2026-11-20T12:00:00Z"), "2026-11-20T12:00:00Z", "message", True),
        ("soon", None, WRITTEN, "file", True),
        (None, 5, WRITTEN, "past", True),
        (True, None, WRITTEN, "file", True),
        (10**30, None, WRITTEN, "file", True),
    ],
)
def test_the_time_of_an_entry(entry_time, message_time, expected, flag, bad):
    chosen = instants.choose(entry_time, message_time, written_ms=WRITTEN, now_ms=NOW)
    assert chosen == (expected if isinstance(expected, int) else ms(expected), flag, bad)


def test_a_file_from_the_future_gives_the_present():
    assert instants.choose(None, None, written_ms=NOW * 2, now_ms=NOW).ms == NOW


@given(
    st.one_of(
        st.text(),
        st.integers(),
        st.floats(),
        st.decimals(allow_nan=False),
        st.just(Decimal("1E+9999999")),
        st.none(),
        st.booleans(),
    )
)
def test_any_time_is_chosen_within_reason(value):
    chosen = instants.choose(value, value, written_ms=WRITTEN, now_ms=NOW)
    assert ms("2020-01-01T00:00:00Z") <= chosen.ms <= NOW + 86_400_000
    assert instants.raw(value, value) is not None


def test_identity_uses_the_written_time_to_the_millisecond():
    assert instants.raw("2026-11-20T12:00:00.5Z", None) == instants.raw("2026-11-20T12:00:00.500Z", 7)
    assert instants.raw("2026-11-20T12:00:00.500Z", None) != instants.raw("2026-11-20T12:00:00.501Z", None)
    assert instants.raw("soon", None) == "soon"


# --- prices ---------------------------------------------------------------------------------------------------


def test_every_row_of_the_table_is_dated_and_sourced():
    prices = table()
    assert len(prices) > 20
    for (provider, model), price in prices.items():
        assert "@20" in price.version, (provider, model)
        assert price.input is not None
        assert price.output is not None


def test_own_prices_win_over_the_gateways_and_those_over_the_table(tmp_path):
    usage = read_usage({"input": 1_000_000})
    name = ("anthropic", "claude-sonnet-4-5")
    configured = [ModelPrice(*name, Decimal(7), None, None, None)]
    own = tmp_path / "prices.toml"
    own.write_text(
        '[[price]]\nproviders = ["anthropic"]\nmodels = ["claude-sonnet-4-5"]\ninput = 9\n'
        'source = "contract"\ndate = 2026-01-01\n'
    )
    found = [
        price_book().price(*name),
        price_book(configured).price(*name),
        price_book(configured, own).price(*name),
    ]
    assert [price.cost(usage) for price in found] == [3, 7, 9]
    assert found[2].version == "contract@2026-01-01"
    assert found[1].version.startswith("openclaw.json:")


def test_a_class_without_a_price_makes_the_call_unpriced():
    price = price_book([ModelPrice("p", "m", Decimal(1), Decimal(2), None, None)]).price("p", "m")
    assert price.cost(read_usage({"input": 10, "output": 10})) == Decimal("0.00003")
    assert price.cost(read_usage({"input": 10, "cacheRead": 1})) is None


@pytest.mark.req("S0-6")
@given(
    st.lists(st.integers(0, 10**9), min_size=4, max_size=4),
    st.lists(st.decimals(0, 10_000, places=6), min_size=4, max_size=4),
)
def test_each_class_of_tokens_has_a_price_of_its_own_also_from_a_users_file(tokens, prices):
    classes = ("input", "output", "cache_read", "cache_write")
    lines = "\n".join(f"{name} = {price:f}" for name, price in zip(classes, prices, strict=True))
    own = load_prices(
        f'[[price]]\nproviders = ["p", "q"]\nmodels = ["m"]\nsource = "s"\ndate = 2026-01-01\n{lines}'.encode(), "own"
    )
    usage = read_usage(dict(zip(("input", "output", "cacheRead", "cacheWrite"), tokens, strict=True)))
    for provider in ("p", "q"):
        price = PriceBook(own).price(provider, "m")
        assert price is not None
        assert price.version == "s@2026-01-01"
        counted = (usage.input, usage.output, usage.cache_read, usage.cache_write)
        exact = sum(Fraction(number) * Fraction(one) for number, one in zip(counted, prices, strict=True)) / 10**6
        assert Fraction(price.cost(usage)) == exact


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("price = 5", "written as [[price]]"),
        ("[[price]\n", "not valid TOML"),
        ('[[price]]\nproviders = ["a"]\nmodels = ["b"]\ninput = -1\nsource = "s"\ndate = 2026-01-01', "input must be"),
        *(
            (
                f'[[price]]\nproviders = ["a"]\nmodels = ["b"]\noutput = {wrong}\nsource = "s"\ndate = 2026-01-01',
                "output must be",
            )
            for wrong in ("nan", "inf", "-inf", "true", '"1"', "1e7", "1e-40", "1e9999999", "[1]")
        ),
        ('[[price]]\nproviders = ["a"]\nmodels = ["b"]\ninput = 1', "source and date are missing"),
        ('[[price]]\nproviders = "a"\nmodels = ["b"]\nsource = "s"\ndate = 2026-01-01', "providers must be a list"),
        ('[[price]]\nprovider = "a"', "unknown key 'provider'"),
    ],
)
def test_a_wrong_file_of_prices_is_named_with_its_place(text, problem):
    with pytest.raises(PricesError) as caught:
        load_prices(text.encode(), "mine.toml")
    assert "mine.toml" in str(caught.value)
    assert problem in str(caught.value)


def test_a_missing_file_of_prices_is_an_error(tmp_path):
    with pytest.raises(PricesError, match=r"LOBS_PRICES_FILE: .*nothing\.toml cannot be read: No such file"):
        price_book((), tmp_path / "nothing.toml")


# --- billing --------------------------------------------------------------------------------------------------


@pytest.mark.req("P-20")
def test_who_pays_a_provider():
    policy = BillingPolicy(Billing(equivalent=("a",), billed=("b",)), {"b", "c"})
    assert [policy.mode(provider) for provider in "abcd"] == ["equivalent", "billed", "equivalent", "billed"]
    assert policy.explain("b")[1] == "[billing] billed in lobservatory.toml"
    assert policy.explain("c")[1] == "its profile at the gateway is a subscription"


# --- rows and counters ----------------------------------------------------------------------------------------


def facts_of(tmp_path, *entries, key="agent:main:subagent:u", billing=None):
    built = BuiltSession("s", [header("s"), *entries], key=key, index={"spawnedBy": "agent:main:main"})
    stores = Stores(build(tmp_path, [built], "jsonl"))
    (source,) = stores.discover().sources
    accountant = Accountant("g", PriceBook(), billing or BillingPolicy(), now=lambda: NOW / 1000)
    return accountant.facts(stores.read(source, None), stores.sessions())


def test_a_row_says_whose_call_it_was_and_how_long_it_took(tmp_path):
    entry = call(
        "1",
        stop="error",
        errorCode="429",
        __openclaw={"runId": "run-1"},
        timestamp="2026-11-20T12:00:02.500Z",
        usage={"input": 1, "output": 2, "cacheRead": 3, "cacheWrite": 4, "reasoningTokens": 2, "cost": {"total": 1}},
    )
    entry["message"]["timestamp"] = ms("2026-11-20T12:00:00Z")
    (row,) = facts_of(tmp_path, entry).calls
    assert (row.agent, row.session_id, row.kind) == ("main", "s", "subagent")
    assert (row.session_key, row.parent_session_key) == ("agent:main:subagent:u", "agent:main:main")
    assert (row.outcome, row.error_code, row.run_id, row.duration_ms) == ("error", "429", "run-1", 2500)
    assert row.ts == datetime(2026, 11, 20, 12, 0, 2, 500_000, tzinfo=UTC)
    assert (row.input_tokens, row.output_tokens, row.cache_read_tokens, row.cache_write_tokens) == (1, 2, 3, 4)
    assert (row.reasoning_tokens, row.cost_usd, row.cost_basis, row.billing) == (2, 1, "reported", "billed")


def test_tool_rows_and_session_events(tmp_path):
    nested = {
        "type": "custom",
        "customType": "openclaw.nested-tool.v1",
        "id": "n",
        "timestamp": "2026-11-20T12:00:00Z",
        "data": {"toolName": "sessions_spawn", "isError": False, "childSessionKey": "agent:main:subagent:x"},
    }
    facts = facts_of(
        tmp_path,
        call("1", content=[tool_call("c1", "exec"), tool_call("c2", "read")]),
        tool_result("2", "c1", "exec", exit_code=3),
        nested,
        {"type": "compaction", "id": "c", "timestamp": "2026-11-20T12:00:00Z", "tokensBefore": 9, "summary": "secret"},
        {"type": "reset", "id": "r", "timestamp": "2026-11-20T12:00:00Z", "reason": "reset"},
        {"type": "model_change", "id": "m", "timestamp": "2026-11-20T12:00:00Z", "provider": "p", "modelId": "x"},
        {
            "type": "custom_message",
            "customType": "run-failed-before-reply",
            "id": "f",
            "timestamp": "2026-11-20T12:00:00Z",
            "content": "secret",
            "details": {"runId": "r1", "error": "secret"},
        },
    )
    assert [(row.position, row.call_id, row.tool) for row in facts.tool_calls] == [(0, "c1", "exec"), (1, "c2", "read")]
    (result,) = facts.tool_results
    assert (result.outcome, result.exit_code, result.duration_ms) == ("nonzero_exit", 3, 44)
    assert result.output_bytes > 100
    assert {event.event: dict(event.detail) for event in facts.events} == {
        "nested_tool": {"tool": "sessions_spawn", "is_error": False, "child_session_key": "agent:main:subagent:x"},
        "compaction": {"tokens_before": 9},
        "reset": {"reason": "reset"},
        "model_change": {"provider": "p", "model": "x"},
        "run_failed": {"run_id": "r1"},
    }
    assert "secret" not in repr(facts)
    (row,) = facts.sessions
    assert (row.kind, row.started_at) == ("subagent", datetime(2026, 11, 20, 10, tzinfo=UTC))


WRAPPED = [  # arguments of `tool_call` → what was asked for
    ({"id": "sessions_spawn", "args": {"task": "x", "id": "not this"}}, "sessions_spawn"),
    ({"id": "openclaw:core:sessions_spawn"}, "sessions_spawn"),
    ({"toolId": " browser "}, "browser"),
    ({"name": "mcp:files:read_file"}, "read_file"),
    ({"args": {"id": "cron", "action": "list"}}, "cron"),
    ({"input": {"name": "cron"}}, "cron"),
    ({"id": None, "args": {}}, "tool_call"),
    ({"id": 7}, "tool_call"),
    ({}, "tool_call"),
    ("sessions_spawn", "tool_call"),
    (None, "tool_call"),
]


@pytest.mark.parametrize(("arguments", "tool"), WRAPPED)
def test_a_call_through_another_tool_is_of_the_tool_that_was_asked_for(tmp_path, arguments, tool):
    part = {**tool_call("c1", "tool_call"), "arguments": arguments}
    facts = facts_of(tmp_path, call("1", content=[part, tool_call("c2", "exec", {"id": "x"})]))
    assert [row.tool for row in facts.tool_calls] == [tool, "exec"], "only `tool_call` is another's cloak"
    assert facts.tool_calls[0].through == (None if tool == "tool_call" else "tool_call")
    assert count(facts)["claw_tool_calls_started_total", ("g", "main", tool)] == 1


def wrapped_result(entry_id, call_id, *, tool=None, error=False):
    """A result of `tool_call`: which tool it was stands in the details of one that did not fail."""
    result = tool_result(entry_id, call_id, "tool_call", error=error)
    details = {"tool": {"id": f"openclaw:core:{tool}", "name": tool}, "result": {}} if tool else {"tool": "tool_call"}
    result["message"]["details"] = details
    return result


def test_a_result_of_a_call_through_another_tool_is_of_that_tool_also_when_it_failed(tmp_path):
    asked = [tool_call(f"c{n}", "tool_call", {"id": name}) for n, name in enumerate(["browser", "cron", "browser"])]
    nested = {"toolName": "image", "toolCallId": "tool_search_code:c9:image:1", "parentToolCallId": "c9"}
    facts = facts_of(
        tmp_path,
        call("1", content=asked),
        wrapped_result("2", "c0", tool="browser"),
        wrapped_result("3", "c1", error=True),
        wrapped_result("4", "c2", error=True),
        wrapped_result("5", "unseen", tool="message"),
        {"type": "custom", "customType": "openclaw.nested-tool.v1", "id": "n", "data": nested},
        wrapped_result("6", "c9", error=True),
        wrapped_result("7", "nobody knows", error=True),
        tool_result("8", "c1", "exec"),
    )
    assert [(row.tool, row.outcome) for row in facts.tool_results] == [
        ("browser", "ok"),
        ("cron", "error"),
        ("browser", "error"),
        ("message", "ok"),
        ("image", "error"),
        ("tool_call", "error"),
        ("exec", "ok"),
    ]
    assert count(facts)["claw_tool_calls_total", ("g", "main", "browser", "error")] == 1


def test_a_failure_that_is_read_later_than_its_call_is_of_the_same_tool(tmp_path):
    first = encode(header("s")) + b"\n" + encode(call("1", content=[tool_call("c1", "tool_call", {"id": "cron"})]))
    state = build(tmp_path, [BuiltSession("s", [header("s"), call("1", content=[])])], "jsonl")
    path = next(state.rglob("s.jsonl"))
    path.write_bytes(first + b"\n")
    accountant = Accountant("g", PriceBook(), BillingPolicy(), now=lambda: NOW / 1000)
    with contextlib.closing(Stores(state)) as stores:
        (source,) = stores.discover().sources
        chunk = stores.read(source, None)
        accountant.facts(chunk, stores.sessions())
        with path.open("ab") as file:
            file.write(encode(wrapped_result("2", "c1", error=True)) + b"\n")
        (source,) = stores.discover().sources
        facts = accountant.facts(stores.read(source, chunk.position), stores.sessions())
    assert [(row.tool, row.outcome) for row in facts.tool_results] == [("cron", "error")]


def test_only_so_many_calls_through_another_tool_are_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr("exporter.accounting.accountant.MOST_WRAPPED", 2)
    asked = [tool_call(f"c{n}", "tool_call", {"id": f"t{n}"}) for n in range(3)]
    facts = facts_of(
        tmp_path, call("1", content=asked), *(wrapped_result(f"r{n}", f"c{n}", error=True) for n in range(3))
    )
    assert [row.tool for row in facts.tool_results] == ["tool_call", "t1", "t2"]


def count(facts, **answers):
    given = {
        "new_calls": [True] * len(facts.calls),
        "new_tool_calls": [True] * len(facts.tool_calls),
        "new_results": [True] * len(facts.tool_results),
        "new_events": [True] * len(facts.events),
        **answers,
    }
    rejects = len(facts.rejects(given["new_calls"]))
    return increments(facts, **{"new_rejects": [True] * rejects, **given})


def test_counters_of_new_rows_only_under_the_names_of_the_catalogue(tmp_path):
    facts = facts_of(
        tmp_path,
        call("1", cost=0.25, content=[tool_call("c1", "exec")]),
        call("2", cost=-1, provider="p2"),
        call("3", cost=0.5, provider="sub"),
        tool_result("4", "c1", "exec", error=True),
        {"type": "compaction", "id": "c", "timestamp": "2026-11-20T12:00:00Z"},
        b"{broken",
        billing=BillingPolicy(Billing(equivalent=("sub",), billed=())),
    )
    totals = count(facts)
    labels = ("g", "main", "fake", "fake-1", "subagent")
    assert totals["claw_model_calls_total", (*labels, "ok")] == 1
    assert totals["claw_tokens_total", (*labels, "input")] == 10
    assert totals["claw_tokens_total", (*labels, "output")] == 5
    assert totals["claw_cost_usd_total", labels] == Decimal("0.25")
    assert totals["claw_equivalent_cost_usd_total", ("g", "main", "sub", "fake-1", "subagent")] == Decimal("0.5")
    assert totals["claw_unpriced_tokens_total", ("g", "p2", "fake-1")] == 15
    assert totals["claw_unpriced_calls_total", ("g", "p2", "fake-1")] == 1
    assert totals["claw_tool_calls_started_total", ("g", "main", "exec")] == 1
    assert totals["claw_tool_calls_total", ("g", "main", "exec", "error")] == 1
    assert totals["claw_compactions_total", ("g", "main")] == 1
    assert totals["claw_rejected_entries_total", ("g", "jsonl", "bad_json")] == 1
    assert totals["claw_rejected_entries_total", ("g", "jsonl", "bad_number")] == 1
    assert totals["claw_source_entries_total", ("g", "jsonl")] == 6
    for metric, values in totals:
        assert CATALOGUE[metric].accounting
        assert len(values) == len(CATALOGUE[metric].labels)
    again = count(
        facts,
        new_calls=[False] * 3,
        new_tool_calls=[False],
        new_results=[False],
        new_events=[False],
        new_rejects=[False],
    )
    assert {name for name, _ in again} == {
        "claw_duplicate_entries_total",
        "claw_source_entries_total",
        "claw_source_bytes_total",
    }
    assert again["claw_duplicate_entries_total", ("g", "jsonl")] == 3


@pytest.mark.parametrize(
    ("outcome", "details", "expected"),
    [
        ("ok", None, None),
        ("ok", {"status": "completed", "exitCode": 0, "timedOut": False}, None),
        ("error", None, "other"),
        ("error", {"status": "error", "error": "File not found: /secret.txt."}, "not_found"),
        ("ok", {"status": "error", "error": "EACCES: permission denied"}, "denied"),  # as 2026.4.27 writes it
        ("error", {"status": "error", "error": "path is required"}, "invalid"),
        ("error", {"status": "error", "error": {"odd": 1}}, "other"),
        ("error", {"status": "failed", "exitCode": None, "timedOut": False}, "not_run"),  # a person said no
        ("error", {"status": "failed", "exitCode": None, "timedOut": True}, "timeout"),
        ("nonzero_exit", {"status": "completed", "exitCode": 3}, "exit_status"),
        ("nonzero_exit", {"exitCode": 137, "exitSignal": "SIGKILL"}, "signal"),
        ("nonzero_exit", {"exitCode": 124, "noOutputTimedOut": True}, "timeout"),
        ("error", {"exitCode": 2}, "exit_status"),
    ],
)
def test_the_kind_of_a_tools_failure_without_its_text(outcome, details, expected):
    assert error_class(outcome, None if details is None else Details(**details)) == expected
