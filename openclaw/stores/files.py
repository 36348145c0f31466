"""Transcript files: lines whose newline is there, from a byte offset, in bounded memory.

A file is known by device, inode, a hash of its head and of what was read last, and a checksum of all between;
truncated, replaced, changed at the same size or rewritten before it grew, it is read again from its beginning.
Archives (`.reset.`, `.deleted.`, cold, `.zst`) do not grow: their last line counts without a newline too.
"""

from __future__ import annotations

import hashlib
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Protocol

import zstandard

from openclaw.stores.contract import Chunk, Entry, LineReject, Position, RejectReason, Source, SourceError
from openclaw.stores.entries import MAX_ENTRY, decode

BLOCK = 1024 * 1024
_HEAD = 512
_TAIL = 256
# Up to this size, a file that has grown is compared as a whole with what was read: a few milliseconds at most. A longer
# one is compared again when it has grown by this share of its size.
_COMPARED = 32 * 1024 * 1024
_GROWN = 64
_MAX_WINDOW = 128 * 1024 * 1024  # of a zstd frame: the largest that `zstd` makes without --ultra
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_BOM = b"\xef\xbb\xbf"


class Bytes(Protocol):
    """Bytes at an offset, as of one moment."""

    @property
    def broken(self) -> bool:
        """Whether the content ended before its end."""

    def at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; fewer only at the end."""


@dataclass(frozen=True, slots=True)
class Lines:
    """What was between an offset and the last complete line."""

    entries: list[Entry]
    rejects: list[LineReject]
    offset: int
    done: bool
    size: int = 0  # bytes, where that was asked for


def read_lines(content: Bytes, key: str, offset: int, *, final: bool, max_bytes: int) -> Lines:
    """Complete lines from `offset` on, about `max_bytes` of them (at least one line when there is one).

    `final`: nothing will be appended any more, so that the last line counts without its newline.
    """
    entries: list[Entry] = []
    rejects: list[LineReject] = []
    end = offset + max_bytes
    while offset < end:
        block = content.at(offset, BLOCK)
        if not block:
            return Lines(entries, rejects, offset, done=True)
        size = _decode_block(block, key, offset, entries, rejects)
        if size:
            offset += size
            continue
        line, length, ended = _long_line(content, offset, block)
        if not ended and (content.broken or not final):
            return Lines(entries, rejects, offset, done=True)
        _keep("too_long" if line is None else decode_line(line), key, offset, entries, rejects)
        offset += length
    return Lines(entries, rejects, offset, done=False)


def _decode_block(block: bytes, key: str, offset: int, entries: list[Entry], rejects: list[LineReject]) -> int:
    """Decode the complete lines of a block; how many bytes they are."""
    view = memoryview(block)
    start = 0
    while (newline := block.find(b"\n", start)) >= 0:
        if newline - start > MAX_ENTRY:
            _keep("too_long", key, offset + start, entries, rejects)
        else:
            _keep(decode_line(view[start:newline]), key, offset + start, entries, rejects)
        start = newline + 1
    return start


def decode_line(line: bytes | memoryview) -> Entry | RejectReason | None:
    """The entry of a line without its newline, why it is none, or None for a blank one."""
    found = decode(line)
    if isinstance(found, str):
        text = bytes(line).removeprefix(_BOM).strip()
        if not text:
            return None
        if len(text) != len(line):  # a byte order mark, or blanks that JSON does not know
            return decode(text)
    return found


def _keep(
    found: Entry | RejectReason | None, key: str, offset: int, entries: list[Entry], rejects: list[LineReject]
) -> None:
    if isinstance(found, Entry):
        entries.append(found)
    elif found is not None:
        rejects.append(LineReject(found, f"{key}@{offset}"))


def _long_line(content: Bytes, offset: int, block: bytes) -> tuple[bytes | None, int, bool]:
    """The line at `offset` that is longer than `block`: its bytes (None: too many), its length with the newline, and
    whether the newline is there."""
    kept: list[bytes] | None = [block]
    length = len(block)
    while piece := content.at(offset + length, BLOCK):
        newline = piece.find(b"\n")
        taken = piece if newline < 0 else piece[:newline]
        length += len(taken)
        if length > MAX_ENTRY:
            kept = None
        elif kept is not None:
            kept.append(taken)
        if newline >= 0:
            return (None if kept is None else b"".join(kept)), length + 1, True
    return (None if kept is None else b"".join(kept)), length, False


@dataclass(frozen=True, slots=True)
class _Descriptor:
    """A file up to the size that it had when it was opened."""

    number: int
    size: int

    @property
    def broken(self) -> bool:
        return False

    def at(self, offset: int, size: int) -> bytes:
        size = min(size, self.size - offset)
        return os.pread(self.number, size, offset) if size > 0 else b""


@contextmanager
def _opened(source: Source) -> Iterator[tuple[int, os.stat_result]]:
    try:
        # O_NONBLOCK: a named pipe with a transcript's name must not stop us.
        number = os.open(source.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise SourceError(_unreadable(source.path, error)) from error
    try:
        status = os.fstat(number)
        if not stat.S_ISREG(status.st_mode):
            raise SourceError(f"{source.path}: not a regular file, not read")
        yield number, status
    except OSError as error:
        raise SourceError(_unreadable(source.path, error)) from error
    finally:
        os.close(number)


def _unreadable(path: Path, error: OSError) -> str:
    hint = "; run as the user of the gateway, or give this user read permission" if error.errno in {1, 13} else ""
    return f"{path}: cannot be read: {error.strerror}{hint}"


def _identity(status: os.stat_result) -> str:
    return f"{status.st_dev}:{status.st_ino}"


def _content_hash(content: Bytes, offset: int) -> str:
    """Of the first and the last bytes before `offset`: tells another content at the same inode."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(content.at(0, min(offset, _HEAD)))
    digest.update(content.at(max(0, offset - _TAIL), min(offset, _TAIL)))
    return digest.hexdigest()


