"""The gateway client: a thin asyncio shell around `openclaw.protocol`.

One task connects for ever (next attempt after 1 s, 1.5 s, … up to 10 s, with jitter; 60 s after a refused token),
everything that waits has a deadline, and whatever happens is visible in `state` and `stats`. There is no keep-alive
ping: a gateway that blocks its event loop for a minute (2026.4.27 does at its first turn) is slow, not gone. A
connection that is silent for `silence` seconds, although the gateway ticks every 30 s, is given up.
"""

from openclaw.client.calls import Called
from openclaw.client.client import GatewayClient
from openclaw.client.link import backoff
from openclaw.client.stats import FAILURES, Stats

__all__ = ["FAILURES", "Called", "GatewayClient", "Stats", "backoff"]
