"""The one error that ends a command with one clear line instead of a stack trace."""

from __future__ import annotations


class UserError(Exception):
    """Something that the person at the keyboard can put right.

    The text names the input, says what is wrong and what to do. It never holds a secret.
    """

    def __init__(self, message: str, *, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class SettingsError(Exception):
    """A setting is unknown, missing or wrong. The text names it and says what to do."""
