"""Models by provider, from recorded replies of both versions."""

from exporter.collectors import models


async def test_models_by_provider(connected, helpers):
    client, version = connected
    collector = models.collector("home", client, 60)
    await collector.refresh()
    expected = {"fake": 2, "flaky": 1} if version == "2026.9.6" else {"amazon-bedrock": 10}
    assert helpers.shown(collector) == {
        (metric, "home", provider): count
        for metric in ("claw_models", "claw_models_usable")
        for provider, count in expected.items()
    }


def test_a_model_that_cannot_be_used_is_told_apart():
    answer = {"models": [{"provider": "p", "available": False}, {"provider": "p"}, "junk", {"available": True}]}
    shown = {(sample.metric, *sample.labels): sample.value for sample in models.samples("g", answer)}
    assert shown == {
        ("claw_models", "g", "p"): 2,
        ("claw_models_usable", "g", "p"): 1,
        ("claw_models", "g", "unknown"): 1,
        ("claw_models_usable", "g", "unknown"): 1,
    }
