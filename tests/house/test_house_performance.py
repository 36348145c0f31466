"""The page of measurements says what was measured last."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.report import page

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_up_to_date():
    results = json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))
    assert (ROOT / "docs" / "performance.md").read_text(encoding="utf-8") == page(results)
