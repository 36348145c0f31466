"""Allowances of providers, as recorded and as the package describes them."""

from exporter.collectors.quota import QuotaCollector, used


async def test_allowances_are_shares_and_a_provider_without_them_shows_none(gateway, helpers):
    async with helpers.watched(gateway) as client:
        collector = QuotaCollector("home", client)
        await collector.refresh()
        assert not helpers.shown(collector), "no provider of the recorded gateway has an allowance"
        windows = [{"label": "5h", "usedPercent": 92.5}, {"label": "Week", "groupLabel": "Opus", "usedPercent": 10}]
        broken = {"provider": "other", "windows": [{"label": "x", "usedPercent": "many"}], "error": "no"}
        gateway.answers["usage.status"] = lambda _params: {
            "providers": [{"provider": "anthropic", "windows": windows}, broken]
        }
        await collector.refresh()
    assert helpers.shown(collector) == {
        ("claw_provider_quota_used_ratio", "home", "anthropic", "5h"): 0.925,
        ("claw_provider_quota_used_ratio", "home", "anthropic", "Opus Week"): 0.1,
    }
    assert used(None) == {}
