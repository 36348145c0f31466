"""A fake exporter: serves the samples that a test sets, for tests of what happens behind a scrape."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@dataclass
class FakeExporter:
    """Running on `port` of 127.0.0.1. `samples`: series as written in the text format → value."""

    port: int
    samples: dict[str, float] = field(default_factory=dict)
    down: bool = False  # answers 503

    def set(self, **values: float) -> None:
        """Set `name{gateway="default"}` for each name."""
        self.samples.update({f'{name}{{gateway="default"}}': value for name, value in values.items()})

    def text(self) -> str:
        """The body of `/metrics`."""
        return "".join(f"{series} {value}\n" for series, value in dict(self.samples).items())


@contextmanager
def fake_exporter() -> Iterator[FakeExporter]:
    """Run it on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = exporter.text().encode()
            self.send_response(503 if exporter.down else 200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
            """Nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    exporter = FakeExporter(http.server_address[1])
    thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield exporter
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
