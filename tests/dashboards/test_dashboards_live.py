"""Every query of every board, as Grafana would send it, against a real Prometheus and a real PostgreSQL that hold what
the exporter saw of a real gateway. Each must answer, and with data, or be named below with a reason.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from lobservatory.runner import postgres
from lobservatory.runner.monitoring import prepare_prometheus
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
from tests.servers import free_port, prometheus, wait_for

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

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
    "lobs-quality/Failed commits and overflowing labels/A": "no commit fails",
    "lobs-quality/Failed commits and overflowing labels/B": "no label overflows",
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


@contextmanager
def exporter(environment: dict[str, str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`python -P -m exporter` with these settings and no others."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("LOBS_", "OPENCLAW_"))}
    log = folder / "exporter.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "exporter"],
            cwd=folder,
            env={**inherited, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def prometheus_config(folder: Path, metrics: Listen) -> Path:
    """Our own configuration, a second instead of fifteen."""
    settings = load({"LOBS_GATEWAY_NAME": GATEWAY})
    path = prepare_prometheus(folder / "prometheus-config", settings, {"exporter": metrics})
    text = path.read_text(encoding="utf-8")
    quick = text.replace("_interval: 15s", "_interval: 1s").replace("scrape_timeout: 10s", "scrape_timeout: 1s")
    assert quick != text
    path.write_text(quick, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def watched(start_gateway, postgres_server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("boards")
    gateway = start_gateway()
    thresholds = folder / "thresholds.toml"
    thresholds.write_text("[BudgetBurn]\ncritical = 50\n")
    port = free_port()
    with fresh_database(postgres_server) as name:
        environment = {
            "LOBS_STATE_DIR": str(gateway.state_dir),
            "LOBS_GATEWAY_NAME": GATEWAY,
            "LOBS_GATEWAY_URL": gateway.url,
            "LOBS_GATEWAY_TOKEN": gateway.token,
            "LOBS_DATABASE_URL": postgres_server.dsn(name, postgres.WRITER),
            "LOBS_METRICS_LISTEN": f"127.0.0.1:{port}",
            "LOBS_DATA_DIR": str(folder / "data"),
            "LOBS_POLL_INTERVAL": "1",
            "LOBS_HOST_INTERVAL": "1",
            "LOBS_THRESHOLDS_FILE": str(thresholds),
        }
        config = prometheus_config(folder, Listen(host="127.0.0.1", port=port))
        with exporter(environment, folder) as process, prometheus(folder / "prometheus", config) as server:

            def scraped() -> bool:
                if process.poll() is not None:
                    raise AssertionError(f"the exporter ended:\n{(folder / 'exporter.log').read_text()[-4000:]}")
                return bool(server.query(f'claw_ingest_progress_ratio{{gateway="{GATEWAY}"}} == 1'))

            wait_for(scraped, "the exporter's first scan in Prometheus", 60)
            story = asyncio.run(scenario.play(gateway))
            turns = f'sum(claw_model_calls_total{{gateway="{GATEWAY}"}}) >= {story.turns}'
            wait_for(lambda: server.query(turns), "the scenario's model calls in Prometheus", 60)
            jobs = f'count(claw_cron_job_info{{gateway="{GATEWAY}"}}) >= 2'
            wait_for(lambda: server.query(jobs), "the scenario's cron jobs in Prometheus", 60)
            failed = f'sum(claw_cron_job_consecutive_errors{{gateway="{GATEWAY}"}}) >= 1'
            wait_for(lambda: server.query(failed), "the failed cron job in Prometheus", 60)
            working = "min(lobservatory_collector_success) == 1 and on () max(claw_sessions) >= 0"
            try:
                wait_for(lambda: server.query(working), "a good refresh of every collector", 120)
            except TimeoutError as error:
                state = server.query("lobservatory_collector_success == 0")
                log = (folder / "exporter.log").read_text()[-4000:]
                raise AssertionError(f"{error}; failing: {state}\n{log}") from error
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
    wait_for(lambda: watched.prometheus.query(expression), question, 40)  # a recorded answer is there every 30 s


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

    wait_for(agree, "the tile, the books and the bars of one moment", 60)
