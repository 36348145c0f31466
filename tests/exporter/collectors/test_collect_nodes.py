"""Nodes, as recorded and as the package describes them."""

from exporter.collectors import nodes


async def test_nodes_as_recorded_and_as_the_package_describes_them(connected, helpers):
    collector = nodes.collector("home", connected[0], 60)
    await collector.refresh()
    assert helpers.shown(collector) == {("claw_nodes", "home"): 0, ("claw_nodes_connected", "home"): 0}
    answer = {"nodes": [{"nodeId": "a", "connected": True}, {"nodeId": "b", "connected": False}, {"nodeId": "c"}]}
    assert [sample.value for sample in nodes.samples("g", answer)] == [3, 1]
