"""Nodes, as recorded (none) and as the package describes them: counts and rows."""

import pytest

from exporter.collectors.nodes import NodesCollector, to_nodes
from openclaw.protocol import UnknownMethodError
from store.rows import Node

LISTED = {
    "nodes": [
        {
            "nodeId": "a", "displayName": "Desk", "platform": "darwin", "version": "1", "paired": True,
            "connected": True, "connectedAtMs": 1_795_000_000_000,
        },
        {"nodeId": "b", "paired": True, "connected": False, "lastSeenAtMs": 1_794_000_000_000},
        {"nodeId": "c"},
        {"nodeId": "a", "displayName": "Desk", "paired": True, "connected": True},
        {"displayName": "nobody"},
        "junk",
    ]
}  # fmt: skip


@pytest.mark.req("S4-16")
async def test_no_node_as_both_versions_were_recorded(connected, helpers):
    collector = NodesCollector("home", connected[0])
    assert not helpers.shown(collector)
    await collector.refresh()
    assert helpers.shown(collector) == {
        ("claw_nodes", "home"): 0,
        ("claw_nodes_paired", "home"): 0,
        ("claw_nodes_connected", "home"): 0,
    }


async def test_nodes_are_counted_and_are_rows(gateway, helpers):
    saved = []

    async def save(rows):
        saved[:] = rows

    gateway.answers["node.list"] = lambda _params: LISTED
    async with helpers.watched(gateway) as client:
        collector = NodesCollector("home", client, save=save)
        await collector.refresh()
        assert helpers.shown(collector) == {
            ("claw_nodes", "home"): 3,
            ("claw_nodes_paired", "home"): 2,
            ("claw_nodes_connected", "home"): 1,
        }
        assert [row.node_id for row in saved] == ["a", "b", "c"]
        assert (saved[1].connected, saved[1].last_seen_at.timestamp()) == (False, 1_794_000_000)
        assert saved[2] == Node("home", "c")
        gateway.faults.missing_methods |= {"node.list"}
        with pytest.raises(UnknownMethodError, match=r"node\.list"):
            await collector.refresh()
    assert not helpers.shown(collector)


@pytest.mark.parametrize("answer", [None, [], {"nodes": None}, {"nodes": [None, 1, {"nodeId": 7}]}])
def test_an_answer_without_nodes_is_none(answer):
    assert to_nodes("home", answer) == []
