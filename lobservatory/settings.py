"""Every setting of both processes, in one typed model.

Order: environment `LOBS_*`, then `lobservatory.toml` (path in `LOBS_CONFIG_FILE`, else in the working
directory, else in `~/.config/lobservatory/`), then the defaults below. A secret can also be given as a file
(`LOBS_GATEWAY_TOKEN_FILE=/run/secrets/token`), which is read again whenever it has changed.
`docs/configuration.md` is generated from this module.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from lobservatory import thresholds
from lobservatory.complaints import NotA, complaint, show
from lobservatory.errors import SettingsError, end
from lobservatory.given import PREFIX as PREFIX  # noqa: PLC0414 - as above
from lobservatory.given import config_file as config_file  # noqa: PLC0414 - as above
from lobservatory.given import is_file, path_of
from lobservatory.metrics.labels import COLLECTORS
from lobservatory.thresholds import Key

FILE_SUFFIX = "_FILE"
FILE_ONLY = frozenset({"billing", "thresholds"})  # tables: they cannot be written in one variable
# Read by `lobservatory up` (paths of foreign binaries) and by tests, not by the two processes.
UP_VARIABLES = frozenset(
    {
        "LOBS_PROMETHEUS_BIN",
        "LOBS_ALERTMANAGER_BIN",
        "LOBS_GRAFANA_BIN",
        "LOBS_OLD_POSTGRES_BIN",
        "LOBS_CONFIG_FILE",
        "LOBS_UID",
        "LOBS_GID",
        "LOBS_TEST_DSN",
    }
)


# Parts of others: an installation may have its own, somebody else's, or none.
Part = Literal["prometheus", "alertmanager", "grafana"]
PARTS: tuple[Part, ...] = get_args(Part)

# Names that PostgreSQL takes for abbreviations without summer time; the zones that they are links to have it.
_NOT_ABBREVIATED = {"CET": "Europe/Brussels", "MET": "Europe/Brussels", "EET": "Europe/Athens", "WET": "Europe/Lisbon"}


_HIGHEST_PORT = 65_535
_POSTGRES = frozenset({"postgresql", "postgres"})


class Listen(BaseModel):
    """An address to listen on, written `host:port` (`[::1]:9464` for IPv6)."""

    model_config = ConfigDict(frozen=True)

    host: str
    port: Annotated[int, Field(ge=0, le=_HIGHEST_PORT)]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises NotA for anything but `host:port`."""
        match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]\s]+):(\d{1,5})", text.strip(), re.ASCII)
        if not match:
            raise NotA("host:port")
        if int(match[2]) > _HIGHEST_PORT:
            raise NotA(f"host:port with a port up to {_HIGHEST_PORT}")
        return cls(host=match[1].strip("[]"), port=int(match[2]))

    @property
    def url(self) -> str:
        """Its `http://` address, without a slash at the end, as programs of this host reach it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - compared, not bound
        return f"http://{Listen(host=host, port=self.port)}"

    def __str__(self) -> str:
        """As it was written."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def default_data_dir() -> Path:
    """`/var/lib/lobservatory` as root, else `$XDG_DATA_HOME/lobservatory`."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/lobservatory")
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "lobservatory"


class Billing(BaseModel):
    """Table `[billing]`: which providers are paid by subscription (their money is *equivalent*, not billed)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    equivalent: tuple[str, ...] = Field(
        (), examples=[("claude-max",)], description="Providers paid by subscription or OAuth."
    )
    billed: tuple[str, ...] = Field(
        (), examples=[("openai",)], description="Providers billed per token whatever their profile says."
    )


