"""Whether there is a newer gateway: from the hello, from the event, and not from a connection that is gone."""

import pytest

from exporter.collectors.update import UpdateCollector
from openclaw.protocol import NotReadyError, Pushed

METRIC = ("claw_gateway_update_available", "home")


def pushed(payload):
    return Pushed(event="update.available", payload=payload, seq=None)


@pytest.mark.parametrize("wrapped", [True, False])
async def test_an_update_is_told_by_the_gateway(gateway, helpers, wrapped):
    async with helpers.watched(gateway) as client:
        collector = UpdateCollector("home", client)
        assert not helpers.shown(collector)
        await collector.refresh()
        assert helpers.shown(collector) == {METRIC: 0}
        news = {"currentVersion": "1", "latestVersion": "2", "channel": "stable"}
        collector.pushed(pushed({"updateAvailable": news} if wrapped else news))
        await collector.refresh()
        assert helpers.shown(collector) == {METRIC: 1}, "a poll does not forget what was pushed"
        collector.pushed(Pushed(event="tick", payload={"updateAvailable": None}, seq=None))
        assert helpers.shown(collector) == {METRIC: 1}
        collector.pushed(pushed({"updateAvailable": None}))
        assert helpers.shown(collector) == {METRIC: 0}


async def test_without_a_connection_nothing_is_told(gateway, helpers):
    async with helpers.watched(gateway) as client:
        collector = UpdateCollector("home", client)
        await collector.refresh()
    assert not helpers.shown(collector)
    with pytest.raises(NotReadyError):
        await collector.refresh()
