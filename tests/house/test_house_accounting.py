"""docs/accounting.md names the test of every rule, and every test of accounting."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.exporter.accounting.test_conformance import BESIDE, CASES

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "accounting.md").read_text(encoding="utf-8")
# Tables of rules have two columns.
ROWS = [
    row for row in PAGE.splitlines() if row.startswith("| ") and row.count("|") == len("|||") and "| rule" not in row
]
# Every test of these is one of accounting.
FILES = (
    "exporter/accounting/test_conformance.py",
    "exporter/accounting/test_fields_of_a_call.py",
    "exporter/accounting/test_interleavings.py",
    "exporter/accounting/test_plain.py",
    "exporter/ingest/test_moved_sessions.py",
    "exporter/test_three_accounts.py",
)


def names_in(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield node.name


def test_every_rule_has_tests_and_they_exist():
    known = {name for path in (ROOT / "tests").rglob("test_*.py") for name in names_in(path)}
    for row in ROWS:
        _, rule, proof, _ = row.split("|")
        tests, cases = re.findall(r"`(test_\w+)`", proof), re.findall(r'"([^"]+)"', proof)
        assert tests or cases, f"no test: {rule}"
        assert set(tests) <= known, rule
        assert set(cases) <= CASES.keys() | BESIDE.keys(), rule


def test_every_test_of_accounting_and_every_right_answer_is_on_the_page():
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    of_accounting = {name for file in FILES for name in names_in(ROOT / "tests" / file)}
    assert not of_accounting - named
    assert not (CASES.keys() | BESIDE.keys()) - set(re.findall(r'"([^"|]+)"', PAGE))
