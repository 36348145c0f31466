"""Every metric, once: the families of all subjects in the order in which they are shown.

The exporter renders from it, `docs/metrics.md` is generated from it, and the tests of dashboards and alerts
check their queries against it. Names: `claw_` is what we observe, `lobservatory_` is ourselves; none begins
with `openclaw_`, which belongs to the official plugin.
"""

from __future__ import annotations

from lobservatory.metrics import (
    accounting,
    agents,
    api,
    channels,
    cron,
    exporter,
    gateway,
    health,
    host,
    inventory,
    logs,
    quality,
    reconciliation,
)
from lobservatory.metrics.family import Metric

TOTAL_SERIES = 20_000  # bound of all families of the exporter together

METRICS: tuple[Metric, ...] = (
    *accounting.METRICS,
    *quality.METRICS,
    *gateway.METRICS,
    *agents.METRICS,
    *cron.METRICS,
    *channels.METRICS,
    *inventory.METRICS,
    *health.METRICS,
    *logs.METRICS,
    *reconciliation.METRICS,
    *host.METRICS,
    *exporter.METRICS,
)
CATALOGUE: dict[str, Metric] = {metric.name: metric for metric in METRICS}
API_METRICS: tuple[Metric, ...] = api.METRICS
