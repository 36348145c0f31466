"""One thing is kept once: what the demo plays and tests read is one file."""

import hashlib
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLACES = ("alerts", "api", "benchmarks", "cli", "dashboards", "docs", "exporter", "lobservatory", "openclaw")
SMALL = 300  # bytes: an empty answer, a package's docstring


def test_no_file_stands_twice():
    """A link is no copy."""
    found = defaultdict(list)
    for place in (*PLACES, "provisioning", "store", "tests"):
        for path in (ROOT / place).rglob("*"):
            if path.is_file() and not path.is_symlink() and path.stat().st_size > SMALL and path.suffix != ".pyc":
                found[hashlib.sha256(path.read_bytes()).digest()].append(str(path.relative_to(ROOT)))
    assert [paths for paths in found.values() if len(paths) > 1] == []
