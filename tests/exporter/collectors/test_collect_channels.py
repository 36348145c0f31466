import pytest

from exporter.collectors.channels import ChannelsCollector

# Accounts as the package's types describe them; no channel could be connected where the recordings were made.
STATUS = {
    "ts": 1795224076227,
    "channels": {"telegram": {"configured": True}, "slack": {}, "signal": {"configured": True, "running": False}},
    "channelAccounts": {
        "telegram": [
            {
                "accountId": "a",
                "configured": True,
                "connected": False,
                "lastInboundAt": 1795224000000,
                "lastError": "401",
            },
            {
                "accountId": "b",
                "configured": True,
                "connected": True,
                "lastInboundAt": 1795223000000,
                "lastOutboundAt": 1795224060000,
            },
        ],
        "slack": [{"accountId": "default", "configured": False, "running": True, "linked": False}],
        "signal": "not a list",
    },
}


@pytest.mark.req("S4-10")
async def test_channels_tell_whether_they_are_connected_and_when_a_message_passed(gateway, helpers):
    saved = []

    async def save(rows):
        saved.extend(rows)

    gateway.answers["channels.status"] = lambda _params: STATUS
    async with helpers.watched(gateway) as client:
        collector = ChannelsCollector("home", client, save=save)
        await collector.refresh()
    assert helpers.shown(collector) == {
        ("claw_channel_configured", "home", "telegram"): 1,
        ("claw_channel_connected", "home", "telegram"): 1,
        ("claw_channel_last_message_timestamp_seconds", "home", "telegram", "in"): 1795224000,
        ("claw_channel_last_message_timestamp_seconds", "home", "telegram", "out"): 1795224060,
        ("claw_channel_configured", "home", "slack"): 0,
        ("claw_channel_connected", "home", "slack"): 0,
        ("claw_channel_configured", "home", "signal"): 1,
        ("claw_channel_connected", "home", "signal"): 0,
        ("claw_channel_error", "home", "telegram"): 1,
        ("claw_channel_error", "home", "slack"): 0,
        ("claw_channel_error", "home", "signal"): 0,
    }
    assert [(row.channel, row.account, row.last_error) for row in saved][:2] == [
        ("telegram", "a", "401"),
        ("telegram", "b", None),
    ]


@pytest.mark.req("S4-10")
async def test_a_gateway_without_channels_has_none(gateway, older_gateway, helpers):
    for source in (gateway, older_gateway):
        async with helpers.watched(source) as client:
            collector = ChannelsCollector("home", client)
            await collector.refresh()
        assert not helpers.shown(collector)
