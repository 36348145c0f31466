"""Calls to the gateway that wait for their answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from openclaw.client.listeners import Listeners
from openclaw.client.stats import Stats, error_code
from openclaw.protocol import (
    CallTimeoutError,
    Connection,
    Failed,
    GatewayError,
    GatewayUnavailableError,
    NotReadyError,
    Reply,
)


@dataclass(frozen=True, slots=True)
class Called:
    """A call that has ended: how long it took in seconds, and `error_code` when it failed ("" when it did not)."""

    method: str
    seconds: float
    code: str = ""


class Calls:
    """Every call ends: with its answer, at its deadline, or with the connection. Changes with how a call is made, how
    it is waited for and how it is measured. `ended`: who hears of each, in the task that called."""

    def __init__(self, stats: Stats, clock: Callable[[], float]) -> None:
        self.ended: Listeners[Called] = Listeners(stats)
        self._stats = stats
        self._clock = clock
        self._connection: tuple[Connection, ClientConnection] | None = None
        self._waiting: dict[str, asyncio.Future[Any]] = {}

    def attach(self, core: Connection, socket: ClientConnection) -> None:
        """From now on calls go over this connection."""
        self._connection = core, socket

    def detach(self) -> Connection | None:
        """From now on calls are refused; the connection over which they went, for `fail`."""
        core = self._connection[0] if self._connection is not None else None
        self._connection = None
        return core

    def fail(self, core: Connection | None, failure: BaseException) -> None:
        """End all that waits, because of this failure."""
        for item in core.close(self._clock()) if core is not None else ():
            if isinstance(item, Failed):
                self.settle(item)
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(GatewayUnavailableError(f"the connection was lost: {type(failure).__name__}"))

    def settle(self, item: Reply | Failed) -> None:
        """An answer, or the end of the wait for it."""
        future = self._waiting.get(item.request_id)
        self._stats.rpc_latency[item.method] = item.elapsed
        if isinstance(item, Failed):
            self._stats.rpc_errors[item.method, error_code(item.error)] += 1
            if future is not None and not future.done():
                future.set_exception(item.error)
        elif future is not None and not future.done():
            future.set_result(item.payload)

    async def call(self, method: str, params: Mapping[str, Any] | None, *, seconds: float, final: bool) -> Any:
        """See `GatewayClient.call`."""
        if not self.ended:
            return await self._answered(method, params, seconds=seconds, final=final)
        started, code = self._clock(), ""
        try:
            return await self._answered(method, params, seconds=seconds, final=final)
        except GatewayError as error:
            code = error_code(error)
            raise
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        finally:
            self.ended.tell(Called(method, self._clock() - started, code))

    async def _answered(self, method: str, params: Mapping[str, Any] | None, *, seconds: float, final: bool) -> Any:
        if self._connection is None:
            raise NotReadyError(f"{method}: the gateway is not connected")
        core, socket = self._connection
        request_id, frame = core.request(method, params, now=self._clock(), timeout=seconds, final=final)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = future
        try:
            async with asyncio.timeout(seconds):
                await socket.send(frame)
                return await future
        except TimeoutError:
            self._stats.rpc_errors[method, "TIMEOUT"] += 1
            raise CallTimeoutError(method) from None
        except ConnectionClosed:
            raise GatewayUnavailableError(f"{method}: the connection was lost") from None
        finally:
            self._waiting.pop(request_id, None)
            core.cancel(request_id)
