"""Every query of every board, as Grafana would send it, against a real Prometheus and a real PostgreSQL that hold what
the exporter saw of a real gateway. Each must answer, and with data, or be named below with a reason.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cli.up import postgres
from cli.up.monitoring import prepare_prometheus
from lobservatory.settings import Listen, load
from tests.conftest import fresh_database
from tests.dashboards.grafana_asks import Sources
from tests.dashboards.grafana_macros import (
    PanelQuery,
    TimeRange,
    boards,
    expand_promql,
    expand_sql,
    panel_queries,
    questions,
)
from tests.live import scenario
from tests.live.stack import gateway_settings, our_process, wait_ready
from tests.servers import prometheus, wait_for

pytestmark = pytest.mark.live

ROOT = Path(__file__).resolve().parents[2]
GATEWAY = "default"
QUERIES = panel_queries()

# board/panel/refId → why a healthy gateway without people, channels and faults has nothing to show there. Each of these
# shows data in test_dashboards_history.
EMPTY = {
    "lobs-gateway/Channels/A": "the gateway under test has no channel",
    "lobs-gateway/Age of the last message/A": "the gateway under test has no channel",
    "lobs-gateway/Approvals by outcome/A": "no command asks for approval",
    "lobs-gateway/Provider allowances used/A": "the fake provider has no allowances",
    "lobs-host/GPU in use/A": "a machine for tests has no GPU",
    "lobs-host/GPU in use/B": "a machine for tests has no GPU",
    "lobs-host/GPU temperature and power/A": "a machine for tests has no GPU",
    "lobs-host/GPU temperature and power/B": "a machine for tests has no GPU",
    "lobs-host/Temperatures/A": "a virtual machine has no sensors",
    "lobs-alerts/Time to resolve/A": "Alertmanager is not part of this run",
    "lobs-gateway/Approvals waiting/B": "no command waits for a human",
    "lobs-gateway/RPC errors/A": "no RPC call fails",
    "lobs-gateway/Gaps, dropped frames, failed connects/A": "no event is missed",
    "lobs-gateway/Gaps, dropped frames, failed connects/B": "no frame is dropped",
    "lobs-gateway/Gaps, dropped frames, failed connects/C": "no connect fails",
    "lobs-quality/Rejected, by reason/A": "the transcripts are clean",
    "lobs-quality/Failures and overflows/A": "no commit fails",
    "lobs-quality/Failures and overflows/B": "no label overflows",
    "lobs-quality/Failures and overflows/C": "the database takes every row",
    "lobs-quality/Failures and overflows/D": "no traces are sent",
    "lobs-gateway/Health and service/E": "no service manager runs the gateway under test",
    "lobs-gateway/Health and service/F": "no service manager runs the gateway under test",
    "lobs-gateway/Health and service/G": "no service manager runs the gateway under test",
    "lobs-cost/Burn rate, US$ an hour/B": "agents that were born today have no usual hour yet",
    "lobs-cost/Without a price/A": "every model of the gateway under test has a price",
    "lobs-alerts/Firing now/A": "no alert fires in a gateway that is well",
    "lobs-alerts/Over time/A": "no alert fires in a gateway that is well",
    "lobs-alerts/History/A": "Alertmanager is not part of this run",
    "lobs-alerts/Noise, of 30 days/A": "Alertmanager is not part of this run",
    "lobs-operations/Tasks done by day/A": "nobody made a task",
    "lobs-operations/Cycle time of tasks/A": "nobody made a task",
    "lobs-operations/Open tasks/A": "nobody made a task",
} | {query.name: "the gateway under test has no plugin" for query in QUERIES if query.board == "lobs-official"}


# The beginning of a question → why a gateway that has done its work answers it by no row. What they answer otherwise is
# in test_promql_answers.
NONE = {
    "12.": "the last tool was called more than five minutes ago when the panels before took long",
    "14.": "nobody is at work",
    "Which are late": "no job is late",
}


def prometheus_config(folder: Path, metrics: Listen) -> Path:
    """Our own configuration, a second instead of fifteen."""
    settings = load({"LOBS_GATEWAY_NAME": GATEWAY})
    path = prepare_prometheus(folder / "prometheus-config", settings, {"exporter": metrics})
    text = path.read_text(encoding="utf-8")
    quick = text.replace("_interval: 15s", "_interval: 1s").replace("scrape_timeout: 10s", "scrape_timeout: 1s")
    assert quick != text
    path.write_text(quick, encoding="utf-8")
    return path


async def said_before(gateway) -> None:
    """What the first comparison with the gateway's own account finds; the next one is five minutes later."""
    async with gateway.driver() as driver:
        await driver.turn("Say hello")


