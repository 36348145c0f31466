"""`lobservatory doctor`: look at every part, change nothing; each line says ok or what to do."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import psycopg
import structlog
from rich.console import Console
from rich.markup import escape

from cli.demo import command as demo
from cli.up import access, parts, secrets, theirs, up
from cli.up import gateway as gateways
from exporter.accounting import price_book
from exporter.accounting.billing import BillingPolicy
from exporter.accounting.prices import PricesError
from lobservatory import settings as settings_module
from lobservatory.errors import SettingsError, UserError, one_line
from lobservatory.given import is_file
from lobservatory.password import PasswordError, password_file
from lobservatory.settings import PARTS, Listen, Part, Settings
from lobservatory.wording import counted
from openclaw import state_dir
from openclaw.client import GatewayClient
from openclaw.protocol import GatewayError, Hello, MissingScopeError, RpcError
from openclaw.stores import Stores, schema_version
from store import health
from store.migrate import MigrateError, schema_state

_GATEWAY_SECONDS = 10.0
_WATCHDOG_MINUTES = 15  # three repeats of Alertmanager
_FIRST_WATCHDOG_MINUTES = 3  # its rule waits for 15 s; one message that was lost comes again a minute later
_GRAFANA = 12  # older ones want changes in the boards

Level = Literal["ok", "note", "wrong"]


@dataclass(frozen=True, slots=True)
class Line:
    """One finding. `note`: nothing is broken, but something is not there; `wrong`: the text says what to do."""

    level: Level
    part: str
    text: str


def run(settings: Settings) -> int:
    """Print all findings; 1 when something is wrong, else 0."""
    console = Console(highlight=False)
    # The findings say what the client's log would say, in words for people.
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        return _print(console, settings)
    finally:
        structlog.configure(**before)


def _print(console: Console, settings: Settings) -> int:
    signs = {"ok": "[green]ok   [/]", "note": "[yellow]note [/]", "wrong": "[red]WRONG[/]"}
    wrong = 0
    for line in findings(settings):
        wrong += line.level == "wrong"
        console.print(f"{signs[line.level]} {line.part:13} {escape(line.text)}", soft_wrap=True)
    return 1 if wrong else 0


def findings(settings: Settings) -> Iterator[Line]:
    """All findings, in the order of the flow: sources, gateway, database, servers."""
    yield from configuration()
    yield from prices(settings)
    yield from programs(settings)
    yield from vault(settings)
    found, config = None, state_dir.OpenClawConfig()
    try:
        found = state_dir.resolve(settings.state_dir)
    except state_dir.StateDirError as error:
        yield Line("wrong", "state", str(error))
    if found is not None:
        config = state_dir.load_config(found)
        yield from state(found, config)
        yield from stores(found, settings, config)
    yield from asyncio.run(gateway(settings, config))
    yield from database(settings)
    yield from servers(settings)


def configuration() -> Iterator[Line]:
    """Where the settings come from."""
    path = settings_module.config_file()
    names = sorted(name for name in os.environ if name.startswith("LOBS_"))
    sources = [str(path)] if path else []
    sources += [", ".join(names)] if names else []
    yield Line("ok", "settings", "; ".join(sources) or "defaults (docs/configuration.md lists what can be set)")


def prices(settings: Settings) -> Iterator[Line]:
    """Whether the user's own prices can be read: the exporter does not start otherwise."""
    try:
        price_book((), settings.prices_file)
    except PricesError as error:
        yield Line("wrong", "prices", f"{error}. Correct it, or unset the setting (docs/prices.md)")


def programs(settings: Settings) -> Iterator[Line]:
    """What `up` would refuse of the servers' programs and configurations that the settings name."""
    for part in PARTS:
        try:
            parts.find(parts.FOREIGN[part], os.environ)
        except UserError as error:
            yield Line("wrong", part, str(error))
    own = settings.alertmanager_config
    if own is not None and not (is_file(own) and os.access(own, os.R_OK)):
        yield Line("wrong", "alertmanager", f"LOBS_ALERTMANAGER_CONFIG: {own} cannot be read: correct it, or unset it")


