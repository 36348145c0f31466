"""Log-in, tokens and tickets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from api.models.base import Camel, Identifier, Instant, Name
from api.security.scopes import Scope


class LoginIn(Camel):
    """The password of the service (`secrets/api_password` in the data directory)."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"password": "the generated password"}]}, alias_generator=to_camel
    )

    password: Annotated[str, Field(min_length=1, max_length=1024)]


class LoginOut(Camel):
    """A bearer token for 24 hours."""

    token: str
    expires_at: Instant
    scopes: list[Scope]


class Verified(Camel):
    """What the token of this request may do."""

    valid: Literal[True] = True
    name: str
    scopes: list[Scope]
    gateways: list[str] | None = Field(default=None, description="null: all gateways.")


class Ticket(Camel):
    """Opens one WebSocket or event stream, once."""

    ticket: str
    expires_in: int = Field(default=30, description="Seconds.")


class TokenIn(Camel):
    """A new token."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "grafana", "scope": "read", "days": 365}]},
        alias_generator=to_camel,
        extra="forbid",
    )

    name: Name
    scope: Scope = Scope.READ
    gateways: Annotated[list[Identifier] | None, Field(max_length=100)] = None
    days: Annotated[int | None, Field(ge=1, le=3650, description="null: it does not expire.")] = 365


class TokenOut(Camel):
    """A token, without its value."""

    id: str
    name: str
    scope: Scope
    gateways: list[str] | None = None
    created_at: Instant
    expires_at: Instant | None = None
    last_used_at: Instant | None = None
    revoked: bool = False


class NewToken(TokenOut):
    """A token that was just made. Its value is shown this once."""

    token: str


Theme = Literal["daylight", "midnight", "lobster", "ocean", "terminal", "contrast"]


class Preferences(Camel):
    """What a user has chosen for our pages, on every device. `theme` null: the system's light or dark."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"theme": "ocean"}]}, alias_generator=to_camel, extra="forbid"
    )

    theme: Theme | None
