"""Events of the streams that answer one request. Those of the outbox are in `api.live.events`."""

from __future__ import annotations

from typing import Any

from api.models.base import Camel


class StreamEvent(Camel):
    """One event: its type, and what belongs to it."""

    type: str

    def payload(self) -> dict[str, Any]:
        """What belongs to it, as clients get it. What was not given is not there."""
        absent = set(type(self).model_fields) - self.model_fields_set
        return self.model_dump(mode="json", by_alias=True, exclude={*absent, "type"})
