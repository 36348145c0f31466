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


MARKED = {
    "slack bot": "xoxb-" + "1234567890-1234567890123-AbCdEfGhIjKlMnOpQrStUvWx",
    "slack app": "xapp-" + "1-A012345-678-abcdef0123456789abcdef",
    "anthropic": "sk-ant-" + "api03-aaaaBBBBccccDDDD_1234-AA",
    "openai": "sk-proj-" + "abc_DEF-1234567890123456",
    "github": "ghp_" + "a1B2" * 9,
    "github, fine-grained": "github_pat_" + "11ABCDEFG0abcdefghijkl_Z9Z9Z9Z9Z9Z9",
    "npm": "npm_" + "a1B2" * 9,
    "telegram": "123456789:" + "AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw1",
    "aws id": "AKIA" + "IOSFODNN7EXAMPLE",
    "aws key": "wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYEXAMPLEKEY",
    "jwt": "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
    "discord": "MTk4NjIyNDgzNDcxOTI1MjQ4." + "Cl2FMQ.ZnCjm1XVW7vRze4b7Cq4se7kKWs",
    "google": "AIza" + "SyA1234567890abcdefghijklmnopqrstuv",
}


@pytest.mark.parametrize("kind", MARKED)
@pytest.mark.parametrize(
    "around", ["{}", "plain {} end", '"key":"{}"', '\\"key\\":\\"{}\\"', "url https://h/x?k={}&b=1", "({})"]
)
def test_what_an_issuer_marked_is_hidden_wherever_it_stands(kind, around):
    found = logging.Redactor().text(around.format(MARKED[kind]))
    assert logging.HIDDEN in found
    for start in range(0, len(MARKED[kind]) - 8, 4):
        assert MARKED[kind][start : start + 8] not in found


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("https://user:p@ss:word@host/x", "https://user:[hidden]@host/x"),
        ("https://ghtokenabcdefghijkl0123@host/r.git", "https://[hidden]@host/r.git"),
        ("redis://:secretpw@h:6379", "redis://:[hidden]@h:6379"),
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: Basic [hidden]"),
        ("a -----BEGIN OPENSSH PRIVATE KEY-----\nb3Blbn\n-----END OPENSSH PRIVATE KEY----- b", "a [hidden] b"),
        ("-----BEGIN RSA PRIVATE KEY-----\\nMIIE, and cut", "[hidden]"),
        ("b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW", "[hidden]"),
        (f"/bot{MARKED['telegram']}/getMe", "/bot[hidden]/getMe"),
        ("OPENAI_API_KEY=whatever123", "OPENAI_API_KEY=[hidden]"),
        ("https://discord.com/api/webhooks/123456/abcdef", "https://discord.com/api/webhooks/[hidden]"),
    ],
)
def test_a_secret_goes_and_what_is_beside_it_stays(text, kept):
    assert logging.Redactor().text(text) == kept


@pytest.mark.parametrize(
    "text",
    [
        "skip-checking-the-whole-thing, task-runner-abcdefghijklmnop",
        "at /home/me/projects/Very/Long/Path/To/File1.txt:10",
        "agent:main:cron:e3af75e1-12dc-416b-b35e-4bd862aca96e",
        "tokens: 123456 used, max token 100000",
        "2026-11-21T09:54:09.211336Z conn=04002bc2…82d4 203ms",
        "auth: token mode, author: somebody",
        "sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    ],
)
def test_what_is_no_secret_stays(text):
    assert logging.Redactor().text(text) == text


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
