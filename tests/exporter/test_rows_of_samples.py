"""The rows that people ask for, from the state directories of real gateways, against totals counted by other means."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest

from tests.archives import extract
from tests.exporter.test_three_accounts import ingested

SAMPLES = Path(__file__).resolve().parents[1] / "fixtures" / "samples"
VERSIONS = ("2026.4.27", "2026.9.6")


@pytest.fixture
async def rows(tmp_path, postgres_dsn, postgres_reader_dsn, request):
    with tarfile.open(SAMPLES / f"state-{request.param}.tar.gz") as archive:
        extract(archive, tmp_path)
    await ingested(tmp_path / ".openclaw", postgres_dsn, "g")
    truth = json.loads((SAMPLES / f"truth-{request.param}.json").read_text(), parse_float=Decimal)
    with psycopg.connect(postgres_reader_dsn) as connection:
        yield request.param, truth, lambda query: connection.execute(query).fetchall()


@pytest.mark.req("S1-1", "P-19")
@pytest.mark.parametrize("rows", VERSIONS, indirect=True)
async def test_rollups_of_each_granularity_are_the_calls(rows):
    _, truth, ask = rows
    for group in ("agent", "provider || '/' || model", "kind", "coalesce(channel, '')", "billing"):
        expected = ask(f"SELECT {group}, count(*), sum(cost_usd) FROM model_calls GROUP BY 1 ORDER BY 1")
        assert expected
        for rollup in ("usage_15m", "cost_hourly", "cost_daily"):
            found = ask(f"SELECT {group}, sum(calls), sum(cost_usd) FROM {rollup} GROUP BY 1 ORDER BY 1")
            assert found == expected, (rollup, group)
    by_agent = {
        agent: (calls, cost)
        for agent, calls, cost in ask("SELECT agent, sum(calls), sum(cost_usd) FROM cost_daily GROUP BY 1")
    }
    assert {agent: calls for agent, (calls, _) in by_agent.items()} == {
        agent: value["calls"] for agent, value in truth["by_agent"].items()
    }
    for agent, value in truth["by_agent"].items():
        assert abs(by_agent[agent][1] - value["cost_usd"]) < Decimal("1e-6"), agent
    days = ask("SELECT date, sum(calls) FROM cost_daily GROUP BY 1 ORDER BY 1")
    assert days == ask("SELECT (ts AT TIME ZONE 'UTC')::date, count(*) FROM model_calls GROUP BY 1 ORDER BY 1")


@pytest.mark.parametrize("rows", VERSIONS, indirect=True)
async def test_tool_calls_sessions_and_events(rows):
    version, _, ask = rows
    unfinished = ask(
        "SELECT call_id FROM tool_calls WHERE outcome IS NOT NULL AND (duration_ms IS NULL OR duration_ms < 0)"
    )
    assert unfinished == []
    named = dict(ask("SELECT tool, count(*) FROM tool_calls WHERE tool IN ('tool_call', 'sessions_spawn') GROUP BY 1"))
    assert named == {"sessions_spawn": 1}, "2026.9.6 calls it through `tool_call`"
    assert ask(
        "SELECT count(*) FROM tool_calls WHERE exit_code <> 0 AND error_class IS DISTINCT FROM 'exit_status'"
    ) == [(0,)]
    assert ask(
        "SELECT count(*) FROM tool_calls WHERE outcome IN ('error', 'nonzero_exit') AND error_class IS NULL"
    ) == [(0,)]
    classes = Counter(
        dict(ask("SELECT error_class, count(*) FROM tool_calls WHERE error_class IS NOT NULL GROUP BY 1"))
    )
    assert classes["exit_status"] >= 1
    assert classes["not_found"] >= 1, f"{version} reads a file that is not there"
    wrong = ask(
        "SELECT s.session_id FROM sessions AS s LEFT JOIN (SELECT session_id, count(*) AS calls, sum(cost_usd) AS cost,"
        " min(ts) AS first, max(ts) AS last FROM model_calls GROUP BY 1) AS c USING (session_id)"
        " WHERE s.calls <> coalesce(c.calls, 0) OR s.cost_usd + s.equivalent_cost_usd <> coalesce(c.cost, 0)"
        " OR s.first_call_at IS DISTINCT FROM c.first OR s.last_call_at IS DISTINCT FROM c.last"
        " OR s.started_at > s.updated_at"
    )
    assert wrong == []
    assert ask("SELECT count(*) FROM sessions WHERE kind = 'subagent' AND parent_session_key IS NULL") == [(0,)]
    # Each sub-agent stands under the session that started it, whose cost by root has both.
    children = ask("SELECT count(*) FROM sessions WHERE kind = 'subagent'")[0][0]
    assert ask("SELECT count(*) FROM session_roots WHERE depth > 0 AND session_key LIKE '%:subagent:%'") == [
        (children,)
    ]
    assert children >= 1
    events = dict(ask("SELECT event, count(*) FROM session_events GROUP BY 1"))
    assert events.get("model_change", 0) >= 1
    compacted = ask(
        "SELECT count(*) FROM session_events WHERE event = 'compaction' AND (detail ->> 'tokens_before')::int > 0"
    )
    assert compacted == [(events.get("compaction", 0),)]