class Settings(BaseModel):
    """All settings. A field `gateway_url` is `LOBS_GATEWAY_URL` in the environment, `gateway_url` in the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    state_dir: Path | None = Field(
        None,
        examples=["~/.openclaw"],
        description="OpenClaw's state directory. Empty: found as OpenClaw finds its own.",
    )
    gateway_name: Annotated[str, Field(min_length=1, max_length=64)] = Field(
        "default", description="Label `gateway` on every series and row. Unique per gateway in one database."
    )
    gateway_url: str = Field("ws://127.0.0.1:18789", description="WebSocket URL of the gateway.")
    gateway_token: SecretStr = Field(
        SecretStr(""),
        description="The gateway's token. Empty: `OPENCLAW_GATEWAY_TOKEN`, then `gateway.auth.token` of openclaw.json.",
    )
    database_url: SecretStr = Field(
        SecretStr(""),
        examples=["postgresql://lobs_writer@127.0.0.1/lobservatory"],
        description="PostgreSQL or TimescaleDB, as the role `lobs_writer`. Empty: embedded with `make up`; "
        "none for an exporter on its own, which then keeps its totals in a checkpoint file.",
    )
    migrate_url: SecretStr = Field(
        SecretStr(""),
        examples=["postgresql://lobs_owner@127.0.0.1/lobservatory"],
        description="The same database as its owner, for `lobservatory migrate` only. Empty: `LOBS_DATABASE_URL`.",
    )
    reader_url: SecretStr = Field(
        SecretStr(""),
        examples=["postgresql://lobs_reader@127.0.0.1/lobservatory"],
        description="The same database as the role `lobs_reader`, for `LOBS_CHAT`. `make up` and compose set it.",
    )
    metrics_listen: Listen = Field(Listen(host="127.0.0.1", port=9464), description="Address of `/metrics`.")
    api_listen: Listen = Field(Listen(host="127.0.0.1", port=8787), description="Address of the API.")
    api_password_file: Path | None = Field(
        None,
        examples=["~/lobservatory-password"],
        description="File with the API's password or its argon2 hash, mode 0600; read again when it has changed. "
        "Empty: `secrets/api_password` in the data directory.",
    )
    data_dir: Path = Field(
        default_factory=default_data_dir,
        description="Our own files: secrets, checkpoint, embedded database, logs. "
        "Default: `$XDG_DATA_HOME/lobservatory`, as root `/var/lib/lobservatory`.",
    )
    timezone: str = Field(
        "UTC",
        examples=["Europe/Berlin"],
        description="IANA zone whose days 'today' and 'month' mean, for example `Europe/Berlin`.",
    )
    commands: bool = Field(default=False, description="Allow commands to the gateway (spawn, kill, cron, config).")
    gateway_service: str = Field(
        "",
        examples=["systemd-user:openclaw-gateway.service"],
        description="The gateway's service, which commands may start and stop, for example "
        "`systemd-user:openclaw-gateway.service` or `launchd:ai.openclaw.gateway`. Empty: they may not.",
    )
    chat: bool = Field(default=False, description="Allow `/api/chat`, which asks the gateway's own model.")
    chat_agent: str = Field(
        "main", description="The gateway's agent whose model answers `/api/chat`; best one without tools."
    )
    prometheus_url: str = Field(
        "",
        examples=["http://127.0.0.1:9090"],
        description="Address of Prometheus, for the history of alerts, questions of `LOBS_CHAT` and links. Empty: its "
        "listen address. Where a Prometheus answers when `make up` starts, it is used and none is started "
        "(docs/operation.md).",
    )
    runs_per_user: Annotated[int, Field(ge=0, le=1000)] = Field(
        8, description="Runs that one user may have at once through commands; the rest wait. 0: as many as they like."
    )
    result_webhook_url: SecretStr = Field(
        SecretStr(""),
        examples=["https://example.org/lobservatory"],
        description="Where commands may deliver the result of a run, signed (docs/commands.md).",
    )
    result_webhook_secret: SecretStr = Field(
        SecretStr(""), description="Key of that signature, at least 32 characters."
    )
    store_content: bool = Field(default=False, description="Send texts with traces. Off: names, sizes.")
    allow_query_token: bool = Field(
        default=False, description="Accept a full token in a WebSocket URL. Off: only single-use tickets."
    )
    cors_origins: tuple[str, ...] = Field(
        (), examples=[("https://app.example.org",)], description="Exact origins that browsers may call the API from."
    )
    trusted_proxies: tuple[str, ...] = Field(
        (),
        examples=[("127.0.0.1", "10.0.0.0/8")],
        description="Addresses or networks of proxies whose `X-Forwarded-For` names the client, for log-in limits and "
        "logs, for example `127.0.0.1,10.0.0.0/8`. Empty: nobody's.",
    )
    poll_interval: Annotated[float, Field(ge=1, le=3600)] = Field(
        15.0, description="Seconds between two polls of the gateway by each collector."
    )
    collectors_off: tuple[str, ...] = Field(
        (),
        examples=[("logs", "host")],
        description="Collectors that do not run, separated by commas; docs/metrics.md lists all.",
    )
    host_interval: Annotated[float, Field(ge=1, le=3600)] = Field(15.0, description="Seconds between two host samples.")
    zero_hold: Annotated[float, Field(ge=0, le=600)] = Field(
        30.0,
        description="Longest time that a counter series born live shows 0 while it waits for its first scrape.",
    )
    daily_cost_limit: Annotated[float, Field(gt=0)] = Field(
        25.0, description="US$ of one day from which the alert DailyCostHigh fires."
    )
    slack_webhook_url: SecretStr = Field(
        SecretStr(""),
        examples=["https://hooks.slack.com/services/T0/B0/X"],
        description="Slack incoming webhook for `make up`. Empty: alerts are shown, not sent.",
    )
    grafana_url: str = Field(
        "",
        examples=["https://grafana.example.org"],
        description="Address of Grafana in messages and on our pages. Empty: `http://` and its listen address. Where a "
        "Grafana answers when `make up` starts, it is used and none is started (docs/operation.md).",
    )
    alertmanager_url: str = Field(
        "",
        examples=["https://alertmanager.example.org"],
        description="Address of Alertmanager in messages and on our pages. Empty: `http://` and its listen address. "
        "Where an Alertmanager answers when `make up` starts, it is used and none is started (docs/operation.md).",
    )
    without: tuple[Part, ...] = Field(
        (),
        examples=[("grafana",)],
        description="What this installation goes without, of `prometheus`, `alertmanager` and `grafana`: nothing links "
        "there, and `make up` does not start it. `make up` adds what it does not find.",
    )
    alertmanager_config: Path | None = Field(
        None,
        examples=["~/alertmanager.yml"],
        description="A configuration of Alertmanager of your own, instead of ours (docs/alerts.md).",
    )
    runbook_url: str = Field(
        "",
        examples=["https://runbooks.example.org"],
        description="Address of the folder `alerts/runbooks` in messages. Empty: where the API serves it.",
    )
    official_metrics: bool = Field(
        default=False, description="Scrape the gateway's own plugin diagnostics-prometheus as well, under `make up`."
    )
    prometheus_listen: Listen = Field(
        Listen(host="127.0.0.1", port=9090), description="Prometheus under `make up`. Taken: the next free port."
    )
    alertmanager_listen: Listen = Field(
        Listen(host="127.0.0.1", port=9093), description="Alertmanager under `make up`. Taken: the next free port."
    )
    grafana_listen: Listen = Field(
        Listen(host="127.0.0.1", port=3000), description="Grafana under `make up`. Taken: the next free port."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="auto: readable on a terminal, JSON lines elsewhere."
    )
    prices_file: Path | None = Field(
        None,
        examples=["~/prices.toml"],
        description="Prices of your own (TOML, rows as in `exporter/accounting/prices.toml`); they win over all.",
    )
    billing: Billing = Field(
        Billing(equivalent=(), billed=()),
        examples=[{"equivalent": ["claude-max"]}],
        description="Table `[billing]` (file only).",
    )
    thresholds_file: Path | None = Field(
        None,
        examples=["~/thresholds.toml"],
        description="A file with thresholds of alerts, a copy of `alerts/thresholds.toml` (docs/alerts.md). "
        "Empty: the defaults.",
    )
    thresholds: dict[str, dict[str, float | dict[str, dict[str, float]]]] = Field(
        {},
        description="Tables `[thresholds.<Alert>]` (file only): severity and number, and for single agents "
        "`[thresholds.<Alert>.agents.<agent>]`; docs/alerts.md lists them.",
    )

    @field_validator(
        "metrics_listen",
        "api_listen",
        "prometheus_listen",
        "alertmanager_listen",
        "grafana_listen",
        mode="before",
    )
    @classmethod
    def _listen(cls, value: object) -> object:
        if isinstance(value, Listen):
            return value
        return Listen.parse(value if isinstance(value, str) else "")

    @field_validator("gateway_url")
    @classmethod
    def _websocket(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            wrong = parts.scheme not in {"ws", "wss"} or not parts.hostname or parts.port == 0
        except ValueError:
            wrong = True
        if wrong:
            raise NotA("a WebSocket URL")
        if parts.username or parts.password or parts.query:
            raise ValueError("the URL must not carry a user, a password or a query: use LOBS_GATEWAY_TOKEN")
        return value

    @field_validator("database_url", "migrate_url", "reader_url")
    @classmethod
    def _postgres(cls, value: SecretStr) -> SecretStr:
        try:
            wrong = value.get_secret_value() and urlsplit(value.get_secret_value()).scheme not in _POSTGRES
        except ValueError:
            wrong = True
        if wrong:
            raise NotA("a PostgreSQL URL")
        return value

    @field_validator("grafana_url", "alertmanager_url", "runbook_url", "prometheus_url")
    @classmethod
    def _address(cls, value: str) -> str:
        if value and not re.fullmatch(r"https?://[^\s<>|{}`\"\\]+", value):
            raise NotA("an http(s) URL")
        return value.rstrip("/")

    @field_validator("result_webhook_url", "slack_webhook_url")
    @classmethod
    def _receiver(cls, value: SecretStr) -> SecretStr:
        url = value.get_secret_value().strip()
        if url and not re.fullmatch(r"https?://[^\s<>\"\\/?#]+[^\s<>\"\\]*", url):
            raise NotA("an http(s) URL")
        return SecretStr(url)

    @field_validator("result_webhook_secret")
    @classmethod
    def _long_enough(cls, value: SecretStr) -> SecretStr:
        if 0 < len(value.get_secret_value()) < 32:  # noqa: PLR2004 - as the description says
            raise ValueError("it is shorter than 32 characters: make one with `openssl rand -hex 32`")
        return value

    @field_validator("gateway_name")
    @classmethod
    def _printable(cls, value: str) -> str:
        if not value.isprintable():
            raise NotA("printable text")
        return value

    @field_validator("gateway_service")
    @classmethod
    def _service(cls, value: str) -> str:
        if value and not re.fullmatch(r"(systemd|systemd-user|launchd):[A-Za-z0-9_][A-Za-z0-9_.@-]*", value):
            raise NotA("systemd:UNIT, systemd-user:UNIT or launchd:LABEL")
        return value

    @field_validator("chat_agent")
    @classmethod
    def _agent(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", value):
            raise NotA("the name of an agent (1 to 64 letters, digits, _ and -)")
        return value

    @field_validator("thresholds", mode="before")
    @classmethod
    def _thresholds(cls, value: object) -> object:
        if isinstance(value, dict) and "DailyCostHigh" in value:
            raise ValueError("DailyCostHigh is set with LOBS_DAILY_COST_LIMIT (daily_cost_limit), not here")
        return thresholds.checked(value)

    @field_validator("timezone")
    @classmethod
    def _zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError) as error:
            raise NotA("an IANA time zone") from error
        return _NOT_ABBREVIATED.get(value, value)

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _proxies(cls, value: object) -> object:
        parts = [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        for part in parts if isinstance(parts, list | tuple) else ():
            try:
                ipaddress.ip_network(str(part))
            except ValueError:
                raise NotA("an address or a network", part) from None
        return parts

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _origins(cls, value: object) -> object:
        parts = tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value
        for part in parts if isinstance(parts, list | tuple) else ():
            if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+", str(part)):
                raise NotA("an origin (scheme and host, nothing behind)", part)
        return parts

    @field_validator("collectors_off", mode="before")
    @classmethod
    def _collectors_off(cls, value: object) -> object:
        names = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
        if not isinstance(names, list | tuple):
            return value
        for name in names:
            if name and name not in COLLECTORS:
                raise ValueError(f"there is no collector {show(name)}: one of {', '.join(COLLECTORS)}")
        return tuple(name for name in names if name)

    @field_validator("without", mode="before")
    @classmethod
    def _without(cls, value: object) -> object:
        names = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
        if not isinstance(names, list | tuple):
            return value
        for name in names:
            if name and name not in PARTS:
                raise ValueError(f"{show(name)} cannot be left out: one of {', '.join(PARTS)}")
        return tuple(name for name in names if name)

    @field_validator(
        "state_dir",
        "data_dir",
        "api_password_file",
        "alertmanager_config",
        "prices_file",
        "thresholds_file",
        mode="before",
    )
    @classmethod
    def _expand(cls, value: object) -> object:
        return path_of(value) if isinstance(value, str) and value else value or None

    @model_validator(mode="after")
    def _distinct_ports(self) -> Self:
        taken: dict[tuple[str, int], str] = {}
        for name in (
            "metrics_listen",
            "api_listen",
            "prometheus_listen",
            "alertmanager_listen",
            "grafana_listen",
        ):
            listen: Listen = getattr(self, name)
            other = taken.setdefault((listen.host, listen.port), name)
            if other != name and listen.port:
                raise ValueError(
                    f"{PREFIX}{name.upper()} and {PREFIX}{other.upper()} are both {listen}: give each its own"
                )
        return self

    @property
    def zone(self) -> ZoneInfo:
        """The configured zone."""
        return ZoneInfo(self.timezone)

    def address(self, part: Part) -> str:
        """Where people find this part, without a slash at the end; empty where there is none to link to."""
        if part in self.without:
            return ""
        listen: Listen = getattr(self, f"{part}_listen")
        return getattr(self, f"{part}_url") or listen.url

    def alert_thresholds(self) -> dict[Key, float]:
        """(alert, severity, agent) → value of the file or default; agent "": all of them."""
        return {**thresholds.effective(self.thresholds), ("DailyCostHigh", "warning", ""): self.daily_cost_limit}

    def now(self) -> datetime:
        """The present instant, in UTC."""
        return datetime.now(UTC)


SECRETS = tuple(name for name, field in Settings.model_fields.items() if field.annotation is SecretStr)


def _from_file() -> dict[str, Any]:
    path = config_file()
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{_named(path)}: not valid TOML: {error}") from error
    except OSError as error:
        raise SettingsError(f"{_named(path)}: cannot be read: {error.strerror}") from error


def _named(path: Path) -> str:
    """The configuration file, with the variable where one named it."""
    return f"LOBS_CONFIG_FILE: {path}" if os.environ.get("LOBS_CONFIG_FILE") else str(path)


def read_secret(path: Path, setting: str) -> str:
    """The content of a secret's file without its last newline. Raises SettingsError."""
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsError(f"{setting}: {path} cannot be read: {reason}") from error


