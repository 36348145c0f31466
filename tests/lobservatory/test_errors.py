"""What can go wrong: one base, one class for each kind, and one place that says it."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

from api.errors import problem
from lobservatory import errors
from lobservatory.errors import ConflictError, LobservatoryError, SettingsError, UserError

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("api", "cli", "exporter", "lobservatory", "openclaw", "store")


def classes():
    """Name → (file, names of bases) of every public exception of ours."""
    found = defaultdict(list)
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef) and node.name.endswith("Error") and not node.name.startswith("_"):
                    found[node.name].append((str(path.relative_to(ROOT)), [ast.unparse(base) for base in node.bases]))
    return found


def test_every_error_has_the_one_base_and_a_name_of_its_own():
    known = classes()
    assert len(known) > 40
    assert {name: places for name, places in known.items() if len(places) > 1} == {}, "two classes of one name"
    for name, ((path, bases),) in known.items():
        if name != "LobservatoryError":
            assert bases == ["LobservatoryError"] or all(base in known for base in bases), f"{path}: {name}"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (LobservatoryError("LOBS_X: 5 is no port"), "LOBS_X: 5 is no port"),
        (LobservatoryError("the file cannot be read", why="no such file"), "the file cannot be read: no such file"),
        (LobservatoryError("it is away", why="refused", remedy="start it"), "it is away: refused; start it"),
        (LobservatoryError("it is away", remedy="start it"), "it is away; start it"),
    ],
)
def test_the_text_has_what_is_wrong_why_and_what_to_do(error, text):
    assert str(error) == text
    assert errors.one_line(error) == text


@pytest.mark.parametrize(
    ("error", "given", "status"),
    [
        (UserError("wrong"), None, 1),
        (UserError("wrong", status=130), None, 130),
        (SettingsError("first\nsecond"), None, 2),
        (LobservatoryError("wrong"), 7, 7),
    ],
)
def test_an_exit_says_each_line_with_the_programs_name(error, given, status, capsys):
    with pytest.raises(SystemExit) as ended:
        errors.end("lobservatory", error, status=given)
    assert ended.value.code == status
    assert capsys.readouterr().err.splitlines() == [f"lobservatory: {line}" for line in str(error).splitlines()]


def test_an_exit_keeps_secrets_to_itself(capsys):
    with pytest.raises(SystemExit):
        errors.end("exporter", UserError("hunter2 is wrong"), redact=lambda text: text.replace("hunter2", "***"))
    assert capsys.readouterr().err == "exporter: *** is wrong\n"


def test_a_client_gets_a_sentence_and_the_field():
    document = problem(ConflictError("the board has tasks", "id", remedy="move them first"))
    assert (document.status, document.code, document.field) == (409, "conflict", "id")
    assert document.detail == "The board has tasks; move them first."


def test_a_log_line_of_an_error_without_a_text_is_its_kind():
    assert errors.one_line(TimeoutError()) == "TimeoutError"
    assert errors.one_line(ValueError("first\nsecond")) == "first"
