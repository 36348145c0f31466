"""The list of right answers, each asked in every layout of the stores."""

from __future__ import annotations

import json
import tarfile
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import zstandard

from exporter.ingest.scan import scan
from tests.archives import extract
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
    transcript,
    user,
    write_archive,
    write_database,
    write_files,
)


def session(session_id, *entries, **more):
    return BuiltSession(session_id, [header(session_id, **more.pop("header", {})), *entries], **more)


def usage(**fields):
    return {"input": 10, "output": 5, "cacheRead": 0, "cacheWrite": 0, "totalTokens": 15, **fields}


UNEXPECTED: Any = ["a text", None, {"type": "toolCall", "name": 7}]

# Name of the mistake that is not made: (sessions, calls, US$, more of the answer).
CASES = {
    "two calls are two": ([session("a", call("1"), call("2"))], 2, 2, {"duplicates": 0}),
    "the same id twice in one file is once": ([session("a", call("1"), call("1"))], 1, 1, {"duplicates": 1}),
    "calls of the same second with equal usage are two": (
        [
            session(
                "a", call("1", timestamp="2026-11-20T12:00:00.100Z"), call("2", timestamp="2026-11-20T12:00:00.200Z")
            )
        ],
        2,
        2,
        {},
    ),
    "short ids repeat between unrelated sessions": (
        [session("a", call("deadbeef")), session("b", call("deadbeef", timestamp="2026-11-20T12:00:00.001Z"))],
        2,
        2,
        {"duplicates": 0},
    ),
    "a short id at the same time with another usage is another call": (
        [session("a", call("deadbeef")), session("b", call("deadbeef", cost=2))],
        2,
        3,
        {"duplicates": 0},
    ),
    "a fork bills its copied prefix once": (
        [
            session("a", call("1"), call("2", timestamp="2026-11-20T12:00:05.000Z")),
            session(
                "b",
                call("1"),
                call("2", timestamp="2026-11-20T12:00:05.000Z"),
                call("3"),
                header={"parentSession": "/x/a.jsonl"},
            ),
        ],
        3,
        3,
        {"duplicates": 2},
    ),
    "equal ids of two agents are two calls": (
        [session("a", call("1")), session("a2", call("1"), agent="other")],
        2,
        2,
        {},
    ),
    "a total of 0 tokens does not drop a cost": (
        [session("a", call("1", usage=usage(totalTokens=0, cost={"total": 1})))],
        1,
        1,
        {"tokens.input": 10},
    ),
    "an absent total drops nothing": (
        [session("a", call("1", usage={"input": 10, "output": 5, "cost": {"total": 1}}))],
        1,
        1,
        {"tokens.input": 10, "tokens.output": 5},
    ),
    "a cost may be a plain number": ([session("a", call("1", usage=usage(cost=0.25)))], 1, "0.25", {}),
    "a reported zero is a real zero": (
        [session("a", call("1", cost=0))],
        1,
        0,
        {"unpriced_calls": 0, "tokens.input": 10},
    ),
    "no cost and no price is unpriced, not $0": (
        [session("a", call("1", usage=usage()))],
        1,
        0,
        {"unpriced_calls": 1, "tokens.input": 10},
    ),
    "nothing used is never unpriced": (
        [session("a", call("1", usage={"input": 0, "output": 0}), call("2", usage={}))],
        2,
        0,
        {"unpriced_calls": 0},
    ),
    "a known model without a cost is priced": (
        [
            session(
                "a",
                call(
                    "1",
                    provider="anthropic",
                    model="claude-sonnet-4-5-20250929",
                    usage={"input": 1000, "output": 100, "cacheRead": 10000, "cacheWrite": 400},
                ),
            )
        ],
        1,
        "0.009",
        {"unpriced_calls": 0},
    ),
    "an hour of cache costs twice the input": (
        [
            session(
                "a",
                call(
                    "1",
                    provider="anthropic",
                    model="claude-sonnet-4-5",
                    usage={
                        "input": 0,
                        "output": 0,
                        "cacheWrite": 3000,
                        "cache_creation": {"ephemeral_5m_input_tokens": 1000, "ephemeral_1h_input_tokens": 2000},
                    },
                ),
            )
        ],
        1,
        "0.01575",
        {},
    ),
    "a negative cost is 0 and flagged": (
        [session("a", call("1", cost=-1))],
        1,
        0,
        {"rejected": {"bad_number": 1}, "tokens.input": 10},
    ),
    "absurd numbers are refused and the row is kept": (
        [
            session(
                "a",
                call("1", usage=usage(input=-5)),
                call("2", usage=usage(output=10**13, cost={"total": 1})),
                call("3", usage=usage(input=True, cost={"total": 1})),
                call("4", usage=usage(input="12", cost={"total": 1})),
                call("5", usage=usage(cost={"total": "free"})),
            )
        ],
        5,
        3,
        {"rejected": {"bad_number": 5}},
    ),
    "not-a-number is refused and the row is kept": (
        [
            session(
                "a",
                json.dumps(call("1", usage=usage(input=float("nan"), cost={"total": 1}))).encode(),
                json.dumps(call("2", usage=usage(cost={"total": float("inf")}))).encode(),
                json.dumps(call("3")).encode().replace(b'"total": 1', b'"total": 1e999'),
                json.dumps(call("4")).encode().replace(b'"input": 10', b'"input": -1e99999999'),
                json.dumps(call("5")).encode().replace(b'"total": 1', b'"total": 1e-99999999'),
            )
        ],
        5,
        2,
        {"rejected": {"bad_number": 4}, "tokens.input": 30},
    ),
    "input that includes cached tokens is not counted twice": (
        [
            session(
                "a",
                call(
                    "1", usage={"input": 100, "output": 10, "cacheRead": 60, "totalTokens": 110, "cost": {"total": 1}}
                ),
                call(
                    "2", usage={"input": 100, "output": 10, "cacheRead": 60, "totalTokens": 170, "cost": {"total": 1}}
                ),
                call("3", usage={"input": 50, "output": 10, "cacheRead": 60, "totalTokens": 60, "cost": {"total": 1}}),
            )
        ],
        3,
        3,
        {"tokens.input": 40 + 100 + 50, "tokens.cache_read": 180},
    ),
    "reasoning is a part of output": (
        [session("a", call("1", usage=usage(reasoningTokens=4, cost={"total": 1})))],
        1,
        1,
        {"tokens.output": 5, "tokens.reasoning": 4},
    ),
    "delivery mirrors are no calls": (
        [
            session(
                "a",
                call("1", provider="openclaw", model="gateway-injected"),
                call("2", provider="delivery-mirror", model="x"),
                call("3", model="delivery-mirror"),
                call("4"),
            )
        ],
        1,
        1,
        {},
    ),
    "failed and aborted turns bill what their usage says": (
        [session("a", call("1", stop="error", cost=0.5), call("2", stop="aborted", cost=0))],
        2,
        "0.5",
        {},
    ),
    "only assistant messages with a usage are calls": (
        [
            session(
                "a",
                user("1"),
                {"type": "custom", "id": "2", "timestamp": "2026-11-20T12:00:00Z", "data": {"usage": {"input": 1}}},
                {**call("3"), "type": "custom_message"},
                {"type": "message", "id": "4", "message": {"role": "assistant", "content": [], "usage": None}},
                call("5"),
            )
        ],
        1,
        1,
        {},
    ),
    "decoys in tool output are not calls": (
        [
            session(
                "a",
                call("1", content=[tool_call("c1", "exec")]),
                tool_result("2", "c1", "exec", text='{"role":"assistant","usage":{"cost":{"total":99}}}\n'),
            )
        ],
        1,
        1,
        {"tools": {"exec": {"calls": 1, "errors": 0, "nonzero_exits": 0}}},
    ),
    "a tool error and an exit status are two things": (
        [
            session(
                "a",
                call("1", content=[tool_call("c1", "exec"), tool_call("c2", "exec"), tool_call("c3", "read")]),
                tool_result("2", "c1", "exec", exit_code=3),
                tool_result("3", "c2", "exec", error=True, exit_code=1),
                tool_result("4", "c3", "read", exit_code=None),
            )
        ],
        1,
        1,
        {
            "tools": {
                "exec": {"calls": 2, "errors": 1, "nonzero_exits": 1},
                "read": {"calls": 1, "errors": 0, "nonzero_exits": 0},
            }
        },
    ),
    "an entry without a time is on the day of its message": (
        [session("a", call("1", timestamp=None))],
        1,
        1,
        {"by_day": ["2026-11-20"], "rejected": {}},
    ),
    "a time that cannot be is flagged and the call counts": (
        [
            session(
                "a",
                call("1", timestamp="2099-01-01T00:00:00Z"),
                call("2", timestamp="1970-01-01T00:00:00Z"),
                call("3", timestamp="yesterday"),
            )
        ],
        3,
        3,
        {"by_day": ["2026-11-20"], "rejected": {"bad_time": 3}},
    ),
    "broken lines cost nothing but themselves": (
        [session("a", b"{broken", call("1"), b"[1, 2]", b'"text"', b"", call("2"))],
        2,
        2,
        {"rejected": {"bad_json": 1, "not_object": 2}},
    ),
    "unexpected shapes do not hide a call": (
        [
            session(
                "a",
                {**call("1"), "details": [1], "data": "text"},
                call("2", content=UNEXPECTED),
                call("3", details=5, __openclaw=[]),
            )
        ],
        3,
        3,
        {"rejected": {}},
    ),
    "half a character in a name is no broken line": (
        [session("a", json.dumps(call("1", model="m\ud83d")).encode())],
        1,
        1,
        {"rejected": {}},
    ),
    "cents add up exactly": (
        [session("a", *(call(str(number), cost=0.1, timestamp=None) for number in range(1000)))],
        1000,
        100,
        {},
    ),
}