def vault(settings: Settings) -> Iterator[Line]:
    """Whether anybody else may read our secrets, and whether the password of your own can be used."""
    place = secrets.folder(settings.data_dir)
    if settings.api_password_file is not None:
        try:
            password_file(settings).load()
        except PasswordError as error:
            yield Line("wrong", "secrets", str(error))
    if settings.data_dir.exists() and not settings.data_dir.is_dir():
        yield Line("wrong", "secrets", f"LOBS_DATA_DIR: {settings.data_dir} is no directory: set it to one of yours")
        return
    if not place.exists():
        yield Line("note", "secrets", f"none yet in {settings.data_dir}: `lobservatory up` makes them")
        return
    problems = secrets.problems(settings.data_dir)
    yield from (Line("wrong", "secrets", problem) for problem in problems)
    if not problems:
        yield Line("ok", "secrets", f"{place}: only you can read them")


def state(found: Path, config: state_dir.OpenClawConfig) -> Iterator[Line]:
    """The state directory and its configuration file."""
    yield Line("ok", "state", str(found))
    if config.problem:
        yield Line("wrong", "state", f"{config.problem}; correct the file, or set LOBS_GATEWAY_TOKEN")
    elif config.path is None:
        yield Line("note", "state", "no openclaw.json: the token comes from LOBS_GATEWAY_TOKEN only")


def stores(found: Path, settings: Settings, config: state_dir.OpenClawConfig) -> Iterator[Line]:
    """What the session stores hold, the versions of their schemas, and how each provider's money is counted."""
    with contextlib.closing(Stores(found)) as reader:
        discovery = reader.discover()
        sessions = reader.sessions()
    counts = ", ".join(f"{number} {store}" for store, number in sorted(discovery.files.items()) if number)
    fatal = [problem for problem in discovery.problems if problem.fatal]
    if not discovery.sources and not fatal:
        yield Line("note", "stores", "no session yet: nothing to count until an agent has run")
    elif discovery.sources:
        agents = len({source.agent for source in discovery.sources})
        yield Line("ok", "stores", f"{counts}; {counted(agents, 'agent')}, {counted(len(discovery.sources), 'source')}")
    for problem in discovery.problems:
        yield Line("wrong" if problem.fatal or problem.schema else "note", "stores", problem.text)
    versions = sorted({version for path in _databases(discovery.sources) if (version := schema_version(path)) > 0})
    if versions:
        yield Line("ok", "schema", f"agent databases have schema version {', '.join(map(str, versions))}")
    policy = BillingPolicy(settings.billing, config.subscription_providers)
    named = {info.provider for info in sessions.values() if info.provider}
    named |= {price.provider for price in config.prices} | config.subscription_providers
    named |= {*settings.billing.equivalent, *settings.billing.billed}
    for provider in sorted(named):
        mode, reason = policy.explain(provider)
        yield Line("ok", "billing", f"{provider}: {mode} ({reason})")


def _databases(sources: Any) -> set[Path]:
    return {source.path for source in sources if source.store == "sqlite"}


async def gateway(settings: Settings, config: state_dir.OpenClawConfig) -> list[Line]:
    """Whether the gateway answers, accepts the token, and grants what is asked for."""
    url = state_dir.gateway_url(settings, config)
    token = state_dir.gateway_token(settings, config).get_secret_value()
    lines: list[Line] = []
    client = GatewayClient(url, token, subscribe_sessions=False)
    async with client:
        try:
            hello = await _connected(client)
        except GatewayError as error:
            reason = client.last_failure
            remedy = gateways.remedy(reason, token=bool(token))
            return [Line("wrong", "gateway", f"{url}: {remedy}" if reason else str(error))]
        lines.append(Line("ok", "gateway", f"{url}: version {hello.version}, protocol {hello.protocol}"))
        lines += [line for method in ("health", "status", "cron.list") if (line := await _allowed(client, method))]
    if not any(line.part == "scopes" for line in lines):
        lines.append(Line("ok", "scopes", ", ".join(hello.scopes) or "none named, and every call works"))
    return lines


