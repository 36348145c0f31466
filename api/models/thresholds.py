"""Thresholds of alerts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from api.models.base import Camel, Instant, ShortText, Snake, Storable

Scope = Annotated[str, Field(max_length=64), Storable]


class ThresholdOverride(Camel):
    """A value that was set at run time."""

    gateway: str = Field(description='"": all gateways.')
    agent: str = Field(description='"": all agents.')
    value: float
    updated_at: Instant | None
    updated_by: ShortText | None
    version: str = Field(description="For `If-Match`, as the ETag.")


class AlertThreshold(Camel):
    """A number that an alert compares with."""

    alert: str
    severity: str
    meaning: str
    unit: str
    minimum: float
    maximum: float
    default: float
    value: float = Field(description="Of the settings that the API runs with, else the default.")
    agents: dict[str, float] = Field(description="Of single agents, from the same settings.")
    per_agent: bool = Field(description="Whether an agent may have its own.")
    overrides: list[ThresholdOverride]


class ThresholdIn(Snake):
    """What to set. Without `gateway` and `agent` it holds for all of them."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"alert": "BudgetBurn", "severity": "critical", "agent": "main", "value": 100}]}
    )

    alert: Annotated[str, Field(max_length=64), Storable]
    severity: Literal["critical", "warning", "info"]
    gateway: Scope = ""
    agent: Scope = ""
    value: Annotated[float, Field(strict=True, allow_inf_nan=False)]  # as in a file: no text, no true or false
