"""The arrows between the rooms point one way, and nothing of this workplace's outside is imported by accident."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("openclaw", "store", "exporter", "api", "dashboards", "alerts", "lobservatory")

# Data that every room may read.
DATA = {
    "lobservatory.settings",
    "lobservatory.metrics.catalogue",
    "lobservatory.metrics.exposition",
    "lobservatory.password",
    "lobservatory.thresholds",
    "lobservatory.logging",
    "lobservatory.errors",
    "lobservatory.given",
    "lobservatory.otlp",
    "lobservatory.complaints",
    "lobservatory.wording",
    "lobservatory.__version__",
}
# What each room may import of ours besides.
ALLOWED = {
    "openclaw": {"openclaw", "store.rows"},  # positions: pure data, the words of a contract
    "store": {"store"},
    "exporter": {"exporter", "openclaw", "store"},
    "api": {"api", "openclaw", "store"},
    "dashboards": {"dashboards"},
    "alerts": {"alerts"},
    "lobservatory": set(ROOMS) - {"dashboards"},  # what builds boards needs a development dependency
}


def imports(path):
    """Dotted names that a module imports, wherever in its text."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide which room they cross"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _within(name, places):
    return any(name == place or name.startswith(place + ".") for place in places)


def allowed(room, name):
    return name.partition(".")[0] not in ROOMS or _within(name, ALLOWED.get(room, ())) or _within(name, DATA)


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_what_the_arrows_allow(room):
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted((ROOT / room).rglob("*.py"))
        for name in imports(path)
        if not allowed(room, name)
    ]
    assert wrong == []


@pytest.mark.parametrize("name", sorted(DATA - {"lobservatory.__version__"}))
def test_the_data_that_all_rooms_read_imports_only_such_data(name):
    path = ROOT / (name.replace(".", "/") + ".py")
    wrong = [found for found in imports(path) if found.partition(".")[0] in ROOMS and not allowed("", found)]
    assert wrong == []


def test_the_rule_itself_notices_a_wrong_arrow():
    assert not allowed("store", "exporter.accounting")
    assert not allowed("exporter", "api.app")
    assert not allowed("api", "lobservatory.runner.up")
    assert not allowed("dashboards", "store.rows.Total")
    assert not allowed("lobservatory", "dashboards.config.PAGES_URL")
    assert allowed("dashboards", "lobservatory.metrics.catalogue.METRICS")


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
