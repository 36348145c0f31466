"""Logging of both processes: structlog, one event a line, to stderr, with every secret taken out.

Standard-library loggers (uvicorn, psycopg, watchdog) go through the same processors.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

import structlog
from pydantic import SecretStr

from lobservatory.settings import SECRETS, Settings

HIDDEN = "[hidden]"
_SHORTEST = 6  # a shorter "secret" is no secret, and hiding it would garble every line
_SECRET_KEY = re.compile(r"(?i)(token|password|passwd|secret|authorization|api_?key|cookie|webhook_url|credential)s?$")
_PATTERNS = (
    (re.compile(r"(?P<keep>\b[a-z][a-z0-9+.-]*://[^\s/:@]*:)[^\s/@]+(?=@)", re.IGNORECASE), r"\g<keep>" + HIDDEN),
    (re.compile(r"(?P<keep>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE), r"\g<keep>" + HIDDEN),
    (
        re.compile(
            r"(?P<keep>\b(?:access_)?(?:token|password|secret|ticket|api_?key)[\"']?\s*[=:]\s*[\"']?)[^\s\"'&,;]{6,}",
            re.IGNORECASE,
        ),
        r"\g<keep>" + HIDDEN,
    ),
    (re.compile(r"(?P<keep>https://hooks\.slack\.com/)\S+"), r"\g<keep>" + HIDDEN),
    (re.compile(r"\b(?:sk|xox[abpr]|gh[pousr])[-_][A-Za-z0-9_-]{16,}"), HIDDEN),
)


class Redactor:
    """Takes secrets out of texts: the ones it was told, and whatever looks like one."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: set[str] = set()
        self.learn(*secrets)

    def learn(self, *secrets: str) -> None:
        """Hide these from now on (a token that was read from a file, a generated password)."""
        self._secrets.update(secret for secret in secrets if len(secret) >= _SHORTEST)

    def text(self, text: str) -> str:
        """The text without secrets."""
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, HIDDEN)
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        return text

    def value(self, value: Any, key: str = "") -> Any:
        """A logged value without secrets; containers are copied."""
        if isinstance(value, SecretStr) or (isinstance(value, str) and value and _SECRET_KEY.search(key)):
            return HIDDEN
        if isinstance(value, Mapping):
            return {name: self.value(item, str(name)) for name, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.value(item) for item in value]
        if value is None or isinstance(value, bool | int | float):
            return value
        return self.text(str(value))

    def __call__(self, _logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        """As a structlog processor."""
        return {key: self.value(value, key) for key, value in event.items()}


REDACTOR = Redactor()


def set_up(settings: Settings, stream: TextIO | None = None) -> None:
    """Send all logging of this process to `stream` (stderr), as `log_level` and `log_format` say. The secrets of the
    settings are hidden from then on; `REDACTOR.learn` adds others."""
    stream = sys.stderr if stream is None else stream
    REDACTOR.learn(*(getattr(settings, name).get_secret_value() for name in SECRETS))
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not stream.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        REDACTOR,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=stream.isatty(), sort_keys=False)
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    for noisy in ("watchdog", "asyncio", "websockets", "uvicorn", "uvicorn.error", "uvicorn.access", "yoyo"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
    # It tells of every single attempt; that a database is away is said once by who needs it.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def get(name: str) -> structlog.stdlib.BoundLogger:
    """A logger: `log.info("what happened", key=value)`. Keys that name a secret are hidden."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger
