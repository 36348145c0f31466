"""A collector that is one question to the gateway and one function over its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lobservatory.metrics.exposition import Sample
from openclaw.client import GatewayClient
from openclaw.protocol import GatewayUnavailableError
from openclaw.state_records import ASK_RECORDS, NoRecordsError

Samples = Callable[[str, Any], Iterable[Sample]]


class PollCollector:
    """Asks `method`; `samples(gateway, answer)` is what is shown. `records` reads the same answer from the state
    directory (in a thread): used when the gateway is away, lacks the method or refuses it. None: that is a failure
    of this collector, and the error names the method or the scope."""

    def __init__(
        self,
        name: str,
        gateway: str,
        client: GatewayClient,
        method: str,
        samples: Samples,
        *,
        interval: float = 60.0,
        params: Mapping[str, Any] | None = None,
        records: Callable[[], Any] | None = None,
    ) -> None:
        self.name = name
        self.interval = interval
        self.deadline = 30.0
        self._gateway = gateway
        self._client = client
        self._method = method
        self._params = params or {}
        self._to_samples = samples
        self._records = records
        self._samples: tuple[Sample, ...] = ()

    async def refresh(self) -> None:
        """Raises GatewayError, or whatever `records` raises."""
        try:
            self._samples = tuple(self._to_samples(self._gateway, await self._ask()))
        except BaseException:  # the deadline's too: nothing stale is shown
            self._samples = ()
            raise

    async def _ask(self) -> Any:
        try:
            return await self._client.call(self._method, self._params, timeout=20.0)
        except ASK_RECORDS as error:
            if self._records is None:
                raise
            try:
                return await asyncio.to_thread(self._records)
            except NoRecordsError:
                if isinstance(error, GatewayUnavailableError):
                    raise error from None
                return None  # a version that has not the one and never made the other: there is nothing to count

    def render(self) -> Iterable[Sample]:
        """The last answer."""
        return self._samples
