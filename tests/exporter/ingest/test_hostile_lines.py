"""Lines made to break a reader: each costs itself and nothing else."""

from __future__ import annotations

import json

import pytest

from exporter.ingest.scan import scan

GOOD = {
    "type": "message",
    "id": "aaaaaaaa",
    "timestamp": "2026-11-20T10:00:00.000Z",
    "message": {
        "role": "assistant",
        "provider": "p",
        "model": "m",
        "content": [],
        "usage": {"input": 10, "output": 5, "cacheRead": 0, "cacheWrite": 0, "cost": {"total": 1}},
        "stopReason": "stop",
    },
}
DEEP = 50_000
NINES = "9" * 5_000


@pytest.mark.req("P-4")
@pytest.mark.parametrize(
    ("line", "rejected", "calls"),
    [
        ('{"a":' * DEEP, {"bad_json": 1}, 1),
        ('{"a":' * DEEP + "1" + "}" * DEEP, {"bad_json": 1}, 1),
        ("[" * DEEP + "]" * DEEP, {"bad_json": 1}, 1),
        ('{"type":"message","message":{"role":"toolResult","x":' + "[" * DEEP + "]" * DEEP + "}}", {"bad_json": 1}, 1),
        (json.dumps({**GOOD, "id": "bbbbbbbb"}).replace('"input": 10', f'"input": {NINES}'), {"bad_number": 1}, 2),
        (json.dumps({**GOOD, "id": "bbbbbbbb"}).replace('"output": 5', f'"output": -{NINES}'), {"bad_number": 1}, 2),
    ],
    ids=["open", "deep object", "deep list", "deep tool result", "long number", "long negative number"],
)
def test_a_line_that_breaks_decoders_is_counted_and_the_rest_is_read(tmp_path, line, rejected, calls):
    sessions = tmp_path / "agents" / "main" / "sessions"
    sessions.mkdir(parents=True)
    (sessions / "s.jsonl").write_text(f"{line}\n{json.dumps(GOOD)}\n", encoding="utf-8")
    result = scan(tmp_path)
    assert result.rejected == rejected
    assert result.total.calls == calls
