"""`python -P -m exporter`: the exporter's process. A person's mistake ends it with one clear line."""

from __future__ import annotations

import asyncio
import sys

import uvloop

from exporter import app
from exporter.surroundings import StartError
from lobservatory import logging, settings


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
        print(f"exporter: {logging.REDACTOR.text(str(error))}", file=sys.stderr)  # noqa: T201 - one line for a person
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
