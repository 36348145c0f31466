"""Budgets of the month."""

from __future__ import annotations

from pydantic import Field

from api.models.base import Camel


class Budget(Camel):
    """The budget of the present month, and what is used of it: what the alert BudgetBurn compares."""

    gateway: str
    agent: str | None = Field(default=None, description="null: all agents of the gateway together.")
    limit_usd: float = Field(description="US$ of a calendar month in LOBS_TIMEZONE.")
    used_usd: float = Field(description="US$ billed in it so far.")
    used_ratio: float = Field(description="1: used up.")
