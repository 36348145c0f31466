"""Where the database is: the configured one, or the embedded one of a running `lobservatory up`."""

from __future__ import annotations

from lobservatory import settings as settings_module
from lobservatory.errors import UserError
from lobservatory.settings import Settings


def database_url(settings: Settings) -> str:
    """The URL of the database as `lobs_writer`; a secret. Raises UserError and SettingsError."""
    url = settings.database_url.get_secret_value()
    if url:
        return url
    embedded = settings.data_dir / "run" / "database_url"
    if not embedded.exists():
        raise UserError(
            "no database: set LOBS_DATABASE_URL, or start `lobservatory up`, whose embedded database is used then"
        )
    return settings_module.read_secret(embedded, "LOBS_DATABASE_URL")
