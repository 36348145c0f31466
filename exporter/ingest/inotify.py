"""A thin layer over Linux' inotify inside an event loop: no thread, no queue of our own, no lost directory.

Why not watchdog here: when a burst is larger than the kernel's queue, it tells nobody that something was lost, and it
wakes a thread for every write. Why not watchfiles: it asks its own queue every few milliseconds, which is slower or
costs 2 % of a processor for nothing, and a file name that is no UTF-8 ends its watch. Elsewhere than on Linux watchdog
is what `exporter.ingest.watch` uses.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

IN_MODIFY: Final = 0x2
IN_MOVED_FROM: Final = 0x40
IN_MOVED_TO: Final = 0x80
IN_CREATE: Final = 0x100
IN_DELETE: Final = 0x200
IN_Q_OVERFLOW: Final = 0x4000
IN_IGNORED: Final = 0x8000
IN_ONLYDIR: Final = 0x01000000
IN_DONT_FOLLOW: Final = 0x02000000
IN_ISDIR: Final = 0x40000000
_MASK: Final = IN_MODIFY | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_ONLYDIR | IN_DONT_FOLLOW
_HEADER: Final = struct.Struct("iIII")
_BUFFER: Final = 64 * 1024
MOST_FOLDERS: Final = 20_000

available = sys.platform == "linux"


class Inotify:
    """Watches a folder and the folders in it, `depth` levels down. `notify(path)` is called on the loop with the path
    of what was written; with an empty one when anything may have changed."""

    def __init__(self, folder: Path, depth: int, notify: Callable[[str], None]) -> None:
        """Raises OSError when the kernel gives no instance or no watch for the folder itself."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._depth = depth
        self._notify = notify
        self._folders: dict[int, tuple[str, int]] = {}
        self._loop = asyncio.get_running_loop()
        self._fd = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise _error(folder)
        try:
            self._add(os.fspath(folder), 0, needed=True)
            self._loop.add_reader(self._fd, self._read)
        except BaseException:
            os.close(self._fd)
            raise

    def close(self) -> None:
        """End it."""
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _add(self, folder: str, level: int, *, needed: bool = False) -> None:
        """Watch a folder, then what is in it: in this order nothing can slip in between."""
        if len(self._folders) >= MOST_FOLDERS:
            return
        watch = self._libc.inotify_add_watch(self._fd, os.fsencode(folder), _MASK)
        if watch < 0:
            if needed:
                raise _error(folder)
            return  # gone already, not ours to read, or no watch left: the reconciling poll sees it
        self._folders[watch] = (folder, level)
        if level >= self._depth:
            return
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    self._add(entry.path, level + 1)

    def _read(self) -> None:
        try:
            data = os.read(self._fd, _BUFFER)
        except (BlockingIOError, InterruptedError):
            return
        offset = 0
        while offset < len(data):
            watch, mask, _cookie, length = _HEADER.unpack_from(data, offset)
            offset += _HEADER.size + length
            name = data[offset - length : offset].rstrip(b"\0")
            self._event(watch, mask, os.fsdecode(name))

    def _event(self, watch: int, mask: int, name: str) -> None:
        if mask & IN_Q_OVERFLOW:
            for folder, level in list(self._folders.values()):
                if level == 0:
                    self._add(folder, level)
            self._notify("")
            return
        if mask & IN_IGNORED:
            self._folders.pop(watch, None)
            return
        known = self._folders.get(watch)
        if known is None:
            return
        folder, level = known
        if mask & IN_ISDIR:
            if mask & (IN_CREATE | IN_MOVED_TO) and level < self._depth:
                self._add(os.path.join(folder, name), level + 1)  # noqa: PTH118 - names may be no UTF-8
            self._notify("")
        else:
            self._notify(os.path.join(folder, name))  # noqa: PTH118 - as above


def _error(folder: Path | str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), str(folder))
