"""What outside systems tell us by a webhook."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, RootModel

from api.models.base import Camel, Metadata


def _bounded(value: dict[str, Any]) -> dict[str, Any]:
    if len(value) > 200:  # noqa: PLR2004 - more keys than any event has
        raise ValueError("must have at most 200 keys")
    return value


class WebhookIn(RootModel[Annotated[Metadata, AfterValidator(_bounded)]]):
    """Any JSON object. `event` or `type` names what happened, where there is one."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"event": "deploy.finished", "version": "1.2.3"}]})


class WebhookReceipt(Camel):
    """The operation that keeps it."""

    operation_id: str