# --- what lies beside a session ------------------------------------------------------------------------------


def beside(name):
    """Writes two calls that nobody made into a file with such a name."""

    def write(root, agent):
        content = transcript([header("a"), call("1"), call("no1", cost=9), call("no2", cost=9)])
        (sessions_folder(root, agent) / name).write_bytes(content)

    return write


def archived(*entries, **how):
    def write(root, agent):
        write_archive(root, session("a", *entries, agent=agent), **how)

    return write


def cold(root, agent):
    folder = sessions_folder(root, agent) / "cold"
    folder.mkdir()
    content = transcript([header("a"), call("1"), call("2", cost=2)])
    (folder / f"{'c0' * 32}.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(content))


def running_counters(root, agent):
    index = {"sessionId": "a", "totalTokens": 10**6, "estimatedCostUsd": 99}
    (sessions_folder(root, agent) / "sessions.json").write_text(json.dumps({f"agent:{agent}:main": index}))


LIVE = (call("1"), call("2", cost=2))
# Name of the mistake that is not made: (what is written beside the session, calls, US$, sessions).
BESIDE = {
    "a checkpoint copy is no session": (beside("a.checkpoint.d8a59938-2c37-42cb-af78-7b7870c8aecb.jsonl"), 2, 3, 1),
    "a trajectory is no transcript": (beside("a.trajectory.jsonl"), 2, 3, 1),
    "a path of a trajectory is no transcript": (beside("a.trajectory-path.json"), 2, 3, 1),
    "a backup is no session": (beside("a.jsonl.bak-27799-1795224301593"), 2, 3, 1),
    "a file in the making is no session": (beside("a.jsonl.123.tmp"), 2, 3, 1),
    "an active and a deleted copy cost once": (archived(*LIVE), 2, 3, 1),
    "an active and a compressed copy cost once": (archived(*LIVE, compressed=True), 2, 3, 1),
    "a cold copy costs once": (cold, 2, 3, 1),
    "a reset archive of five and two that live are seven": (
        archived(*(call(f"old{number}") for number in range(5)), reason="reset"),
        7,
        8,
        1,
    ),
    "running counters of the index are no money": (running_counters, 2, 3, 1),
}


@pytest.mark.req("P-1", "P-2")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", BESIDE)
def test_right_answer_whatever_lies_beside_a_session(tmp_path, name, layout):
    write, calls, cost, number = BESIDE[name]
    build(tmp_path, [session("a", *LIVE)], layout)
    write(tmp_path, "main")
    answer = scan(tmp_path).as_json()
    assert (answer["calls"], answer["cost_usd"]["billed"], answer["sessions"]) == (calls, cost, number)
    assert answer["rejected"] == {}


def ask(answer, question):
    for name in question.split("."):
        answer = answer[name]
    return answer


def blank_row_less(sessions, layout):
    """A store of rows has no blank lines."""
    if "sqlite" in layout or layout == "half_migrated":
        for built in sessions:
            built.lines = [line for line in built.lines if line != b""]
    return sessions


@pytest.mark.req("P-1")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CASES)
def test_right_answer_in_every_layout(tmp_path, name, layout):
    sessions, calls, cost, more = CASES[name]
    copies = [BuiltSession(s.session_id, list(s.lines), s.agent) for s in sessions]
    result = scan(build(tmp_path, blank_row_less(copies, layout), layout))
    answer = result.as_json()
    assert result.problems == []
    assert answer["calls"] == calls
    assert answer["cost_usd"]["billed"] == Decimal(cost)
    for question, right in more.items():
        found = ask(answer, question)
        if question == "by_day":
            found = list(found)
        if question == "duplicates" and layout == "half_migrated":
            assert found >= right  # what lies in both stores is met twice
        elif question == "rejected" and layout == "half_migrated":
            assert found.keys() == right.keys()
        else:
            assert found == right, question


