"""What `docker compose up` needs before its servers start: secrets, configurations, and the database's address.

The same files as under `up`, in the volume that all containers share.
"""

from __future__ import annotations

from pathlib import Path

from cli.up import foreign, monitoring, parts, postgres, secrets
from cli.up.up import prepare as directories
from lobservatory.settings import Settings
from store.migrate import migrate


def _cluster(data: Path, port: int) -> postgres.Cluster:
    """The container's database, as if it were ours: the same roles and passwords, on 127.0.0.1."""
    roles = (postgres.SUPERUSER, *postgres.ROLES)
    passwords = {role: secrets.read(data, f"postgres_{role}") for role in roles}
    return postgres.Cluster(root=data / "postgres", binaries=data, user=None, port=port, passwords=passwords)


def prepare(settings: Settings, database_port: int) -> None:
    """Write everything; what is there is kept (secrets) or written anew (configurations). Raises UserError."""
    place = directories(settings)
    secrets.create(place.data, database=True)
    cluster = _cluster(place.data, database_port)
    for name, role in (("database_url", postgres.WRITER), ("reader_url", postgres.READER)):
        secrets.write_private(place.run / name, cluster.dsn(role) + "\n")
    addresses = {name: listen for name, (_, listen) in parts.listens(settings).items()}
    token = settings.gateway_token.get_secret_value()
    monitoring.prepare_prometheus(foreign.configuration(place.data, "prometheus"), settings, addresses, token)
    folder = foreign.configuration(place.data, "alertmanager")
    chosen = monitoring.prepare_alertmanager(folder, settings, addresses)
    # A fixed name, with Slack and without.
    secrets.write_private(folder / "chosen.yml", chosen.read_text(encoding="utf-8"))
    for name in ("prometheus", "alertmanager", "grafana"):
        secrets.private_directory(place.data / name)


def migrate_with_roles(settings: Settings, database_port: int) -> None:
    """Create roles and database with the generated passwords, then migrate. Raises PostgresError, MigrateError."""
    cluster = _cluster(settings.data_dir, database_port)
    cluster.wait_ready()
    cluster.create_roles()
    migrate(cluster.dsn(postgres.OWNER))
