import pytest

from exporter.collectors.sessions import SessionsCollector, agent_of, state_of, to_row
from openclaw.protocol import GatewayUnavailableError


@pytest.mark.req("S4-14", "S3-9")
async def test_sessions_are_counted_by_kind_and_state(gateway, helpers):
    saved, told = [], []

    async def save(rows):
        saved.extend(rows)

    async with helpers.watched(gateway) as client:
        collector = SessionsCollector("home", client, save=save, listener=lambda *what: told.append(what))
        await collector.refresh()
    samples = helpers.shown(collector)
    assert samples["claw_sessions", "home", "dashboard", "done"] == 1
    assert samples["claw_sessions", "home", "dashboard", "failed"] == 3
    assert samples["claw_sessions", "home", "main", "done"] == 2
    assert samples["claw_sessions", "home", "cron", "unknown"] == 2
    assert samples["claw_active_runs", "home", "main"] == 0
    assert samples["claw_active_runs", "home", "guarded"] == 0
    assert samples["claw_session_context_ratio_max", "home", "guarded"] == 8527 / 200000
    assert samples["claw_subagents_running", "home"] == 0
    assert len(saved) == 8
    main = next(row for row in saved if row.session_key == "agent:main:main")
    assert (main.agent, main.kind, main.status, main.model, main.context_limit) == (
        "main",
        "main",
        "done",
        "fake-1",
        200000,
    )
    assert all(row.kind is None for row in saved if ":cron:" in row.session_key)
    assert len(told[0][0]) == 8


async def test_the_older_version_tells_the_same(older_gateway, helpers):
    async with helpers.watched(older_gateway) as client:
        collector = SessionsCollector("home", client)
        await collector.refresh()
    samples = helpers.shown(collector)
    assert sum(value for key, value in samples.items() if key[0] == "claw_sessions") >= 10
    assert samples["claw_active_runs", "home", "main"] >= 1  # recorded while a run was in progress
    assert samples["claw_session_context_ratio_max", "home", "main"] > 0.02


async def test_pages_are_followed_and_a_session_listed_twice_counts_once(gateway, helpers):
    def page(params):
        offset = params.get("offset", 0)
        sessions = [{"key": f"agent:main:x{n}", "sessionId": f"s{n}"} for n in range(offset, min(offset + 100, 250))]
        sessions.append({"key": "agent:main:cron:j:run:s0", "sessionId": "s0", "status": "running"})
        more = offset + 100 < 250
        return {"sessions": sessions, "hasMore": more, "nextOffset": offset + 100 if more else None}

    gateway.answers["sessions.list"] = page
    async with helpers.watched(gateway) as client:
        collector = SessionsCollector("home", client)
        await collector.refresh()
    samples = helpers.shown(collector)
    assert sum(value for key, value in samples.items() if key[0] == "claw_sessions") == 250
    assert [params for method, params in gateway.calls if method == "sessions.list"] == [
        {"limit": 100},
        {"limit": 100, "offset": 100},
        {"limit": 100, "offset": 200},
    ]


async def test_after_a_failure_nothing_old_is_shown(gateway, helpers):
    async with helpers.watched(gateway) as client:
        collector = SessionsCollector("home", client)
        await collector.refresh()
        assert helpers.shown(collector)
        gateway.faults.drop_on.add("sessions.list")
        with pytest.raises(GatewayUnavailableError):
            await collector.refresh()
        assert not helpers.shown(collector)


@pytest.mark.req("S4-15")
def test_a_sub_agent_keeps_its_parent():
    row = to_row("home", {"sessionId": "s", "key": "agent:main:subagent:1", "spawnedBy": "agent:main:main"})
    assert (row.kind, row.parent_session_key) == ("subagent", "agent:main:main")


@pytest.mark.parametrize(
    ("session", "state"),
    [
        ({"hasActiveRun": True, "status": "done"}, "running"),
        ({"hasActiveRun": False, "status": "running"}, "unknown"),
        ({"status": "running"}, "running"),
        ({"status": "killed"}, "killed"),
        ({"status": "from the future"}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_the_state_of_a_session(session, state):
    assert state_of(session) == state


def test_the_agent_of_a_session_without_a_name_is_in_its_key():
    assert agent_of({"key": "agent:helper:main"}) == "helper"
    assert agent_of({"key": "global"}) == "main"
