"""What makes two requests the same one, for `Idempotency-Key`."""

from __future__ import annotations

import hashlib

import msgspec
from pydantic import BaseModel


def request_hash(path: str, body: BaseModel) -> bytes:
    """A digest of where something is sent and of what."""
    return hashlib.sha256(
        path.encode() + b"\0" + msgspec.json.encode(body.model_dump(mode="json"), order="sorted")
    ).digest()
