from datetime import UTC, datetime

import pytest

from exporter.collectors.cron import CronCollector, status_of, to_job, to_run
from openclaw.client import GatewayClient
from openclaw.protocol import GatewayUnavailableError, MissingScopeError
from openclaw.state_records import StateRecords

NOW = datetime(2026, 11, 21, 1, 30, tzinfo=UTC)
IDS = {
    "2026.9.6": {"ok": "ee1fd036-614e-4521-b99c-43555327c053", "failing": "12f75f84-fc19-4452-9fc2-6112fbfbbaf2"},
    "2026.4.27": {"ok": "f10523ea-9df5-4c07-8cdf-81468ba763ec", "failing": "7cdf69b7-7f5e-4625-ba95-3ab26ddb7945"},
}


def check(samples, ids):
    failing, good = ids["failing"], ids["ok"]
    assert [key[3] for key in samples if key[:3] == ("claw_cron_job_info", "home", failing)] == ["failing job"]
    assert samples["claw_cron_job_enabled", "home", failing] == 1
    assert samples["claw_cron_job_status", "home", failing, "error"] == 1
    assert samples["claw_cron_job_status", "home", failing, "ok"] == 0
    assert samples["claw_cron_job_status", "home", good, "ok"] == 1
    assert samples["claw_cron_job_consecutive_errors", "home", failing] == 1
    assert samples["claw_cron_job_consecutive_errors", "home", good] == 0
    assert samples["claw_cron_job_period_seconds", "home", good] == 86400
    assert samples["claw_cron_job_last_run_timestamp_seconds", "home", good] > 1.79e9
    assert samples["claw_cron_job_next_run_timestamp_seconds", "home", good] > 1.79e9
    assert samples["claw_cron_job_last_duration_seconds", "home", failing] > 1


@pytest.mark.req("S1-3", "P-8")
@pytest.mark.parametrize("version", ["2026.9.6", "2026.4.27"])
async def test_jobs_of_both_versions_have_state_plan_and_history(gateway, older_gateway, helpers, version):
    jobs, runs, told = [], [], []

    async def save_jobs(rows):
        jobs.extend(rows)

    async def save_runs(rows):
        runs.extend(rows)

    source = gateway if version == "2026.9.6" else older_gateway
    async with helpers.watched(source) as client:
        collector = CronCollector(
            "home", client, save_jobs=save_jobs, save_runs=save_runs, listener=lambda *what: told.append(what)
        )
        await collector.refresh()
    samples = helpers.shown(collector)
    check(samples, IDS[version])
    assert samples["claw_cron_enabled", "home"] == 1
    assert len(runs) == 3
    assert {run.status for run in runs} == {"ok", "error"}
    assert all(run.finished_at > run.started_at for run in runs)
    names = {job.name: job for job in jobs}
    assert names["failing job"].last_error
    assert names["nightly report"].schedule == "0 3 * * * (UTC)"
    assert told[0][0][IDS[version]["ok"]] == "nightly report"
    if version == "2026.9.6":
        heartbeat = names["heartbeat-main"]
        assert (heartbeat.schedule, heartbeat.period_seconds, heartbeat.last_status) == ("every 30m", 1800, None)
        assert samples["claw_cron_job_status", "home", heartbeat.job_id, "never"] == 1


@pytest.mark.req("S1-3")
async def test_without_the_gateway_the_jobs_come_from_its_records(state_dir, helpers):
    client = GatewayClient("ws://127.0.0.1:1", "")
    collector = CronCollector("home", client, records=StateRecords(state_dir))
    await collector.refresh()
    version = "2026.9.6" if (state_dir / "state").exists() else "2026.4.27"
    samples = helpers.shown(collector)
    check(samples, IDS[version])
    assert ("claw_cron_enabled", "home") not in samples


