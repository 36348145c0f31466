"""Thresholds of alerts, at run time."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from api.context import ContextDep, Reader, Writer
from api.models.base import Storable
from api.models.thresholds import AlertThreshold, ThresholdIn, ThresholdOverride
from api.responses import problems
from api.routes.conditional import IfMatch, named, tagged
from api.services.thresholds import ThresholdService

router = APIRouter(prefix="/api/alerts/thresholds", tags=["monitoring"])

Name = Annotated[str, Query(max_length=64), Storable]


@router.get("", summary="Thresholds of alerts", responses=problems())
async def thresholds(context: ContextDep, actor: Reader) -> list[AlertThreshold]:
    """With their meaning, bounds, defaults, and what was set at run time."""
    return await ThresholdService(context.pool, context.settings).thresholds(actor)


@router.put("", summary="Set a threshold", responses=problems(412, body=True))
async def set_threshold(
    context: ContextDep, actor: Writer, response: Response, body: ThresholdIn, if_match: IfMatch = None
) -> ThresholdOverride:
    """It wins over the settings' until it is deleted; exporters take it over within one poll."""
    return tagged(response, await ThresholdService(context.pool, context.settings).set(actor, body, named(if_match)))


@router.delete("", status_code=204, summary="Forget a threshold that was set", responses=problems(404, 412))
async def delete_threshold(
    *,
    context: ContextDep,
    actor: Writer,
    alert: Name,
    severity: Literal["critical", "warning", "info"],
    gateway: Name = "",
    agent: Name = "",
    if_match: IfMatch = None,
) -> None:
    """Then the settings' hold again."""
    service = ThresholdService(context.pool, context.settings)
    await service.delete(actor, (alert, severity, gateway, agent), named(if_match))
