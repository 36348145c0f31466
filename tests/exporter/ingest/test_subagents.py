"""Whose work was it? Sub-agents to any depth, asked in files and in databases, before and after they are pruned."""

from __future__ import annotations

import json
import shutil
from decimal import Decimal

import psycopg
import pytest

from store.ledger.postgres import PostgresLedger
from tests.openclaw.state_builder import (
    BuiltSession,
    build,
    call,
    connect,
    header,
    sessions_folder,
    tool_call,
    tool_result,
)

DEPTH = 6
ROOT = "agent:main:telegram:direct:7"


def key(level):
    return f"agent:main:subagent:{level}" if level else ROOT


def spawn(level, *, nested):
    """What a session's transcript tells of the child that it started: a tool result, or a nested tool call."""
    child = {"childSessionKey": key(level + 1), "runId": f"run{level}", "status": "accepted"}
    if nested:
        details = {"toolName": "sessions_spawn", "toolCallId": f"t{level}", "result": {"content": [], "details": child}}
        entry = {"type": "custom", "customType": "openclaw.nested-tool.v1", "id": f"spawn{level}", "data": details}
        return [{**entry, "timestamp": "2026-11-20T12:00:02.000Z"}]
    result = tool_result(f"spawn{level}", f"c{level}", "sessions_spawn")
    result["message"]["details"] = child
    return [call(f"ask{level}", cost=0, content=[tool_call(f"c{level}", "sessions_spawn")]), result]


def family(*, nested=False, parents_told=False):
    """A conversation whose agent started one that started one …; each level costs twice as much as the one above."""
    sessions = []
    for level in range(DEPTH + 1):
        entries = [header(f"s{level}"), call(f"own{level}", cost=2**level)]
        if level < DEPTH:
            entries += spawn(level, nested=nested)
        told = {"spawnedBy": key(level - 1)} if parents_told and level else {}
        window = {"spawned_by": key(level - 1)} if parents_told and level else {}
        sessions.append(BuiltSession(f"s{level}", entries, key=key(level), index=told, window=window))
    return sessions


def tree(dsn):
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            "SELECT root_session_key, sessions, depth, cost_usd, subagent_cost_usd FROM cost_by_root"
        ).fetchall()
        own = connection.execute("SELECT session_id, cost_usd FROM sessions ORDER BY 1").fetchall()
        kinds = connection.execute("SELECT DISTINCT kind FROM model_calls WHERE session_id <> 's0'").fetchall()
    return rows, own, kinds


WHOLE = [(ROOT, DEPTH + 1, DEPTH, Decimal(2 ** (DEPTH + 1) - 1), Decimal(2 ** (DEPTH + 1) - 2))]
OWN = [(f"s{level}", Decimal(2**level)) for level in range(DEPTH + 1)]


@pytest.mark.req("S4-15")
@pytest.mark.parametrize("told_by", ["index", "tool result", "nested tool"])
@pytest.mark.parametrize("layout", ["jsonl", "sqlite", "zstd_sqlite", "half_migrated"])
async def test_a_subagents_cost_is_its_own_and_its_roots_at_any_depth(layout, told_by, life, postgres_dsn, tmp_path):
    sessions = family(nested=told_by == "nested tool", parents_told=told_by == "index")
    state = build(tmp_path / "state", sessions, layout)
    async with life(state, PostgresLedger(postgres_dsn, "g")).running():
        assert tree(postgres_dsn) == (WHOLE, OWN, [("subagent",)])


@pytest.mark.req("S4-15")
@pytest.mark.parametrize("layout", ["jsonl", "sqlite"])
async def test_parents_are_kept_after_the_store_has_pruned_the_session(layout, life, postgres_dsn, tmp_path):
    state = build(tmp_path / "state", family(parents_told=True), layout)
    async with life(state, PostgresLedger(postgres_dsn, "g")).running() as first:
        folder = sessions_folder(state)
        if layout == "jsonl":
            for level in range(1, DEPTH + 1):
                (folder / f"s{level}.jsonl").unlink()
            (folder / "sessions.json").write_text(json.dumps({ROOT: {"sessionId": "s0"}}))
        else:
            connection = connect(state)
            for table in ("transcript_events", "session_windows", "transcript_rewrite_watermarks"):
                connection.execute(f"DELETE FROM {table} WHERE session_id <> 's0'")
            connection.execute("DELETE FROM session_nodes WHERE current_session_id <> 's0'")
            connection.close()
        await first.ingest.look()
        assert tree(postgres_dsn) == (WHOLE, OWN, [("subagent",)])
    async with life(state, PostgresLedger(postgres_dsn, "g")).running():
        assert tree(postgres_dsn) == (WHOLE, OWN, [("subagent",)])


@pytest.mark.req("S4-15")
async def test_what_was_pruned_before_we_came_is_joined_by_the_tool_results(life, postgres_dsn, tmp_path):
    """The index knows the conversation only. Archives are left, and trajectories, which name their keys."""
    state = build(tmp_path / "state", family(), "jsonl")
    folder = sessions_folder(state)
    (folder / "sessions.json").write_text(json.dumps({ROOT: {"sessionId": "s0"}}))
    for level in range(1, DEPTH + 1):
        shutil.move(folder / f"s{level}.jsonl", folder / f"s{level}.jsonl.deleted.2026-11-21T01-26-03.604Z")
        (folder / f"s{level}.trajectory.jsonl").write_text(json.dumps({"sessionKey": key(level)}) + "\n")
    async with life(state, PostgresLedger(postgres_dsn, "g")).running():
        assert tree(postgres_dsn) == (WHOLE, OWN, [("subagent",)])


async def test_a_session_without_transcript_does_not_break_the_chain(life, postgres_dsn, tmp_path):
    """One in the middle left nothing but the registry's row of its run."""
    sessions = family(parents_told=True)
    missing = sessions.pop(3)
    state = build(tmp_path / "state", sessions, "jsonl")
    async with life(state, PostgresLedger(postgres_dsn, "g")).running():
        with psycopg.connect(postgres_dsn) as connection:
            connection.execute(
                "INSERT INTO lobs.subagent_runs (gateway, run_id, child_session_key, parent_session_key, status)"
                " VALUES ('g', 'r', %s, %s, 'done')",
                [missing.key, key(2)],
            )
        ((root, count, depth, cost, _),) = tree(postgres_dsn)[0]
        assert (root, count, depth, cost) == (ROOT, DEPTH, DEPTH, 2 ** (DEPTH + 1) - 1 - 2**3)


async def test_the_recorded_sub_agents_belong_to_whom_their_truth_says(state_dir, life, postgres_dsn):
    async with life(state_dir, PostgresLedger(postgres_dsn, "g")).running():
        with psycopg.connect(postgres_dsn) as connection:
            children = connection.execute(
                "SELECT s.session_key, r.root_session_key FROM sessions AS s JOIN session_roots AS r USING (gateway,"
                " session_key) WHERE s.kind = 'subagent'"
            ).fetchall()
            spawned = connection.execute(
                "SELECT count(*) FROM session_events WHERE detail ->> 'child_session_key' = ANY(%s)",
                [[child for child, _ in children]],
            ).fetchone()
    assert children
    assert all(root != child and ":subagent:" not in root for child, root in children)
    assert spawned[0] >= 1
