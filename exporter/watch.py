"""Notices writes to session stores: the operating system's notifications where there are any, and always a slow
reconciling poll by whoever waits here (notifications are hints; what counts is what a look at the files finds).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from lobservatory import logging

log = logging.get(__name__)

RECONCILE: Final = 30.0  # seconds between two looks when notifications work
POLL: Final = 1.0  # seconds between two looks when they do not
_QUIET = frozenset({"opened", "closed_no_write"})  # our own reading


def concerns_transcripts(path: str) -> bool:
    """Whether a write to this path can mean new entries: transcripts and archives, agent databases and their WAL,
    session indexes. Sidecars that are written all the time (trajectories, locks, shared memory) do not."""
    name = path.rsplit("/", 1)[-1]
    if ".trajectory" in name or name.endswith((".lock", ".tmp", "-shm")):
        return False
    return ".jsonl" in name or "openclaw-agent.sqlite" in name or name == "sessions.json"


class _Handler(FileSystemEventHandler):
    def __init__(self, notify: Callable[[], None]) -> None:
        self._notify = notify

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type in _QUIET:
            return
        if event.is_directory:
            if event.event_type != "modified":  # a new agent, a removed one
                self._notify()
        elif concerns_transcripts(os.fsdecode(event.src_path)) or concerns_transcripts(os.fsdecode(event.dest_path)):
            self._notify()


class Watch:
    """Watches `agents/` of a state directory. Belongs to the event loop in which `wait` is called."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / "agents"
        self._observer: BaseObserver | None = None
        self._watched: tuple[int, int] | None = None  # device and inode of the folder
        self._changed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pending = threading.Event()  # between a notification and our turn: a burst wakes the loop once
        self._complained = False

    @property
    def native(self) -> bool:
        """Whether notifications come."""
        return self._observer is not None

    def _notify(self) -> None:
        """Called by the observer's thread."""
        if self._pending.is_set() or self._loop is None:
            return
        self._pending.set()
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._changed.set)

    def poke(self) -> None:
        """Make `wait` return at once; from any thread."""
        self._notify()

    def ensure(self) -> None:
        """Watch the folder as it is now: it may have appeared or been replaced since. Cheap when nothing changed."""
        self._loop = asyncio.get_running_loop()
        try:
            status = self._folder.stat()
            identity = (status.st_dev, status.st_ino)
        except OSError:
            self.stop()
            return
        if self._observer is not None and identity == self._watched and self._observer.is_alive():
            return
        self.stop()
        observer = Observer()
        try:
            observer.schedule(_Handler(self._notify), str(self._folder), recursive=True)
            observer.start()
        except OSError as error:
            if not self._complained:
                self._complained = True
                log.warning(
                    "no notifications of writes, looking every second instead",
                    folder=str(self._folder),
                    error=error.strerror or str(error),
                )
            return
        self._observer, self._watched = observer, identity

    async def wait(self, longest: float | None = None) -> bool:
        """Until something was written, or the time for a look by itself has come (`longest` seconds at most).
        Tells whether something was written."""
        seconds = RECONCILE if self.native else POLL
        try:
            async with asyncio.timeout(seconds if longest is None else min(seconds, longest)):
                await self._changed.wait()
        except TimeoutError:
            return False
        finally:
            # Cleared before the look that follows: a write during it is noticed after it.
            self._changed.clear()
            self._pending.clear()
        return True

    def stop(self) -> None:
        """End the notifications."""
        observer, self._observer, self._watched = self._observer, None, None
        if observer is not None:
            observer.stop()
            observer.join(timeout=5)
