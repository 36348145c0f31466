"""Scopes of tokens, and who is asking."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Scope(StrEnum):
    """What a token may do; each includes those before it."""

    READ = "read"
    WRITE = "write"
    COMMAND = "command"
    ADMIN = "admin"

    def includes(self, other: Scope) -> bool:
        """Whether a token of this scope may do what `other` allows."""
        return _ORDER[self] >= _ORDER[other]

    def held(self) -> list[str]:
        """This scope and those that it includes."""
        return [scope.value for scope in Scope if self.includes(scope)]


_ORDER = {scope: position for position, scope in enumerate(Scope)}


@dataclass(frozen=True, slots=True)
class Actor:
    """Whoever holds the token of a request. `gateways` None: all of them."""

    name: str
    scope: Scope
    token_id: str
    gateways: frozenset[str] | None = None

    def sees(self, gateway: str | None) -> bool:
        """Whether rows of that gateway are for this actor (rows without a gateway are for everyone)."""
        return self.gateways is None or gateway is None or gateway in self.gateways
