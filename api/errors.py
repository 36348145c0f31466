"""Every error that a client can cause, and how they look on the wire (RFC 9457 problem documents).

Handlers raise and never catch; `install` turns what was raised into an answer at one boundary. What any room can raise
and a client can cause is in `lobservatory.errors`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, ClassVar, Final

import psycopg
import psycopg_pool
import structlog
from fastapi import FastAPI, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.routing import Match

from api.models import patterns
from api.models.problems import FieldProblem, Problem
from lobservatory.complaints import explained, show
from lobservatory.errors import ConflictError, InvalidValueError, LobservatoryError, NotFoundError, sentence
from openclaw.protocol import RpcError

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
# What psycopg raises when the database cannot be reached now.
DATABASE_AWAY = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg_pool.PoolTimeout,
    psycopg_pool.PoolClosed,
    psycopg_pool.TooManyRequests,
)


class ApiError(LobservatoryError):
    """What only a client of the API can cause. Subclasses fix the status and the code."""

    status: ClassVar[HTTPStatus] = HTTPStatus.BAD_REQUEST
    code: ClassVar[str] = "bad_request"

    def __init__(self, detail: str, *, field: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail, field)
        self.headers = dict(headers or {})


class UnauthenticatedError(ApiError):
    """No token, or one that is unknown, expired or revoked. The answer does not say which."""

    status = HTTPStatus.UNAUTHORIZED
    code = "unauthenticated"

    def __init__(self, detail: str = "A valid bearer token is needed.") -> None:
        super().__init__(detail, headers={"WWW-Authenticate": 'Bearer realm="lobservatory"'})


class WrongPasswordError(ApiError):
    """Log-in with a wrong password."""

    status = HTTPStatus.UNAUTHORIZED
    code = "wrong_password"

    def __init__(self) -> None:
        super().__init__(
            "The password is wrong.",
            field="body.password",
            headers={"WWW-Authenticate": 'Bearer realm="lobservatory"'},
        )


class ScopeNeededError(ApiError):
    """The token is valid and may not do this."""

    status = HTTPStatus.FORBIDDEN
    code = "missing_scope"

    def __init__(self, needed: str) -> None:
        super().__init__(f"The token lacks the scope {needed}.")


class WrongGatewayError(ApiError):
    """The token is limited to other gateways."""

    status = HTTPStatus.FORBIDDEN
    code = "wrong_gateway"


class CrossSiteError(ApiError):
    """A browser sent this from a page of another origin."""

    status = HTTPStatus.FORBIDDEN
    code = "cross_site"

    def __init__(self) -> None:
        super().__init__("Requests from other origins are refused; LOBS_CORS_ORIGINS lists those that may.")


class CommandsDisabledError(ApiError):
    """Commands are off."""

    status = HTTPStatus.FORBIDDEN
    code = "commands_disabled"

    def __init__(self) -> None:
        super().__init__("Commands are off. LOBS_COMMANDS=true turns them on.")


class ServiceNotConfiguredError(ApiError):
    """Nobody has said which service the gateway is."""

    status = HTTPStatus.CONFLICT
    code = "service_not_configured"

    def __init__(self) -> None:
        super().__init__("LOBS_GATEWAY_SERVICE does not name the gateway's service, for example systemd-user:NAME.")


class ServiceFailedError(ApiError):
    """The service manager did not do it."""

    status = HTTPStatus.BAD_GATEWAY
    code = "service_failed"


class ChatDisabledError(ApiError):
    """Chat is off."""

    status = HTTPStatus.FORBIDDEN
    code = "chat_disabled"

    def __init__(self) -> None:
        super().__init__("Chat is off. LOBS_CHAT=true turns it on; it needs LOBS_READER_URL.")


class ChatBusyError(ApiError):
    """One question at a time."""

    status = HTTPStatus.CONFLICT
    code = "chat_busy"

    def __init__(self) -> None:
        super().__init__("Your last question is still being answered.")


class StaleVersionError(ApiError):
    """`If-Match` names a version that is no longer the present one."""

    status = HTTPStatus.PRECONDITION_FAILED
    code = "stale_version"

    def __init__(self) -> None:
        super().__init__("It has been changed since; read it again and repeat the change.", field="header.If-Match")


class ConfirmationNeededError(ApiError):
    """A dangerous command without a valid confirmation."""

    status = HTTPStatus.PRECONDITION_REQUIRED
    code = "confirmation_needed"

    def __init__(self, action: str) -> None:
        super().__init__(
            f"{action} needs a confirmation: POST /api/commands/confirm, then send its nonce as X-Confirmation.",
            field="header.X-Confirmation",
        )


class PayloadTooLargeError(ApiError):
    """The body is over the limit."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    code = "payload_too_large"

    def __init__(self, limit: int) -> None:
        super().__init__(f"The body is larger than {limit} bytes.", headers={"Connection": "close"})