async def _connected(client: GatewayClient) -> Hello:
    """As soon as it is clear: a refused token is not worth ten seconds of waiting."""
    waiting = asyncio.create_task(client.wait_connected(_GATEWAY_SECONDS))
    while not waiting.done() and not client.last_failure:
        await asyncio.wait([waiting], timeout=0.1)
    if not waiting.done():
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        raise GatewayError(client.last_failure)
    return waiting.result()


async def _allowed(client: GatewayClient, method: str) -> Line | None:
    try:
        await client.call(method, {})
    except MissingScopeError as error:
        return Line("wrong", "scopes", f"{error}. Use the gateway's own token, which has operator.read")
    except RpcError as error:
        return Line("note", "gateway", str(error))
    except GatewayError as error:
        return Line("wrong", "gateway", f"{error}. Look at the gateway's log")
    return None


def database(settings: Settings) -> Iterator[Line]:
    """The database, its schema, the extension and the roles."""
    try:
        url = access.known_url(settings)
        embedded = not settings.database_url.get_secret_value()
        if not url or (embedded and not up.is_running(settings.data_dir)):
            yield Line("note", "database", "the embedded one is not running: `lobservatory up` starts it")
            return
        schema = schema_state(url)
        with psycopg.connect(url, connect_timeout=5) as connection:
            version = connection.info.server_version
            yield Line("ok", "database", f"PostgreSQL {version // 10000}.{version % 10000}")
            rest = [_roles(health.roles(connection))]
            if not schema.pending and not schema.unknown:
                rest.append(_watchdog(health.watchdog(connection), settings))
    except (MigrateError, SettingsError, UserError) as error:
        yield Line("wrong", "database", f"{error}")
        return
    except psycopg.Error as error:
        yield Line("wrong", "database", f"{one_line(error)}. Check LOBS_DATABASE_URL")
        return
    if schema.unknown:
        yield Line("wrong", "migrations", f"newer than this version ({schema.unknown[-1]}): upgrade Lobservatory")
    elif schema.pending:
        missing = counted(len(schema.pending), "migration is", "migrations are")
        yield Line("wrong", "migrations", f"{missing} missing: run `lobservatory migrate`")
    else:
        yield Line("ok", "migrations", f"{len(schema.applied)}, all applied")
    yield Line("ok", "extension", f"TimescaleDB {schema.timescale}" if schema.timescale else "none: plain PostgreSQL")
    yield from rest


def _watchdog(heard: health.Watchdog | None, settings: Settings) -> Line:
    """Whether the alert that fires always still comes all the way to the API, as far as it can have come by now.

    What was heard before the servers that run now had started says nothing of them: the row may even be that of
    another installation, whose database was restored here.
    """
    known = up.servers(settings)
    unable = [
        f"{part.capitalize()} lacks {needed}"
        for part, needed in _NEEDED.items()
        if part in known and known[part].whose == "yours" and needed in theirs.lacking(part, known[part].url)
    ]
    if unable:
        said = f"the alert that fires always does not come here: {' and '.join(unable)} ({theirs.HOW})"
        return Line("wrong", "alerts", said)
    # Those of others, where nobody has named them, are not what could bring it.
    urls = {
        part: server.url
        for part, server in known.items()
        if server.whose != "unknown" or theirs.works_for_us(part, server.url)
    }
    began = [_started(urls.get(part), *where) for part, where in _STARTS.items()]
    answering = [moment for moment in began if moment is not None]
    stale = heard is not None and bool(answering) and heard.heard_at < max(answering)
    if heard is not None and heard.minutes_ago <= _WATCHDOG_MINUTES and not stale:
        return Line("ok", "alerts", f"the alert that fires always was heard {heard.minutes_ago} min ago")
    silence = "never heard" if heard is None else f"not heard for {heard.minutes_ago} min"
    if len(answering) < len(began):
        level: Level = "note" if heard is None else "wrong"
        return Line(level, "alerts", f"{silence}: start Prometheus and Alertmanager, which send and deliver them")
    seconds = (datetime.now(UTC) - max(answering)).total_seconds()
    if seconds < _FIRST_WATCHDOG_MINUTES * 60:
        up_for = f"Prometheus and Alertmanager have been up for {seconds:.0f} s"
        return Line("note", "alerts", f"not heard yet: {up_for}, and it comes within {_FIRST_WATCHDOG_MINUTES} min")
    up_for = f"Prometheus and Alertmanager have been up for {seconds / 60:.0f} min"
    return Line("wrong", "alerts", f"{silence}, and {up_for}: `lobservatory alert-test` finds where alerts are lost")


