"""The OpenAPI document: complete, with every answer that can come, and printable without a database."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api.errors import MEDIA_TYPE
from api.models.problems import Problem

DESCRIPTION = """\
Tasks, operations and live updates of OpenClaw gateways, and the figures that the boards show.

**Who asks.** Everything but the health checks and the log-in needs `Authorization: Bearer <token>`. Scopes: `read` <
`write` < `command` < `admin`; each includes those before it. `POST /api/auth/login` gives a token for 24 hours,
`POST /api/auth/tokens` makes others, which can be limited to some gateways.

**Errors** are `application/problem+json`: `code` for programs, `field` for the place, `detail` for people.

**Times** are ISO 8601 with a zone (`2026-01-29T10:00:00Z`); durations are milliseconds; money is US dollars, a number
with 15 exact digits that is never rounded to cents (SQL and `lobservatory scan --json` have every digit).

**Live.** Four connections, which do not carry the same:

| connection | carries | form |
|---|---|---|
| `WS /ws/operations` | each operation, whenever it changes | the operation object, and `seq` |
| `WS /ws/agents` | all that agents do: `agent_event` | `type`, `event`, `gateway`, the event's own fields, `seq` |
| `WS /ws` | of the channels tasks, feed, operations, alerts and agents: `task:update`, `feed:activity`, \
`operation:update`, `alert`, and every 5 seconds `agent:status` | `type`, `data`, `seq`; of a task also `action` |
| `GET /api/events/stream` | `task_created`, `task_updated`, `task_deleted`, `activity_logged`, `deliverable_added`, \
`agent_spawned`, `agent_completed`, `alert`: no operations and no feed | server-sent events of these names; `id` \
is the `seq`, `data` has `type` and `payload` |

On `/ws` a client subscribes with `{"type":"subscribe","channels":["tasks","agents","feed","operations","alerts"]}`. The
`seq` rises in the order of commits and is the same at every process and on every connection: connect with
`?after=<seq>` (event streams: `Last-Event-ID`) and nothing is missed for 24 hours; beyond that a message of type
`reset` says: read anew. A client that reads too slowly is closed with 1013. A WebSocket is authenticated before its
upgrade: by the header, by the subprotocols `lobservatory, bearer.<token>`, or by `?ticket=` with a single-use ticket of
`POST /api/auth/ticket`.

**Polling** instead: `GET /api/operations?since=<ISO>` gives every operation that was created or changed at or after
that instant, so it gives what a WebSocket client missed.
"""


def install(app: FastAPI) -> None:
    """Make `app.openapi()` give our document."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _build(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # the way that FastAPI documents


def _build(app: FastAPI) -> dict[str, Any]:
    found = get_openapi(
        title="Lobservatory",
        version=metadata.version("lobservatory"),
        summary="Observability for OpenClaw gateways",
        description=DESCRIPTION,
        routes=app.routes,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    schemas = found.setdefault("components", {}).setdefault("schemas", {})
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(problem.pop("$defs", {}))
    schemas["Problem"] = problem
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for methods in found["paths"].values():
        for operation in methods.values():
            operation.setdefault("security", [])
            answer = operation["responses"].get("422")
            if answer and MEDIA_TYPE not in answer.get("content", {}):
                del operation["responses"]["422"]
    return found
