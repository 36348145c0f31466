"""The arrows between the rooms point one way, and nothing of this workplace's outside is imported by accident."""

import ast
import re
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


# Names that begin with an underscore and are not ours: `file: name`, and why there is no other way.
NOT_OURS = {
    "*": {"_asdict", "_fields", "_make", "_replace"},  # named tuples: public, and so spelled as not to collide
    "exporter/collectors/programs.py": {"_transport"},  # the pipe of a program that was not read to its end
}


def private(name):
    """Whether a name is its owner's business."""
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def reaches(text):
    """Private names of others that a module uses: of another object than `self` or `cls`, or of another module."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and private(node.attr):
            if not (isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}):
                yield node.attr
        elif isinstance(node, ast.ImportFrom):
            parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            yield from (part for part in parts if private(part))
        elif isinstance(node, ast.Import):
            yield from (part for alias in node.names for part in alias.name.split(".") if private(part))


@pytest.mark.parametrize("room", BELOW)
def test_nobody_reaches_into_what_is_private_to_another(room):
    wrong = [
        f"{path.relative_to(ROOT)} uses {name}"
        for path in sorted((ROOT / room).rglob("*.py"))
        for name in reaches(path.read_text(encoding="utf-8"))
        if name not in NOT_OURS["*"] | NOT_OURS.get(path.relative_to(ROOT).as_posix(), set())
    ]
    assert wrong == []


def test_a_reach_is_noticed():
    text = """
from __future__ import annotations
import a._b
from c import _d, __version__
class E:
    def f(self, other):
        self._g = self._h._i = other._j
        return cls._k, other.__dict__, self.__class__, other.l
"""
    assert sorted(reaches(text)) == ["_b", "_d", "_i", "_j"]


# Statements that change something, wherever they stand; questions only where they are asked, for boards ask views.
CHANGES = re.compile(r"\b(INSERT INTO|DELETE FROM|CREATE TABLE|ALTER TABLE|TRUNCATE|GRANT \w+ (ON|TO))\b")
ASKS = re.compile(
    r"\s*(SELECT\b.*\bFROM\b|WITH\b.*\bSELECT\b|UPDATE\b.*\bSET\b|SET TRANSACTION\b|SET LOCAL\b)", re.DOTALL
)


def sql_of_ours(source, *, boards=False):
    """What a module has of statements to our database. One of sqlite3 and not of psycopg speaks to OpenClaw's files."""
    nodes = list(ast.walk(ast.parse(source)))
    imported = {alias.name.partition(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module).partition(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
    if "sqlite3" in imported and "psycopg" not in imported:
        return []
    return [f"line {node.lineno}" for node in nodes if is_sql(node, boards=boards)]


def is_sql(node, *, boards):
    if isinstance(node, ast.ImportFrom):
        return node.module == "psycopg" and any(alias.name == "sql" for alias in node.names)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr in {"execute", "executemany", "executescript"}
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return bool(CHANGES.search(node.value) or (not boards and ASKS.match(node.value)))
    return False


def test_only_the_store_speaks_sql():
    """Statements in other rooms would be a second place that knows the schema; views in dashboards are the contract."""
    wrong = {
        str(path.relative_to(ROOT)): found
        for room in ("lobservatory", "openclaw", "exporter", "api", "cli", "dashboards", "alerts")
        for path in (ROOT / room).rglob("*.py")
        if (found := sql_of_ours(path.read_text(encoding="utf-8"), boards=room == "dashboards"))
    }
    assert wrong == {}


@pytest.mark.parametrize(
    "source",
    [
        "connection.execute('SELECT 1')",
        "def f(query):\n    cursor.executemany(query, rows)",
        "from psycopg import sql",
        "QUERY = 'SELECT a FROM public.agents WHERE a = %s'",
        "QUERY = f'SELECT a\\n FROM {view}'",
        "a = 'INSERT INTO lobs.agents VALUES (1)'",
        "a = 'ALTER TABLE lobs.agents ADD b int'",
        "a = 'GRANT SELECT ON lobs.agents TO lobs_reader'",
        "a = 'SET TRANSACTION READ ONLY'",
        "a = 'UPDATE lobs.agents SET a = 1'",
    ],
)
def test_the_rule_notices_sql(source):
    assert sql_of_ours(source)
    assert "psycopg" in source or sql_of_ours(f"import sqlite3\n{source}") == []
    assert sql_of_ours(f"import sqlite3\nfrom psycopg.rows import dict_row\n{source}")


def test_the_rule_leaves_advice_and_boards_alone():
    assert sql_of_ours("a = 'as an administrator, run CREATE ROLE lobs_writer LOGIN'") == []
    assert sql_of_ours("a = 'SELECT ts FROM cost_hourly'", boards=True) == []
    assert sql_of_ours("a = 'DELETE FROM cost_hourly'", boards=True)