def _from_environment(environment: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Setting → value, and setting → the variable that gave it."""
    known = {PREFIX + name.upper() for name in Settings.model_fields if name not in FILE_ONLY}
    known_files = {PREFIX + name.upper() + FILE_SUFFIX for name in SECRETS}
    values: dict[str, Any] = {}
    names: dict[str, str] = {}
    for variable, value in sorted(environment.items()):
        if not variable.startswith(PREFIX) or variable in UP_VARIABLES:
            continue
        if variable in known_files:
            name = variable.removeprefix(PREFIX).removesuffix(FILE_SUFFIX)
            if value and environment.get(PREFIX + name):
                raise SettingsError(f"{variable} and {PREFIX}{name} are both set: keep one")
            if value:
                names[name.lower()] = variable
                values[name.lower()] = read_secret(_file(value, variable), variable)
        elif variable in known:
            if value != "":  # an empty variable, as compose files make them, means "not set"
                names[variable.removeprefix(PREFIX).lower()] = variable
                values[variable.removeprefix(PREFIX).lower()] = value
        elif variable.removeprefix(PREFIX).lower() in FILE_ONLY:
            table = variable.removeprefix(PREFIX).lower()
            raise SettingsError(f"{variable} is no variable: write the table [{table}] in lobservatory.toml")
        else:
            # Without the prefix, which makes any two names alike.
            names_only = {name.removeprefix(PREFIX) for name in known | known_files | UP_VARIABLES}
            near = difflib.get_close_matches(variable.removeprefix(PREFIX), names_only, n=1)
            hint = f"did you mean {PREFIX}{near[0]}?" if near else "docs/configuration.md lists all settings"
            raise SettingsError(f"unknown setting {variable}: {hint}")
    return values, names


def _file(text: str, variable: str) -> Path:
    try:
        return path_of(text)
    except ValueError as error:
        raise SettingsError(f"{variable}: {error}") from error


def _read_thresholds(values: dict[str, Any], names: dict[str, str]) -> None:
    """Put the tables of LOBS_THRESHOLDS_FILE where those of `lobservatory.toml` would be. Raises SettingsError."""
    path = values.get("thresholds_file")
    if not path or not isinstance(path, str | Path):
        return
    if values.get("thresholds"):
        raise SettingsError("LOBS_THRESHOLDS_FILE and [thresholds] of lobservatory.toml are both set: keep one")
    name = names.get("thresholds_file", f"{config_file()}: thresholds_file")
    file = _file(str(path), name)
    if not is_file(file):
        raise SettingsError(f"{name}: there is no file {file}")
    try:
        tables = thresholds.read(file)
    except SettingsError as error:
        raise SettingsError(f"{name}: {error}") from error
    limit = tables.pop("DailyCostHigh", {}).get("warning")
    if limit is not None and "daily_cost_limit" not in values:  # LOBS_DAILY_COST_LIMIT wins, as the environment does
        values["daily_cost_limit"] = limit
        names["daily_cost_limit"] = f"{file}: DailyCostHigh.warning"
    values["thresholds"] = tables
    names["thresholds"] = str(file)


def load(environment: Mapping[str, str] | None = None) -> Settings:
    """The settings of this process. Raises SettingsError with one line per problem, never with a secret."""
    given, names = _from_environment(os.environ if environment is None else environment)
    values = {**_from_file(), **given}
    _read_thresholds(values, names)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        toml = str(config_file() or "lobservatory.toml")
        lines = [complaint(problem, Settings, values, names, toml) for problem in problems]
        raise SettingsError("\n".join(dict.fromkeys(lines))) from None


def main_or_exit() -> Settings:
    """As `load`, for a program's entry: a wrong setting ends it with status 2 and one line on stderr."""
    try:
        return load()
    except SettingsError as error:
        end("lobservatory", error)
