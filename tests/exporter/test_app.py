"""The whole process: over HTTP, with and without a database, and with everything wrong that can be."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from decimal import Decimal
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from cli.up import postgres
from exporter.app import Exporter
from exporter.gateway.rows import PolledRows
from exporter.ingest.scan import scan
from exporter.ingest.sources import configured_series
from exporter.surroundings import only_one
from lobservatory.errors import StartError
from openclaw.state_dir import load_config
from store.gateway import save_agents, save_sessions
from store.migrate import migrate
from store.pool import open_pool
from store.rows import Session
from tests.servers import PATIENCE_SECONDS

NOBODY = "ws://127.0.0.1:9"  # the discard port: nothing listens there


@pytest.fixture(params=["postgres", "checkpoint"])
def dsn(request):
    return request.getfixturevalue("postgres_dsn") if request.param == "postgres" else ""


@pytest.mark.req("P-1")
async def test_metrics_over_http_agree_with_scan_for_every_store(state_dir, tmp_path, dsn, lab):
    truth = scan(state_dir)
    async with lab.running(lab.settings(state_dir, tmp_path / "data", dsn=dsn)) as alive:
        costs = await alive.values("claw_cost_usd_total")
        assert sum(costs.values()) == pytest.approx(float(truth.total.billed), abs=1e-9)
        assert sum((await alive.values("claw_model_calls_total")).values()) == truth.total.calls
        ledger = "postgresql" if dsn else "checkpoint"
        assert await alive.values("lobservatory_ledger_info") == {(ledger,): 1}
        assert await alive.values("lobservatory_database_up") == ({(): 1} if dsn else {})
        windows = await alive.until("claw_cost_window_usd", bool)
        assert {labels[0] for labels in windows} == set(truth.by_agent)
        month = sum(value for (_, window), value in windows.items() if window == "30d")
        assert month in (0, pytest.approx(float(truth.total.billed)))  # the recordings grow older than 30 days
        health = (await alive.client.get("/healthz")).json()
        assert health["status"] == "ok"
        assert health["first_scan"] == "done"
        assert health["database"] == ("up" if dsn else "none")
        assert await alive.until("claw_gateway_up", bool) == {(): 0}
        accept = {"accept": "application/openmetrics-text;version=1.0.0"}
        text = (await alive.client.get("/metrics", headers=accept)).text
        assert len(list(parse_openmetrics(text))) > 40


async def test_a_new_entry_is_on_metrics_within_a_second_and_a_restart_keeps_it(files_dir, tmp_path, dsn, lab):
    session = lab.transcript()
    session.append(lab.call("0.5"))
    configured = lab.settings(files_dir, tmp_path / "data", dsn=dsn)
    async with lab.running(configured) as alive:
        session.append(lab.call("0.25"))
        await alive.until("claw_cost_usd_total", lambda shown: sum(shown.values()) == 0.75)
        await alive.until(
            "claw_cost_window_usd", lambda shown: {shown.get(("main", "1h")), shown.get(("main", "today"))} >= {0.75}
        )
    session.append(lab.call("0.125"))
    async with lab.running(configured) as alive:
        await alive.until("claw_cost_usd_total", lambda shown: sum(shown.values()) == 0.875)


async def test_host_and_gateway_go_on_without_a_state_directory_until_it_appears(tmp_path, files_dir, lab):
    missing = tmp_path / "later"
    lab.transcript().append(lab.call("0.5"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("exporter.surroundings.RETRY_STATE_DIR", 0.02)
        async with lab.running(lab.settings(missing, tmp_path / "data"), scanned=False) as alive:
            down = await alive.until("claw_source_up", bool)
            assert set(down.values()) == {0}
            assert await alive.until("claw_host_cpus", bool)
            assert await alive.values("claw_cost_usd_total") == {}
            files_dir.rename(missing)
            await alive.until("claw_cost_usd_total", lambda shown: sum(shown.values()) == 0.5)
            assert set((await alive.values("claw_source_up")).values()) == {1}


async def test_a_database_that_is_not_there_leaves_metrics_up(files_dir, tmp_path, lab):
    lab.transcript().append(lab.call("0.5"))
    dsn = "postgresql://lobs_writer:not-the-word@127.0.0.1:9/lobservatory"
    async with lab.running(lab.settings(files_dir, tmp_path / "data", dsn=dsn), scanned=False) as alive:
        assert await alive.until("lobservatory_database_up", bool) == {(): 0}
        assert await alive.until("claw_host_cpus", bool)
        assert await alive.values("claw_cost_usd_total") == {}  # not a small number: none
        assert (await alive.client.get("/healthz")).json()["database"] == "down"


async def test_rows_of_polls_that_cannot_be_kept_fail_no_collector(monkeypatch):
    monkeypatch.setattr("exporter.gateway.rows.SAVE_WAIT", 0.05)
    async with open_pool("postgresql://lobs_writer@127.0.0.1:9/lobservatory") as pool:
        rows = PolledRows("g", pool)
        await rows.saver(save_sessions)([Session("g", "main", "s")])  # raises nothing
        await rows.saver_of_all(save_agents)([])


async def test_a_database_without_our_schema_is_waited_for(postgres_server, files_dir, tmp_path, lab):
    lab.transcript().append(lab.call("0.5"))
    database = f"lobs_test_empty_{os.getpid()}"
    from tests.conftest import _create, _drop  # noqa: PLC0415 - only here is an empty database wanted

    _create(postgres_server, database, postgres.OWNER if postgres_server.cluster else None)
    owner = postgres_server.dsn(database, postgres.OWNER if postgres_server.cluster else None)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("exporter.surroundings.RETRY_DATABASE", (0.02, 0.1))
            configured = lab.settings(files_dir, tmp_path / "data", dsn=postgres_server.dsn(database, postgres.WRITER))
            async with lab.running(configured, scanned=False) as alive:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    while "database" not in alive.exporter._missing:  # noqa: ASYNC110 - it is a state, no event
                        await asyncio.sleep(0.01)
                assert await alive.values("lobservatory_database_up") == {(): 0}
                await asyncio.to_thread(migrate, owner)
                await alive.until("claw_cost_usd_total", lambda shown: sum(shown.values()) == 0.5)
    finally:
        _drop(postgres_server, database)


@pytest.fixture
def postgres_folder():
    """Where the server's user may enter, also when the tests run as root."""
    folder = Path(tempfile.mkdtemp(prefix="lobs-app-pg-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


async def test_a_database_that_stops_and_comes_back_loses_and_doubles_nothing(
    postgres_folder, files_dir, tmp_path, lab
):
    session = lab.transcript()
    session.append(lab.call("0.5"))
    cluster = postgres.prepare(postgres_folder, durable=False)
    with contextlib.ExitStack() as stack:
        stack.enter_context(cluster.run())
        await asyncio.to_thread(migrate, cluster.dsn(postgres.OWNER))
        configured = lab.settings(files_dir, tmp_path / "data", dsn=cluster.dsn(postgres.WRITER))
        async with lab.running(configured) as alive:
            await asyncio.to_thread(stack.close)  # PostgreSQL stops
            session.append(lab.call("0.25"))
            await alive.until("lobservatory_database_up", lambda shown: shown == {(): 0})
            assert sum((await alive.values("claw_cost_usd_total")).values()) == 0.5
            session.append(lab.call("0.125"))
            with cluster.run():
                shown = await alive.until("claw_cost_usd_total", lambda shown: sum(shown.values()) == 0.875)
                assert sum(shown.values()) == 0.875
                calls = await alive.values("claw_model_calls_total")
                assert sum(calls.values()) == 3
                assert await alive.values("lobservatory_database_up") == {(): 1}


async def test_a_second_exporter_of_the_same_state_directory_refuses(files_dir, tmp_path, lab):
    async with lab.running(lab.settings(files_dir, tmp_path / "data")):
        with pytest.raises(StartError, match="another exporter already watches"):
            await Exporter(lab.settings(files_dir, tmp_path / "elsewhere")).run(asyncio.Event())
    with only_one(files_dir):
        pass  # and the lock has gone with the first


def test_series_of_configured_agents_and_models_are_known_beforehand(tmp_path):
    (tmp_path / "openclaw.json").write_text(
        '{"agents":{"list":[{"id":"main"},{"id":"ops"}]},'
        '"models":{"providers":{"fake":{"models":[{"id":"fake-1","cost":{"input":1,"output":2}}]}}}}'
    )
    series = configured_series("g", load_config(tmp_path, environment={}))
    assert ("claw_cost_usd_total", ("g", "ops", "fake", "fake-1", "main")) in series
    assert ("claw_model_calls_total", ("g", "main", "fake", "fake-1", "main", "error")) in series
    assert ("claw_rejected_entries_total", ("g", "jsonl", "bad_json")) in series
    assert len(series) == len(set(series))


# --- the process itself -------------------------------------------------------------------------------------


def environment(state_dir, data_dir, **values):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LOBS_", "OPENCLAW_"))}
    return {
        **clean,
        "LOBS_STATE_DIR": str(state_dir),
        "LOBS_DATA_DIR": str(data_dir),
        "LOBS_METRICS_LISTEN": "127.0.0.1:0",
        "LOBS_GATEWAY_URL": NOBODY,
        "LOBS_LOG_FORMAT": "json",
        "PYTHONUNBUFFERED": "1",
        **values,
    }


def start(variables, cwd):
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "exporter"], env=variables, cwd=cwd, text=True, stderr=subprocess.PIPE
    )


