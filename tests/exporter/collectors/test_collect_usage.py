from datetime import UTC, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from exporter.collectors.usage import NotCountedError, NotFreshError, Usage, UsageCollector, cost_drift, drift

OF_AGENTS = {  # of the same recording
    "main": Usage({"input": 71478, "output": 258, "cache_read": 107195, "cache_write": 0}, Decimal("0.2406626")),
    "guarded": Usage({"input": 13491, "output": 46, "cache_read": 20234, "cache_write": 0}, Decimal("0.0472332")),
    "helper": Usage({"input": 3052, "output": 11, "cache_read": 4578, "cache_write": 0}, Decimal("0.0106944")),
}
TRUTH = {"input": 88021, "output": 315, "cache_read": 132007, "cache_write": 0}


def ours(tokens, asked, cost="0.2985902"):
    async def account(since, until, agent):
        asked.append((since, until, agent))
        return OF_AGENTS.get(agent, Usage(tokens, Decimal(cost)))

    return account


@pytest.mark.req("P-3", "S4-8")
async def test_equal_accounts_have_no_drift_and_all_agents_are_asked_for(gateway, helpers):
    asked, saved = [], []

    async def save(rows):
        saved.extend(rows)

    gateway._now, gateway.moved_by_ms = lambda: 1795224076, 0  # times as they were recorded
    async with helpers.watched(gateway) as client:
        collector = UsageCollector("home", client, ours(TRUTH, asked), save=save)
        await collector.refresh()
    assert set(helpers.shown(collector).values()) == {0.0}
    assert helpers.shown(collector).keys() == {
        *(("claw_reconcile_drift_ratio", "home", name) for name in TRUTH),
        ("claw_reconcile_cost_drift_ratio", "home"),
        *(("claw_reconcile_agent_drift_ratio", "home", agent, name) for agent in OF_AGENTS for name in TRUTH),
        *(("claw_reconcile_agent_cost_drift_ratio", "home", agent) for agent in OF_AGENTS),
    }
    assert ("usage.cost", {"days": 30, "agentScope": "all"}) in gateway.calls
    assert ("sessions.usage", {"limit": 1000, "agentScope": "all"}) in gateway.calls
    (since, until, agent), *of_agents = asked
    assert {(since, agent) for since, _, agent in of_agents} == {(since, agent) for agent in OF_AGENTS}
    assert {until for _, until, _ in of_agents} == {datetime.fromtimestamp(1795224096.098, UTC)}
    assert since == datetime(2026, 10, 23, tzinfo=UTC)
    assert until == datetime.fromtimestamp(1795224071.296, UTC)
    assert agent is None
    assert [(row.source, row.cost_usd) for row in saved] == [
        ("gateway", Decimal("0.2985902")),
        ("lobservatory", Decimal("0.2985902")),
    ]


@pytest.mark.req("P-3")
async def test_a_stale_answer_is_waited_for(gateway, helpers):
    stale = helpers.recorded("2026.9.6", "usage.cost.first")["payload"]
    fresh = helpers.recorded("2026.9.6", "usage.cost")["payload"]
    answers = iter([stale, stale, fresh])
    gateway.answers["usage.cost"] = lambda _params: next(answers)
    async with helpers.watched(gateway) as client:
        collector = UsageCollector("home", client, ours(TRUTH, []), pause=0.01)
        await collector.refresh()
        assert set(helpers.shown(collector).values()) == {0.0}

        gateway.answers["usage.cost"] = lambda _params: stale
        collector.deadline = 10.05
        with pytest.raises(NotFreshError):
            await collector.refresh()
        assert not helpers.shown(collector)


@pytest.mark.req("P-3")
async def test_a_stale_account_of_sessions_is_waited_for_and_costs_only_itself(gateway, helpers):
    """It is a cache of its own: the account of all agents may be fresh long before."""
    stale = helpers.recorded("2026.9.6", "sessions.usage.first")["payload"]
    stale = {**stale, "cacheStatus": {**stale["cacheStatus"], "status": "refreshing"}}
    fresh = helpers.recorded("2026.9.6", "sessions.usage")["payload"]
    answers = iter([stale, stale, fresh])
    gateway.answers["sessions.usage"] = lambda _params: next(answers)
    async with helpers.watched(gateway) as client:
        collector = UsageCollector("home", client, ours(TRUTH, []), pause=0.01)
        await collector.refresh()
        assert set(helpers.shown(collector).values()) == {0.0}
        gateway.answers["sessions.usage"] = lambda _params: stale
        collector.deadline = 10.05
        with pytest.raises(NotFreshError, match=r"sessions\.usage"):
            await collector.refresh()
        assert {name for name, *_ in helpers.shown(collector)} == {
            "claw_reconcile_drift_ratio",
            "claw_reconcile_cost_drift_ratio",
        }


