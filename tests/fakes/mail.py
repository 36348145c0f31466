"""A fake SMTP server: keeps the mails that it is sent by whoever logs in."""

from __future__ import annotations

import base64
import email
import email.policy
import socketserver
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from threading import Condition, Thread

from tests.servers import PATIENCE_SECONDS


@dataclass
class MailServer:
    """The running fake, on `port` of 127.0.0.1."""

    port: int
    user: str
    password: str
    mails: list[EmailMessage] = field(default_factory=list)
    refused: int = 0  # log-ins with something else
    _changed: Condition = field(default_factory=Condition)

    def wait(self, number: int, seconds: float = PATIENCE_SECONDS) -> list[EmailMessage]:
        """The mails, as soon as there are so many. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.mails) >= number, seconds):
                raise TimeoutError(f"{len(self.mails)} of {number} mails within {seconds:g} s, {self.refused} refused")
            return list(self.mails)

    def knows(self, plain: str) -> bool:
        """Whether a response of AUTH PLAIN is right."""
        right = base64.b64decode(plain).split(b"\0")[1:] == [self.user.encode(), self.password.encode()]
        self.refused += not right
        return right

    def take(self, body: bytes) -> None:
        """One more mail."""
        with self._changed:
            self.mails.append(email.message_from_bytes(body, policy=email.policy.default))
            self._changed.notify_all()


@contextmanager
def fake_mail(user: str, password: str) -> Iterator[MailServer]:
    """Run it on a free port. Without TLS: clients send passwords to 127.0.0.1 in the clear."""

    class Handler(socketserver.StreamRequestHandler):
        def say(self, text: str) -> None:
            self.wfile.write(f"{text}\r\n".encode())

        def handle(self) -> None:
            known = False
            self.say("220 fake ready")
            while line := self.rfile.readline(2000).decode().strip():
                word = line.split()[0].upper()
                if word == "EHLO":
                    self.say("250-fake")
                    self.say("250 AUTH PLAIN")
                elif word == "AUTH":
                    known = server.knows(line.split()[2])
                    self.say("235 welcome" if known else "535 no")
                elif word == "DATA" and known:
                    self.say("354 go on")
                    lines = []
                    while (text := self.rfile.readline()) not in {b".\r\n", b""}:
                        lines.append(text.removeprefix(b"."))
                    server.take(b"".join(lines))
                    self.say("250 taken")
                elif word == "QUIT":
                    self.say("221 bye")
                    return
                else:
                    self.say("250 ok" if known else "530 log in first")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as tcp:
        tcp.daemon_threads = True
        server = MailServer(tcp.server_address[1], user, password)
        thread = Thread(target=tcp.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            tcp.shutdown()
            thread.join()