class SlowBodyError(ApiError):
    """The body did not arrive in time."""

    status = HTTPStatus.REQUEST_TIMEOUT
    code = "slow_body"

    def __init__(self) -> None:
        super().__init__("The body did not arrive in time.", headers={"Connection": "close"})


class InvalidFieldError(ApiError):
    """A field that is well-formed and still wrong."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    code = "invalid_field"


class RateLimitedError(ApiError):
    """Too many requests, or too many wrong passwords."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    code = "rate_limited"

    def __init__(self, retry_after: float, detail: str = "Too many requests.") -> None:
        seconds = max(1, math.ceil(retry_after))
        super().__init__(f"{detail} Try again in {seconds} s.", headers={"Retry-After": str(seconds)})


class LockedOutError(RateLimitedError):
    """Too many wrong passwords."""

    code = "locked_out"


class DatabaseUnavailableError(ApiError):
    """The database does not answer now."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "database_unavailable"

    def __init__(self) -> None:
        super().__init__("The database does not answer now.", headers={"Retry-After": "5"})


class GatewayAwayError(ApiError):
    """The gateway does not answer now."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "gateway_unavailable"


class GatewayRefusedError(ApiError):
    """The gateway answered with an error."""

    status = HTTPStatus.BAD_GATEWAY
    code = "gateway_refused"


class ServerError(ApiError):
    """A fault of ours. The log has the rest."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR
    code = "internal"

    def __init__(self) -> None:
        super().__init__("Something went wrong here; the log of the API says what.")


# What any room can raise and a client can cause → status and code.
_KINDS: Mapping[type[LobservatoryError], tuple[HTTPStatus, str]] = {
    NotFoundError: (HTTPStatus.NOT_FOUND, "not_found"),
    ConflictError: (HTTPStatus.CONFLICT, "conflict"),
    InvalidValueError: (HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_field"),
}
REFUSALS: Final[tuple[type[LobservatoryError], ...]] = (ApiError, *_KINDS)  # all that a client can cause
# A row's field → what clients know it by, where that differs.
_FIELDS = {"idempotency_key": "header.Idempotency-Key", "step_id": "stepId"}


def problem(error: LobservatoryError) -> Problem:
    """The document that a client gets for one of REFUSALS."""
    if isinstance(error, ApiError):
        status, code, detail = error.status, error.code, str(error)
    else:
        status, code = next(answer for kind, answer in _KINDS.items() if isinstance(error, kind))
        detail = sentence(error).replace("idempotency key", "Idempotency-Key")
    field = None if error.field is None else _FIELDS.get(error.field, error.field)
    return Problem(title=status.phrase, status=status, code=code, detail=detail, field=field)


def code_of(error: LobservatoryError) -> str:
    """What programs know an error by: the gateway's code or ours, else its kind."""
    if isinstance(error, RpcError):
        return error.code
    return problem(error).code if isinstance(error, REFUSALS) else type(error).__name__


