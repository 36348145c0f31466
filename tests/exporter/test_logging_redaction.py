"""No secret reaches a log line."""

import io
import json
import logging as stdlib_logging

import pytest
from pydantic import SecretStr

from lobservatory import logging
from lobservatory.settings import Settings

TOKEN = "t0ken-of-the-gateway"


@pytest.fixture
def log_lines():
    stream = io.StringIO()
    root = stdlib_logging.getLogger()
    handlers, level = root.handlers[:], root.level
    logging.set_up(Settings(gateway_token=SecretStr(TOKEN), log_format="json"), stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize(
    "text",
    [
        f"refused with {TOKEN}",
        "postgresql://lobs_writer:hunter22@127.0.0.1:5432/lobs refused",
        "Authorization: Bearer abcdef123456",
        "GET /ws?token=abcdef123456&x=1",
        "https://hooks.slack.com/services/T0/B0/hunter22",
    ],
)
def test_secrets_are_hidden_in_texts_of_ours_and_of_libraries(log_lines, text):
    logging.get("x").info(text, error=text, nested={"list": [text]})
    stdlib_logging.getLogger("library").warning("says %s", text)
    for line in map(json.dumps, log_lines()):
        assert logging.HIDDEN in line
        for secret in (TOKEN, "hunter22", "abcdef123456"):
            assert secret not in line


def test_a_key_that_names_a_secret_is_hidden_and_a_count_is_not(log_lines):
    logging.get("x").info("event", gateway_token="short", input_tokens=12, password=SecretStr("x"))
    (line,) = log_lines()
    assert line["gateway_token"] == logging.HIDDEN
    assert line["password"] == logging.HIDDEN
    assert line["input_tokens"] == 12
    assert line["event"] == "event"
    assert line["level"] == "info"


def test_an_exception_text_is_hidden_too(log_lines):
    try:
        int(TOKEN)
    except ValueError:
        logging.get("x").exception("failed")
    (line,) = log_lines()
    assert TOKEN not in json.dumps(line)
    assert "ValueError" in line["exception"]