def _checksum(content: Bytes, start: int, end: int, before: int = 0) -> int:
    """CRC-32 of the bytes up to `end`, given that of those before `start`."""
    while start < end and (block := content.at(start, min(BLOCK, end - start))):
        before = zlib.crc32(block, before)
        start += len(block)
    return before


def fingerprint(content: Bytes, status: os.stat_result, offset: int, *, checksum: int, done: bool) -> str:
    """`device:inode:hash.checksum:end|more`."""
    end = "end" if done else "more"
    return f"{_identity(status)}:{_content_hash(content, offset)}.{checksum:08x}:{end}"


def need_not_compare(position: Position, compared: int | None, size: int) -> bool:
    """Whether a file whose first bytes were compared (or read) by us up to `compared` may go on unseen.

    While it is read in parts it was read just now; a long one is compared again when it has grown enough.
    """
    if compared is None:
        return False
    if position.fingerprint.endswith(":more") and compared == position.offset:
        return True
    return position.offset > _COMPARED and size - compared < size // _GROWN


def unchanged(source: Source, position: Position) -> bool:
    """Whether the file is as it was when its last complete line was read."""
    return (
        position.fingerprint.startswith(source.fingerprint + ":")
        and position.fingerprint.endswith(":end")
        and position.size == source.size
        and position.mtime_ns == source.mtime_ns
    )


def _continues(content: Bytes, status: os.stat_result, position: Position, *, compare: bool) -> bool:
    """Whether what was read before is still there, so that reading goes on at the offset.

    `compare`: all of it, for a file can be rewritten in the middle and grow, and its head and its tail tell nothing.
    """
    if status.st_size < position.offset:
        return False
    if status.st_size == position.size and status.st_mtime_ns != position.mtime_ns:
        return False  # changed at the same size
    known, _, checksum = position.fingerprint.rpartition(":")[0].partition(".")
    if known != f"{_identity(status)}:{_content_hash(content, position.offset)}":
        return False
    return not compare or not checksum or int(checksum, 16) == _checksum(content, 0, position.offset)


def _checksum_of(position: Position, content: Bytes) -> int:
    """The checksum of what was read; positions of former versions have none."""
    checksum = position.fingerprint.rpartition(":")[0].partition(".")[2]
    return int(checksum, 16) if checksum else _checksum(content, 0, position.offset)


def read_file(source: Source, position: Position | None, *, max_bytes: int, compare: bool = True) -> Chunk:
    """The next lines of a plain file. `compare`: see `need_not_compare`. Raises SourceError."""
    with _opened(source) as (number, status):
        content = _Descriptor(number, status.st_size)
        restarted = position is not None and not _continues(content, status, position, compare=compare)
        start, before = 0, 0
        if position is not None and not restarted:
            start, before = position.offset, _checksum_of(position, content)
        lines = read_lines(content, source.key, start, final=source.store == "archive", max_bytes=max_bytes)
        done = lines.done or lines.offset >= status.st_size
        checksum = _checksum(content, start, lines.offset, before)
        return _chunk(
            source,
            lines,
            Position(
                key=source.key,
                offset=lines.offset,
                generation=_generation(position, restarted=restarted),
                fingerprint=fingerprint(content, status, lines.offset, checksum=checksum, done=done),
                size=status.st_size,
                mtime_ns=status.st_mtime_ns,
            ),
            bytes_read=lines.offset - start,
            lag=status.st_size - lines.offset,
            done=done,
            restarted=restarted,
        )


