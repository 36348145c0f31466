"""The right totals of a state directory, counted as plainly as possible and apart from the product's own code.

One model call = one entry of type `message`, role `assistant`, with a usage object, whose model is none of the
delivery mirrors; the same id, time and message twice counts once.
"""

import collections
import io
import json
import re
import sqlite3
from decimal import Decimal
from pathlib import Path
from typing import Any

import zstandard

CLASSES = {"input": "input", "output": "output", "cacheRead": "cache_read", "cacheWrite": "cache_write"}
NOT_CALLS = {"delivery-mirror", "gateway-injected"}
SIDECARS = re.compile(r"\.trajectory|\.checkpoint\.|\.bak|\.lock$|\.tmp$")


def _inflate(data):
    return zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read().decode()


def _events(state):
    for directory in sorted((state / "agents").iterdir()):
        database = directory / "agent" / "openclaw-agent.sqlite"
        if database.exists():
            connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)
            for text, compressed in connection.execute(
                "SELECT event_json, event_zstd FROM transcript_events ORDER BY session_id, seq"
            ):
                yield directory.name, text if text is not None else _inflate(compressed)
            connection.close()
        for path in sorted((directory / "sessions").glob("*.jsonl*")):
            if SIDECARS.search(path.name):
                continue
            data = path.read_bytes()
            for line in (_inflate(data) if path.suffix == ".zst" else data.decode()).splitlines():
                yield directory.name, line


def count(state: Path) -> dict[str, Any]:
    """{calls, errors, cost_usd, tokens{…}, reasoning, by_agent{calls, cost_usd}, tools{name: calls}}; a tool is what
    the model asked for, also through `tool_call`."""
    totals: dict[str, Any] = {"calls": 0, "errors": 0, "cost_usd": Decimal(0), "reasoning": 0}
    tokens: collections.Counter[str] = collections.Counter()
    tools: collections.Counter[str] = collections.Counter()
    by_agent: dict[str, dict[str, Any]] = collections.defaultdict(lambda: {"calls": 0, "cost_usd": Decimal(0)})
    seen = set()
    for agent, text in _events(state):
        event = json.loads(text, parse_float=Decimal)
        message = event.get("message") or {}
        identity = (agent, event.get("id"), event.get("timestamp"), json.dumps(message, sort_keys=True, default=str))
        if event.get("type") != "message" or message.get("role") != "assistant" or identity in seen:
            continue
        seen.add(identity)
        parts = [p for p in message.get("content") or [] if isinstance(p, dict) and p.get("type") == "toolCall"]
        tools.update(p["arguments"]["id"] if p["name"] == "tool_call" else p["name"] for p in parts)
        usage = message.get("usage")
        if not isinstance(usage, dict) or message.get("model") in NOT_CALLS:
            continue
        cost = Decimal((usage.get("cost") or {}).get("total") or 0)
        totals["calls"] += 1
        totals["errors"] += message.get("stopReason") == "error"
        totals["cost_usd"] += cost
        totals["reasoning"] += usage.get("reasoningTokens") or 0
        tokens.update({name: usage.get(key) or 0 for key, name in CLASSES.items()})
        by_agent[agent]["calls"] += 1
        by_agent[agent]["cost_usd"] += cost
    return {**totals, "tokens": dict(tokens), "by_agent": dict(by_agent), "tools": dict(tools)}
