"""The exporter over the demo: nothing of it fails, and no alert on Lobservatory itself would fire."""

import asyncio
import contextlib
import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import yaml
from prometheus_client.parser import text_string_to_metric_families as parse_text

from cli.demo.gateway import RECORDINGS, ReplayGateway, load_replies
from cli.demo.playback import Player, Stores
from cli.demo.state import prepare
from tests.tools import debian_tool

RULES = Path(__file__).parents[2] / "alerts" / "rules"
OF_ITSELF = {"ExporterDown", "CollectorFailing", "EventStreamQuiet", "CostDrift"}  # and all of lobs-data.yml
TOKEN = "demo-token"


@contextlib.asynccontextmanager
async def demo(state_dir):
    """The demo's gateway, over its stores."""
    prepare(state_dir, port=18789, token=TOKEN, now=datetime.now(UTC))
    stores = Stores(state_dir)
    try:
        async with ReplayGateway(token=TOKEN) as gateway:
            yield Player(stores, gateway, max_pause=0)
    finally:
        stores.close()


def firing(text, folder):
    """What the rules on Lobservatory itself say when everything stays as it is for an hour."""
    series = [{"series": 'up{job="lobservatory",gateway="g"}', "values": "1x60"}]
    for family in parse_text(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={json.dumps(value)}" for name, value in sample.labels.items())
            series.append({"series": f"{sample.name}{{{labels}}}", "values": f"{sample.value:f}x60"})
    files = {path: yaml.safe_load(path.read_text())["groups"] for path in sorted(RULES.glob("*.yml"))}
    names = {
        rule["alert"]
        for path, groups in files.items()
        for group in groups
        for rule in group["rules"]
        if path.name == "lobs-data.yml" or rule.get("alert") in OF_ITSELF
    }
    assert names >= OF_ITSELF
    test = {
        "interval": "1m",
        "input_series": series,
        "alert_rule_test": [{"eval_time": "50m", "alertname": name, "exp_alerts": []} for name in sorted(names)],
    }
    path = folder / "demo_test.yml"
    path.write_text(yaml.safe_dump({"rule_files": [str(path) for path in files], "tests": [test]}))
    done = subprocess.run([debian_tool("promtool"), "test", "rules", path], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


async def test_no_collector_fails_in_the_demo(tmp_path, postgres_dsn, lab):
    async with demo(tmp_path / "demo") as player:
        gateway = player.gateway
        settings = lab.settings(tmp_path / "demo", tmp_path / "data", dsn=postgres_dsn).model_copy(
            update={"gateway_url": gateway.url}
        )
        async with lab.running(settings) as alive:
            wake, collectors = alive.exporter._runner.wake, alive.exporter._runner._collectors

            def names(shown):
                return {name for (name,), value in shown.items() if value}

            everyone = {one.name for one in collectors}
            assert {"logs", "usage", "sessions"} <= everyone
            await alive.until("lobservatory_collector_success", lambda shown: names(shown) == everyone)
            for turn in player.stores.turns[:5]:
                await player.play(turn, 1)
            before = await alive.values("lobservatory_collector_failures_total")
            tried = await alive.values("lobservatory_collector_last_success_timestamp_seconds")
            wake()
            await alive.until(
                "lobservatory_collector_last_success_timestamp_seconds",
                lambda shown: all(shown[key] > tried[key] for key in tried),
            )
            assert names(await alive.values("lobservatory_collector_success")) == everyone
            assert await alive.values("lobservatory_collector_failures_total") == before
            drifts = [
                await alive.values(f"claw_reconcile_{name}_ratio")
                for name in ("drift", "cost_drift", "agent_drift", "agent_cost_drift")
            ]
            assert len(drifts[3]) == 6
            assert {value for shown in drifts for value in shown.values()} == {0.0}
            text = (await alive.client.get("/metrics")).text
        answered = load_replies(RECORDINGS / "rpc").keys() | gateway.answers.keys() | {"sessions.subscribe"}
        assert {method for method, _ in gateway.calls} <= answered
    assert await asyncio.to_thread(firing, text, tmp_path) == ""
    success = 'lobservatory_collector_success{collector="logs",gateway="g"}'
    assert f"{success} 1" in text
    said = await asyncio.to_thread(firing, text.replace(f"{success} 1", f"{success} 0"), tmp_path)
    assert "CollectorFailing" in said, "so that silence means something"