def ends(variables, cwd):
    """Its status and what it says, for a start that must fail."""
    process = start(variables, cwd)
    _, said = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, said


def test_a_taken_port_ends_it_with_one_line(files_dir, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        status, said = ends(environment(files_dir, tmp_path / "d", LOBS_METRICS_LISTEN=listen), tmp_path)
    assert status == 2
    assert re.fullmatch(rf"exporter: LOBS_METRICS_LISTEN={listen}: cannot listen there: .*\n", said)


def test_a_wrong_setting_ends_it_with_one_line(files_dir, tmp_path):
    status, said = ends(environment(files_dir, tmp_path / "d", LOBS_ZERO_HOLT="3"), tmp_path)
    assert status == 2
    assert said == "lobservatory: unknown setting LOBS_ZERO_HOLT: did you mean LOBS_ZERO_HOLD?\n"


def test_a_wrong_file_of_prices_ends_it_with_one_line(files_dir, tmp_path):
    wrong = tmp_path / "prices.toml"
    wrong.write_text("[[price]]\nprovider = 3\n")
    status, said = ends(environment(files_dir, tmp_path / "d", LOBS_PRICES_FILE=str(wrong)), tmp_path)
    assert status == 2
    assert "Traceback" not in said
    assert str(wrong) in said.splitlines()[-1]


def test_sigterm_ends_it_cleanly_and_no_secret_was_said(files_dir, tmp_path, lab):
    session = lab.transcript()
    for _ in range(2_000):
        session.append(lab.call("0.01"))
    secret = "the-token-of-this-gateway"
    process = start(environment(files_dir, tmp_path / "d", LOBS_GATEWAY_TOKEN=secret), tmp_path)
    said = process.stderr.readline()
    assert "exporter started" in said
    process.send_signal(signal.SIGTERM)  # most likely during the first scan
    _, rest = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0
    assert "Traceback" not in rest
    assert secret not in said + rest


def test_an_exporter_killed_at_any_moment_loses_and_doubles_nothing(files_dir, tmp_path, lab):
    session = lab.transcript()
    for number in range(5):
        for _ in range(400):
            session.append(lab.call("0.01"))
        process = start(environment(files_dir, tmp_path / "d", LOBS_LOG_LEVEL="info"), tmp_path)
        for line in process.stderr:
            if "first scan" in line or "exporter started" in line:
                break
        if number % 2:
            process.stderr.readline()
        process.kill()
        process.communicate()
    from store.ledger.checkpoint import CheckpointLedger  # noqa: PLC0415 - beside its only use

    async def finish():
        async with lab.running(lab.settings(files_dir, tmp_path / "d", gateway_name="default")):
            pass
        ledger = CheckpointLedger(tmp_path / "d", "default")
        await ledger.open()
        totals = {total.metric: total.value for total in await ledger.totals() if len(total.labels) > 4}
        await ledger.close()
        return totals

    totals = asyncio.run(finish())
    assert totals["claw_model_calls_total"] == 2_000
    assert totals["claw_cost_usd_total"] == Decimal(20)
