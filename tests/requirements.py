"""`make requirements`: the rows of docs/requirements.md with the tests that prove them.

Tests are found by their marker `@pytest.mark.req("S0-9")`, without running or importing them.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_ROW = re.compile(r"^\| ((?:S\d|P)-\d+) \| (.*?) \|", re.MULTILINE)


def rows(text: str) -> dict[str, str]:
    """Id → requirement, in the order of the document."""
    return dict(_ROW.findall(text))


def _ids(node: ast.expr) -> Iterator[str]:
    """The ids of every `….req("…")` within an expression."""
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "req":
            yield from (
                argument.value
                for argument in call.args
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
            )


def marks(source: str) -> Iterator[tuple[str, str]]:
    """(id, test) of one test file; a marker of the module or of a class counts for all its tests."""

    def visit(body: list[ast.stmt], inherited: tuple[str, ...], prefix: str) -> Iterator[tuple[str, str]]:
        for node in body:
            if isinstance(node, ast.Assign) and any(
                isinstance(t, ast.Name) and t.id == "pytestmark" for t in node.targets
            ):
                inherited += tuple(_ids(node.value))
        for node in body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            own = inherited + tuple(name for decorator in node.decorator_list for name in _ids(decorator))
            if isinstance(node, ast.ClassDef):
                yield from visit(node.body, own, f"{prefix}{node.name}::")
            elif node.name.startswith("test"):
                yield from ((name, prefix + node.name) for name in own)

    yield from visit(ast.parse(source).body, (), "")


def coverage(folder: Path) -> dict[str, list[str]]:
    """Id → tests, over a folder of tests."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(folder.rglob("test_*.py")):
        for name, test in marks(path.read_text(encoding="utf-8")):
            found[name].append(f"{path.relative_to(folder.parent)}::{test}")
    return found


def main() -> int:
    """Print the table. Status 1 when a test names a row that does not exist."""
    wanted = rows((ROOT / "docs" / "requirements.md").read_text(encoding="utf-8"))
    found = coverage(ROOT / "tests")
    lines = []
    for name, text in wanted.items():
        tests = found.get(name, [])
        lines.append(f"{name:6} {'proved' if tests else 'OPEN  '} {text[:100]}")
        lines += [f"         {test}" for test in tests]
    open_rows = [name for name in wanted if name not in found]
    unknown = sorted(set(found) - set(wanted))
    lines.append(
        f"\n{len(wanted) - len(open_rows)} of {len(wanted)} rows have a test; open: {', '.join(open_rows) or 'none'}"
    )
    if unknown:
        lines.append(f"unknown rows named by tests: {', '.join(unknown)}")
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if unknown else 0


if __name__ == "__main__":
    raise SystemExit(main())
