"""Where OpenClaw keeps its state, and what its configuration file tells an observer.

The directory is the first of: what the caller names, `LOBS_STATE_DIR`, `OPENCLAW_STATE_DIR`, `~/.openclaw` (with a
profile `~/.openclaw-<profile>`), the legacy `~/.moltbot` and `~/.clawdbot`. Only `openclaw.json` is read here; tables
and files that hold credentials never are.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lobservatory.errors import LobservatoryError

if TYPE_CHECKING:
    from pydantic import SecretStr

    from lobservatory.settings import Settings

CONFIG_NAMES = ("openclaw.json", "moltbot.json", "clawdbot.json")
LEGACY_NAMES = (".moltbot", ".clawdbot")
DEFAULT_PORT = 18789
MAX_CONFIG = 16 * 1024 * 1024
_MARKERS = ("agents", "state", *CONFIG_NAMES)
_SUBSCRIPTION_MODES = frozenset({"oauth", "token"})


class StateDirError(LobservatoryError):
    """The state directory cannot be used. The text is one line: which directory, what is wrong, what to do."""


class StateDirMissingError(StateDirError):
    """There is no such directory."""


class StateDirUnreadableError(StateDirError):
    """It is there, and this user may not read it."""


class NotAStateDirError(StateDirError):
    """It is there, and nothing in it is OpenClaw's."""


def resolve(
    explicit: Path | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    home: Path | None = None,
) -> Path:
    """The state directory that OpenClaw itself would use; `explicit` first. Raises StateDirError.

    An empty directory is accepted: a gateway that was never started has nothing to show yet.
    """
    environment = os.environ if environment is None else environment
    home = Path.home() if home is None else home
    if explicit is not None:
        return _checked(explicit.expanduser(), "")
    named = environment.get("OPENCLAW_STATE_DIR", "").strip()
    if named:
        return _checked(_in_home(named, home), "OPENCLAW_STATE_DIR: ")
    profile = environment.get("OPENCLAW_PROFILE", "").strip()
    if profile and profile.lower() != "default":
        return _checked(home / f".openclaw-{profile}", f"OPENCLAW_PROFILE={profile}: ")
    for name in (".openclaw", *LEGACY_NAMES):
        if (home / name).exists():
            return _checked(home / name, "")
    raise StateDirMissingError(
        f"no OpenClaw state directory: {home / '.openclaw'} does not exist",
        remedy=("start OpenClaw once, or name the directory with LOBS_STATE_DIR or OPENCLAW_STATE_DIR"),
    )


def _in_home(text: str, home: Path) -> Path:
    return home / text[2:] if text.startswith("~/") else Path(text)


def _checked(path: Path, source: str) -> Path:
    try:
        if not path.is_dir():
            wrong = "is not a directory" if path.exists() else "does not exist"
            raise StateDirMissingError(f"{source}state directory {path} {wrong}: name the directory of a gateway")
        names = set(os.listdir(path))  # noqa: PTH208 - names only, and OSError carries the reason
    except PermissionError as error:
        raise StateDirUnreadableError(
            f"{source}state directory {path} cannot be read: {error.strerror}",
            remedy=("run as the user of the gateway, or give this user read permission"),
        ) from error
    except OSError as error:
        raise StateDirUnreadableError(
            f"{source}state directory {path} cannot be read: {error.strerror}: name another directory"
        ) from error
    if names and names.isdisjoint(_MARKERS):
        raise NotAStateDirError(
            f"{source}{path} is no OpenClaw state directory: it holds neither agents/ nor openclaw.json",
            remedy=("name the directory of a gateway, for example ~/.openclaw"),
        )
    return path


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """What the gateway's configuration says a model costs, in US dollars per million tokens; None: not said."""

    provider: str
    model: str
    input: Decimal | None
    output: Decimal | None
    cache_read: Decimal | None
    cache_write: Decimal | None


