"""Boards of tasks."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from fastapi.responses import JSONResponse

from api.context import ContextDep, Reader, Writer
from api.models.base import Identifier
from api.models.boards import Board, BoardIn
from api.responses import problems
from api.routes.conditional import IfMatch, named, with_etag
from api.routes.operations import IdempotencyKey

router = APIRouter(prefix="/api/boards", tags=["tasks"])

BoardId = Annotated[Identifier, Path(description="For example default.")]


@router.get("", summary="Boards, oldest first", response_model=list[Board], responses=problems())
async def boards(context: ContextDep, actor: Reader) -> JSONResponse:
    """With the number of their tasks by status."""
    return JSONResponse(await context.boards.boards(actor))


@router.post("", status_code=201, summary="Create", response_model=Board, responses=problems(409, body=True))
async def create(
    context: ContextDep, actor: Writer, body: BoardIn, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """Its id is for `board` of a task. At most 1,000 boards."""
    return with_etag(await context.boards.create(actor, body, idempotency_key), 201)


@router.get("/{board_id}", summary="One board", response_model=Board, responses=problems(404))
async def board(context: ContextDep, actor: Reader, board_id: BoardId) -> JSONResponse:
    """Its ETag is for `If-Match`."""
    return with_etag(await context.boards.board(actor, board_id))


@router.put("/{board_id}", summary="Replace", response_model=Board, responses=problems(404, 409, 412, body=True))
async def replace(
    context: ContextDep, actor: Writer, board_id: BoardId, body: BoardIn, if_match: IfMatch = None
) -> JSONResponse:
    """Name and description anew."""
    return with_etag(await context.boards.replace(actor, board_id, body, named(if_match)))


@router.delete("/{board_id}", status_code=204, summary="Delete", responses=problems(404, 409, 412))
async def delete(context: ContextDep, actor: Writer, board_id: BoardId, if_match: IfMatch = None) -> None:
    """An empty one; never the default board (409)."""
    await context.boards.delete(actor, board_id, named(if_match))
