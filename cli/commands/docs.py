"""The reference pages that are built from code: `docs/configuration.md`, `docs/metrics.md` and `docs/api.md`.

`lobservatory docs` writes them; a test fails when a page lags behind the code.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from lobservatory import thresholds
from lobservatory.settings import FILE_ONLY, PREFIX, SECRETS, UP_VARIABLES, Billing, Listen, Settings

_NOTE = "<!-- Built from the code by `make docs`. Edits belong there. -->\n"

_UP = {
    "LOBS_CONFIG_FILE": "Path of the configuration file, instead of the places named above.",
    "LOBS_PROMETHEUS_BIN": "The `prometheus` binary for `lobservatory up`, when it is not on `PATH`.",
    "LOBS_ALERTMANAGER_BIN": "The `alertmanager` (Debian: `prometheus-alertmanager`) binary, likewise.",
    "LOBS_GRAFANA_BIN": "The `grafana` or `grafana-server` binary, likewise.",
    "LOBS_OLD_POSTGRES_BIN": "The `postgres` binary of the older version that the embedded database is of "
    "(docs/operation.md), when it is in none of the usual places.",
    "LOBS_UID": "User id of the containers in `docker-compose.yml`: the owner of the state directory.",
    "LOBS_GID": "Group id of the containers.",
    "LOBS_TEST_DSN": "A PostgreSQL for the tests, instead of the embedded one. Its databases are created and dropped.",
}


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    names = list(header)
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _kind(annotation: Any) -> str:
    if typing.get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(annotation))
    if isinstance(annotation, types.UnionType):
        return " or ".join(_kind(part) for part in typing.get_args(annotation) if part is not type(None))
    if typing.get_origin(annotation) is tuple:
        return "list, comma-separated"
    names = {
        bool: "`true` or `false`",
        float: "number",
        int: "whole number",
        str: "text",
        Path: "path",
        SecretStr: "secret",
        Listen: "host:port",
    }
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _limits(field: FieldInfo) -> str:
    words = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "min_length": "length ≥", "max_length": "length ≤"}
    found = [
        f"{sign} {value:g}"
        for limit in field.metadata
        for name, sign in words.items()
        if isinstance(value := getattr(limit, name, None), int | float)
    ]
    return ", " + ", ".join(found) if found else ""


def _default(name: str, field: FieldInfo) -> str:
    if name == "data_dir":
        return "see the text"
    value = field.default
    if isinstance(value, SecretStr) or value in (None, (), ""):
        return ""
    if isinstance(value, bool):
        return "`true`" if value else "`false`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def configuration() -> str:
    """`docs/configuration.md`."""
    rows = [
        (
            f"`{PREFIX}{name.upper()}`",
            _kind(field.annotation) + _limits(field),
            _default(name, field),
            field.description or "",
        )
        for name, field in Settings.model_fields.items()
        if name not in FILE_ONLY
    ]
    billing = [(f"`{name}`", "list of text", field.description or "") for name, field in Billing.model_fields.items()]
    limits = [
        (f"`{limit.alert}`", f"`{limit.severity}`", f"{limit.default:g}", limit.unit, limit.meaning)
        for limit in thresholds.THRESHOLDS
        if limit.alert != "DailyCostHigh"
    ]
    secrets = ", ".join(f"`{PREFIX}{name.upper()}_FILE`" for name in SECRETS)
    up = [(f"`{name}`", _UP[name]) for name in _UP if name in UP_VARIABLES]
    up += [(f"`{name}`", "") for name in sorted(UP_VARIABLES - set(_UP))]
    return f"""{_NOTE}
# Configuration

Every setting is an environment variable, or the same name in small letters and without `{PREFIX}` in
`lobservatory.toml`: `LOBS_GATEWAY_URL` in the environment is `gateway_url` in the file. The environment wins over the
file, the file over the default. The file is the one that `LOBS_CONFIG_FILE` names, else `./lobservatory.toml`, else
`~/.config/lobservatory/lobservatory.toml`. An empty variable means "not set". A name that is not in this table is an
error, so that a typing mistake is never silent.

A secret can be given as a file: {secrets}. The file is read again when it has changed.

## Settings

{_table(("variable", "value", "default", "meaning"), rows)}
## `[billing]`, in the file only

Money that a provider really bills and the list price of what a subscription covers are kept apart.

{_table(("key", "value", "meaning"), billing)}
## `[thresholds.<Alert>]`, in the file only

The numbers that alerts compare with, one table per alert: `[thresholds.ContextNearLimit]`, then `warning = 0.8`. That
of DailyCostHigh is `LOBS_DAILY_COST_LIMIT`. Or all of them in a file of their own: `LOBS_THRESHOLDS_FILE`, a copy of
`alerts/thresholds.toml`.

{_table(("alert", "key", "default", "unit", "meaning"), limits)}
## Read by `lobservatory up`, compose and the tests only

{_table(("variable", "meaning"), up)}
## An example

```toml
state_dir = "/home/me/.openclaw"
gateway_name = "home"
timezone = "Europe/Berlin"
daily_cost_limit = 10

[billing]
equivalent = ["claude-max"]

[thresholds.ContextNearLimit]
warning = 0.8
```
"""


def metrics() -> str:
    """`docs/metrics.md`."""
    from cli.reference import metrics_markdown  # noqa: PLC0415 - each page imports what it is built from

    return metrics_markdown()


def _api_rows(document: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    rows = []
    for path, methods in sorted(document["paths"].items()):
        for method, operation in methods.items():
            if method not in {"get", "post", "put", "patch", "delete"}:
                continue
            answers = ", ".join(sorted(operation.get("responses", {})))
            summary = operation.get("summary") or operation.get("operationId") or ""
            rows.append((f"`{method.upper()}`", f"`{path}`", summary, answers))
    return rows


def api() -> str:
    """`docs/api.md`."""
    from api.app import document as build  # noqa: PLC0415 - the other pages need no web framework

    document = build()
    about = re.sub(r"\n{3,}", "\n\n", str(document["info"].get("description", ""))).strip()
    return f"""{_NOTE}
# The API

{about}

The complete document, with every field: `lobservatory openapi`, or `/openapi.json` of a running API.

{_table(("method", "path", "what", "answers"), _api_rows(document))}"""


PAGES: Mapping[str, Callable[[], str]] = {
    "configuration.md": configuration,
    "metrics.md": metrics,
    "api.md": api,
    "../alerts/thresholds.toml": thresholds.document,
}
