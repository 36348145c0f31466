"""Our few web pages: files of this folder, read once, served from memory. They load nothing from anywhere else."""

from __future__ import annotations

import html
from importlib import metadata, resources
from pathlib import Path
from typing import NamedTuple

from lobservatory.settings import PARTS, Part, Settings

_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


_STATIC = (
    "app.css",
    "app.js",
    "board.js",
    "docs.js",
    "icon.svg",
    "index.js",
    "live.js",
    "office.js",
    "style.css",
    "theme.js",
)


# The cards of the start page that lead to programs of others, in order: title and what is there.
_CARDS: dict[Part, tuple[str, str]] = {
    "grafana": ("Dashboards", "Grafana: cost, sessions, agents, cron, host"),
    "prometheus": ("Prometheus", "Queries, targets and alert rules"),
    "alertmanager": ("Alertmanager", "What fires, what is silenced"),
}

RUNBOOKS = Path(__file__).resolve().parents[2] / "alerts" / "runbooks"


class Page(NamedTuple):
    """A file and its content type."""

    content: bytes
    media_type: str


def _read(name: str) -> Page:
    return Page(resources.files(__name__).joinpath(name).read_bytes(), _TYPES[name.rpartition(".")[2]])


def static_files() -> dict[str, Page]:
    """What `/static/` serves, by name."""
    return {name: _read(name) for name in _STATIC}


def runbook(name: str) -> Page | None:
    """What `/runbooks/` serves: a runbook as it is written, for the links of messages; None where there is none."""
    paths = {path.name: path for path in RUNBOOKS.glob("*.md")}
    return Page(paths[name].read_bytes(), "text/plain; charset=utf-8") if name in paths else None


def docs() -> Page:
    """The interactive reference."""
    return _read("docs.html")


def application() -> Page:
    """The page of the board, of live operations and of the office; its script asks its own address which of them."""
    return _read("app.html")


def landing(settings: Settings) -> Page:
    """The page at `/`, with links to the parts that are there; those that are not are named."""
    page = _read("index.html")
    text = page.content.decode()
    values = {
        "version": html.escape(metadata.version("lobservatory")),
        "metrics": html.escape(f"{settings.metrics_listen.url}/metrics"),
        "missing": _missing(settings),
    }
    values |= {part: _card(settings.address(part), *_CARDS[part]) for part in PARTS}
    for name, value in values.items():
        text = text.replace("{" + name + "}", value)
    return Page(text.encode(), page.media_type)


def _card(address: str, title: str, about: str) -> str:
    if not address:
        return ""
    return (
        f'<a class="card" href="{html.escape(address)}/"><strong>{title}</strong>'
        f'<span class="dim">{html.escape(about)}</span></a>\n'
    )


def _missing(settings: Settings) -> str:
    names = ", ".join(part.capitalize() for part in _CARDS if part in settings.without)
    if not names:
        return ""
    how = "<code>lobservatory up</code> says how to get what it does not find."
    return f'<p class="dim">Not here: {names}. {how}</p>\n'