# What each needs for it.
_NEEDED: dict[Part, str] = {"prometheus": theirs.RULES, "alertmanager": theirs.HISTORY}
# Where each says since when it runs.
_STARTS: dict[Part, tuple[str, ...]] = {
    "prometheus": ("/api/v1/status/runtimeinfo", "data", "startTime"),
    "alertmanager": ("/api/v2/status", "uptime"),
}


def _started(url: str | None, path: str, *keys: str) -> datetime | None:
    """Since when a server runs; None when there is none, or it does not say."""
    answer = None if url is None else parts.ask(f"{url}{path}")
    for key in keys:
        answer = answer.get(key) if isinstance(answer, dict) else None
    try:
        return datetime.fromisoformat(str(answer)).astimezone(UTC)
    except ValueError:
        return None


def _roles(found: health.Roles) -> Line:
    if found.missing:
        said = f"missing: {', '.join(found.missing)}. Run `lobservatory migrate` as the owner"
        return Line("wrong", "roles", said)
    if found.superuser:
        return Line("wrong", "roles", "lobs_reader or lobs_writer is a superuser: ALTER ROLE … NOSUPERUSER")
    if found.readable_tables:
        tables = counted(found.readable_tables, "base table")
        return Line("wrong", "roles", f"lobs_reader can read {tables}: run `lobservatory migrate`")
    return Line("ok", "roles", "lobs_writer writes, lobs_reader reads views only")


def servers(settings: Settings) -> Iterator[Line]:
    """Who else may reach them; exporter, API, Prometheus and its target, Alertmanager and its receiver, Grafana."""
    if up.is_running(demo.folder(settings)) and not up.is_running(settings.data_dir):
        said = "`lobservatory demo` is running: the exporter, the API and the servers on this machine are its own, so "
        yield Line("note", "demo", f"{said}yours are not looked at. Stop it, then try again")
        return
    known = up.addresses(settings)
    exposed = {part: parts.exposure(part, listen) for part, listen in known.items()}
    yield from (Line("note", part, said) for part, said in exposed.items() if said)
    for part in ("exporter", "api"):
        yield _own(part, known[part], settings)
    ours = parts.answers(known["exporter"], "/healthz")
    judges: dict[Part, tuple[str, Callable[[Any], Iterator[Line]]]] = {
        "prometheus": ("/api/v1/targets?state=active", targets),
        "alertmanager": ("/api/v2/status", partial(receivers, settings)),
        "grafana": ("/api/health", grafana),
    }
    servers = up.servers(settings)
    for name in PARTS:
        path, judge = judges[name]
        yield from _server(name, servers.get(name), settings, path, judge, ours=ours)


def _own(part: str, listen: Listen, settings: Settings) -> Line:
    """The exporter or the API. Where it is not there, whether it could start."""
    if parts.answers(listen, "/healthz"):
        return Line("ok", part, parts.url(listen))
    if up.is_running(settings.data_dir):
        log = settings.data_dir / "logs" / f"{part}.log"
        return Line("wrong", part, f"it does not answer on {listen}: its log says why ({log})")
    try:
        if listen.port:  # 0: any that is free
            parts.check_free(listen, parts.configured(settings)[part][0])
    except UserError as error:
        return Line("wrong", part, str(error))
    return Line("note", part, f"nothing answers on {listen}: `lobservatory up` starts it")