@dataclass(frozen=True, slots=True)
class OpenClawConfig:
    """What we use of `openclaw.json`. Everything has a default: a missing or broken file is no reason to stop."""

    path: Path | None = None
    problem: str | None = None  # one line, when the file is there and cannot be used
    plain_token: str = field(default="", repr=False)
    plain_password: str = field(default="", repr=False)
    port: int = DEFAULT_PORT
    tls: bool = False
    prices: tuple[ModelPrice, ...] = ()
    subscription_providers: frozenset[str] = frozenset()  # their profile is `oauth` or `token`
    agents: tuple[str, ...] = ()
    log_file: Path | None = None  # `logging.file`
    channels: tuple[str, ...] = ()  # those that are not switched off

    @property
    def token(self) -> SecretStr:
        """`gateway.auth.token`; may be empty."""
        return _hidden(self.plain_token)

    @property
    def password(self) -> SecretStr:
        """`gateway.auth.password`; may be empty."""
        return _hidden(self.plain_password)


def _hidden(text: str) -> SecretStr:
    from pydantic import SecretStr  # noqa: PLC0415 - a scan, which asks for no secret, does not wait for it

    return SecretStr(text)


def load_config(state_dir: Path, *, environment: Mapping[str, str] | None = None) -> OpenClawConfig:
    """The configuration of the gateway whose state directory this is (`OPENCLAW_CONFIG_PATH` wins). Never raises."""
    environment = os.environ if environment is None else environment
    named = environment.get("OPENCLAW_CONFIG_PATH", "").strip()
    candidates = [Path(named).expanduser()] if named else [state_dir / name for name in CONFIG_NAMES]
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        return OpenClawConfig()
    try:
        if path.stat().st_size > MAX_CONFIG:
            return OpenClawConfig(path=path, problem=f"{path}: larger than {MAX_CONFIG} bytes, not read")
        document = parse_json5(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        return OpenClawConfig(path=path, problem=f"{path}: cannot be read: {error.strerror}")
    except (ValueError, RecursionError) as error:
        return OpenClawConfig(path=path, problem=f"{path}: not valid JSON: {error}")
    if not isinstance(document, dict):
        return OpenClawConfig(path=path, problem=f"{path}: not a JSON object")
    gateway = _object(document, "gateway")
    auth = _object(gateway, "auth")
    port = gateway.get("port")
    return OpenClawConfig(
        path=path,
        plain_token=_secret(auth.get("token"), environment),
        plain_password=_secret(auth.get("password"), environment),
        port=port if isinstance(port, int) and 0 < port < 65536 else DEFAULT_PORT,  # noqa: PLR2004 - a TCP port
        tls=_object(gateway, "tls").get("enabled") is True,
        prices=tuple(_prices(document)),
        subscription_providers=frozenset(_subscriptions(_object(document, "auth"))),
        agents=tuple(_agents(_object(document, "agents"))),
        log_file=_path(_object(document, "logging").get("file")),
        channels=tuple(_channels(_object(document, "channels"))),
    )


def gateway_token(
    settings: Settings, config: OpenClawConfig, *, environment: Mapping[str, str] | None = None
) -> SecretStr:
    """The token: our setting, else `OPENCLAW_GATEWAY_TOKEN`, else `gateway.auth.token`; may be empty."""
    environment = os.environ if environment is None else environment
    if settings.gateway_token.get_secret_value():
        return settings.gateway_token
    named = environment.get("OPENCLAW_GATEWAY_TOKEN", "").strip()
    return _hidden(named) if named else config.token


def gateway_url(settings: Settings, config: OpenClawConfig, *, environment: Mapping[str, str] | None = None) -> str:
    """Our setting when it was given, else loopback with `OPENCLAW_GATEWAY_PORT` or the configured port."""
    if "gateway_url" in settings.model_fields_set:
        return settings.gateway_url
    environment = os.environ if environment is None else environment
    named = environment.get("OPENCLAW_GATEWAY_PORT", "").strip()
    port = int(named) if named.isdecimal() and 0 < int(named) < 65536 else config.port  # noqa: PLR2004 - a TCP port
    return f"{'wss' if config.tls else 'ws'}://127.0.0.1:{port}"


_TOKEN = re.compile(
    r"""(?P<double>"(?:[^"\\\n]|\\.)*")
      | (?P<single>'(?:[^'\\\n]|\\.)*')
      | (?P<comment>//[^\n]*|/\*.*?\*/)
      | (?P<comma>,(?=(?:\s|//[^\n]*|/\*.*?\*/)*[}\]]))
      | (?P<key>[A-Za-z_$][\w$-]*(?=\s*:))
    """,
    re.VERBOSE | re.DOTALL,
)


def parse_json5(text: str) -> Any:
    """JSON, or the JSON5 that people write by hand: comments, trailing commas, bare keys, single quotes.

    Numbers with a fraction are Decimals. Raises ValueError.
    """
    try:
        return json.loads(text, parse_float=Decimal)
    except ValueError:
        return json.loads(_TOKEN.sub(_as_json, text), parse_float=Decimal)


def _as_json(match: re.Match[str]) -> str:
    if match["double"]:
        return match["double"]
    if match["single"]:
        return '"' + match["single"][1:-1].replace("\\'", "'").replace('"', '\\"') + '"'
    return f'"{match["key"]}"' if match["key"] else " "


def _object(value: Any, name: str) -> dict[str, Any]:
    inner = value.get(name) if isinstance(value, dict) else None
    return inner if isinstance(inner, dict) else {}


def _secret(value: Any, environment: Mapping[str, str]) -> str:
    """A literal, `${VARIABLE}`, or a reference `{source: "env", id: "VARIABLE"}`; other references are not ours."""
    if isinstance(value, dict) and value.get("source") == "env":
        return environment.get(str(value.get("id")), "")
    if not isinstance(value, str):
        return ""
    variable = re.fullmatch(r"\$\{([A-Z_][A-Z0-9_]*)\}", value.strip())
    return environment.get(variable[1], "") if variable else value


def _path(value: Any) -> Path | None:
    return Path(value).expanduser() if isinstance(value, str) and value.strip() else None


def _price(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return None
    price = Decimal(value)
    return price if price.is_finite() and 0 <= price <= 1_000_000 else None  # noqa: PLR2004 - a dollar a token


def _prices(document: dict[str, Any]) -> Iterable[ModelPrice]:
    for provider, definition in _object(_object(document, "models"), "providers").items():
        models = definition.get("models") if isinstance(definition, dict) else None
        for model in models if isinstance(models, list) else ():
            if not isinstance(model, dict) or not isinstance(model.get("id"), str):
                continue
            cost = _object(model, "cost")
            if cost:
                yield ModelPrice(
                    provider=provider,
                    model=model["id"],
                    input=_price(cost.get("input")),
                    output=_price(cost.get("output")),
                    cache_read=_price(cost.get("cacheRead")),
                    cache_write=_price(cost.get("cacheWrite")),
                )


def _subscriptions(auth: dict[str, Any]) -> Iterable[str]:
    """Providers whose profile is a subscription; of several, the one that `auth.order` names first decides."""
    modes: dict[str, dict[str, str]] = {}
    for name, profile in _object(auth, "profiles").items():
        if isinstance(profile, dict):
            provider = profile.get("provider")
            provider = provider if isinstance(provider, str) else name.partition(":")[0]
            modes.setdefault(provider, {})[name] = str(profile.get("mode") or profile.get("type") or "")
    order = _object(auth, "order")
    for provider, profiles in modes.items():
        wanted = order.get(provider)
        first = next((name for name in wanted if name in profiles), None) if isinstance(wanted, list) else None
        used = [profiles[first]] if first is not None else list(profiles.values())
        if not _SUBSCRIPTION_MODES.isdisjoint(used):
            yield provider


def _channels(channels: dict[str, Any]) -> Iterable[str]:
    for name, channel in channels.items():
        if name in {"defaults", "modelByChannel"}:  # for all channels
            continue
        if isinstance(channel, dict) and channel.get("enabled") is not False:
            yield name


def _agents(agents: dict[str, Any]) -> Iterable[str]:
    listed = agents.get("list")
    for agent in listed if isinstance(listed, list) else ():
        if isinstance(agent, dict) and isinstance(agent.get("id"), str):
            yield agent["id"]
    yield from _object(agents, "entries")
