"""The commands. Each imports what it needs when it runs."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from typer.core import TyperGroup

import lobservatory
from cli.commands.backfill import backfill
from cli.commands.backup import backup, restore
from cli.commands.boards import boards
from cli.commands.reprice import reprice
from cli.commands.token import app as token_commands
from lobservatory.complaints import explained
from lobservatory.errors import UserError

if TYPE_CHECKING:
    from lobservatory.settings import Settings


class _Commands(TyperGroup):
    """Says of a wrong option in our words what it must be, where Typer passes on those of the library below it."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Raises what it raises."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            if isinstance(error.__cause__, ValidationError):
                error.message = explained(error.__cause__.errors()[0])
            raise


app = typer.Typer(
    cls=_Commands,
    help="Observability for OpenClaw gateways: what agents do, cost and break.",
    no_args_is_help=True,
    add_completion=False,
    # The decorated traceback prints local variables, and those may hold secrets.
    pretty_exceptions_enable=False,
)


def _settings() -> Settings:
    from lobservatory import settings  # noqa: PLC0415 - `scan` and `--help` do not wait for it

    return settings.load()


@app.command()
def up(
    *,
    stop: Annotated[bool, typer.Option("--stop", help="Stop a running one, also after a crash, and exit.")] = False,
) -> None:
    """Start everything: database, exporter, API and, where found, Prometheus, Alertmanager and Grafana."""
    from cli.up import up as everything  # noqa: PLC0415

    settings = _settings()
    raise typer.Exit(everything.stop(settings) if stop else everything.up(settings))


@app.command()
def demo() -> None:
    """The same over recorded data, in a temporary copy: no OpenClaw is needed or touched."""
    from cli.demo import command  # noqa: PLC0415

    raise typer.Exit(command.demo(_settings()))


@app.command()
def scan(
    state_dir: Annotated[
        Path | None,
        typer.Argument(help="OpenClaw's state directory. Default: found as OpenClaw finds its own."),
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    since: Annotated[
        str | None,
        typer.Option("--since", help="Only what happened from this ISO date or time on, for example 2026-11-01."),
    ] = None,
    tz: Annotated[
        str | None,
        typer.Option("--tz", help="IANA zone whose days are shown, for example Europe/Berlin. Default: LOBS_TIMEZONE."),
    ] = None,
) -> None:
    """Read the session stores and print calls, tokens and cost. Needs no database and no gateway; writes nothing."""
    from cli.commands.scan import run  # noqa: PLC0415

    raise typer.Exit(run(state_dir, as_json=as_json, since=since, tz=tz))


app.command()(reprice)
app.command()(backfill)
app.command()(backup)
app.command()(restore)
app.command()(boards)
app.add_typer(token_commands, name="token")


@app.command()
def doctor() -> None:
    """Check every part; each line says ok or what to do."""
    from cli import doctor as checks  # noqa: PLC0415

    raise typer.Exit(checks.run(_settings()))


@app.command("alert-test")
def alert_test(
    *,
    alertmanager: Annotated[str, typer.Option(help="Its address; empty: that of `up`, else of the settings.")] = "",
    prometheus: Annotated[str, typer.Option(help="Its address; empty: likewise.")] = "",
) -> None:
    """Send one alert through Alertmanager to Slack and to our history, and say what happened."""
    from cli.commands import alert_test as tried  # noqa: PLC0415

    for line in tried.run(_settings(), alertmanager, prometheus):
        typer.echo(line)


@app.command()
def secrets() -> None:
    """Make the passwords and tokens that are not there yet, and say where they are (never what they are)."""
    from cli.up import secrets as vault  # noqa: PLC0415

    folder = vault.create(_settings().data_dir, database=True)
    typer.echo(f"secrets: {folder}")


@app.command(hidden=True)
def prepare(
    *,
    database_port: Annotated[int, typer.Option(help="Port of the database on 127.0.0.1.")],
) -> None:
    """Write the secrets and configurations that docker-compose.yml relies on."""
    from cli.up import compose  # noqa: PLC0415

    settings = _settings()
    compose.prepare(settings, database_port)
    typer.echo(f"secrets: {settings.data_dir / 'secrets'}")


@app.command()
def migrate(
    *,
    create_roles_on_port: Annotated[
        int | None,
        typer.Option(help="First create roles and database on 127.0.0.1, with the generated secrets (for compose)."),
    ] = None,
) -> None:
    """Bring the database's schema up to date (`up` does it by itself for the embedded one)."""
    settings = _settings()
    if create_roles_on_port is not None:
        from cli.up import compose  # noqa: PLC0415

        compose.migrate_with_roles(settings, create_roles_on_port)
    else:
        from store.migrate import migrate as run  # noqa: PLC0415

        url = settings.migrate_url.get_secret_value() or settings.database_url.get_secret_value()
        if not url:
            raise UserError(
                "migrate: no database is configured. Set LOBS_MIGRATE_URL (as the database's owner)",
                remedy=("the embedded database of `lobservatory up` is migrated by `up` itself"),
            )
        run(url)
    typer.echo("migrate: the schema is up to date")


@app.command()
def openapi(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file instead of stdout.")] = None,
) -> None:
    """Print the API's OpenAPI document."""
    from api.app import document  # noqa: PLC0415

    text = json.dumps(document(), indent=2, sort_keys=True, ensure_ascii=False)
    if output is None:
        typer.echo(text)
        return
    try:
        output.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--output: {output} cannot be written: {error.strerror}") from error


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(f"lobservatory {lobservatory.__version__} (Python {platform.python_version()}, {platform.machine()})")


@app.command(hidden=True)
def docs(
    folder: Annotated[Path, typer.Argument(help="Where the pages are written.")] = Path("docs"),
) -> None:
    """Build the reference pages from the code."""
    from cli.commands.docs import PAGES  # noqa: PLC0415

    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such directory", remedy="run this in a checkout")
    for name, build in PAGES.items():
        (folder / name).write_text(build(), encoding="utf-8")
        typer.echo(str(folder / name))