async def test_an_agent_that_drifts_is_named(gateway, helpers, monkeypatch):
    twice = Usage({"input": 6104, "output": 11, "cache_read": 4578, "cache_write": 0}, Decimal("0.0213888"))
    monkeypatch.setitem(OF_AGENTS, "helper", twice)
    async with helpers.watched(gateway) as client:
        collector = UsageCollector("home", client, ours(TRUTH, []))
        await collector.refresh()
    drifting = {labels: value for labels, value in helpers.shown(collector).items() if value}
    assert drifting == {
        ("claw_reconcile_agent_drift_ratio", "home", "helper", "input"): 1.0,
        ("claw_reconcile_agent_cost_drift_ratio", "home", "helper"): 1.0,
    }


async def test_more_sessions_than_the_gateway_lists_are_not_compared(gateway, helpers):
    """Its sums have only those that it lists; ours have all."""
    answer = helpers.recorded("2026.9.6", "sessions.usage")["payload"]
    answer = {**answer, "aggregates": {**answer["aggregates"], "sessionCount": 1_000}}
    gateway.answers["sessions.usage"] = lambda _params: answer
    async with helpers.watched(gateway) as client:
        collector = UsageCollector("home", client, ours(TRUTH, []))
        await collector.refresh()
    assert not [name for name, *_ in helpers.shown(collector) if "agent" in name]


async def test_the_older_version_counts_its_default_agent_only(older_gateway, helpers):
    asked = []
    async with helpers.watched(older_gateway) as client:
        await UsageCollector("home", client, ours(TRUTH, asked), zone=ZoneInfo("Europe/Berlin")).refresh()
    assert asked[0][2] == "main"


def test_drift_is_ours_over_theirs_by_token_class():
    theirs = Usage({"input": 100, "output": 50, "cache_read": 0, "cache_write": 10})
    mine = Usage({"input": 110, "output": 50, "cache_read": 0, "cache_write": 5})
    ratios = drift(mine, theirs)
    assert {name: round(value, 6) for name, value in ratios.items()} == {
        "input": 0.1,
        "output": 0.0,
        "cache_read": 0.0,
        "cache_write": -0.5,
    }
    assert drift(Usage({"input": 7}), Usage({}))["input"] == 7.0


@pytest.mark.parametrize(
    ("mine", "theirs", "ratio"),
    [("1.1", "1", 0.1), ("0.9", "1", -0.1), ("1.000000001", "1", 0.0), ("0.005", "0", 0.5), ("0", "0", 0.0)],
)
def test_cost_drift_is_ours_over_theirs_and_rounding_is_none(mine, theirs, ratio):
    assert cost_drift(Usage({}, Decimal(mine)), Usage({}, Decimal(theirs))) == pytest.approx(ratio, abs=1e-12)


@pytest.mark.req("P-3")
async def test_nothing_is_compared_before_our_own_first_scan_has_ended(gateway, helpers):
    """Half of a first scan against all of the gateway's account would be a drift of -100 %."""
    counting = iter([False, False, True])
    asked = []
    async with helpers.watched(gateway) as client:
        collector = UsageCollector("home", client, ours(TRUTH, asked), pause=0.01, counted=lambda: next(counting))
        await collector.refresh()
        assert set(helpers.shown(collector).values()) == {0.0}
        assert next(counting, "all were asked for") == "all were asked for"

        collector = UsageCollector("home", client, ours({}, asked), pause=0.01, counted=lambda: False)
        collector.deadline = 10.05
        with pytest.raises(NotCountedError, match="first scan"):
            await collector.refresh()
        assert not helpers.shown(collector)
        assert len(asked) == 1 + len(OF_AGENTS)
