"""The recorded state directories as one living state directory whose past ends now.

Two recordings lie in one copy: 2026.9.6 (SQLite) as it is, and the agents of 2026.4.27 (JSONL) under names that begin
with `legacy-`. Every instant is moved by one amount, so that order and distances stay; texts are the fake model's.
"""

from __future__ import annotations

import io
import json
import re
import sqlite3
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

import zstandard

RECORDINGS = files("cli.demo") / "recordings"
LEGACY = "legacy-"
# The recordings were made on one day; these are all its instants, and no other number or text looks like them.
_MILLISECONDS = re.compile(r"(?<![\w.])1795[0-9]{9}(?![\w.])")
_ISO = re.compile(r"2026-11-21T([0-9]{2})([:-])([0-9]{2})[:-]([0-9]{2})\.([0-9]{3})Z")
_AGENT_KEY = re.compile(r"agent:(main|guarded|helper):")
_AGENT_PATH = re.compile(r"agents/(main|guarded|helper)/")
_MAX_EVENT = 4 << 20
_SKIPPED_TABLES = re.compile(r"(_fts|_fts_[a-z]+|sqlite_sequence|schema_meta|migration_[a-z]+)$")


def mover(by: timedelta) -> Callable[[str], str]:
    """A function that moves every instant in a text."""
    milliseconds = by // timedelta(milliseconds=1)

    def iso(match: re.Match[str]) -> str:
        hour, separator, minute, second, fraction = match.groups()
        at = datetime.fromisoformat(f"2026-11-21T{hour}:{minute}:{second}.{fraction}+00:00") + by
        text = at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return text if separator == ":" else text.replace(":", "-")

    return lambda text: _ISO.sub(iso, _MILLISECONDS.sub(lambda match: str(int(match[0]) + milliseconds), text))


def prepare(state_dir: Path, *, port: int, token: str, now: datetime) -> None:
    """Make the copy in an empty or missing directory (0700). Raises OSError, FileExistsError when it is not empty."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(state_dir.iterdir()):
        raise FileExistsError(f"{state_dir} is not empty: the demo needs a directory of its own")
    _unpack("state-2026.9.6.tar.gz", state_dir, now, legacy=False)
    _unpack("state-2026.4.27.tar.gz", state_dir, now, legacy=True)
    config_path = state_dir / "openclaw.json"
    config = json.loads(config_path.read_text(encoding="utf-8"))
    config["gateway"] = {**config.get("gateway", {}), "port": port, "auth": {"mode": "token", "token": token}}
    config_path.write_text(json.dumps(config, indent=1), encoding="utf-8")
    config_path.chmod(0o600)


def _unpack(name: str, state_dir: Path, now: datetime, *, legacy: bool) -> None:
    packed = (RECORDINGS / name).read_bytes()
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        members = [member for member in archive.getmembers() if member.isfile()]
        content = {
            member.name.removeprefix(".openclaw/"): source.read()
            for member in members
            if (source := archive.extractfile(member)) is not None
        }
    move = mover(now - _newest(content.values()))
    for path, data in sorted(content.items()):
        if legacy and not path.startswith("agents/"):
            continue  # the newer recording has its own jobs and records
        text_path = move(_AGENT_PATH.sub(rf"agents/{LEGACY}\1/", path) if legacy else path)
        target = state_dir / text_path
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        target.write_bytes(_moved_file(path, data, move, legacy=legacy))
        target.chmod(0o600)
        if target.suffix == ".sqlite":
            _move_database(target, move)


def _newest(contents: Any) -> datetime:
    found = [
        int(match)
        for data in contents
        if not data.startswith(b"SQLite format 3")
        for match in _MILLISECONDS.findall(data.decode("utf-8", errors="ignore"))
        if int(match) < 1_795_224_600_000  # noqa: PLR2004 - later ones are plans, not the past
    ]
    # The newer recording has its instants in databases: its last minute is known.
    return datetime.fromtimestamp(max(found, default=1_795_224_080_000) / 1000, UTC)


def _moved_file(path: str, data: bytes, move: Callable[[str], str], *, legacy: bool) -> bytes:
    if data.startswith(b"SQLite format 3"):
        return data
    packed = path.endswith(".zst")
    text = (zstandard.ZstdDecompressor().decompress(data, max_output_size=_MAX_EVENT) if packed else data).decode()
    text = move(text)
    if legacy:
        text = _AGENT_PATH.sub(rf"agents/{LEGACY}\1/", _AGENT_KEY.sub(rf"agent:{LEGACY}\1:", text))
    return zstandard.ZstdCompressor().compress(text.encode()) if packed else text.encode()


def open_database(path: Path) -> sqlite3.Connection:
    """For writing. The tables' checks call a function that SQLite has since 3.43 only."""
    connection = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
    connection.create_function(
        "octet_length", 1, lambda value: None if value is None else len(str(value).encode()), deterministic=True
    )
    return connection


def _move_database(path: Path, move: Callable[[str], str]) -> None:
    with closing(open_database(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN")
        for table, columns in list(_tables(connection)):
            names = ", ".join(f'"{column}"' for column in columns)
            # The names come from the recording itself.
            for rowid, *values in connection.execute(f'SELECT rowid, {names} FROM "{table}"').fetchall():  # noqa: S608
                changed = {
                    column: new
                    for column, value in zip(columns, values, strict=True)
                    if (new := _moved_value(value, move)) != value
                }
                if changed:
                    if "event_zstd" in changed:
                        changed["event_utf8_bytes"] = len(_unpacked(changed["event_zstd"]))
                    assignments = ", ".join(f'"{column}" = ?' for column in changed)
                    update = f'UPDATE "{table}" SET {assignments} WHERE rowid = ?'  # noqa: S608 - as above
                    connection.execute(update, [*changed.values(), rowid])
        connection.execute("COMMIT")


def _tables(connection: sqlite3.Connection) -> Iterator[tuple[str, list[str]]]:
    found = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall()
    for name, definition in found:
        if "WITHOUT ROWID" in definition or "VIRTUAL" in definition or _SKIPPED_TABLES.search(name):
            continue
        yield name, [row[1] for row in connection.execute(f'PRAGMA table_xinfo("{name}")') if row[6] == 0]


def _moved_value(value: Any, move: Callable[[str], str]) -> Any:
    if isinstance(value, int):
        text = str(value)
        return int(move(text)) if len(text) == 13 else value  # noqa: PLR2004 - epoch milliseconds
    if isinstance(value, str):
        return move(value)
    if isinstance(value, bytes) and value.startswith(b"\x28\xb5\x2f\xfd"):  # a zstd frame
        return zstandard.ZstdCompressor().compress(move(_unpacked(value).decode()).encode())
    return value


def _unpacked(frame: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(frame, max_output_size=_MAX_EVENT)
