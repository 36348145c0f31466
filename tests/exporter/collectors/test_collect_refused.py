"""A method or a scope that is missing costs its collector only."""

import pytest

from exporter.collectors import models, skills
from exporter.collectors.nodes import NodesCollector
from exporter.collectors.scheduler import Runner
from exporter.metrics.registry import Registry
from openclaw.protocol import MissingScopeError, UnknownMethodError


@pytest.mark.req("S4-16")
async def test_a_missing_method_or_scope_costs_that_collector_and_tells_which(gateway, helpers):
    gateway.faults.missing_methods |= {"skills.status"}
    gateway.faults.missing_scope["models.list"] = "operator.admin"
    async with helpers.watched(gateway) as client:
        made = [*(module.collector("home", client, 60) for module in (skills, models)), NodesCollector("home", client)]
        registry = Registry()
        runner = Runner(registry, "home", made)
        assert [await runner.refresh(collector) for collector in made] == [False, False, True]
        with pytest.raises(UnknownMethodError, match=r"skills\.status"):
            await made[0].refresh()
        with pytest.raises(MissingScopeError, match=r"operator\.admin"):
            await made[1].refresh()
        text = registry.render()
    assert 'lobservatory_collector_success{collector="skills",gateway="home"} 0' in text
    assert 'lobservatory_collector_success{collector="nodes",gateway="home"} 1' in text
    assert "claw_nodes{" in text
    assert "claw_skills{" not in text
