"""Boards of tasks."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response

from api.context import ContextDep, Reader, Writer
from api.models.base import Identifier
from api.models.boards import Board, BoardIn
from api.responses import problems
from api.routes.conditional import IfMatch, named, tagged
from api.routes.operations import IdempotencyKey

router = APIRouter(prefix="/api/boards", tags=["tasks"])

BoardId = Annotated[Identifier, Path(description="For example default.")]


@router.get("", summary="Boards, oldest first", responses=problems())
async def boards(context: ContextDep, actor: Reader) -> list[Board]:
    """With the number of their tasks by status."""
    return await context.boards.boards(actor)


@router.post("", status_code=201, summary="Create", responses=problems(409, body=True))
async def create(
    context: ContextDep, response: Response, actor: Writer, body: BoardIn, idempotency_key: IdempotencyKey = None
) -> Board:
    """Its id is for `board` of a task. At most 1,000 boards."""
    return tagged(response, await context.boards.create(actor, body, idempotency_key))


@router.get("/{board_id}", summary="One board", responses=problems(404))
async def board(context: ContextDep, response: Response, actor: Reader, board_id: BoardId) -> Board:
    """Its ETag is for `If-Match`."""
    return tagged(response, await context.boards.board(actor, board_id))


@router.put("/{board_id}", summary="Replace", responses=problems(404, 409, 412, body=True))
async def replace(
    *,
    context: ContextDep,
    response: Response,
    actor: Writer,
    board_id: BoardId,
    body: BoardIn,
    if_match: IfMatch = None,
) -> Board:
    """Name and description anew."""
    return tagged(response, await context.boards.replace(actor, board_id, body, named(if_match)))


@router.delete("/{board_id}", status_code=204, summary="Delete", responses=problems(404, 409, 412))
async def delete(context: ContextDep, actor: Writer, board_id: BoardId, if_match: IfMatch = None) -> None:
    """An empty one; never the default board (409)."""
    await context.boards.delete(actor, board_id, named(if_match))
