"""Agents, sessions, jobs, money, alerts: what the boards show, over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from api.security.scopes import Scope
from tests.api.conftest import connected, new_token


@pytest.fixture
async def filled(database):
    """Two gateways, three agents, calls of today and of ten days ago."""
    await database.execute(
        "INSERT INTO lobs.agents (gateway, agent, name, configured, state, first_call_at) VALUES"
        " ('home', 'main', 'Main', true, 'idle', now()), ('home', 'helper', NULL, false, NULL, NULL),"
        " ('work', 'main', 'Work', true, 'tool', now())"
    )
    await database.execute(
        "INSERT INTO lobs.sessions (gateway, agent, session_id, session_key, kind, status, model, calls, errors,"
        " input_tokens, output_tokens, cost_usd, context_tokens, context_limit, started_at, updated_at,"
        " ended_at) VALUES"
        " ('home', 'main', 's1', 'agent:main:main', 'main', 'running', 'm', 3, 1, 100, 20, 0.0123, 50, 200,"
        "  now() - interval '1 hour', now(), NULL),"
        " ('home', 'main', 's2', 'agent:main:subagent:1', 'subagent', 'failed', 'm', 1, 0, 10, 2, 0.001, NULL, NULL,"
        "  now() - interval '2 hours', now() - interval '1 minute', now() - interval '119 minutes'),"
        " ('work', 'main', 's3', 'agent:main:main', 'main', 'done', 'm', 1, 0, 1, 1, 5, NULL, NULL,"
        "  now(), now() - interval '2 minutes', now())"
    )
    await database.execute(
        "INSERT INTO lobs.usage_15m (bucket, gateway, agent, provider, model, kind, billing, calls, input_tokens,"
        " output_tokens, cost_usd, unpriced_calls)"
        " SELECT date_bin('15 minutes', now() - d * interval '1 day', '2000-01-01 00:00+00'), g, 'main', 'p', m,"
        " 'main', b, 1, 100, 10, c, 0 FROM (VALUES (0, 'home', 'a', 'billed', 0.25), (0, 'home', 'b', 'equivalent', 9),"
        " (10, 'home', 'a', 'billed', 1.5), (0, 'work', 'a', 'billed', 7)) AS v (d, g, m, b, c)"
    )
    await database.execute(
        "INSERT INTO lobs.cron_jobs (gateway, job_id, name, schedule, enabled, last_status, consecutive_errors)"
        " VALUES ('home', 'j1', 'Report', '0 9 * * *', true, 'error', 2)"
    )
    await database.execute(
        "INSERT INTO lobs.cron_runs (gateway, job_id, started_at, finished_at, status) VALUES"
        " ('home', 'j1', now() - interval '2 hours', now() - interval '2 hours' + interval '1500 ms', 'ok'),"
        " ('home', 'j1', now() - interval '1 hour', NULL, 'error')"
    )
    await database.execute(
        "INSERT INTO lobs.host_samples (ts, gateway, cpu_ratio, memory_total_bytes) VALUES"
        " (now() - interval '1 minute', 'home', 0.9, 8), (now(), 'home', 0.5, 8)"
    )
    await database.execute(
        "INSERT INTO lobs.exec_approvals (gateway, approval_id, status, command, requested_at, expires_at)"
        " VALUES ('home', 'a1', 'pending', 'cat /secret', now(), now() + interval '10 minutes')"
    )
    await database.execute(
        "INSERT INTO lobs.log_signatures (gateway, signature, level, sample, count, first_seen_at, last_seen_at) VALUES"
        " ('home', 'x', 'error', 'X', 9, now() - interval '9 hours', now() - interval '3 hours'),"
        " ('home', 'y', 'error', 'Y', 1, now(), now())"
    )


@pytest.mark.req("S2-3", "S1-19")
async def test_agents_with_figures_and_history(client, database, filled):
    agents = {(one["gateway"], one["id"]): one for one in (await client.get("/api/agents")).json()}
    main = agents["home", "main"]
    assert (main["status"], main["metrics"]["calls"], main["metrics"]["errors"]) == ("idle", 4, 1)
    assert (main["metrics"]["cost"], main["metrics"]["tokens"]["input"]) == (0.0133, 110)
    assert agents["home", "helper"]["status"] == "unknown"
    await database.execute(
        "INSERT INTO lobs.agent_events (ts, gateway, agent, event, activity, tool)"
        " VALUES (now(), 'home', 'main', 'tool_start', 'Reading notes.md', 'read')"
    )
    assert (await client.get("/api/agents/main")).status_code == 409
    one = (await client.get("/api/agents/main", params={"gateway": "home"})).json()
    assert [(event["event"], event["activity"]) for event in one["history"]] == [("tool_start", "Reading notes.md")]
    assert (await client.get("/api/agents/nope")).status_code == 404


@pytest.mark.req("S2-10", "S2-5")
async def test_an_agent_reports_figures_and_leaves_a_row_in_the_feed(client, database, filled):
    figures = {
        "sessionId": "s1",
        "gateway": "home",
        "tokens": 1700,
        "cost": 0.0123,
        "runtime": 500,
        "tasksCompleted": 2,
    }
    assert (await client.post("/api/agents/main/metrics", json=figures)).status_code == 204
    cursor = await database.execute(
        "SELECT tokens, cost_usd::text, runtime_ms, tasks_completed FROM lobs.agent_metrics"
    )
    assert await cursor.fetchall() == [(1700, "0.0123", 500, 2)]
    one = (await client.get("/api/agents/main", params={"gateway": "home"})).json()["metrics"]
    assert (one["tasksCompleted"], one["runtime"], one["cost"]) == (2, 500, 0.0133)  # never added to what is measured
    assert (await client.get("/api/feed")).json()["items"][0]["targetId"] == "main"


@pytest.mark.req("S1-4")
async def test_sessions_with_filters_and_pages(client, filled):
    first = (await client.get("/api/sessions", params={"limit": 2})).json()
    assert [one["sessionId"] for one in first["sessions"]] == ["s1", "s2"]
    assert (first["sessions"][0]["contextRatio"], first["sessions"][0]["cost"]) == (0.25, 0.0123)
    rest = (await client.get("/api/sessions", params={"limit": 2, "cursor": first["nextCursor"]})).json()
    assert ([one["sessionId"] for one in rest["sessions"]], rest["nextCursor"]) == (["s3"], None)
    by_kind = (await client.get("/api/sessions", params={"kind": "subagent"})).json()["sessions"]
    assert [one["sessionId"] for one in by_kind] == ["s2"]
    for cursor in ("x", "W10", "bnVsbA", "IiI", "WyJhIl0"):
        assert (await client.get("/api/sessions", params={"cursor": cursor})).status_code == 422, cursor


@pytest.mark.req("S3-7", "S3-9")
async def test_sessions_of_the_task_hub(client, filled):
    task = (await client.post("/api/tasks", json={"title": "t"})).json()["id"]
    for session in ("agent:main:subagent:1", "elsewhere"):
        await client.post(f"/api/tasks/{task}/subagent", json={"openclaw_session_id": session, "agent_name": "w"})
    found = (await client.get("/api/openclaw/sessions", params={"session_type": "subagent"})).json()
    by_id = {one["openclaw_session_id"]: one for one in found}
    assert set(by_id) == {"agent:main:subagent:1", "elsewhere"}
    assert (by_id["agent:main:subagent:1"]["status"], by_id["agent:main:subagent:1"]["task_id"]) == ("failed", task)
    active = (await client.get("/api/openclaw/sessions", params={"status": "active"})).json()
    assert {one["openclaw_session_id"] for one in active} == {"elsewhere", "agent:main:main"}
    summary = (await client.get("/api/monitoring/sessions")).json()
    assert summary["activeSubagents"] == 2
    assert (await client.get("/api/openclaw/sessions", params={"session_type": "x"})).status_code == 422


@pytest.mark.req("S1-20")
async def test_money_by_range_and_group_is_that_of_the_boards(client, database, filled):
    async def costs(**query):
        return (await client.get("/api/monitoring/costs", params=query)).json()

    week, month, day = await costs(range="7d"), await costs(range="30d"), await costs(range="24h")
    assert (week["total"], month["total"], day["total"]) == (7.25, 8.75, 7.25)
    assert (week["equivalentTotal"], {g["name"] for g in week["groups"]}) == (9.0, {"p/a", "p/b"})
    by_day = (await costs(range="all", group="day"))["groups"]
    assert [group["cost"] for group in by_day] == [1.5, 7.25]
    cursor = await database.execute(
        "SELECT window_name, sum(cost_usd)::float FROM public.cost_windows('UTC') GROUP BY 1"
    )
    assert {name: window["cost"] for name, window in week["windows"].items()} == dict(await cursor.fetchall())
    assert week["windows"]["7d"]["cost"] == week["total"]
    assert (await client.get("/api/monitoring/costs", params={"range": "1y"})).status_code == 422


@pytest.mark.req("S1-20", "S1-3")
async def test_jobs_and_runs(client, filled):
    found = (await client.get("/api/monitoring/crons")).json()
    assert [(job["name"], job["consecutiveErrors"], job["lastStatus"]) for job in found["jobs"]] == [
        ("Report", 2, "error")
    ]
    assert [(run["status"], run["duration"]) for run in found["runs"]] == [("error", None), ("ok", 1500)]
    older = (
        await client.get("/api/crons/runs", params={"jobId": "j1", "before": found["runs"][0]["startedAt"]})
    ).json()
    assert [run["status"] for run in older] == ["ok"]


@pytest.mark.req("S1-20", "S1-21")
async def test_hosts_approvals_and_errors(client, filled):
    assert [host["cpuRatio"] for host in (await client.get("/api/system")).json()["hosts"]] == [0.5]
    (approval,) = (await client.get("/api/approvals", params={"status": "pending"})).json()
    assert 590 < approval["secondsLeft"] <= 600
    assert "command" not in approval
    by_count = (await client.get("/api/errors", params={"sort": "count"})).json()
    assert [one["signature"] for one in by_count] == ["x", "y"]
    recent = (await client.get("/api/errors", params={"windowHours": 1})).json()
    assert [one["signature"] for one in recent] == ["y"]


def notification(status, **changes):
    now = datetime.now(UTC)
    alert = {
        "status": status,
        "labels": {"alertname": "GatewayDown", "severity": "critical", "gateway": "home"},
        "annotations": {"summary": "The gateway does not answer"},
        "startsAt": (now - timedelta(minutes=5)).replace(microsecond=0).isoformat(),
        "endsAt": now.isoformat() if status == "resolved" else "0001-01-01T00:00:00Z",
        "fingerprint": "f1",
        **changes,
    }
    return {"version": "4", "status": status, "receiver": "api", "alerts": [alert]}


@pytest.mark.req("S1-7", "S1-21")
async def test_alertmanager_fills_the_history_once_and_tells_live_clients(client, database):
    firing = notification("firing")
    starts = firing["alerts"][0]["startsAt"]
    for expected in (1, 0):
        answer = await client.post("/api/webhooks/alertmanager", json=firing)
        assert (answer.status_code, answer.json()) == (200, {"recorded": expected})
    shown = (await client.get("/api/monitoring/alerts")).json()
    assert (shown["firing"], shown["alerts"][0]["alert"], shown["alerts"][0]["endsAt"]) == (1, "GatewayDown", None)
    await client.post("/api/webhooks/alertmanager", json=notification("resolved", startsAt=starts))
    late = await client.post("/api/webhooks/alertmanager", json=firing)
    assert late.json() == {"recorded": 0}
    shown = (await client.get("/api/monitoring/alerts")).json()
    assert (shown["firing"], [one["status"] for one in shown["alerts"]]) == (0, ["resolved"])
    cursor = await database.execute("SELECT kind FROM lobs.events WHERE topic = 'alerts' ORDER BY id")
    assert await cursor.fetchall() == [("firing",), ("resolved",)]
    feed = (await client.get("/api/feed")).json()
    told = [(row["action"], row["targetId"]) for row in feed["items"] if row["type"] == "alert"]
    assert told == [("resolved", "GatewayDown"), ("firing", "GatewayDown")]


async def test_live_clients_get_an_alert_as_the_answer_to_a_question_has_it(client, database):
    for status in ("firing", "resolved"):
        await client.post("/api/webhooks/alertmanager", json=notification(status, startsAt="2026-01-29T10:00:00.25Z"))
        (asked,) = (await client.get("/api/monitoring/alerts", params={"range": "all"})).json()["alerts"]
        cursor = await database.execute("SELECT payload FROM lobs.events WHERE topic = 'alerts' ORDER BY id DESC")
        (told,) = await cursor.fetchone()
        assert told == asked


@pytest.mark.req("S1-21", "S1-16")
async def test_one_document_that_is_made_once_for_many(client, database, filled):
    first = (await client.get("/api/refresh")).json()
    assert first["stale"] is False
    assert first["costs"]["range"] == "30d"
    assert {agent["gateway"] for agent in first["agents"]} == {"home", "work"}
    await database.execute("DELETE FROM lobs.agents")
    assert (await client.get("/api/refresh")).json() == first


@pytest.mark.req("S4-25")
async def test_a_token_of_one_gateway_sees_only_that(client, app, filled):
    async with connected(app, await new_token(app, Scope.READ, ["home"])) as limited:
        assert {one["gateway"] for one in (await limited.get("/api/agents")).json()} == {"home"}
        assert {one["gateway"] for one in (await limited.get("/api/sessions")).json()["sessions"]} == {"home"}
        assert (await limited.get("/api/monitoring/costs")).json()["total"] == 0.25
        assert {one["gateway"] for one in (await limited.get("/api/refresh")).json()["agents"]} == {"home"}
    assert {one["gateway"] for one in (await client.get("/api/refresh")).json()["agents"]} == {"home", "work"}


@pytest.mark.req("S4-17")
async def test_the_audit_log_is_for_administrators(client, app):
    await client.post("/api/auth/tokens", json={"name": "x"})
    rows = (await client.get("/api/audit")).json()
    assert (rows[0]["action"], rows[0]["actor"], rows[0]["phase"]) == ("token.create", "test admin", "succeeded")
    async with connected(app, await new_token(app, Scope.COMMAND)) as lesser:
        assert (await lesser.get("/api/audit")).status_code == 403


@pytest.mark.req("S1-8", "S1-21", "S4-12")
async def test_the_log_by_level_session_and_text(client, database):
    await database.execute(
        "INSERT INTO lobs.log_lines (gateway, ts, level, subsystem, session, message) VALUES"
        " ('home', now(), 'info', 'cron', NULL, 'Ready'), ('home', now(), 'warn', 'lanes', 'agent:main:main', 'Slow'),"
        " ('work', now(), 'error', '', NULL, 'Broken 100%'), ('work', now(), 'unknown', '', NULL, 'Odd')"
    )

    async def messages(**params):
        return [row["message"] for row in (await client.get("/api/logs", params=params)).raise_for_status().json()]

    assert await messages() == ["Odd", "Broken 100%", "Slow", "Ready"]
    assert await messages(level="warn") == ["Odd", "Broken 100%", "Slow"]
    assert await messages(session="agent:main:main") == ["Slow"]
    assert await messages(text="0%") == ["Broken 100%"]
    first = (await client.get("/api/logs", params={"limit": 1})).json()[0]
    assert await messages(before=first["id"], limit=2) == ["Broken 100%", "Slow"]
    assert set(first) == {"id", "ts", "gateway", "level", "subsystem", "session", "message"}
    assert (await client.get("/api/logs", params={"level": "loud"})).status_code == 422


@pytest.mark.req("S4-25")
async def test_a_token_of_one_gateway_reads_no_other_log(app, database):
    await database.execute(
        "INSERT INTO lobs.log_lines (gateway, ts, level, subsystem, message) VALUES"
        " ('home', now(), 'info', 'a', 'ours'), ('work', now(), 'info', 'a', 'theirs')"
    )
    async with connected(app, await new_token(app, Scope.READ, ["home"])) as limited:
        assert [row["message"] for row in (await limited.get("/api/logs")).json()] == ["ours"]
