"""The main job with nothing replaced but the model: a real gateway works, and what it did is found in metrics, rows,
operations and live messages, to the cent.
"""

import asyncio
import contextlib
import json
import threading
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import httpx
import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from cli.up import postgres
from tests.conftest import fresh_database
from tests.live import scenario, truth
from tests.live.stack import gateway_settings, our_process, token, wait_ready
from tests.servers import PATIENCE_SECONDS, wait_for

pytestmark = pytest.mark.live

PASSWORD = "a-long-password-of-the-tests"


def of(samples, name, **labels):
    """The sum of a metric's series that have these labels."""
    wanted = set(labels.items())
    return sum(value for (found, given), value in samples.items() if found == name and wanted <= given)


@dataclass
class Told:
    """A gateway that worked while all of ours watched."""

    gateway: Any
    story: scenario.Story
    metrics_url: str
    api: httpx.Client
    reader_dsn: str
    owner_dsn: str
    messages: list = field(default_factory=list)
    settings: dict = field(default_factory=dict)
    exporter: Any = None

    def samples(self):
        """{(name, labels): value} of the present scrape."""
        text = httpx.get(self.metrics_url, timeout=PATIENCE_SECONDS).text
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def total(self, name, **labels):
        return of(self.samples(), name, **labels)

    def rows(self, query):
        with psycopg.connect(self.reader_dsn) as connection:
            return connection.execute(query).fetchall()

    def counted(self, look):
        """The independent count and what `look` gives, both of a moment at which metrics and rows have each call that
        the gateway keeps: it may call its model on its own account at any time."""

        def moment():
            right = truth.count(self.gateway.state_dir)
            if self.total("claw_model_calls_total") != right["calls"]:
                return None
            if self.rows("SELECT count(*) FROM model_calls") != [(right["calls"],)]:
                return None
            found = look()
            return (right, found) if truth.count(self.gateway.state_dir) == right else None

        return wait_for(moment, "all calls in metrics and rows")


def listen(socket, messages):
    """Keep what is told until the socket is closed."""
    with contextlib.suppress(ConnectionClosed):
        for message in socket:
            messages.append(json.loads(message))


