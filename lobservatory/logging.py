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
    # A block that was cut off hides what is left of it.
    (
        re.compile(
            r"-----BEGIN (?P<kind>[A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?)-----.*?(?:-----END (?P=kind)-----|\Z)", re.DOTALL
        ),
        HIDDEN,
    ),
    # A line of such a block, where each line comes alone (journald).
    (re.compile(r"^[A-Za-z0-9+/]{60,}={0,2}$", re.MULTILINE), HIDDEN),
    # Whoever stands before the @ of an address: `user:password` leaves the user, a lone token goes.
    (re.compile(r"(?P<keep>\b[a-z][a-z0-9+.-]*://[^\s/:@]*:)[^\s/]+(?=@)", re.IGNORECASE), r"\g<keep>" + HIDDEN),
    (re.compile(r"(?P<keep>\b[a-z][a-z0-9+.-]*://)[^\s/:@]{16,}(?=@)", re.IGNORECASE), r"\g<keep>" + HIDDEN),
    (re.compile(r"(?P<keep>\b(?:bearer|basic|bot)\s+)[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE), r"\g<keep>" + HIDDEN),
    (
        re.compile(
            r"(?P<keep>(?:\b|_)(?:token|password|passwd|pwd|secret|ticket|api[_-]?key|access[_-]?key|secret[_-]?key"
            r"|auth|authorization|cookie)(?:[_-]?id)?\\?[\"']?\s*[=:]\s*\\?[\"']?)[^\s\"'\\&,;\[]{6,}",
            re.IGNORECASE,
        ),
        r"\g<keep>" + HIDDEN,
    ),
    (re.compile(r"(?P<keep>https://hooks\.slack\.com/)\S+"), r"\g<keep>" + HIDDEN),
    (re.compile(r"(?P<keep>https://(?:\w+\.)?discord(?:app)?\.com/api/(?:v\d+/)?webhooks/)\S+"), r"\g<keep>" + HIDDEN),
    # By what the issuers put in front: OpenAI, Anthropic, Stripe, Slack, GitHub, GitLab, npm, PyPI, Hugging Face.
    (
        re.compile(
            r"(?<![A-Za-z0-9])(?:(?:sk|rk|pk)[-_]|xox[a-z](?:\.xox[a-z])?-|xapp-|xwfp-|gh[pousr]_|github_pat_|glpat-|npm_"
            r"|pypi-|hf_|gsk_|xai-|r8_|dop_v1_|shpat_|whsec_)[A-Za-z0-9_-]{12,}"
        ),
        HIDDEN,
    ),
    (re.compile(r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}\b"), HIDDEN),  # AWS
    (re.compile(r"\bAIza[A-Za-z0-9_-]{35}"), HIDDEN),  # Google
    (re.compile(r"\bya29\.[A-Za-z0-9_-]{16,}"), HIDDEN),
    (re.compile(r"\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}"), HIDDEN),  # SendGrid
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*){0,3}"), HIDDEN),  # JWT
    (re.compile(r"(?<!\d)\d{8,10}:[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])"), HIDDEN),  # Telegram
    (re.compile(r"\b(?:mfa\.|[MNO][A-Za-z0-9_-]{22,27}\.[A-Za-z0-9_-]{6}\.)[A-Za-z0-9_-]{20,}"), HIDDEN),  # Discord
    # An AWS secret key has no mark of its own: 40 characters of base64 with a sign, both cases and a digit in it.
    (
        re.compile(
            r"(?<![A-Za-z0-9/+])(?=[^\s]{0,39}[/+])(?=[^\s]{0,39}\d)(?=[^\s]{0,39}[a-z])(?=[^\s]{0,39}[A-Z])"
            r"[A-Za-z0-9+]{2}[A-Za-z0-9/+]{38}(?![A-Za-z0-9/+=.])"
        ),
        HIDDEN,
    ),
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
    for noisy in ("watchdog", "asyncio", "websockets", "uvicorn", "uvicorn.error", "uvicorn.access"):
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