@pytest.mark.parametrize("layout", LAYOUTS)
def test_days_are_days_of_one_zone_over_summer_time(tmp_path, layout):
    times = ["2026-03-28T23:30:00Z", "2026-03-29T21:59:59Z", "2026-03-29T22:00:00Z", "2026-10-25T22:59:59Z"]
    built = session("a", *(call(str(number), timestamp=time) for number, time in enumerate(times)))
    answer = scan(build(tmp_path, [built], layout), zone=ZoneInfo("Europe/Berlin")).as_json()
    assert {day: group["calls"] for day, group in answer["by_day"].items()} == {
        "2026-03-29": 2,
        "2026-03-30": 1,
        "2026-10-25": 1,
    }


@pytest.mark.req("P-2")
def test_copies_of_a_session_cost_once(tmp_path):
    live = session("a", call("1"), call("2", cost=2))
    write_files(tmp_path, [live])
    write_archive(tmp_path, live)
    write_archive(tmp_path, live, reason="reset", compressed=True)
    folder = sessions_folder(tmp_path)
    content = transcript(live.lines)
    for sidecar in (
        "a.trajectory.jsonl",
        "a.checkpoint.d8a59938-2c37-42cb-af78-7b7870c8aecb.jsonl",
        "a.jsonl.bak-27799-1795224301593",
        "a.jsonl.bak",
        "a.bak.jsonl",
        "a.jsonl.lock",
        "a.jsonl.123.tmp",
        "a.trajectory.jsonl.deleted.2026-11-21T01-26-03.604Z",
        "a.trajectory-path.json",
    ):
        (folder / sidecar).write_bytes(content.replace(b'"id":"', b'"id":"x'))
    answer = scan(tmp_path).as_json()
    assert answer["cost_usd"]["billed"] == 3
    assert answer["calls"] == 2
    assert answer["duplicates"] == 4
    assert answer["sessions"] == 1
    assert answer["sources"]["jsonl"]["files"] == 1
    assert answer["sources"]["archive"]["files"] == 2
    assert answer["sources"]["archive"]["entries"] == 6


