"""What can go wrong in the functions of this room, besides `psycopg.Error`."""

from __future__ import annotations


class StoreError(Exception):
    """The base of these errors. `field` names the argument that is wrong, where one is."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class NotFoundError(StoreError):
    """There is no such row."""


class ConflictError(StoreError):
    """The row is there and does not allow it: an illegal transition, a changed version, a taken name, a cycle."""


class InvalidValueError(StoreError):
    """A value that no row can have."""