def _server(
    part: Part,
    server: up.Server | None,
    settings: Settings,
    path: str,
    judge: Callable[[Any], Iterator[Line]],
    *,
    ours: bool,
) -> Iterator[Line]:
    """`ours`: whether the exporter runs, so that a server of this kind should be there."""
    if server is None:
        yield Line("note", part, f"there is none. {parts.FOREIGN[part].how}")
        return
    url, name = server.url, part.upper()
    answer = parts.ask(f"{url}{path}")
    if answer is None:
        yield _silent(part, server, settings)
        return
    if not ours and server.whose == "unknown" and not theirs.works_for_us(part, url):
        taken = parts.taken(part, parts.configured(settings)[part][1])
        yield Line("note", part, f"{taken}; until then `lobservatory up` takes the next free port")
        return
    try:
        yield from judge(answer)
    except (KeyError, TypeError, AttributeError):
        yield Line("wrong", part, f"what answers at {url} is no {part}. Set LOBS_{name}_LISTEN or LOBS_{name}_URL")
        return
    yield from (Line("wrong", part, f"it lacks {said}: {theirs.HOW}") for said in theirs.lacking(part, url))


def _silent(part: Part, server: up.Server, settings: Settings) -> Line:
    """A server that does not answer, and what would start it."""
    title = part.capitalize()
    if server.whose == "yours":
        return Line("wrong", part, f"no {title} answers at {server.url}: start it, or correct LOBS_{part.upper()}_URL")
    if server.whose == "ours":
        log = settings.data_dir / "logs" / f"{part}.log"
        return Line("wrong", part, f"it does not answer at {server.url}: its log says why ({log})")
    said = f"nothing answers at {server.url}"
    found = None
    with contextlib.suppress(UserError):  # said already
        found = parts.find(parts.FOREIGN[part], os.environ)
    if found is None:
        return Line("note", part, f"{said}, and there is no program to start. {parts.FOREIGN[part].how}")
    return Line("note", part, f"{said}: `lobservatory up` starts {found}")


def targets(answer: Any) -> Iterator[Line]:
    """Whether Prometheus reaches our exporter, from its `/api/v1/targets`; nothing where it does not scrape it."""
    ours = [target for target in answer["data"]["activeTargets"] if target["labels"]["job"] == "lobservatory"]
    for target in ours:
        if target["health"] == "up":
            yield Line("ok", "prometheus", f"scrapes {target['scrapeUrl']}")
        elif target["health"] == "unknown":
            yield Line("note", "prometheus", f"has not scraped {target['scrapeUrl']} yet: try again in 15 s")
        else:
            said = target["lastError"]
            yield Line("wrong", "prometheus", f"cannot scrape {target['scrapeUrl']}: {said}. Start the exporter")


def receivers(settings: Settings, answer: Any) -> Iterator[Line]:
    """Whether Alertmanager can tell anybody, from its `/api/v2/status`."""
    config = str(answer["config"]["original"])
    if "slack" in theirs.receivers(config):
        yield Line("ok", "alertmanager", "sends to Slack")
    else:
        yield Line("note", "alertmanager", f"sends nothing to Slack: {theirs.without_slack(settings, config)}")


def grafana(answer: Any) -> Iterator[Line]:
    """Whether Grafana works and can show our boards, from its `/api/health`, which wants no login."""
    if answer["database"] != "ok":
        yield Line("wrong", "grafana", f"its own database: {answer['database']}. Look at its log")
        return
    version = str(answer.get("version", ""))  # a Grafana may be told to hide it
    major = version.partition(".")[0]
    if major.isdecimal() and int(major) < _GRAFANA:
        yield Line("note", "grafana", f"version {version}; the boards are made for {_GRAFANA} (docs/dashboards.md)")
    else:
        yield Line("ok", "grafana", f"version {version}" if version else "answers")