async def test_a_job_keeps_its_agent_while_the_gateway_is_away(gateway, newer_state_dir, helpers):
    def agents(samples):
        return {key[2]: key[4] for key in samples if key[0] == "claw_cron_job_info"}

    async with helpers.watched(gateway) as client:
        collector = CronCollector("home", client, records=StateRecords(newer_state_dir))
        job = StateRecords(newer_state_dir).cron_jobs()[0]
        chosen = {"id": job["id"], "name": "a", "effectiveAgentId": "of-the-gateway"}
        gateway.answers["cron.list"] = lambda _: {"jobs": [chosen]}
        await collector.refresh()
        assert agents(helpers.shown(collector)) == {job["id"]: "of-the-gateway"}
        await gateway.stop()
        await collector.refresh()
    told = job.get("agentId") or "of-the-gateway"
    assert agents(helpers.shown(collector))[job["id"]] == told


async def test_without_either_it_fails_and_shows_nothing_old(gateway, helpers):
    async with helpers.watched(gateway) as client:
        collector = CronCollector("home", client)
        await collector.refresh()
        await gateway.stop()
        with pytest.raises(GatewayUnavailableError):
            await collector.refresh()
        assert not helpers.shown(collector)


@pytest.mark.req("S4-16")
async def test_a_missing_scope_names_itself(gateway, helpers):
    gateway.faults.missing_scope["cron.list"] = "operator.read"
    async with helpers.watched(gateway) as client:
        collector = CronCollector("home", client)
        with pytest.raises(MissingScopeError, match=r"operator\.read"):
            await collector.refresh()


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ({}, "never"),
        ({"runningAtMs": 1795223797428}, "running"),
        ({"lastStatus": "ok"}, "ok"),
        ({"lastRunStatus": "interrupted"}, "error"),
        ({"lastRunStatus": "superseded"}, "skipped"),
        ({"lastRunStatus": "new word"}, "error"),
    ],
)
def test_the_status_of_a_job(state, status):
    assert status_of({"state": state}) == status


def test_strange_jobs_and_runs_are_left_out_or_read_as_far_as_possible():
    assert to_job("home", {"name": "no id"}, NOW) is None
    row = to_job("home", {"id": "j", "schedule": 7, "state": [], "enabled": "yes"}, NOW)
    assert (row.name, row.schedule, row.period_seconds, row.enabled) == ("j", "unknown", None, True)
    assert to_run("home", {"jobId": "j"}) is None
    assert to_run("home", {"jobId": "j", "runAtMs": -1}) is None
    assert to_run("home", {"jobId": "j", "runAtMs": 1795223797428}).finished_at is None


@pytest.mark.req("S1-3", "P-8")
async def test_a_job_that_flaps_is_told_apart_from_one_that_fails(gateway, helpers):
    """Also from runs that the history has dropped meanwhile; not from those of another day."""
    now = 1_795_000_000

    def run(job_id, ago, status):
        return {"jobId": job_id, "runAtMs": (now - ago) * 1000, "status": status}

    def flaps(collector):
        return {key[2]: value for key, value in helpers.shown(collector).items() if key[0] == "claw_cron_job_flaps"}

    history = [
        *(run("flaps", ago, "ok" if number % 2 else "error") for number, ago in enumerate(range(6000, 0, -1000))),
        *(run("fails", ago, "error") for ago in range(6000, 0, -1000)),
        run("fails", 90_000, "ok"),
        run("skips", 3000, "ok"), run("skips", 2000, "skipped"), run("skips", 1000, "ok"),
        run("recovers", 3000, "timeout"), run("recovers", 2000, "ok"),
    ]  # fmt: skip
    jobs = [{"id": job_id, "name": job_id} for job_id in ("flaps", "fails", "skips", "recovers", "never")]
    gateway.answers["cron.list"] = lambda _params: {"jobs": jobs}
    gateway.answers["cron.runs"] = lambda _params: {"entries": history}
    async with helpers.watched(gateway) as client:
        collector = CronCollector("home", client, now=lambda: datetime.fromtimestamp(now, UTC))
        await collector.refresh()
        assert flaps(collector) == {"flaps": 5, "fails": 0, "skips": 0, "recovers": 1, "never": 0}
        history[:] = [run("recovers", 10, "error")]
        await collector.refresh()
        assert flaps(collector) == {"flaps": 5, "fails": 0, "skips": 0, "recovers": 2, "never": 0}
        now += 86_000
        await collector.refresh()
        assert flaps(collector)["recovers"] == 0
        assert len(collector._outcomes) == len(jobs)
