"""The arrows between the rooms point one way, and nothing of this workplace's outside is imported by accident."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Room → the rooms that it may import besides itself: those below it, without an exception.
BELOW = {
    "lobservatory": set(),  # the ground
    "openclaw": {"lobservatory"},
    "store": {"lobservatory"},
    "exporter": {"lobservatory", "openclaw", "store"},
    "api": {"lobservatory", "openclaw", "store"},
    "cli": {"lobservatory", "openclaw", "store", "exporter", "api"},
    "dashboards": {"lobservatory"},  # builds what is mounted as it is; nothing that runs imports it
    "alerts": {"lobservatory"},
}


def imports(path):
    """Dotted names that a module imports, wherever in its text."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide which room they cross"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def allowed(room, name):
    """Whether a module of `room` may import `name`."""
    target = name.partition(".")[0]
    return target not in BELOW or target == room or any(f"{name}.".startswith(f"{low}.") for low in BELOW[room])


@pytest.mark.parametrize("room", BELOW)
def test_every_import_points_down(room):
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted((ROOT / room).rglob("*.py"))
        for name in imports(path)
        if not allowed(room, name)
    ]
    assert wrong == []


def test_the_rule_itself_notices_a_wrong_arrow():
    assert not allowed("store", "exporter.accounting")
    assert not allowed("store", "openclaw.fields")
    assert not allowed("openclaw", "store.rows.Position")
    assert not allowed("exporter", "api.app")
    assert not allowed("api", "cli.up.up")
    assert not allowed("lobservatory", "store")
    assert not allowed("dashboards", "store.rows.Total")
    assert not allowed("cli", "dashboards.config.PAGES_URL")
    assert allowed("dashboards", "lobservatory.metrics.catalogue.METRICS")
    assert allowed("cli", "exporter.accounting")


def circles(arrows):
    """Circles of a graph (node → the nodes it points to): of those that reach each other, each set once."""
    found, depth, path = [], {}, []

    def visit(node):
        lowest = depth[node] = len(path)
        path.append(node)
        for target in arrows.get(node, ()):
            if target not in depth:
                lowest = min(lowest, visit(target))
            elif target in path:
                lowest = min(lowest, depth[target])
        if lowest == depth[node]:
            together = sorted(path[lowest:])
            del path[lowest:]
            if len(together) > 1 or node in arrows.get(node, ()):
                found.append(together)
        return lowest

    for node in sorted(arrows):
        if node not in depth:
            visit(node)
    return found


def test_no_modules_import_each_other_in_a_circle():
    """Imports within functions count: they would hide a circle, not open it."""
    paths = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for room in BELOW
        for path in (ROOT / room).rglob("*.py")
    }
    arrows = {
        module: {
            target
            for name in imports(path)
            for target in (name if name in paths else name.rpartition(".")[0],)
            if target in paths
        }
        for module, path in paths.items()
    }
    assert circles(arrows) == []


def test_a_circle_is_noticed():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": set()}) == []
    assert circles({"a": {"b", "d"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"e"}}) == [["b", "c"], ["e"]]


def test_only_the_store_speaks_sql():
    """Statements in other rooms would be a second place that knows the schema; views in dashboards are the contract."""
    words = ("INSERT INTO", "DELETE FROM", "CREATE TABLE", "ALTER TABLE")
    wrong = [
        str(path.relative_to(ROOT))
        for room in ("exporter", "api", "openclaw", "dashboards")
        for path in (ROOT / room).rglob("*.py")
        if any(word in path.read_text(encoding="utf-8") for word in words)
    ]
    assert wrong == []
