"""`python -P -m api`: the service process. A person's mistake ends it with one clear line."""

from __future__ import annotations

import asyncio
import contextlib
import logging as stdlib_logging
import signal
import socket
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from api.app import check_start, create_app
from api.context import of_app
from api.live.protocol import LiveProtocol
from lobservatory import logging, settings
from lobservatory.errors import StartError, end
from lobservatory.password import PasswordError, password_file
from lobservatory.settings import Listen

_GRACE_SECONDS = 5
_BACKLOG = 2048


class Server(uvicorn.Server):
    """uvicorn, ending live streams before it waits for requests to end, and exiting with 0 on SIGTERM."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop."""
        context = getattr(self.config.app, "state", None) and of_app(self.config.app)
        if context is not None:
            context.hub.close()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on SIGTERM and SIGINT; uvicorn would raise them again when it has stopped."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)


def listening_socket(listen: Listen) -> socket.socket:
    """A bound socket. Raises StartError when the address is taken or not ours."""
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    try:
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((listen.host, listen.port))
        bound.listen(_BACKLOG)
    except OSError as error:
        raise StartError(
            f"LOBS_API_LISTEN: cannot listen on {listen}: {error.strerror}",
            remedy="stop what uses it or choose another port",
        ) from None
    return bound


def configuration(app: FastAPI) -> uvicorn.Config:
    """How the application is served. A peer that does not answer a ping, one every 30 seconds, is dropped."""
    return uvicorn.Config(
        app,
        http="h11",
        ws=LiveProtocol,
        ws_max_size=64 * 1024,
        ws_ping_interval=30.0,
        ws_ping_timeout=30.0,
        ws_per_message_deflate=False,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    configured = settings.main_or_exit()
    logging.set_up(configured)
    log = logging.get("api")
    password = password_file(configured)
    try:
        password.load()
        bound = listening_socket(configured.api_listen)
        check_start(configured)
    except (StartError, PasswordError) as error:
        end("api", error)
    server = Server(configuration(create_app(configured, password)))
    # uvicorn writes whole URLs of WebSockets at "info", tickets included.
    stdlib_logging.getLogger("uvicorn.error").setLevel(stdlib_logging.WARNING)
    host, port = bound.getsockname()[:2]
    log.info("listening", url=f"http://{Listen(host=host, port=port)}/")
    server.run(sockets=[bound])
    if not server.started:
        end("api", StartError("did not start; the line above says why"))


if __name__ == "__main__":
    main()
