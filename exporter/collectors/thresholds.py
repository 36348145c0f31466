"""The thresholds that alerts compare with, so that rules hold for every configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from exporter.exposition import Sample


class ThresholdsCollector:
    """Exports the effective thresholds of this gateway: the settings'. There is nothing to fetch, so it never fails."""

    name = "thresholds"
    interval = 60.0
    deadline = 5.0

    def __init__(self, gateway: str, values: Mapping[tuple[str, str], float]) -> None:
        """`values`: (alert, severity) → value, as `Settings.alert_thresholds()` gives them."""
        self._samples = tuple(
            Sample("claw_alert_threshold", (gateway, alert, severity), value)
            for (alert, severity), value in sorted(values.items())
        )

    async def refresh(self) -> None:
        """Nothing: settings do not change while a process runs."""

    def render(self) -> Iterable[Sample]:
        """One sample for each threshold."""
        return self._samples
