"""State directories for measuring: the same bytes on every machine.

A realistic mix: nearly 90 % of the bytes are tool output of heavy-tailed size, with decoys in it; UUID ids, cached
tokens, three models, tool calls with and without errors. `truth.json` beside the corpus has the right totals.
"""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import sys
import uuid
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import zstandard

_LINES_PER_FILE = 108
_BYTES_PER_FILE = 600_000
_START_MS = 1_780_000_000_000
_MODELS = (("anthropic", "claude-sonnet-4-5"), ("openai", "gpt-5"), ("fake", "fake-1"))
_TOOLS = ("exec", "read", "write", "web_fetch", "process")
_VERSION = 1
_COMPRESS_FROM = 4096  # bytes of an event that the row store compresses
SCHEMA = """
CREATE TABLE session_windows (session_id TEXT PRIMARY KEY, session_key TEXT, created_at INTEGER) STRICT;
CREATE TABLE transcript_rewrite_watermarks (session_id TEXT PRIMARY KEY, generation TEXT, updated_at INTEGER) STRICT;
CREATE TABLE transcript_events (
  session_id TEXT NOT NULL, seq INTEGER NOT NULL, event_json TEXT, created_at INTEGER NOT NULL, event_zstd BLOB,
  event_utf8_bytes INTEGER, PRIMARY KEY (session_id, seq)) STRICT;
PRAGMA user_version = 23;
"""