def test_a_reset_archive_and_the_live_session_add_up(tmp_path):
    write_archive(tmp_path, session("a", *(call(f"old{n}") for n in range(5))), reason="reset")
    write_files(tmp_path, [session("a", call("new1"), call("new2"))])
    answer = scan(tmp_path).as_json()
    assert (answer["calls"], answer["sessions"]) == (7, 1)


def test_the_id_of_an_archive_ends_at_the_last_reason(tmp_path):
    name = "a.jsonl.reset.b.jsonl.deleted.2026-11-21T01-26-03.604Z"
    (sessions_folder(tmp_path) / name).write_bytes(transcript([call("1")]))
    (sessions_folder(tmp_path) / "a.jsonl").write_bytes(transcript([call("2")]))
    result = scan(tmp_path)
    assert result.sessions == {"a", "a.jsonl.reset.b"}


def test_entries_that_only_the_files_have_are_kept_beside_the_database(tmp_path):
    write_database(tmp_path, [session("a", call("1"))])
    write_files(tmp_path, [session("a", call("1"), call("2", cost=5))])
    answer = scan(tmp_path).as_json()
    assert (answer["calls"], answer["cost_usd"]["billed"], answer["duplicates"]) == (2, 6, 1)


def test_the_database_wins_where_a_files_entry_says_something_else(tmp_path):
    write_database(tmp_path, [session("a", call("1", cost=2), call("3"))])
    write_files(tmp_path, [session("a", call("1", cost=9), call("2", cost=4)), session("b", call("1", cost=8))])
    write_archive(tmp_path, session("a", call("3", cost=7)), compressed=True)
    answer = scan(tmp_path).as_json()
    assert (answer["calls"], answer["cost_usd"]["billed"], answer["duplicates"]) == (4, 2 + 1 + 4 + 8, 2)


