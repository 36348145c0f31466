"""Every query of every board over thirty days of two gateways, against a real Prometheus and a real PostgreSQL.

The history has faults, channels, people, tasks and alerts in it, so every panel must show something: there are no
exceptions here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import yaml

from cli.up import postgres
from tests.conftest import fresh_database
from tests.dashboards import history
from tests.dashboards.grafana_asks import Sources
from tests.dashboards.grafana_macros import TimeRange, boards, expand_promql, expand_sql, panel_queries
from tests.servers import prometheus

QUERIES = panel_queries()


@dataclass(frozen=True, slots=True)
class Past:
    sources: Sources
    made: history.History
    span: TimeRange  # all thirty days
    day: TimeRange  # the last one
    chosen: dict[str, list[str]]


@pytest.fixture(scope="module")
def past(postgres_server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("history")
    end = datetime.now(UTC).replace(hour=15, minute=0, second=0, microsecond=0)
    end -= timedelta(days=end > datetime.now(UTC))  # the last afternoon: the same work on every run
    made = history.make(end)
    config = folder / "prometheus.yml"
    config.write_text(yaml.safe_dump({"global": {"scrape_interval": "15s"}}))  # nothing is scraped
    with fresh_database(postgres_server) as name:
        owner = postgres_server.dsn(name, postgres.OWNER if postgres_server.cluster else None)
        with psycopg.connect(owner) as connection:
            history.write_rows(connection, made)
        history.write_blocks(made, folder)
        with prometheus(folder, config, "--storage.tsdb.retention.time=400d") as server:
            sources = Sources(server, postgres_server.dsn(name, postgres.READER))
            span = TimeRange.last(timedelta(days=history.DAYS), end)
            chosen = {**sources.variables(span), "session": [sources.busiest_session("home")]}
            yield Past(sources, made, span, TimeRange.last(timedelta(days=1), end), chosen)


@pytest.mark.req("S4-18")
def test_the_variables_offer_both_gateways_their_agents_models_and_channels(past):
    assert past.chosen["gateway"] == sorted(history.GATEWAYS)
    assert set(past.chosen["agent"]) == {agent for agents in history.GATEWAYS.values() for agent in agents}
    assert set(past.chosen["model"]) == {model for _, model, _, _ in history.MODELS}
    assert set(past.chosen["channel"]) == {*history.CHANNELS, "none"}


@pytest.mark.req("S1-1", "S1-2", "S1-3", "S1-4", "S1-5", "S1-6", "S1-7", "S1-8", "S4-8", "S4-9", "S4-10", "P-15")
@pytest.mark.parametrize("query", QUERIES, ids=[query.name for query in QUERIES])
def test_the_query_gives_data_of_thirty_days(query, past):
    assert past.sources.answer(query, past.span, past.chosen), f"no data: {query.text}"


@pytest.mark.parametrize("query", QUERIES, ids=[query.name for query in QUERIES])
def test_the_query_of_one_gateway_gives_nothing_of_the_other(query, past):
    """Choosing one of the fleet narrows everything that names a gateway."""
    chosen = {**past.chosen, "gateway": ["office"]}
    for row in past.sources.answer(query, past.day, chosen):
        values = list(row["metric"].values()) if isinstance(row, dict) else list(row)
        assert "home" not in values


@pytest.mark.req("S1-1")
@pytest.mark.parametrize("window", ["today", "7d", "30d"])
def test_tiles_and_books_tell_the_same_cost(past, window):
    start = {"today": 0, "7d": 6, "30d": 29}[window]
    midnight = past.span.end.replace(hour=0, minute=0) - timedelta(days=start)
    ((booked,),) = past.sources.rows(
        f"SELECT sum(cost_usd) FROM usage_15m WHERE billing = 'billed' AND bucket >= '{midnight}'"
    )
    text = f'sum(claw_cost_window_usd{{window="{window}"}})'
    (tile,) = past.sources.prometheus.query(text, past.span.end.timestamp())
    assert float(tile["value"][1]) == pytest.approx(float(booked), abs=0.02)


def test_savings_are_what_the_cache_spared_at_list_prices(past):
    """By hand, from the calls, for one model."""
    provider, model, price, _ = history.MODELS[0]
    assert price is not None
    calls = [call for call in past.made.calls if (call.provider, call.model) == (provider, model)]
    read = sum(call.tokens[2] for call in calls) * (price[0] - price[2])
    write = sum(call.tokens[3] for call in calls) * (price[3] - price[0])
    query = next(query for query in QUERIES if query.name == "lobs-cost/Saved by the cache/A")
    text = expand_promql(query.text.replace("$__rate_interval", "29d"), past.span, {**past.chosen, "model": [model]})
    (saved,) = past.sources.prometheus.query(text, past.span.end.timestamp())
    days = [call for call in calls if call.at > past.made.end - 29 * history.DAY]
    share = sum(call.tokens[2] for call in days) / sum(call.tokens[2] for call in calls)
    assert float(saved["value"][1]) == pytest.approx((read - write) / 1e6 * share, rel=0.05)


@pytest.mark.req("S1-7")
def test_alerts_are_drawn_from_when_to_when_they_fired(past):
    """From our own table, so those that are over are drawn as well, and of the chosen gateway only."""
    marks = boards()["lobs-overview"]["annotations"]["list"]
    text = next(item for item in marks if item["name"] == "Alerts")["target"]["rawSql"]
    kept = past.sources.rows("SELECT starts_at, ends_at, alert, gateway || ' ' || severity FROM public.alert_events")
    drawn = past.sources.rows(expand_sql(text, past.span, past.chosen))
    assert sorted(drawn, key=repr) == sorted(kept, key=repr)
    assert {row[1] is None for row in drawn} == {True, False}, "some still fire, some are over"
    office = past.sources.rows(expand_sql(text, past.span, {**past.chosen, "gateway": ["office"]}))
    assert sorted(office, key=repr) == sorted((row for row in kept if row[3].startswith("office ")), key=repr)


def test_events_are_drawn_where_they_happened(past):
    """Starts of gateways within the range, at their own time; those before it nowhere."""
    marks = boards()["lobs-overview"]["annotations"]["list"]
    starts = next(item for item in marks if item["name"] == "Gateway starts")
    text = expand_promql(starts["expr"], past.span, past.chosen)
    found = past.sources.prometheus.query(text, past.span.end.timestamp())
    assert {row["metric"]["gateway"] for row in found} == set(history.GATEWAYS)
    drawn = sorted(float(row["value"][1]) / 1000 for row in found)
    assert drawn == pytest.approx([past.made.restarts[-1], past.made.restarts[-1] + 700], abs=1)
