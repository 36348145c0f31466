"""`lobservatory alert-test`: one alert through the whole chain, so that a user sees Slack work before it matters.

Prometheus is asked whether it evaluates our rules and knows this Alertmanager; the alert itself begins there, because
nobody wants to break something first.
"""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from cli.up import theirs
from cli.up.up import servers
from lobservatory.errors import UserError
from lobservatory.settings import Settings

NAME = "AlertTest"
LASTS = timedelta(minutes=2)
WAIT = 90.0  # seconds for Alertmanager to send; a critical alert waits for 10 s
POLL = 0.5
TIMEOUT = 10.0
_SENT = re.compile(r"^alertmanager_notification_requests_total\{([^}]*)\} (\S+)$", re.MULTILINE)
_FAILED = re.compile(r"^alertmanager_notification_requests_failed_total\{([^}]*)\} (\S+)$", re.MULTILINE)
_WAYS = {"slack": "Slack", "webhook": "our history (and other webhooks)", "email": "e-mail"}
_REASONS = {
    "slack": "a wrong webhook, or no network",
    "webhook": "the API is not running, or another webhook does not answer",
    "email": "its mail server",
}


def run(settings: Settings, address: str = "", prometheus: str = "", *, wait: float = WAIT) -> Iterator[str]:
    """Lines for people, as things happen. Raises UserError when the alert cannot be sent, was not delivered, or when
    Prometheus would not have made it. `address`, `prometheus`: empty, those of the run that is going on, else of the
    settings.

    What Alertmanager delivered is read from its own counters: notifications of other alerts within this minute count
    as well, so a failure is certain and a success is what it says.
    """
    found = servers(settings)
    known = {part: server.url for part, server in found.items()}
    base = _base("--alertmanager", address or known.get("alertmanager", ""))
    config = _config(base)
    named = bool(address) or found["alertmanager"].whose != "unknown"
    if not (named or theirs.keeps_history(config)):
        # It may page people who know nothing of us.
        raise UserError(
            f"alert-test: the Alertmanager at {base} is not ours, and nothing was sent there: start `lobservatory up`, "
            "or name it with --alertmanager"
        )
    receivers = theirs.receivers(config)
    before = _counts(base)
    now = datetime.now(UTC)
    labels = {"alertname": NAME, "gateway": settings.gateway_name, "severity": "critical"}
    summary = "This is a test: the chain of alerts works"
    alert = {
        "labels": labels,
        "annotations": {"summary": summary, "description": "Nothing is wrong.", "board": "/d/lobs-overview"},
        "startsAt": now.isoformat(),
        "endsAt": (now + LASTS).isoformat(),
    }
    _ask(f"{base}/api/v2/alerts", [alert])
    yield f"alert-test: Alertmanager at {base} took the alert"
    if "slack" not in receivers:
        yield f"alert-test: it has no receiver for Slack: {theirs.without_slack(settings, config)}"
    yield from _follow(base, before, receivers & set(_WAYS), time.monotonic() + wait)
    yield from _rules(_base("--prometheus", prometheus or known.get("prometheus", "")), base)


def _base(option: str, address: str) -> str:
    base = address.rstrip("/")
    if not base:
        raise UserError(
            f"alert-test: there is no {option.lstrip('-').capitalize()} here: give its address with {option}"
        )
    if not base.startswith(("http://", "https://")):
        raise UserError(f"{option}: {base} is no http(s) URL, for example http://127.0.0.1:9090")
    return base


