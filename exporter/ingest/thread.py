"""An ingest in a thread of its own, so that decoding never holds up a scrape."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import uvloop

from exporter.ingest.counters import OnRegistry
from exporter.ingest.ingest import Ingest

T = TypeVar("T")


class IngestThread:
    """Runs an ingest in a thread with its own event loop. Made and stopped on the main loop."""

    def __init__(self, make: Callable[[OnRegistry], Ingest]) -> None:
        self._main = asyncio.get_running_loop()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self.ended: asyncio.Future[None] = self._main.create_future()
        self.ingest = make(self._on_registry)
        self._thread = threading.Thread(target=self._run, name="ingest", daemon=True)

    def start(self) -> None:
        """Begin. `ended` is done when it is over, with its error if there was one."""
        self._thread.start()

    async def _on_registry(self, function: Callable[..., T], *arguments: Any) -> T:
        answer: concurrent.futures.Future[T] = concurrent.futures.Future()

        def call() -> None:
            awaited = answer.set_running_or_notify_cancel()  # False: the other thread is being stopped
            try:
                result = function(*arguments)
            except BaseException as error:
                if not awaited:
                    raise
                answer.set_exception(error)  # handed over to the caller in the other thread
            else:
                if awaited:
                    answer.set_result(result)

        self._main.call_soon_threadsafe(call)
        return await asyncio.wrap_future(answer)

    def _run(self) -> None:
        failure: BaseException | None = None
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._supervise())
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # noqa: BLE001 - handed over to whoever waits for `ended`
            failure = error
        with contextlib.suppress(RuntimeError):  # the main loop has ended already
            self._main.call_soon_threadsafe(self._report, failure)

    async def _supervise(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        if not self._stopping:
            await self.ingest.run()

    def _report(self, failure: BaseException | None) -> None:
        if self.ended.done():
            return
        if failure is None:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(failure)

    async def stop(self, seconds: float) -> bool:
        """Let the transaction at hand be rolled back or committed; tells whether that was done in time."""
        self._stopping = True
        if not self._thread.is_alive():
            return True
        if self._loop is not None and self._task is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._task.cancel)
        done, _ = await asyncio.wait([self.ended], timeout=seconds)
        return bool(done)
