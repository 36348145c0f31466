"""Where the database is: the configured one, or the embedded one of a running `lobservatory up`."""

from __future__ import annotations

from cli.up import postgres
from lobservatory import settings as settings_module
from lobservatory.errors import UserError
from lobservatory.settings import Settings


def database_url(settings: Settings) -> str:
    """The URL of the database as `lobs_writer`; a secret. Raises UserError and SettingsError."""
    url = known_url(settings)
    if not url:
        raise UserError(
            "no database: set LOBS_DATABASE_URL, or start `lobservatory up`, whose embedded database is used then"
        )
    return url


def known_url(settings: Settings) -> str:
    """As `database_url`; empty when there is none. Raises SettingsError."""
    url = settings.database_url.get_secret_value()
    if url:
        return url
    postgres.forget_libpq_variables()
    embedded = settings.data_dir / "run" / "database_url"
    return settings_module.read_secret(embedded, "LOBS_DATABASE_URL") if embedded.exists() else ""