@pytest.fixture(scope="module")
def told(live_gateway, postgres_server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("main-job")
    (folder / "data" / "secrets").mkdir(parents=True)
    password = folder / "data" / "secrets" / "api_password"
    password.write_text(PASSWORD)
    password.chmod(0o600)
    with fresh_database(postgres_server) as name:
        dsn = postgres_server.dsn(name, postgres.WRITER)
        settings = gateway_settings(live_gateway, folder, LOBS_DATABASE_URL=dsn)
        metrics, api = f"http://{settings['LOBS_METRICS_LISTEN']}", f"http://{settings['LOBS_API_LISTEN']}"
        with our_process("exporter", settings, folder) as exporter, our_process("api", settings, folder) as service:
            wait_ready(exporter, f"{metrics}/metrics", "the exporter")
            wait_ready(service, f"{api}/readyz", "the API")
            headers = {"authorization": f"Bearer {token(api, PASSWORD)}"}
            with (
                httpx.Client(base_url=api, headers=headers, timeout=PATIENCE_SECONDS) as client,
                connect(f"{api.replace('http', 'ws')}/ws/operations", additional_headers=headers) as socket,
            ):
                told = Told(
                    live_gateway,
                    scenario.Story(),
                    f"{metrics}/metrics",
                    client,
                    postgres_server.dsn(name, postgres.READER),
                    postgres_server.dsn(name, postgres.OWNER if postgres_server.cluster else None),
                    settings=settings,
                    exporter=exporter,
                )
                threading.Thread(target=listen, args=(socket, told.messages), daemon=True).start()
                up = lambda: told.total("claw_gateway_up") == 1 and told.total("claw_ingest_progress_ratio") == 1  # noqa: E731
                wait_for(up, "the exporter sees the gateway and has scanned")
                told.story = asyncio.run(scenario.play(live_gateway))
                right = lambda: truth.count(live_gateway.state_dir)["calls"]  # noqa: E731
                wait_for(lambda: told.total("claw_model_calls_total") == right(), "all calls in /metrics")
                jobs = lambda: told.total("claw_cron_job_consecutive_errors") == 1  # noqa: E731
                wait_for(jobs, "the failed job in /metrics")
                ended = lambda: all(o["status"] != "in_progress" for o in client.get("/api/operations").json())  # noqa: E731
                wait_for(ended, "the end of every operation")
                yield told
                assert exporter.stop() == 0
                assert service.stop() == 0


def test_nothing_was_refused_by_the_gateway(told):
    assert told.story.refused == []
    assert told.story.turns == 8


@pytest.mark.req("S1-1", "S1-2", "P-1", "P-2")
def test_metrics_equal_the_truth_to_the_cent(told):
    right, samples = told.counted(told.samples)

    def total(name, **labels):
        return of(samples, name, **labels)

    assert total("claw_model_calls_total") == right["calls"]
    assert total("claw_model_calls_total", outcome="error") == right["errors"]
    assert total("claw_cost_usd_total") == pytest.approx(float(right["cost_usd"]), abs=1e-8)
    assert total("claw_reasoning_tokens_total") == right["reasoning"]
    for name, tokens in right["tokens"].items():
        assert total("claw_tokens_total", token_type=name) == tokens, name
    for agent, figures in right["by_agent"].items():
        assert total("claw_cost_usd_total", agent=agent) == pytest.approx(float(figures["cost_usd"]), abs=1e-8)
    assert "sessions_spawn" in right["tools"]
    for tool, calls in right["tools"].items():
        assert total("claw_tool_calls_started_total", tool=tool) == calls, tool
    assert total("claw_tool_calls_started_total") == sum(right["tools"].values())


@pytest.mark.req("S1-1", "S1-2")
def test_rows_equal_the_truth_exactly(told):
    stored = "SELECT count(*), sum(cost_usd), sum(input_tokens), sum(output_tokens) FROM model_calls"
    right, (((calls, cost, given, taken),), daily) = told.counted(
        lambda: (told.rows(stored), told.rows("SELECT sum(cost_usd) FROM cost_daily"))
    )
    assert calls == right["calls"]
    assert round(Decimal(cost), 12) == round(right["cost_usd"], 12)
    assert (given, taken) == (right["tokens"]["input"], right["tokens"]["output"])
    assert daily == [(cost,)]


def test_the_model_answered_as_many_requests_as_there_are_calls(told):
    """The independent count: each answered turn is a call that the ledger holds."""

    def both():
        answered = [r for r in told.gateway.model_requests() if r["kind"] == "turn"]
        ((ok,),) = told.rows("SELECT count(*) FROM model_calls WHERE outcome = 'ok'")
        return ok == len(answered)

    wait_for(both, "as many calls as answers")


@pytest.mark.req("S1-4", "S1-5", "S4-15")
def test_kinds_and_parents_of_sessions_are_right(told):
    kinds = dict(told.rows("SELECT kind, count(*) FROM model_calls GROUP BY 1"))
    assert {"main", "dashboard", "cron", "hook", "subagent"} <= set(kinds)
    parents = told.rows("SELECT DISTINCT parent_session_key FROM sessions WHERE kind = 'subagent'")
    assert parents == [("agent:main:main",)]


def test_the_tools_of_the_run_are_rows_with_their_outcome(told):
    found = told.rows("SELECT tool, outcome, exit_code FROM tool_calls ORDER BY 1, 2, 3")
    assert ("exec", "ok", 0) in found
    assert ("exec", "nonzero_exit", 3) in found or ("exec", "error", 3) in found
    assert any(tool == "read" and outcome == "error" for tool, outcome, _ in found)


@pytest.mark.req("S1-3")
def test_jobs_tell_success_and_failure(told):
    assert told.total("claw_cron_job_consecutive_errors", cron_job=told.story.failing_job) == 1
    assert told.total("claw_cron_job_consecutive_errors", cron_job=told.story.working_job) == 0
    assert told.total("claw_cron_job_status", cron_job=told.story.failing_job, status="error") == 1
    assert told.total("claw_cron_job_status", cron_job=told.story.working_job, status="ok") == 1
    jobs = dict(told.rows("SELECT name, last_status FROM cron_jobs"))
    assert (jobs["nightly report"], jobs["failing job"]) == ("ok", "error")
    runs = told.rows("SELECT job_id, status FROM cron_runs")
    assert (told.story.failing_job, "error") in runs


@pytest.mark.req("S0-18", "S0-5", "S0-11")
def test_every_run_is_an_operation_with_its_tokens_and_cost(told):
    operations = told.api.get("/api/operations").json()
    types = [operation["type"] for operation in operations]
    assert types.count("scheduled") >= 2
    assert "webhook" in types
    assert types.count("agent_task") >= told.story.turns
    failed = [o for o in operations if o["status"] == "failed"]
    assert failed, "the failing job"
    assert all(o["disposition"]["success"] is False and o["disposition"]["error"] for o in failed)

    def all_spent():  # at a moment of its own the gateway wakes its main session, which has a run of that
        listed = told.api.get("/api/operations").json()
        # null: a run that has no call yet, or never had one
        costs = [Decimal(str(o["metrics"]["tokens"]["cost"] or 0)) for o in listed]
        right = truth.count(told.gateway.state_dir)
        return abs(sum(costs) - right["cost_usd"]) < Decimal("1e-6") * len(listed)

    wait_for(all_spent, "the operations' costs are together what was spent")
    steps = [step for operation in operations for step in operation["steps"]]
    assert {"completed", "failed"} <= {step["status"] for step in steps}


@pytest.mark.req("S0-12", "S0-13", "S0-18")
def test_live_messages_told_each_operation_from_start_to_end(told):
    wait_for(lambda: told.messages, "a message")

    def all_told():  # a run of the gateway's own may begin meanwhile
        stored = {o["id"]: o["status"] for o in told.api.get("/api/operations").json()}
        return {m["id"]: m.get("status") for m in told.messages if m.get("id") in stored} == stored

    wait_for(all_told, "the last state of each operation on the socket")
    first = {}
    for message in told.messages:
        first.setdefault(message.get("id"), message.get("status"))
    assert "in_progress" in first.values(), "seen while it ran, not only afterwards"


def test_no_text_of_a_prompt_or_a_secret_is_stored_or_shown(told):
    with psycopg.connect(told.owner_dsn) as connection:
        tables = connection.execute(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('lobs', 'public')"
        ).fetchall()
        for schema, table in tables:
            dump = str(connection.execute(f'SELECT t::text FROM "{schema}"."{table}" AS t').fetchall())
            for secret in (told.gateway.token, "Run a failing command", "Reply 1 of the fake model", PASSWORD):
                assert secret not in dump, f"{secret!r} in {schema}.{table}"
    shown = httpx.get(told.metrics_url, timeout=PATIENCE_SECONDS).text + told.exporter.output()
    assert told.gateway.token not in shown
    assert PASSWORD not in shown


@pytest.mark.req("S4-3", "S4-6", "S1-6")
def test_the_gateway_and_its_process_are_seen(told):
    assert told.total("claw_gateway_connection_state", state="connected") == 1
    assert told.total("claw_gateway_ready") == 1
    assert told.total("claw_gateway_resident_memory_bytes") > 100e6
    assert told.total("claw_host_cpus") >= 1
    assert told.total("claw_agents") >= 2
    assert told.total("claw_subagents_running") == 0


@pytest.mark.req("P-3")
def test_the_gateways_own_usage_agrees(told):
    """Its answer may be 30 s old, so that the drift is awaited."""

    def reconciled():
        samples = [
            (dict(labels), value)
            for (name, labels), value in told.samples().items()
            if name == "claw_reconcile_drift_ratio"
        ]
        return samples and all(abs(value) < 1e-6 for _, value in samples)

    wait_for(reconciled, "no drift against usage.cost")


def test_a_restart_of_the_exporter_changes_no_total(told, tmp_path):
    def totals():
        return {
            key: value
            for key, value in told.samples().items()
            if key[0] in {"claw_cost_usd_total", "claw_tokens_total"}
        }

    before = totals()
    assert told.exporter.stop() == 0
    with our_process("exporter", told.settings, tmp_path) as again:
        wait_ready(again, told.metrics_url, "the exporter")
        right, samples = told.counted(told.samples)
        fallen = {key for key, value in before.items() if samples.get(key, 0) < value}
        assert fallen == set()
        assert of(samples, "claw_cost_usd_total") == pytest.approx(float(right["cost_usd"]), abs=1e-8)
