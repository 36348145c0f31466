"""Notices writes to session stores: the operating system's notifications where there are any, and always a slow
reconciling poll by whoever waits here (notifications are hints; what counts is what a look at the files finds).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from exporter.ingest import inotify
from lobservatory import logging

log = logging.get(__name__)

RECONCILE: Final = 30.0  # seconds between two looks when notifications work
POLL: Final = 1.0  # seconds between two looks when they do not
MOST_WRITTEN: Final = 10_000
_DEPTH: Final = 3  # agents/<agent>/sessions/cold
_QUIET = frozenset({"opened", "closed_no_write"})  # our own reading


def concerns_transcripts(path: str) -> bool:
    """Whether a write to this path can mean new entries: transcripts and archives, agent databases and their WAL,
    session indexes. Sidecars that are written all the time (trajectories, locks, shared memory) do not."""
    name = path.rsplit("/", 1)[-1]
    if ".trajectory" in name or name.endswith((".lock", ".tmp", "-shm")):
        return False
    return ".jsonl" in name or "openclaw-agent.sqlite" in name or name == "sessions.json"


class Notifier(Protocol):
    """Something that calls back when a folder changes."""

    def close(self) -> None:
        """End it."""


class Watchdog(FileSystemEventHandler):
    """Notifications through watchdog: FSEvents on macOS, kqueue on BSD."""

    def __init__(self, folder: Path, notify: Callable[[str], None]) -> None:
        """Raises OSError when the system gives no notifications."""
        self._loop = asyncio.get_running_loop()
        self._tell = notify
        self._observer = Observer()
        self._observer.schedule(self, str(folder), recursive=True)
        self._observer.start()

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Called by the observer's thread."""
        if event.event_type in _QUIET or (event.is_directory and event.event_type == "modified"):
            return
        paths = (os.fsdecode(event.src_path), os.fsdecode(event.dest_path))
        names = [""] if event.is_directory else [path for path in paths if path]
        with contextlib.suppress(RuntimeError):  # the loop has ended
            for name in names:
                self._loop.call_soon_threadsafe(self._tell, name)

    def close(self) -> None:
        """End the observer's threads."""
        self._observer.stop()
        self._observer.join(timeout=5)


class Watch:
    """Watches `agents/` of a state directory. Belongs to the event loop in which it is used; only `poke` may be called
    from elsewhere."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / "agents"
        self._notifier: Notifier | None = None
        self._watched: tuple[int, int] | None = None  # device and inode of the folder
        self._changed = asyncio.Event()
        self._written: set[str] = set()  # files; an empty path: anything may have changed
        self._loop: asyncio.AbstractEventLoop | None = None
        self._complained = False

    @property
    def native(self) -> bool:
        """Whether notifications come."""
        return self._notifier is not None

    def _notify(self, path: str) -> None:
        if not path or concerns_transcripts(path):
            self._written.add(path if len(self._written) < MOST_WRITTEN else "")
            self._changed.set()

    def poke(self) -> None:
        """Make `wait` return at once; from any thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._notify, "")

    def take(self) -> set[str]:
        """The paths that were written since the last time; an empty path among them: anything may have changed."""
        written, self._written = self._written, set()
        return written

    def ensure(self) -> None:
        """Watch the folder as it is now: it may have appeared or been replaced since. Cheap when nothing changed."""
        self._loop = asyncio.get_running_loop()
        try:
            status = self._folder.stat()
            identity = (status.st_dev, status.st_ino)
        except OSError:
            self.stop()
            return
        if self._notifier is not None and identity == self._watched:
            return
        self.stop()
        try:
            self._notifier = self._notifications()
            self._watched = identity
        except OSError as error:
            if not self._complained:
                self._complained = True
                log.warning(
                    "no notifications of writes, looking every second instead",
                    folder=str(self._folder),
                    error=error.strerror or str(error),
                )

    def _notifications(self) -> Notifier:
        if inotify.available:
            return inotify.Inotify(self._folder, _DEPTH, self._notify)
        return Watchdog(self._folder, self._notify)

    async def wait(self, longest: float | None = None, *, reconcile: float = RECONCILE) -> bool:
        """Until something was written, or the time for a look by itself has come (after `reconcile`
        seconds when notifications come; `longest` seconds at most). Tells whether something was written."""
        seconds = reconcile if self.native else POLL
        try:
            async with asyncio.timeout(seconds if longest is None else min(seconds, longest)):
                await self._changed.wait()
        except TimeoutError:
            return False
        finally:
            self._changed.clear()  # before the look that follows: a write during it is noticed after it
        return True

    def stop(self) -> None:
        """End the notifications."""
        notifier, self._notifier, self._watched = self._notifier, None, None
        if notifier is not None:
            notifier.close()