class _Text:
    """Escaped text of any length, cut from one block that is made once."""

    def __init__(self, dice: random.Random) -> None:
        words = [
            '{"type":"message","message":{"role":"assistant","usage":{"cost":{"total":99}}}}',
            '"role":"toolResult"',
            "drwxr-xr-x  2 claw claw   4096 Nov 20 12:00 workspace",
            "Traceback (most recent call last):",
            '\tself.assertEqual("isError", true)',
            "日本語のテキスト und Umlaute: äöü",
            "https://example.org/path?query=value&other=1",
        ]
        lines = []
        for _ in range(4000):
            line = f"{dice.choice(words)} {dice.getrandbits(64):x} {dice.choice(words)}"
            lines.append(json.dumps(line, ensure_ascii=False)[1:-1])
        self._lines = lines
        self._dice = dice

    def cut(self, size: int) -> str:
        """About `size` bytes."""
        start = self._dice.randrange(len(self._lines))
        count = max(1, size // 130)
        whole = self._lines[start : start + count]
        while len(whole) < count:
            whole += self._lines[: count - len(whole)]
        return "\\n".join(whole)


def session_lines(number: int, text: _Text, dice: random.Random, total: dict[str, Decimal | int]) -> Iterator[str]:
    """The lines of one session, and what they add to the totals."""
    now = _START_MS + number * 600_000

    def name() -> str:
        return str(uuid.UUID(int=dice.getrandbits(128), version=4))

    def instant() -> str:
        seconds, milliseconds = divmod(now, 1000)
        days, rest = divmod(seconds, 86_400)
        year_day = f"2026-{6 + days % 5:02}-{1 + days % 28:02}"
        return f"{year_day}T{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}.{milliseconds:03}Z"

    parent = name()
    yield f'{{"type":"session","version":4,"id":"{session_id(number)}","timestamp":"{instant()}","cwd":"/home/claw"}}'
    provider, model = _MODELS[number % len(_MODELS)]
    for line in range(1, _LINES_PER_FILE):
        now += dice.randrange(50, 20_000)
        own = name()
        head = f'{{"type":"message","id":"{own}","parentId":"{parent}","timestamp":"{instant()}","message":'
        parent = own
        step = line % 4
        if step == 1:
            body = f'{{"role":"user","content":"{text.cut(400)}","timestamp":{now}}}'
        elif step in {2, 0}:
            usage = [
                dice.randrange(10, 9000),
                dice.randrange(1, 900),
                dice.randrange(0, 90_000),
                dice.randrange(0, 4000),
            ]
            cost = Decimal(usage[0] * 300 + usage[1] * 1500 + usage[2] * 30 + usage[3] * 375).scaleb(-8)
            total["calls"] += 1
            total["cost"] += cost
            for key, tokens in zip(("input", "output", "cache_read", "cache_write"), usage, strict=True):
                total[key] += tokens
            content = f'[{{"type":"text","text":"{text.cut(900)}"}}]'
            if step == 2:  # noqa: PLR2004 - asks for a tool
                tool = dice.choice(_TOOLS)
                total["tool_calls"] += 1
                arguments = f'{{"command":"{text.cut(300)}"}}'
                content = f'[{{"type":"toolCall","id":"call_{line}","name":"{tool}","arguments":{arguments}}}]'
            body = (
                f'{{"role":"assistant","content":{content},"api":"x","provider":"{provider}","model":"{model}","usage":'
                f'{{"input":{usage[0]},"output":{usage[1]},"cacheRead":{usage[2]},"cacheWrite":{usage[3]},'
                f'"totalTokens":{sum(usage)},"cost":{{"input":0,"output":0,"total":{cost:f}}}}},'
                f'"stopReason":"{"toolUse" if step == 2 else "stop"}","timestamp":{now - 40},'  # noqa: PLR2004 - as above
                f'"__openclaw":{{"runId":"{name()}"}}}}'
            )
        else:
            size = min(int(dice.paretovariate(1.15) * 4800), 400_000)
            failed, status = dice.random() < 0.03, 1 if dice.random() < 0.1 else 0  # noqa: PLR2004 - shares
            total["tool_errors"] += failed
            output = text.cut(size)
            body = (
                f'{{"role":"toolResult","toolCallId":"call_{line - 1}","toolName":"{tool}","content":'
                f'[{{"type":"text","text":"{output}"}}],"details":{{"status":"completed","exitCode":{status},'
                f'"durationMs":{dice.randrange(9000)},"aggregated":"{output[:2000].rpartition(" ")[0]}"}},'
                f'"isError":{"true" if failed else "false"},"timestamp":{now}}}'
            )
        yield f"{head}{body}}}"


def session_id(number: int) -> str:
    """The id of a session of the corpus."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"session {number}"))


def make(folder: Path, store: str, size: int) -> Path:
    """A state directory of about `size` bytes in the store `jsonl` or `sqlite`; made once and kept."""
    state = folder / f"{store}-{size // 1_000_000}mb"
    if (state / f"v{_VERSION}").exists():
        return state
    shutil.rmtree(state, ignore_errors=True)
    (state / "agents" / "main" / "sessions").mkdir(parents=True)
    (state / "agents" / "main" / "agent").mkdir()
    (state / "openclaw.json").write_text("{}")
    dice = random.Random(20261121)
    text = _Text(dice)
    keys = ("calls", "input", "output", "cache_read", "cache_write", "tool_calls", "tool_errors")
    total: dict[str, Decimal | int] = dict.fromkeys(keys, 0) | {"cost": Decimal(0)}
    sessions = ((number, session_lines(number, text, dice, total)) for number in range(max(1, size // _BYTES_PER_FILE)))
    if store == "jsonl":
        for number, lines in sessions:
            path = state / "agents" / "main" / "sessions" / f"{session_id(number)}.jsonl"
            path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    else:
        _write_rows(state / "agents" / "main" / "agent" / "openclaw-agent.sqlite", sessions)
    (state / "truth.json").write_text(json.dumps({key: str(value) for key, value in total.items()}))
    (state / f"v{_VERSION}").touch()
    return state


def _write_rows(path: Path, sessions: Iterator[tuple[int, Iterator[str]]]) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(SCHEMA)
    compressor = zstandard.ZstdCompressor()
    connection.execute("BEGIN")
    for number, lines in sessions:
        name = session_id(number)
        connection.execute(
            "INSERT INTO session_windows VALUES (?, ?, ?)", (name, f"agent:main:dashboard:{name}", number)
        )
        connection.execute("INSERT INTO transcript_rewrite_watermarks VALUES (?, ?, ?)", (name, "g", number))
        for seq, line in enumerate(lines):
            raw = line.encode()
            packed = compressor.compress(raw) if len(raw) >= _COMPRESS_FROM else None
            row = (name, seq, None if packed else line, number, packed, len(raw))
            connection.execute("INSERT INTO transcript_events VALUES (?, ?, ?, ?, ?, ?)", row)
    connection.execute("COMMIT")
    connection.close()


if __name__ == "__main__":
    print(make(Path(sys.argv[1]), sys.argv[2], int(float(sys.argv[3]) * 1_000_000)))