def _rules(base: str, alertmanager: str) -> Iterator[str]:
    """Where alerts begin: Prometheus evaluates the rules (Watchdog is one) and knows an Alertmanager."""
    rules = _ask(f"{base}/api/v1/rules", who="Prometheus")
    known = _ask(f"{base}/api/v1/alertmanagers", who="Prometheus")
    if not isinstance(rules, dict) or not isinstance(known, dict):
        raise UserError(f"alert-test: what answers at {base} is no Prometheus: set LOBS_PROMETHEUS_LISTEN")
    if "Watchdog" not in {rule["name"] for group in rules["data"]["groups"] for rule in group["rules"]}:
        raise UserError(f"alert-test: Prometheus at {base} does not evaluate our rules: {theirs.HOW} has what it needs")
    urls = [one["url"] for one in known["data"]["activeAlertmanagers"]]
    if not urls:
        raise UserError(f"alert-test: Prometheus at {base} knows no Alertmanager: targets/alertmanager.json names it")
    if not any(url.startswith(f"{alertmanager}/") for url in urls):
        yield f"alert-test: note: Prometheus sends alerts to {', '.join(urls)}"
    yield f"alert-test: Prometheus at {base} evaluates the rules"


def _follow(base: str, before: dict[tuple[str, str], float], ways: set[str], end: float) -> Iterator[str]:
    waiting = set(ways)
    seen: set[str] = set()  # once; a request is counted a moment before its failure is
    while waiting and time.monotonic() < end:
        time.sleep(POLL)
        now = _counts(base)
        arrived = {way for way in waiting if now.get(("sent", way), 0) > before.get(("sent", way), 0)}
        for way in sorted(arrived & seen):
            waiting.discard(way)
            yield f"alert-test: sent to {_WAYS[way]}; its end follows within a few minutes"
        seen = arrived
    if waiting:
        _refuse_muted(base)
        lost = ", ".join(sorted(_WAYS[way] for way in waiting))
        why = "; ".join(_REASONS[way] for way in sorted(waiting))
        raise UserError(f"alert-test: not delivered to {lost}: Alertmanager's log says why ({why}?)")


def _refuse_muted(base: str) -> None:
    """Raises UserError when Alertmanager keeps the alert to itself on purpose."""
    wanted = urllib.parse.urlencode({"filter": f'alertname="{NAME}"'})
    for one in _ask(f"{base}/api/v2/alerts?{wanted}"):
        if one["status"]["silencedBy"]:
            raise UserError(f"alert-test: a silence covers it: end it at {base}/#/silences, then try again")
        if one["status"]["inhibitedBy"]:
            raise UserError(f"alert-test: another alert inhibits it (ExporterDown?): see {base}/#/alerts")


def _config(base: str) -> str:
    """The text of Alertmanager's configuration. Raises UserError where no Alertmanager answers."""
    try:
        return str(_ask(f"{base}/api/v2/status")["config"]["original"])
    except (KeyError, TypeError):
        raise UserError(
            f"alert-test: what answers at {base} is no Alertmanager: set LOBS_ALERTMANAGER_LISTEN"
        ) from None


def _counts(base: str) -> dict[tuple[str, str], float]:
    text = _ask(f"{base}/metrics")
    found: dict[tuple[str, str], float] = {}
    for what, pattern in (("sent", _SENT), ("failed", _FAILED)):
        for labels, value in pattern.findall(str(text)):
            named = re.search(r'integration="(\w+)"', labels)
            if named:
                key = (what, named[1])
                found[key] = found.get(key, 0.0) + float(value)
    # All requests are counted, those that failed too.
    return {
        key: value - (found.get(("failed", key[1]), 0.0) if key[0] == "sent" else 0.0) for key, value in found.items()
    }


def _ask(url: str, body: Any = None, who: str = "Alertmanager") -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310 - http(s), checked
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310 - as above
            text = answer.read().decode()
    except urllib.error.HTTPError as error:
        raise UserError(f"alert-test: {url} answered {error.code}: is that {who}?") from error
    except (OSError, ValueError) as error:
        # What urllib raises wraps the system's own error, which has the words.
        cause = getattr(error, "reason", error)
        reason = getattr(cause, "strerror", None) or cause
        raise UserError(
            f"alert-test: {who} does not answer at {url}: {reason}", remedy="start it with `lobservatory up`"
        ) from error
    try:
        return json.loads(text)
    except ValueError:
        return text
