"""What fires now, the other end of the dead-man's switch, and what the history says about noise."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from api.security.scopes import Scope
from api.services.alerts import SILENT_AFTER, AlertService
from lobservatory.settings import Settings
from store import pool as database_pool
from tests.api.conftest import connected, new_token
from tests.fakes.slack import fake_slack

NOW = datetime.now(UTC).replace(microsecond=0)


def notification(*alerts):
    return {"version": "4", "status": "firing", "alerts": list(alerts)}


def alert(name, severity, fingerprint, *, gateway="home", began=5, lasted=None, **labels):
    """`began`, `lasted`: minutes."""
    starts = NOW - timedelta(minutes=began)
    ends = None if lasted is None else starts + timedelta(minutes=lasted)
    return {
        "status": "firing" if ends is None else "resolved",
        "labels": {"alertname": name, "severity": severity, "gateway": gateway, **labels},
        "annotations": {
            "summary": f"{name}!",
            "action": "Do it.",
            "runbook": f"alerts/runbooks/{name}.md",
            "board": "/d/lobs-cost",
        },
        "startsAt": starts.isoformat(),
        "endsAt": ends.isoformat() if ends else "0001-01-01T00:00:00Z",
        "fingerprint": fingerprint,
    }


async def tell(client, *alerts):
    answer = await client.post("/api/webhooks/alertmanager", json=notification(*alerts))
    assert answer.status_code == 200
    return answer.json()["recorded"]


@pytest.mark.req("S1-7")
async def test_banner_has_what_fires_the_worst_first_with_links(client, app, database):
    await tell(
        client,
        alert("UpdateAvailable", "info", "f1"),
        alert("DailyCostHigh", "warning", "f2", gateway='my "gate" & co'),
        alert("GatewayDown", "critical", "f3", began=30),
        alert("ToolFailures", "warning", "f4", lasted=2),
        alert("GatewayDown", "critical", "f3", began=60),  # the same, of an Alertmanager that was restarted
    )
    shown = (await client.get("/api/alerts/banner")).json()
    assert (shown["worst"], shown["firing"]) == ("critical", 3)
    down, cost, update = shown["alerts"]
    assert [one["alert"] for one in (down, cost, update)] == ["GatewayDown", "DailyCostHigh", "UpdateAvailable"]
    assert datetime.fromisoformat(down["startsAt"]) == NOW - timedelta(minutes=30), "the newest of the same"
    assert (down["action"], down["runbook"]) == ("Do it.", "alerts/runbooks/GatewayDown.md")
    assert cost["boardUrl"] == "http://127.0.0.1:3000/d/lobs-cost?var-gateway=my%20%22gate%22%20%26%20co"
    assert cost["runbookUrl"] == "http://127.0.0.1:8787/runbooks/DailyCostHigh.md"
    assert "%2Cgateway%3D%22my%20%5C%22gate%5C%22%20%26%20co%22" in cost["silenceUrl"]
    assert (shown["watchdogHeardAt"], shown["watchdogSilent"]) == (None, False)

    await database.execute(
        "UPDATE lobs.alert_events SET heard_at = now() - interval '4 hours' WHERE alert LIKE 'Gate%'"
    )
    shown = (await client.get("/api/alerts/banner")).json()
    assert (shown["worst"], shown["firing"]) == ("warning", 2), "nobody repeated it: it may be over"
    assert await tell(client, alert("GatewayDown", "critical", "f3", began=30)) == 0
    shown = (await client.get("/api/alerts/banner")).json()
    assert shown["firing"] == 3, "it was repeated"

    async with connected(app, await new_token(app, Scope.READ, ["home"])) as limited:
        shown = (await limited.get("/api/alerts/banner")).json()
        assert [one["alert"] for one in shown["alerts"]] == ["GatewayDown", "UpdateAvailable"]


async def test_links_are_those_of_the_settings(client, postgres_dsn, database):
    await tell(client, alert("GatewayDown", "critical", "f3"))
    settings = Settings.model_validate(
        {
            "grafana_url": "https://grafana.example/g/",
            "alertmanager_url": "https://am.example",
            "runbook_url": "https://books.example/runbooks",
        }
    )
    reader = type("Everyone", (), {"gateways": None})()
    async with database_pool.open_pool(postgres_dsn) as pool:
        (shown,) = (await AlertService(pool, settings).banner(reader)).alerts
    assert shown.board_url == "https://grafana.example/g/d/lobs-cost?var-gateway=home"
    assert shown.runbook_url == "https://books.example/runbooks/GatewayDown.md"
    assert shown.silence_url.startswith("https://am.example/#/silences/new?filter=%7Balertname")


async def test_to_what_is_not_there_nothing_links(client, postgres_dsn):
    await tell(client, alert("GatewayDown", "critical", "f3"))
    settings = Settings.model_validate({"without": ["grafana", "alertmanager"]})
    reader = type("Everyone", (), {"gateways": None})()
    async with database_pool.open_pool(postgres_dsn) as pool:
        (shown,) = (await AlertService(pool, settings).banner(reader)).alerts
    assert (shown.board_url, shown.silence_url) == (None, None)
    assert shown.runbook_url == "http://127.0.0.1:8787/runbooks/GatewayDown.md"


async def statuses(database):
    cursor = await database.execute("SELECT alert, status FROM public.alert_events ORDER BY id")
    return await cursor.fetchall()


@pytest.mark.req("P-13")
async def test_silence_of_the_watchdog_is_told_once_and_so_is_its_return(client, postgres_dsn, database):
    watchdog = alert("Watchdog", "none", "w")
    clock = [0.0]
    with fake_slack() as slack:
        settings = Settings.model_validate({"slack_webhook_url": slack.url})
        async with database_pool.open_pool(postgres_dsn) as pool:
            service = AlertService(pool, settings, clock=lambda: clock[0])
            await service.check()  # never heard: there may be no Alertmanager
            assert await tell(client, watchdog) == 0
            assert await statuses(database) == [], "it is heard, not kept"
            assert (await client.get("/api/alerts/banner")).json()["watchdogSilent"] is False

            await database.execute("UPDATE lobs.alert_watchdog SET heard_at = now() - interval '16 minutes'")
            assert (await client.get("/api/alerts/banner")).json()["watchdogSilent"] is True
            await service.check()
            assert slack.messages == [], "nobody listened before this process started"
            clock[0] = SILENT_AFTER.total_seconds()
            slack.down = True
            await service.check()
            assert slack.messages == []
            assert await statuses(database) == [("Watchdog", "firing")]
            slack.down = False
            await service.check()
            await service.check()
            assert [message.title for message in slack.messages] == ["🔴 Alerts are not delivered any more"]
            banner = (await client.get("/api/alerts/banner")).json()
            assert (banner["worst"], banner["alerts"][0]["summary"]) == (
                "critical",
                "Alerts are not delivered any more",
            )

            await tell(client, watchdog)
            await service.check()
            await service.check()
            assert await statuses(database) == [("Watchdog", "resolved")]
            assert [message.title for message in slack.messages][1:] == ["✅ Resolved: Alerts are delivered again"]


@pytest.mark.req("S1-7")
async def test_history_tells_the_time_to_resolve_and_ranks_the_noise(client, database):
    await tell(
        client,
        *(alert("ToolFailures", "warning", f"t{n}", began=60 + n, lasted=2) for n in range(3)),
        alert("GatewayDown", "critical", "g1", began=120, lasted=10),
        alert("GatewayDown", "critical", "g1", began=90, lasted=30),
        alert("GatewayDown", "critical", "g1"),
    )
    cursor = await database.execute(
        "SELECT alert, sum(resolved), sum(total_seconds) / sum(resolved), max(longest_seconds)"
        " FROM public.alert_resolution GROUP BY 1 ORDER BY 1"
    )
    assert await cursor.fetchall() == [("GatewayDown", 2, 1200.0, 1800.0), ("ToolFailures", 3, 120.0, 120.0)]
    cursor = await database.execute(
        "SELECT place, alert, fired, short, firing, mean_seconds FROM public.alert_noise ORDER BY place"
    )
    assert await cursor.fetchall() == [
        (1, "ToolFailures", 3, 3, 0, 120.0),
        (2, "GatewayDown", 3, 0, 1, 1200.0),
    ]


async def test_links_of_runbooks_lead_somewhere_without_a_token(anonymous, client):
    await tell(client, alert("GatewayDown", "critical", "f1"))
    (shown,) = (await client.get("/api/alerts/banner")).json()["alerts"]
    path = shown["runbookUrl"].removeprefix("http://127.0.0.1:8787")
    answer = await anonymous.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    assert answer.text.startswith("# GatewayDown\n")


@pytest.mark.parametrize("name", ["Nothing.md", "..%2Frules%2Flobs-host.yml", "%2Fetc%2Fpasswd", "GatewayDown", ""])
async def test_runbooks_are_the_only_files_there(anonymous, name):
    assert (await anonymous.get(f"/runbooks/{name}")).status_code == 404