def test_a_fork_is_counted_for_its_parent(tmp_path):
    copied = [call("1"), call("2", timestamp="2026-11-20T12:00:05.000Z")]
    parent = session("z-parent", *copied, key="agent:main:telegram:group:7")
    fork = session("a-fork", *copied, call("3"), header={"parentSession": "z"}, key="agent:main:dashboard:fork")
    for layout in ("jsonl", "sqlite"):
        answer = scan(build(tmp_path / layout, [parent, fork], layout)).as_json()
        assert {kind: group["calls"] for kind, group in answer["by_kind"].items()} == {"group": 2, "dashboard": 1}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_hundred_files_of_five_hundred_calls_are_a_hundred_thousand_calls(tmp_path, layout):
    """Calls are counted by entry, never by file."""
    line = encode(call("@id", cost=0.001))
    sessions = [
        BuiltSession(f"s{n}", [header(f"s{n}"), *(line.replace(b"@id", b"%04x%04x" % (n, m)) for m in range(500))])
        for n in range(200)
    ]
    answer = scan(build(tmp_path, sessions, layout)).as_json()
    assert (answer["calls"], answer["sessions"], answer["cost_usd"]["billed"]) == (100_000, 200, 100)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_worker_processes_give_the_answer_of_one(tmp_path, layout):
    shared = [call(f"shared{n}", timestamp=f"2026-11-20T12:{n:02}:00Z") for n in range(20)]
    sessions = [
        session(
            f"s{n:02}",
            *shared[: n % 20],
            *(call(f"own{n}-{m}", content=[tool_call("c", "exec")]) for m in range(3)),
            tool_result(f"result{n % 7}", "c", "exec", error=True),
            b"{broken",
            call(f"bad{n}", cost=-1),
            header={"parentSession": "x"} if n else {},
            agent=f"agent{n % 2}",
            key=f"agent:agent{n % 2}:dashboard:{n}",
        )
        for n in range(30)
    ]
    state = build(tmp_path, sessions, layout)
    alone = scan(state, workers=1)
    together = scan(state, workers=3)
    assert together.as_json() == alone.as_json()
    assert alone.duplicates > 100
    assert together.problems == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_torn_last_line_counts_once_it_is_whole(tmp_path, layout):
    """Beside what was migrated or archived, a session is still written as a file."""
    build(tmp_path, [session("a"), session("b", header={"id": "b"})], layout)
    path = sessions_folder(tmp_path) / "live.jsonl"
    path.write_bytes(transcript([header("live"), call("1")]))
    line = transcript([call("2", cost=7)])
    whole = path.read_bytes()
    for cut in (1, 40, len(line) - 1):
        path.write_bytes(whole + line[:cut])
        answer = scan(tmp_path).as_json()
        assert (answer["calls"], answer["rejected"]) == (1, {})
    path.write_bytes(whole + line)
    assert scan(tmp_path).as_json()["cost_usd"]["billed"] == 8


