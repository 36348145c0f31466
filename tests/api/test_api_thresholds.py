"""Thresholds at run time: from the API to the exported value."""

from __future__ import annotations

import pytest

from api.security.scopes import Scope
from exporter.collectors.thresholds import ThresholdsCollector
from lobservatory.settings import Settings
from lobservatory.thresholds import THRESHOLDS
from store import alerts
from store.pool import open_pool
from tests.api.conftest import connected, new_token

PATH = "/api/alerts/thresholds"


def body(**changes):
    return {"alert": "RunawayAgent", "severity": "warning", "agent": "main", "value": 42, **changes}


@pytest.mark.req("P-5")
async def test_a_threshold_is_set_exported_audited_and_forgotten(client, database, postgres_dsn):
    listed = (await client.get(PATH)).json()
    assert [(one["alert"], one["severity"], one["default"]) for one in listed] == [
        (one.alert, one.severity, one.default) for one in THRESHOLDS
    ]
    set_ = await client.put(PATH, json=body())
    assert (set_.status_code, set_.json()["value"]) == (200, 42)
    assert (await client.put(PATH, json=body(value=43))).status_code == 200

    async with open_pool(postgres_dsn, name="test", max_size=1) as pool:

        async def ask():
            async with pool.connection() as connection:
                return await alerts.thresholds(connection)

        collector = ThresholdsCollector("home", Settings().alert_thresholds(), ask)
        await collector.refresh()
        exported = {sample.labels[1:]: sample.value for sample in collector.render()}
        assert (exported["RunawayAgent", "warning", "main"], exported["RunawayAgent", "warning", ""]) == (43, 5)
        where = {"alert": "RunawayAgent", "severity": "warning", "agent": "main"}
        assert (await client.delete(PATH, params=where)).status_code == 204
        assert (await client.delete(PATH, params=where)).status_code == 404
        await collector.refresh()
        assert ("RunawayAgent", "warning", "main") not in {sample.labels[1:] for sample in collector.render()}
    cursor = await database.execute(
        "SELECT action, target FROM lobs.audit_log WHERE action LIKE 'threshold%' ORDER BY id"
    )
    assert await cursor.fetchall() == [
        ("threshold.set", "RunawayAgent.warning"),
        ("threshold.set", "RunawayAgent.warning"),
        ("threshold.delete", "RunawayAgent.warning"),
    ]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"alert": "RunawayAgnet"}, "there is no threshold RunawayAgnet.warning: there are"),
        ({"alert": "HostMemoryLow", "value": 0.1}, "only these have values for single agents"),
        ({"value": -1}, "must be from 0 to 1e+09 US$"),
        ({"alert": "HostMemoryLow", "agent": "", "value": 1.5}, "must be a ratio from 0 to 1"),
        ({"severity": "loud"}, "severity"),
        ({"value": True}, "body.value"),
        ({"value": "42"}, "body.value"),
        ({"value": None}, "body.value"),
        ({"agent": "x" * 65}, "agent"),
    ],
)
async def test_what_cannot_be_right_is_refused_in_words(client, changes, says):
    answer = await client.put(PATH, json=body(**changes))
    assert answer.status_code == 422
    assert says in answer.json()["detail"]


async def test_who_may_only_read_or_is_of_another_gateway_may_not_set(app):
    async with connected(app, await new_token(app, Scope.READ)) as reader:
        assert (await reader.put(PATH, json=body())).status_code == 403
    async with connected(app, await new_token(app, Scope.WRITE, ["home"])) as limited:
        assert (await limited.put(PATH, json=body())).status_code == 403
        assert (await limited.put(PATH, json=body(gateway="work"))).status_code == 403
        assert (await limited.put(PATH, json=body(gateway="home"))).status_code == 200


async def test_a_threshold_that_somebody_else_set_is_not_set_unseen(client):
    where = {"alert": "RunawayAgent", "severity": "warning", "agent": "main"}
    refused = await client.put(PATH, json=body(**where), headers={"If-Match": '"2026-01-01T00:00:00+00:00"'})
    assert (refused.status_code, refused.json()["code"]) == (412, "stale_version"), "there is none"
    first = await client.put(PATH, json=body(**where))
    assert first.headers["ETag"] == f'"{first.json()["version"]}"'
    theirs = await client.put(PATH, json=body(**where), headers={"If-Match": first.headers["ETag"]})
    assert theirs.status_code == 200
    assert theirs.headers["ETag"] != first.headers["ETag"]
    stale = {"If-Match": first.headers["ETag"]}
    assert (await client.put(PATH, json=body(**where), headers=stale)).status_code == 412
    assert (await client.delete(PATH, params=where, headers=stale)).status_code == 412
    (shown,) = [
        override
        for one in (await client.get(PATH)).json()
        for override in one["overrides"]
        if (one["alert"], one["severity"]) == ("RunawayAgent", "warning")
    ]
    now = {"If-Match": f'"{shown["version"]}"'}
    assert (await client.delete(PATH, params=where, headers=now)).status_code == 204
