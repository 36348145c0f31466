"""Results of runs, posted to Slack or to a webhook. Addresses come from the settings only, never from a request."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import timedelta
from http.client import HTTPException, HTTPMessage
from typing import IO, Any, Literal

from api.models.runs import RunResult
from api.services.webhooks import signature
from lobservatory.errors import LobservatoryError
from lobservatory.settings import Settings

Receiver = Literal["slack", "webhook"]

MOST_ATTEMPTS = 8
_FIRST_PAUSE = timedelta(seconds=10)
_LONGEST_PAUSE = timedelta(minutes=15)
_SECONDS = 15.0
_LONGEST_TEXT = 2_900  # Slack cuts a block of text at 3,000 characters


class DeliveryError(LobservatoryError):
    """It did not arrive. The text names neither the address nor what was to be delivered."""


def missing(settings: Settings, receiver: Receiver) -> str | None:
    """The setting that a receiver lacks."""
    if receiver == "slack":
        return None if settings.slack_webhook_url.get_secret_value().strip() else "LOBS_SLACK_WEBHOOK_URL"
    if not settings.result_webhook_url.get_secret_value().strip():
        return "LOBS_RESULT_WEBHOOK_URL"
    return None if settings.result_webhook_secret.get_secret_value() else "LOBS_RESULT_WEBHOOK_SECRET"


def pause(attempts: int) -> timedelta | None:
    """How long to wait after so many attempts; None: no more."""
    return None if attempts >= MOST_ATTEMPTS else min(_FIRST_PAUSE * 4 ** (attempts - 1), _LONGEST_PAUSE)


def post(settings: Settings, receiver: Receiver, result: RunResult) -> None:
    """Deliver once; blocks. Raises DeliveryError."""
    lacks = missing(settings, receiver)
    if lacks:
        raise DeliveryError(f"{lacks} is not set any more")
    if receiver == "slack":
        _send(settings.slack_webhook_url.get_secret_value().strip(), json.dumps(slack_message(result)).encode(), {})
        return
    body = json.dumps(result.model_dump(by_alias=True)).encode()
    timestamp = str(int(time.time()))
    secret = settings.result_webhook_secret.get_secret_value()
    headers = {
        "X-Lobservatory-Timestamp": timestamp,
        "X-Lobservatory-Signature": signature(secret, timestamp, body),
        "X-Lobservatory-Delivery": result.id,  # the same at each attempt
    }
    _send(settings.result_webhook_url.get_secret_value().strip(), body, headers)


def slack_message(result: RunResult) -> dict[str, Any]:
    """The message for Slack: what others wrote is text, never a mention, a link or a mark."""
    mark = {"completed": "✅", "failed": "🔴"}.get(result.status, "⚪")
    facts = [result.status, *result.agent_ids]
    if result.duration_seconds is not None:
        facts.append(f"{result.duration_seconds:.0f} s")
    if result.cost_usd is not None:
        facts.append(f"{result.cost_usd:.2f} US$")
    said = result.error or result.reply or "It gave no reply."
    if len(said) > _LONGEST_TEXT:
        said = said[:_LONGEST_TEXT] + " … (cut)"
    return {
        "text": _plain(f"{mark} {result.label}: {result.status}"),  # what a phone shows
        "unfurl_links": False,
        "unfurl_media": False,
        "blocks": [
            {"type": "section", "text": {"type": "plain_text", "text": f"{mark} {result.label}", "emoji": False}},
            {"type": "section", "text": {"type": "plain_text", "text": said, "emoji": False}},
            {"type": "context", "elements": [{"type": "plain_text", "text": " · ".join(facts), "emoji": False}]},
        ],
    }


def _plain(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """What is meant for one address goes to no other."""

    def redirect_request(  # noqa: PLR0917 - the standard library's signature
        self,
        req: urllib.request.Request,  # noqa: ARG002
        fp: IO[bytes],  # noqa: ARG002
        code: int,  # noqa: ARG002
        msg: str,  # noqa: ARG002
        headers: HTTPMessage,  # noqa: ARG002
        newurl: str,  # noqa: ARG002
    ) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect())


def _send(url: str, body: bytes, headers: Mapping[str, str]) -> None:
    try:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json", **headers})  # noqa: S310 - the user's own setting
        with _OPENER.open(request, timeout=_SECONDS):
            return
    except urllib.error.HTTPError as error:
        error.close()
        raise DeliveryError(f"the receiver answered {error.code}") from None
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise DeliveryError(f"the receiver was not reached: {type(reason).__name__}") from None