def test_entries_without_an_id_are_known_by_their_bytes(tmp_path):
    one, two = call("x"), call("y", cost=2)
    for entry in (one, two):
        del entry["id"]
    write_files(tmp_path, [session("a", one, two)])
    write_archive(tmp_path, session("a", one, two))
    answer = scan(tmp_path).as_json()
    assert (answer["calls"], answer["cost_usd"]["billed"], answer["duplicates"]) == (2, 3, 2)


@pytest.mark.req("P-1", "S1-2")
@pytest.mark.parametrize("version", ["2026.4.27", "2026.9.6"])
def test_recorded_gateways_give_the_true_totals(tmp_path, version):
    with tarfile.open(SAMPLES / f"state-{version}.tar.gz") as archive:
        extract(archive, tmp_path)
    state = tmp_path / ".openclaw"
    before = sorted(path for path in state.rglob("*"))
    result = scan(state)
    answer = result.as_json()
    truth = json.loads((SAMPLES / f"truth-{version}.json").read_text(), parse_float=Decimal)
    assert result.problems == []
    assert_group(answer, truth["total"], answer["cost_usd"]["billed"])
    assert answer["cost_usd"]["equivalent"] == 0
    for ours, theirs in (("by_model", "by_model"), ("by_agent", "by_agent"), ("by_kind", "by_session_kind")):
        assert answer[ours].keys() == truth[theirs].keys()
        for name, group in answer[ours].items():
            assert_group(group, truth[theirs][name], group["cost_usd"])
    tools = {name: {"calls": tool["calls"], "errors": tool["errors"]} for name, tool in answer["tools"].items()}
    assert tools == truth["tools"]
    assert answer["nested_tools"] == truth["nested_tools"]
    assert answer["duplicates"] == truth["duplicates_removed"]
    live = sum(truth["sessions"]["live_with_transcript_by_kind"].values())
    assert answer["sessions"] == live + truth["sessions"]["only_in_archives"]
    assert sum(source["entries"] for source in answer["sources"].values()) == sum(truth["entries"].values())
    stops = truth["calls_by_stop_reason"]
    assert result.outcomes["error"] == stops["error"]
    assert result.outcomes["aborted"] == stops.get("aborted", 0)
    assert result.outcomes["ok"] == stops["stop"] + stops["toolUse"]
    assert sorted(path for path in state.rglob("*")) == before, "a scan writes nothing"


def assert_group(ours, theirs, cost):
    assert ours["calls"] == theirs["calls"]
    assert round(cost, 8) == theirs["cost_usd"], "the gateway writes floating point numbers, the truth has 8 decimals"
    for name, key in (
        ("input", "input"),
        ("output", "output"),
        ("cache_read", "cacheRead"),
        ("cache_write", "cacheWrite"),
    ):
        assert ours["tokens"][name] == theirs[f"{key}_tokens"]
    assert ours["tokens"]["reasoning"] == theirs["reasoning_tokens"]


def test_prices_of_the_gateway_come_before_the_table(tmp_path):
    state = build(
        tmp_path, [session("a", call("1", provider="anthropic", model="claude-sonnet-4-5", usage=usage()))], "jsonl"
    )
    (state / "openclaw.json").write_text(
        json.dumps(
            {
                "models": {
                    "providers": {
                        "anthropic": {"models": [{"id": "claude-sonnet-4-5", "cost": {"input": 1, "output": 2}}]}
                    }
                }
            }
        )
    )
    assert scan(state).as_json()["cost_usd"]["billed"] == Decimal("0.00002")


@pytest.mark.req("P-20")
def test_subscription_money_is_kept_apart(tmp_path):
    entries = [call("1", provider="anthropic"), call("2", provider="openai", cost=2)]
    state = build(tmp_path, [session("a", *entries)], "jsonl")
    (state / "openclaw.json").write_text(
        '{"auth": {"profiles": {"anthropic:me": {"provider": "anthropic", "mode": "oauth"}}}}'
    )
    answer = scan(state).as_json()
    assert answer["cost_usd"] == {"billed": 2, "equivalent": 1}
    assert answer["by_model"]["anthropic/fake-1"]["cost_usd"] == 0
