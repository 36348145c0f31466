"""A fake of Slack's incoming webhooks: keeps what it is sent, and can be away.

It is as strict as Slack where it matters: only a POST of a JSON object with a text or attachments is accepted, and the
answer is the word `ok`.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.servers import PATIENCE_SECONDS

PATH = "/services/T000/B000/secret"
LONGEST_TEXT = 40_000  # characters; Slack cuts what is longer
# What Slack turns into something else than text, unless < and > are escaped: links, mentions, channels.
CONTROL = re.compile(r"<([^<>]*)>")


@dataclass(frozen=True, slots=True)
class Message:
    """One message as a reader sees it."""

    received: float  # time.time()
    payload: dict[str, Any]

    @property
    def attachment(self) -> dict[str, Any]:
        """Its only attachment."""
        (attachment,) = self.payload["attachments"]
        result: dict[str, Any] = attachment
        return result

    @property
    def title(self) -> str:
        """The bold first line."""
        return str(self.attachment.get("title", ""))

    @property
    def text(self) -> str:
        """What is below the title."""
        return str(self.attachment.get("text", ""))

    @property
    def links(self) -> dict[str, str]:
        """Name → address of every link of the text."""
        found = {}
        for inner in CONTROL.findall(self.text):
            address, _, name = inner.partition("|")
            found[name] = address
        return found


@dataclass
class SlackServer:
    """The running fake. `down` makes it answer 503, as Slack does when it is away."""

    url: str
    messages: list[Message] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    down: bool = False
    failed: int = 0  # requests while it was down
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def wait(self, enough: Callable[[list[Message]], bool], seconds: float = PATIENCE_SECONDS) -> list[Message]:
        """All messages, as soon as `enough` says so. Raises TimeoutError with those that came."""
        end = time.monotonic() + seconds
        with self._changed:
            while not enough(self.messages):
                left = end - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    titles = [message.title for message in self.messages]
                    raise TimeoutError(f"Slack got {titles} (refused: {self.refused}) within {seconds:g} s")
            return list(self.messages)

    def wait_failed(self, number: int, seconds: float = PATIENCE_SECONDS) -> None:
        """Return when `number` requests have failed because it was down."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.failed >= number, seconds):
                raise TimeoutError(f"{self.failed} of {number} requests within {seconds:g} s")

    def receive(self, path: str, content_type: str, body: bytes) -> tuple[int, str]:
        """Status and answer of one POST."""
        with self._changed:
            self._changed.notify_all()
            if self.down:
                self.failed += 1
                return 503, "service_unavailable"
            refusal = _refusal(path, content_type, body)
            if refusal:
                self.refused.append(refusal)
                return 400, refusal
            self.messages.append(Message(time.time(), json.loads(body)))
            return 200, "ok"


def _refusal(path: str, content_type: str, body: bytes) -> str:  # noqa: PLR0911 - one line for each of Slack's words
    if path != PATH:
        return "no_service"
    if not content_type.startswith("application/json"):
        return "invalid_payload: not JSON"
    try:
        payload = json.loads(body)
    except ValueError:
        return "invalid_payload: not JSON"
    if not isinstance(payload, dict) or not (payload.get("text") or payload.get("attachments")):
        return "no_text"
    for attachment in payload.get("attachments", []):
        if not (attachment.get("text") or attachment.get("fallback") or attachment.get("title")):
            return "no_text"
        if len(attachment.get("text", "")) > LONGEST_TEXT:
            return "msg_too_long"
    return ""


@contextmanager
def fake_slack() -> Iterator[SlackServer]:
    """Run it on a free port of 127.0.0.1."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, answer = server.receive(self.path, self.headers.get("Content-Type", ""), body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
            """Nothing: tests read `messages`."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server = SlackServer(f"http://127.0.0.1:{http.server_address[1]}{PATH}")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