@pytest.fixture(scope="module")
def watched(start_gateway, postgres_server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("boards")
    gateway = start_gateway()
    asyncio.run(said_before(gateway))
    thresholds = folder / "thresholds.toml"
    thresholds.write_text("[BudgetBurn]\ncritical = 50\n")
    with fresh_database(postgres_server) as name:
        settings = gateway_settings(
            gateway,
            folder,
            LOBS_GATEWAY_NAME=GATEWAY,
            LOBS_DATABASE_URL=postgres_server.dsn(name, postgres.WRITER),
            LOBS_THRESHOLDS_FILE=str(thresholds),
            LOBS_ZERO_HOLD="30",  # as people have it: increase() sees the first call of each series
        )
        listen = Listen.parse(settings["LOBS_METRICS_LISTEN"])
        config = prometheus_config(folder, listen)
        with (
            our_process("exporter", settings, folder) as exporter,
            prometheus(folder / "prometheus", config) as server,
        ):

            def until(expression: str, what: str) -> None:
                def answered() -> bool:
                    exporter.alive()
                    return bool(server.query(expression))

                try:
                    wait_for(answered, what)
                except TimeoutError as error:
                    failing = server.query("lobservatory_collector_success == 0")
                    raise AssertionError(f"{error}; failing: {failing}\n{exporter.output()[-4000:]}") from error

            wait_ready(exporter, f"{listen.url}/metrics", "the exporter")
            until(f'claw_ingest_progress_ratio{{gateway="{GATEWAY}"}} == 1', "the first scan in Prometheus")
            story = asyncio.run(scenario.play(gateway))
            calls = f'sum(claw_model_calls_total{{gateway="{GATEWAY}"}}) >= {1 + story.turns}'
            until(calls, "the scenario's model calls in Prometheus")
            until(f'count(claw_cron_job_info{{gateway="{GATEWAY}"}}) >= 2', "the scenario's cron jobs in Prometheus")
            failed = f'sum(claw_cron_job_consecutive_errors{{gateway="{GATEWAY}"}}) >= 1'
            until(failed, "the failed cron job in Prometheus")
            working = "min(lobservatory_collector_success) == 1 and on () max(claw_sessions) >= 0"
            until(working, "a good refresh of every collector")
            # Last of all, and of a collector that has not ended a refresh nothing is said in the line above.
            until("claw_reconcile_agent_cost_drift_ratio", "the gateway's own account, compared")
            yield Sources(server, postgres_server.dsn(name, postgres.READER))


def ask(query: PanelQuery, watched: Sources, span: TimeRange) -> list[Any]:
    """As a browser would; the answer of what is there when it asks."""
    chosen = watched.variables(span)
    if query.board == "lobs-session":
        chosen["session"] = [watched.busiest_session(GATEWAY)]
    return watched.answer(query, span, chosen)


def test_the_gateway_is_found_by_the_variable(watched):
    assert watched.variables(TimeRange.last(timedelta(hours=1)))["gateway"] == [GATEWAY]


@pytest.mark.req("S1-1", "S1-2", "S1-6", "S4-18")
@pytest.mark.parametrize("query", QUERIES, ids=[query.name for query in QUERIES])
def test_the_query_of_the_panel_gives_data(query, watched):
    span = TimeRange.last(timedelta(days=7) if query.board == "lobs-cost" else timedelta(hours=1))
    rows = ask(query, watched, span)
    if query.name not in EMPTY:
        assert rows, f"no data: {query.text}"


@pytest.mark.parametrize(("question", "expression"), questions(), ids=[question for question, _ in questions()])
def test_the_question_is_answered(question, expression, watched):
    if question.startswith(tuple(NONE)):
        watched.prometheus.query(expression)  # raises what Prometheus refuses
    else:
        wait_for(lambda: watched.prometheus.query(expression), question)  # a recorded answer is there every 30 s


@pytest.mark.parametrize("name", sorted(EMPTY))
def test_every_exception_is_of_a_panel_that_exists(name):
    assert name in {query.name for query in QUERIES}


@pytest.mark.parametrize("uid", sorted(boards()))
def test_annotations_are_answered(uid, watched):
    span = TimeRange.last(timedelta(hours=1))
    chosen = watched.variables(span)
    for annotation in boards()[uid]["annotations"]["list"]:
        if "target" in annotation:
            with psycopg.connect(watched.reader_dsn) as connection:
                cursor = connection.execute(expand_sql(annotation["target"]["rawSql"], span, chosen))
                lasts = ["timeend"] if annotation["name"] == "Alerts" else []
                assert [column.name for column in cursor.description or []] == ["time", *lasts, "title", "text"]
                assert cursor.fetchall() or annotation["name"] != "First ingest"
            continue
        expression = expand_promql(annotation["expr"], span, chosen)
        watched.prometheus.query(expression)
    starts = watched.prometheus.query("claw_gateway_start_timestamp_seconds * 1000")
    assert abs(float(starts[0]["value"][1]) - span.end.timestamp() * 1000) < 3_600_000, "milliseconds of this hour"


@pytest.mark.req("S1-1")
def test_the_overview_shows_the_money_that_the_books_hold(watched):
    """One definition of today's cost: the tile, the books and the bars agree to the cent."""
    tile = next(q for q in QUERIES if (q.board, q.panel, q.ref_id) == ("lobs-overview", "Cost today", "A"))
    bars = next(q for q in QUERIES if (q.board, q.panel, q.ref_id) == ("lobs-overview", "Cost by model", "A"))
    span = TimeRange.last(timedelta(hours=24))

    def agree() -> bool:
        """Jobs may still call models: what is asked at one moment may be of two."""
        ((booked,),) = watched.rows("SELECT sum(cost_usd) FROM model_calls WHERE billing = 'billed'")
        shown = ask(tile, watched, TimeRange.last(timedelta(minutes=5)))
        drawn = sum(cost for _, _, cost in ask(bars, watched, span))
        told = (float(shown[0]["values"][-1][1]), drawn)
        return booked > 0 and told == pytest.approx((float(booked), float(booked)), abs=1e-8)

    wait_for(agree, "the tile, the books and the bars of one moment")