@dataclass(frozen=True, slots=True)
class Block:
    """Complete lines, undecoded: `content[:end]`, the last one with its newline. Valid until the next one is made."""

    content: bytearray
    end: int


def read_blocks(source: Source, buffer: bytearray) -> Iterator[Block | Lines]:
    """The whole of a plain file in blocks of complete lines, undecoded; a longer line comes decoded.

    One buffer for all, because fresh memory for each block would cost more than reading it. Raises SourceError.
    """
    final = source.store == "archive"
    view = memoryview(buffer)
    with _opened(source) as (number, status):
        offset = 0
        while offset < status.st_size:
            size = os.preadv(number, [view[: status.st_size - offset]], offset)
            end = buffer.rfind(b"\n", 0, size) + 1
            if end:
                yield Block(buffer, end)
                offset += end
                continue
            lines = read_lines(_Descriptor(number, status.st_size), source.key, offset, final=final, max_bytes=1)
            if lines.offset == offset:
                return
            yield replace(lines, size=lines.offset - offset)
            offset = lines.offset


def _generation(position: Position | None, *, restarted: bool) -> int:
    return 0 if position is None else position.generation + restarted


def _chunk(
    source: Source, lines: Lines, position: Position, *, bytes_read: int, lag: int, done: bool, restarted: bool
) -> Chunk:
    return Chunk(
        source=source,
        session_id=source.session_id,
        entries=lines.entries,
        rejects=lines.rejects,
        position=position,
        bytes_read=bytes_read,
        written_ms=position.mtime_ns // 1_000_000,
        done=done,
        lag=lag,
        restarted=restarted,
    )


class Reader(Protocol):
    """A stream of bytes."""

    def read(self, size: int = -1, /) -> bytes | None:
        """Up to `size` bytes; nothing at the end."""

    def close(self) -> None:
        """Close what is beneath."""


class ArchiveStream:
    """An archive, compressed or plain, read forward once: offsets do not go back behind what was asked for last."""

    def __init__(self, raw: IO[bytes]) -> None:
        compressed = raw.read(len(_ZSTD_MAGIC)) == _ZSTD_MAGIC
        raw.seek(0)
        self._stream: Reader = raw
        if compressed:
            decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
            self._stream = decompressor.stream_reader(raw, read_across_frames=True, closefd=True)
        self._start = 0  # offset of the first byte of _kept
        self._kept = b""
        self._broken = False

    @property
    def broken(self) -> bool:
        """Whether compressed data could not be decompressed to its end."""
        return self._broken

    def at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; fewer only at the end, or where the compressed data is broken."""
        if offset < self._start:
            raise SourceError("an archive was read backwards")
        while self._start + len(self._kept) < offset + size:
            dropped = min(offset - self._start, len(self._kept))
            self._kept = self._kept[dropped:]
            self._start += dropped
            try:
                piece = self._stream.read(BLOCK)
            except zstandard.ZstdError:
                self._broken = True
                piece = b""
            if not piece:
                break
            self._kept += piece
        return self._kept[offset - self._start : offset - self._start + size]

    def close(self) -> None:
        """Close the file beneath."""
        self._stream.close()


def continues_archive(source: Source, position: Position) -> bool:
    """Whether a position is one of this very archive: its inode may have been that of a transcript, or of another."""
    known = position.fingerprint.rpartition(":")[0], position.size, position.mtime_ns
    return known == (f"{source.fingerprint}:", source.size, source.mtime_ns)


def read_archive(source: Source, position: Position | None, archive: ArchiveStream, *, max_bytes: int) -> Chunk:
    """The next lines of an archive that is open at (or before) the position's offset. Raises SourceError.

    Broken compressed data is one `bad_json` reject behind the last line that could be had.
    """
    start = position.offset if position is not None else 0
    lines = read_lines(archive, source.key, start, final=True, max_bytes=max_bytes)
    if archive.broken and lines.done:
        lines.rejects.append(LineReject("bad_json", f"{source.key}@end"))
    return _chunk(
        source,
        lines,
        Position(
            key=source.key,
            offset=lines.offset,
            generation=_generation(position, restarted=False),
            fingerprint=f"{source.fingerprint}::{'end' if lines.done else 'more'}",
            size=source.size,
            mtime_ns=source.mtime_ns,
        ),
        bytes_read=lines.offset - start,
        lag=0 if lines.done else 1,
        done=lines.done,
        restarted=False,
    )


def open_compressed(source: Source) -> ArchiveStream | None:
    """The stream of a compressed archive file, whatever its name says; None when it is plain. Raises SourceError."""
    with _opened(source) as (number, _status):
        if os.pread(number, len(_ZSTD_MAGIC), 0) != _ZSTD_MAGIC:
            return None
        return ArchiveStream(os.fdopen(os.dup(number), "rb"))