def response(error: LobservatoryError) -> JSONResponse:
    """The answer for one of REFUSALS."""
    if isinstance(error, ConflictError) and error.field == "version":  # a row that somebody else changed meanwhile
        error = StaleVersionError()
    document = problem(error)
    headers = error.headers if isinstance(error, ApiError) else None
    return JSONResponse(document.model_dump(), status_code=document.status, media_type=MEDIA_TYPE, headers=headers)


def field_problem(problem: Mapping[str, Any], *above: str) -> FieldProblem:
    """One error of pydantic or FastAPI in our words. `above`: the fields that hold what was read."""
    code = str(problem["type"])
    # Of what is not JSON, FastAPI gives the place in the text as the last part.
    place = problem["loc"][:-1] if code == "json_invalid" else problem["loc"]
    return FieldProblem(
        field=".".join([*above, *map(str, place)]), code=code, message=explained(problem, patterns.SAID)
    )


def _validation(error: RequestValidationError) -> JSONResponse:
    fields = [field_problem(problem) for problem in error.errors()]
    first = fields[0] if fields else None
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    document = Problem(
        title=status.phrase,
        status=status,
        code="invalid_field",
        detail=f"{first.field}: {first.message}" if first else "The request is not valid.",
        field=first.field if first else None,
        errors=fields,
    )
    return JSONResponse(document.model_dump(), status_code=status, media_type=MEDIA_TYPE)


_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_CODES = {
    HTTPStatus.NOT_FOUND: "not_found",
    HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed",
    HTTPStatus.BAD_REQUEST: "bad_request",
}


def _methods_of(request: Request) -> list[str]:
    """Those that some route has for the path of a request."""
    app: FastAPI = request.app
    asked = {name: request.scope[name] for name in ("type", "path")} | {"root_path": "", "headers": []}
    return [
        method
        for method in _METHODS
        if any(route.matches({**asked, "method": method})[0] == Match.FULL for route in app.router.routes)
    ]


def _http(request: Request, error: HTTPException) -> JSONResponse:
    """The answer for what the framework raises: nothing of ours is where this went, or its body cannot be read."""
    status, headers, detail = HTTPStatus(error.status_code), dict(error.headers or {}), str(error.detail)
    method = request.method if request.method in _METHODS else show(request.method)
    asked = f"{method} {show(request.scope['path'])}"
    if status == HTTPStatus.NOT_FOUND:
        detail = f"There is no {asked}; /docs and /openapi.json list what there is."
    elif status == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = _methods_of(request)
        headers["Allow"] = ", ".join(allowed)  # the framework names those of the first route only
        detail = f"There is no {asked}, only {headers['Allow']}; /docs lists what there is."
    elif status == HTTPStatus.BAD_REQUEST:
        detail = "The body is not JSON in UTF-8, or it is nested too deeply."
    document = Problem(title=status.phrase, status=status, code=_CODES.get(status, "http_error"), detail=detail)
    return JSONResponse(document.model_dump(), status_code=status, media_type=MEDIA_TYPE, headers=headers)


def install(app: FastAPI) -> None:
    """Register the one boundary where exceptions become answers."""

    async def on_refusal(connection: HTTPConnection, error: Any) -> JSONResponse:
        answer = response(error)
        if isinstance(connection, WebSocket):  # before its upgrade: Starlette gives the answer to nobody
            await connection.send_denial_response(answer)
        return answer

    async def on_validation(_: Request, error: Any) -> JSONResponse:
        return _validation(error)

    async def on_http(request: Request, error: Any) -> JSONResponse:
        return _http(request, error)

    async def on_database(request: Request, error: Any) -> JSONResponse:
        log.warning("database away", path=request.scope["path"], error=type(error).__name__)
        return response(DatabaseUnavailableError())

    async def on_anything(request: Request, error: Any) -> JSONResponse:
        log.error("unhandled error", path=request.scope["path"], exc_info=error)
        return response(ServerError())

    for refusal in REFUSALS:
        app.add_exception_handler(refusal, on_refusal)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)
    for away in DATABASE_AWAY:
        app.add_exception_handler(away, on_database)
    app.add_exception_handler(Exception, on_anything)
