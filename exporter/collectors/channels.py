"""Chat channels: configured, connected, and when the last message went in and out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from lobservatory.metrics.exposition import Sample
from openclaw.client import GatewayClient
from openclaw.fields import flag, instant, items, mapping, text
from openclaw.state_records import ASK_RECORDS, StateRecords
from store.rows import Channel

SaveChannels = Callable[[Sequence[Channel]], Awaitable[None]]


def to_channels(gateway: str, answer: Any) -> list[Channel]:
    """The accounts of `channels.status`; a channel without accounts is one account without a name.

    Shape of an account: the gateway's `ChannelAccountSnapshot` (package types of 2026.9.6; no channel could be
    connected where the samples were made). `connected` falls back to `running` and `linked` where it is not told.
    """
    rows: list[Channel] = []
    accounts = mapping(answer, "channelAccounts")
    for name, summary in mapping(answer, "channels").items():
        listed = accounts.get(name)
        found = list(items({"accounts": listed}, "accounts")) or [mapping(summary)]
        rows += [_channel(gateway, name, item) for item in found]
    return rows


def _channel(gateway: str, name: str, account: Mapping[str, Any]) -> Channel:
    connected = flag(account.get("connected"))
    if connected is None:
        told = [flag(account.get(field)) for field in ("running", "linked")]
        connected = all(value is not False for value in told) if any(value is not None for value in told) else None
    return Channel(
        gateway=gateway,
        channel=name[:64],
        account=text(account.get("accountId"), 128) or "",
        configured=flag(account.get("configured")),
        connected=connected,
        last_inbound_at=instant(account.get("lastInboundAt")) or instant(account.get("lastMessageAt")),
        last_outbound_at=instant(account.get("lastOutboundAt")),
        last_error=text(account.get("lastError")),
    )


class ChannelsCollector:
    """Polls `channels.status`; while the gateway cannot be asked, its configuration says which channels there are."""

    name = "channels"

    def __init__(
        self,
        gateway: str,
        client: GatewayClient,
        *,
        interval: float = 15.0,
        records: StateRecords | None = None,
        save: SaveChannels | None = None,
    ) -> None:
        self.interval = interval
        self.deadline = 20.0
        self._gateway = gateway
        self._client = client
        self._records = records
        self._save = save
        self._configured: list[str] = []  # while the gateway cannot be asked
        self._channels: list[Channel] = []

    async def refresh(self) -> None:
        """Raises GatewayError, or StateRecordsError when neither the gateway nor its configuration can be read."""
        self._configured = []
        try:
            answer = await self._client.call("channels.status")
        except ASK_RECORDS:
            self._channels = []
            if self._records is None:
                raise
            self._configured = await asyncio.to_thread(self._records.channels)
            return
        except BaseException:  # the deadline's too; but never before: a scrape would find a gap in every refresh
            self._channels = []
            raise
        self._channels = to_channels(self._gateway, answer)
        if self._save is not None:
            await self._save(self._channels)

    def render(self) -> Iterable[Sample]:
        """Per channel: connected when any enabled account is; the newest message of any account."""
        for name in self._configured:
            yield Sample("claw_channel_configured", (self._gateway, name), 1)
        by_name: dict[str, list[Channel]] = {}
        for row in self._channels:
            by_name.setdefault(row.channel, []).append(row)
        for name, rows in by_name.items():
            for metric, values in (
                ("claw_channel_configured", [row.configured for row in rows]),
                ("claw_channel_connected", [row.connected for row in rows]),
            ):
                known = [value for value in values if value is not None]
                if known:
                    yield Sample(metric, (self._gateway, name), float(any(known)))
            # An account that says nothing of errors says that there is none; its text is in the rows only.
            yield Sample("claw_channel_error", (self._gateway, name), float(any(row.last_error for row in rows)))
            for direction, times in (
                ("in", [row.last_inbound_at for row in rows]),
                ("out", [row.last_outbound_at for row in rows]),
            ):
                newest = _newest(times)
                if newest is not None:
                    metric = "claw_channel_last_message_timestamp_seconds"
                    yield Sample(metric, (self._gateway, name, direction), newest.timestamp())


def _newest(times: Iterable[datetime | None]) -> datetime | None:
    return max((at for at in times if at is not None), default=None)
