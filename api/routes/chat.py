"""Questions about the data in words; 403 unless LOBS_CHAT=true."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Path, Response
from fastapi.responses import StreamingResponse

from api.context import Commander, ContextDep, Reader, Writer
from api.live.events import server_sent_event
from api.live.streams import STREAM_HEADERS
from api.models.base import Identifier
from api.models.chat import AvailableQuestion, ChatIn, Conversation, ConversationMessages
from api.responses import problems

router = APIRouter(prefix="/api/chat", tags=["chat"])
ConversationId = Annotated[Identifier, Path(description="Of `GET /api/chat/conversations`.")]


@router.post(
    "",
    summary="Ask about the data",
    response_class=StreamingResponse,
    responses={
        **problems(404, 409, body=True),
        200: {
            "description": "Server-sent events: `conversation`, then `query` and `delta` as they come, at the end"
            " `answer` with its figures, or `error`.",
            "content": {
                # Of each event: before 3.2, OpenAPI has no other place for that.
                "text/event-stream": {
                    "schema": {
                        "type": "object",
                        "properties": {
                            "id": {"type": "string"},
                            "event": {"enum": ["conversation", "query", "delta", "answer", "error"]},
                            "data": {"type": "string", "description": "JSON: `{type, payload}`."},
                        },
                        "required": ["id", "event", "data"],
                    },
                    "example": {
                        "id": "1",
                        "event": "answer",
                        "data": '{"type":"answer","payload":{"text":"4.20 US$","figures":[]}}',
                    },
                }
            },
        },
    },
)
async def ask(context: ContextDep, actor: Commander, body: ChatIn) -> StreamingResponse:
    """The gateway's own model answers from a fixed list of questions to the data; that costs what its calls cost."""
    events = await context.chat.ask(actor, body)

    async def stream() -> AsyncIterator[str]:
        number = 0
        async for event in events:
            number += 1
            yield server_sent_event(event.type, event.payload(), number)

    return StreamingResponse(stream(), headers=STREAM_HEADERS)


@router.get("/questions", summary="What can be asked of the data", responses=problems())
async def questions(context: ContextDep, _: Reader) -> list[AvailableQuestion]:
    """Each with its parameters."""
    return context.chat.questions()


@router.get("/conversations", summary="Your conversations", responses=problems())
async def conversations(context: ContextDep, actor: Reader) -> list[Conversation]:
    """The newest 100."""
    return await context.chat.conversations(actor)


@router.get("/conversations/{conversation_id}", summary="One conversation", responses=problems(404))
async def messages(context: ContextDep, actor: Reader, conversation_id: ConversationId) -> ConversationMessages:
    """Questions and answers with the figures that they rest on."""
    return await context.chat.messages(actor, conversation_id)


@router.delete(
    "/conversations/{conversation_id}", status_code=204, summary="Forget a conversation", responses=problems(404)
)
async def forget(context: ContextDep, actor: Writer, conversation_id: ConversationId) -> Response:
    """Deletes it here; what the gateway keeps of its own session is the gateway's."""
    await context.chat.forget(actor, conversation_id)
    return Response(status_code=204)
