"""`python -P -m exporter`: the exporter's process. A person's mistake ends it with one clear line."""

from __future__ import annotations

import asyncio
import sys

import uvloop

from exporter import app
from lobservatory import logging, settings
from lobservatory.errors import StartError, end


def main() -> None:
    """Run until SIGTERM or SIGINT. Exit status: 0 stopped, 2 a mistake in settings or surroundings."""
    configured = settings.main_or_exit()
    logging.set_up(configured)
    # The thread that reads gives way to a scrape five times sooner than Python's default.
    sys.setswitchinterval(0.001)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(app.run(configured, reload=settings.load))
    except StartError as error:
        end("exporter", error, status=2, redact=logging.REDACTOR.text)


if __name__ == "__main__":
    main()
