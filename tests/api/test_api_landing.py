"""The start page links to what is there, and to nothing else."""

from __future__ import annotations

import re

from api import web
from lobservatory.settings import Settings


def links(page: web.Page) -> list[str]:
    return [link for link in re.findall(r'<a class="card" href="([^"]*)"', page.content.decode()) if "://" in link]


def test_by_default_it_links_to_where_everything_listens():
    page = web.landing(Settings.model_validate({"grafana_listen": "0.0.0.0:3001"}))
    assert links(page) == [
        "http://127.0.0.1:3001/",
        "http://127.0.0.1:9464/metrics",
        "http://127.0.0.1:9090/",
        "http://127.0.0.1:9093/",
    ]
    text = page.content.decode()
    assert "Not here" not in text
    assert not re.search(r"\{\w+\}", text), "a place that nothing was put into"


def test_an_address_of_the_settings_is_where_people_are_sent():
    page = web.landing(Settings.model_validate({"grafana_url": "https://example.org/g&h/"}))
    assert links(page)[0] == "https://example.org/g&amp;h/"


def test_what_is_not_there_is_named_and_not_linked():
    page = web.landing(Settings.model_validate({"without": ["grafana", "alertmanager"]}))
    assert links(page) == ["http://127.0.0.1:9464/metrics", "http://127.0.0.1:9090/"]
    assert "Not here: Grafana, Alertmanager." in page.content.decode()
