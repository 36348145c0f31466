"""Budgets of the month."""

from __future__ import annotations

from fastapi import APIRouter

from api.context import ContextDep, Reader
from api.models.budgets import Budget
from api.responses import problems

router = APIRouter(prefix="/api/budgets", tags=["monitoring"])


@router.get("", summary="Budgets of the month and what is used of them", responses=problems())
async def budgets(context: ContextDep, actor: Reader) -> list[Budget]:
    """Those that are set: the threshold `critical` of the alert BudgetBurn."""
    return await context.budgets.budgets(actor)
