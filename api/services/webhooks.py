"""Webhooks from outside: signed with a secret of their own, once, and soon.

The sender proves itself by HMAC-SHA256 over `<timestamp>.<body>` with the secret in `secrets/webhooks/<name>` of the
data directory, which is read at every call. A signature is good for five minutes and for one delivery: a repeated one
gives the first answer and does nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import structlog

from api import errors
from api.models.webhooks import WebhookReceipt
from store import feed, idempotency, operations
from store.pool import Pool

log = structlog.get_logger(__name__)

WINDOW_SECONDS = 300
SHORTEST_SECRET = 32
FOLDER = "webhooks"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_LONGEST_EVENT = 100


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """What the header `X-Lobservatory-Signature` must be."""
    digest = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256)
    return f"sha256={digest.hexdigest()}"


class WebhookService:
    """Deliveries from outside systems."""

    def __init__(self, pool: Pool, data_dir: Path, clock: Callable[[], float] = time.time) -> None:
        self._pool = pool
        self._folder = data_dir / "secrets" / FOLDER
        self._clock = clock

    def verify(self, name: str, timestamp: str, given: str, body: bytes) -> None:
        """Raises UnauthenticatedError, which says neither what is wrong nor which names there are."""
        secret = self._secret(name)
        # An unknown name takes the same way, with a secret that nobody has.
        wanted = signature(secret or hashlib.sha256(given.encode("utf-8", "replace")).hexdigest(), timestamp, body)
        right = hmac.compare_digest(wanted.encode(), given.encode("utf-8", "replace"))
        if secret is None or not right or not self._recent(timestamp):
            raise errors.UnauthenticatedError("The signature is missing, wrong or older than five minutes.")

    async def accept(self, name: str, given: str, content: Mapping[str, Any]) -> WebhookReceipt:
        """Keep a verified delivery as an operation of type `webhook`, once."""
        event = content.get("event") or content.get("type")
        title = f"{name}: {event[:_LONGEST_EVENT]}" if isinstance(event, str) and event else name
        async with self._pool.connection() as connection:

            async def make() -> Mapping[str, Any]:
                made = await operations.create(
                    connection, type="webhook", name=title, metadata=dict(content), tags=[name], source="webhook"
                )
                await operations.patch(connection, made.id, {"status": "in_progress"})
                await operations.patch(connection, made.id, {"status": "completed"})
                await feed.add(
                    connection,
                    type="webhook",
                    actor=name,
                    action="received",
                    target_type="operation",
                    target_id=made.id,
                )
                return WebhookReceipt(operation_id=made.id).model_dump(by_alias=True)

            digest = hashlib.sha256(given.encode()).digest()
            receipt = await idempotency.once(
                connection, actor=f"webhook:{name}", key=digest.hex(), request_hash=digest, make=make
            )
        return WebhookReceipt.model_validate(receipt)

    def _secret(self, name: str) -> str | None:
        if not _NAME.fullmatch(name):
            return None
        path = self._folder / name
        try:
            value = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return None
        if len(value) < SHORTEST_SECRET:
            log.warning("webhook secret ignored: shorter than 32 characters", file=str(path))
            return None
        return value

    def _recent(self, timestamp: str) -> bool:
        if not timestamp.isascii() or not timestamp.isdecimal() or len(timestamp) > 12:  # noqa: PLR2004 - seconds
            return False
        return abs(self._clock() - int(timestamp)) <= WINDOW_SECONDS
