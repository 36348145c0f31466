"""Our few web pages: files of this folder, read once, served from memory. They load nothing from anywhere else."""

from __future__ import annotations

import html
from importlib import metadata, resources
from pathlib import Path
from typing import NamedTuple

from lobservatory.settings import Listen, Settings

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
    """The page at `/`, with links to the parts that are configured."""
    page = _read("index.html")
    text = page.content.decode()
    for name, value in {
        "version": metadata.version("lobservatory"),
        "grafana": _url(settings.grafana_listen),
        "metrics": _url(settings.metrics_listen) + "metrics",
        "prometheus": _url(settings.prometheus_listen),
        "alertmanager": _url(settings.alertmanager_listen),
    }.items():
        text = text.replace("{" + name + "}", html.escape(value))
    return Page(text.encode(), page.media_type)


def _url(listen: Listen) -> str:
    wildcard = listen.host in {"0.0.0.0", "::"}  # noqa: S104 - compared, not bound
    return f"http://{Listen(host='127.0.0.1', port=listen.port) if wildcard else listen}/"
