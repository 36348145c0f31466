"""The thresholds that alerts compare with, so that rules hold for every configuration."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import psycopg

from lobservatory import logging
from lobservatory.errors import one_line
from lobservatory.metrics.exposition import Sample
from lobservatory.thresholds import Key, check
from store.alerts import ThresholdOverride

log = logging.get(__name__)

Ask = Callable[[], Awaitable[Sequence[ThresholdOverride]]]


class ThresholdsCollector:
    """Exports the effective thresholds of one gateway: what was set through the API, else the settings'.

    While the database is away the last known ones are kept, so that a raised limit does not fall back for a minute;
    after a start without a database the settings' alone hold. `lobservatory_database_up` tells of the database.
    """

    name = "thresholds"
    deadline = 5.0

    def __init__(
        self, gateway: str, values: Mapping[Key, float], ask: Ask | None = None, *, interval: float = 15.0
    ) -> None:
        """`values`: as `Settings.alert_thresholds()` gives them. `ask`: the overrides that hold for this gateway."""
        self.interval = interval
        self._gateway = gateway
        self._settings = dict(values)
        self._ask = ask
        self._values = self._settings

    async def refresh(self) -> None:
        """Ask for the overrides."""
        if self._ask is None:
            return
        try:
            overrides = await self._ask()
        except psycopg.Error as error:
            log.debug("thresholds could not be read", error=one_line(error))
            return
        values = dict(self._settings)
        # Those of this gateway after those of all gateways.
        for one in sorted(overrides, key=lambda override: bool(override.gateway)):
            if one.gateway not in {"", self._gateway}:
                continue
            try:
                check(one.alert, one.severity, one.agent, one.value)
            except ValueError as error:
                log.debug("a threshold of the database is not used", error=str(error))
                continue
            values[one.alert, one.severity, one.agent] = one.value
        self._values = values

    def render(self) -> Iterable[Sample]:
        """One sample for each threshold."""
        for (alert, severity, agent), value in sorted(self._values.items()):
            yield Sample("claw_alert_threshold", (self._gateway, alert, severity, agent), value)
