"""The gateway client: a thin asyncio shell around `openclaw.protocol`."""

from openclaw.client.client import FAILURES, Called, GatewayClient, Stats, backoff

__all__ = ["FAILURES", "Called", "GatewayClient", "Stats", "backoff"]
