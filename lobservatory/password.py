"""The one password of the service: read from a file or the environment, hashed, never kept as text."""

from __future__ import annotations

import stat
from pathlib import Path

import argon2

from lobservatory.errors import LobservatoryError
from lobservatory.settings import Settings

SHORTEST = 12
# Lower case. What people type when a form insists; none of them may guard a service that sees every agent.
COMMON = frozenset(
    {
        "password1234",
        "passwordpassword",
        "administrator",
        "changemeplease",
        "changemechangeme",
        "lobservatory",
        "openclawopenclaw",
        "123456789012",
        "1234567890123",
        "qwertyuiopas",
        "qwertyuiop123",
        "letmeinletmein",
        "adminadminadmin",
    }
)
DEFAULTS = frozenset({"admin", "password", "changeme", "change-me", "secret", "default", "lobservatory", "openclaw"})


class PasswordError(LobservatoryError):
    """The password cannot be used. The text names where it came from and says what to do, never the value."""


def check(password: str, source: str) -> None:
    """Refuse an empty, default, common or short password. Raises PasswordError."""
    if not password:
        raise PasswordError(f"{source}: the password is empty", remedy=f"write one of at least {SHORTEST} characters")
    if password.lower() in COMMON or password.lower() in DEFAULTS or len(set(password)) < 5:  # noqa: PLR2004 - aaaa…
        raise PasswordError(f"{source}: this password is a common default", remedy="choose another")
    if len(password) < SHORTEST:
        raise PasswordError(
            f"{source}: the password is shorter than {SHORTEST} characters", remedy="choose a longer one"
        )


class PasswordFile:
    """A file with the password, or with its argon2 hash. Read again whenever it has changed."""

    def __init__(self, path: Path, hasher: argon2.PasswordHasher | None = None, *, setting: str = "") -> None:
        """`setting`: the variable that named the file; empty: it is the one that `lobservatory up` makes."""
        self._path = path
        self._setting = setting
        self._name = f"{setting}: {path}" if setting else str(path)
        self._hasher = hasher or argon2.PasswordHasher()
        self._seen: tuple[int, int, int] | None = None
        self._hash = ""

    def load(self) -> None:
        """Read the file if it has changed. Raises PasswordError."""
        try:
            status = self._path.stat()
            text = self._path.read_text(encoding="utf-8").rstrip("\r\n")
        except FileNotFoundError:
            else_made = f"or unset {self._setting}" if self._setting else "or start `lobservatory up`, which makes one"
            raise PasswordError(
                f"{self._name}: there is no such file",
                remedy=(f"write a password of at least {SHORTEST} characters into it and chmod it 600, {else_made}"),
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise PasswordError(f"{self._name}: cannot be read: {reason}") from None
        if stat.S_IMODE(status.st_mode) & 0o077 and not _is_mounted_secret(self._path):
            raise PasswordError(f"{self._name}: other users can read it", remedy=f"run chmod 600 {self._path}")
        seen = (status.st_mtime_ns, status.st_ino, status.st_size)
        if seen == self._seen:
            return
        if text.startswith("$argon2"):
            self._hash = text
        else:
            check(text, self._name)
            self._hash = self._hasher.hash(text)
        self._seen = seen

    def matches(self, password: str) -> bool:
        """Compare. Takes tens of milliseconds of CPU: call it in a thread. Raises PasswordError."""
        self.load()
        try:
            return self._hasher.verify(self._hash, password)
        except argon2.exceptions.VerifyMismatchError:
            return False
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            raise PasswordError(f"{self._name}: holds an argon2 hash that cannot be read") from None


def password_file(settings: Settings) -> PasswordFile:
    """Where these settings have the password of the web login."""
    if settings.api_password_file is not None:
        return PasswordFile(settings.api_password_file, setting="LOBS_API_PASSWORD_FILE")
    return PasswordFile(settings.data_dir / "secrets" / "api_password")


def _is_mounted_secret(path: Path) -> bool:
    """Secrets that a container engine mounts are 0444 and belong to root; nobody else is inside the container."""
    return path.is_relative_to("/run/secrets")
