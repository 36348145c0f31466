"""What is wrong with a setting, in one line for people: its name as it was given, its value, and one that would do."""

from __future__ import annotations

import difflib
import json
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from lobservatory.wording import counted

_LONGEST = 100  # characters of a value that are shown
_KINDS: Mapping[object, str] = {bool: "true or false", str: "text", SecretStr: "text in quotes", Path: "a path"}
INSTANT = "must be an ISO 8601 instant with its zone, for example 2026-01-29T10:00:00Z"
_RAISED = ("value_error", "assertion_error")  # by us: the text is ours already
# Type of pydantic's error → our words for it, where a request can have one; what is in braces comes with the error, and
# after the colon is its noun.
_EXPLAINED: Mapping[str, str] = {
    "missing": "is required",
    "extra_forbidden": "is not known here",
    "none_required": "must be null",
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "must be a JSON object"),
    "invalid_key": "must have keys that are text",
    **dict.fromkeys(("list_type", "tuple_type", "set_type"), "must be a list"),
    "string_type": "must be text",
    "string_unicode": "must be text that can be written as UTF-8",
    "string_too_short": "must have at least {min_length:character}",
    "string_too_long": "must have at most {max_length:character}",
    "string_pattern_mismatch": "has characters that it must not have, or has them in the wrong place",
    "too_short": "must have at least {min_length:item}",
    "too_long": "must have at most {max_length:item}",
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "must be a whole number"),
    "int_parsing_size": "must be a whole number of fewer digits",
    **dict.fromkeys(("float_type", "float_parsing", "decimal_type", "decimal_parsing"), "must be a number"),
    "finite_number": "must be a number, and neither NaN nor an infinity",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be greater than or equal to {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be less than or equal to {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "decimal_max_digits": "must have at most {max_digits:digit}",
    "decimal_max_places": "must have at most {decimal_places:decimal place}",
    "decimal_whole_digits": "must have at most {whole_digits:digit} before the decimal point",
    **dict.fromkeys(("enum", "literal_error"), "must be {expected}"),
    "union_tag_invalid": "must have one of {expected_tags} as its {discriminator}",
    "union_tag_not_found": "must have a {discriminator}, which tells its kind",
    **dict.fromkeys(
        (
            "datetime_type",
            "datetime_parsing",
            "datetime_object_invalid",
            "datetime_from_date_parsing",
            "timezone_aware",
            "timezone_offset",
        ),
        INSTANT,
    ),
}
_REST = "is not what it must be"  # library text never reaches a client


class _Limit(int):
    """A number that a format's specification is the noun of: `{max_length:character}` is `500 characters`."""

    def __format__(self, noun: str) -> str:
        return counted(int(self), noun) if noun else str(int(self))


class NotA(ValueError):  # noqa: N818 - raised as `NotA("an IANA time zone")`
    """A value, or `part` of it, is not what it must be; name, value and an example are added by `complaint`."""

    def __init__(self, kind: str, part: object = None) -> None:
        super().__init__(f"not {kind}")
        self.kind = kind
        self.part = part


def complaint(
    problem: ErrorDetails, model: type[BaseModel], given: Mapping[str, Any], names: Mapping[str, str], toml: str
) -> str:
    """One line for one error of `model`.

    `given`: what was validated. `names`: setting → how the person wrote it. `toml`: the configuration file, where
    those are from that `names` does not have.
    """
    location = problem["loc"]
    if not location:
        return explained(problem)
    setting = str(location[0])
    field, value = _field(model, location), _value(given, location)
    if problem["type"] == "extra_forbidden":
        return f"{toml}: unknown setting {_dotted(location)}{_hint(str(location[-1]), _known(model, location))}"
    name = names.get(setting, f"{toml}: {_dotted(location)}")
    error = problem.get("ctx", {}).get("error")
    if isinstance(error, ValueError) and not isinstance(error, NotA):
        return f"{name}: {error}"
    secret = field.annotation is SecretStr
    if isinstance(error, NotA):
        what, shown = error.kind, value if error.part is None else error.part
    else:
        what, shown = kind(field), value
    said = f"its value is not {what}" if secret else f"{show(shown)} is not {what}"
    example = example_of(field, quoted=setting not in names)
    return f"{name}: {said}" + (f", for example {example}" if example else "")


def explained(problem: Mapping[str, Any], patterns: Mapping[str, str] = types.MappingProxyType({})) -> str:
    """What is wrong with one field, to stand after its name: `must be a whole number`.

    `problem`: an error of pydantic or FastAPI. `patterns`: pattern of a field → what to say of what does not match.
    """
    kind_of, context = str(problem["type"]), problem.get("ctx", {})
    if kind_of == "json_invalid":
        return f"is not JSON: {_unreadable(problem)}"
    if kind_of in _RAISED:
        return str(problem["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if kind_of == "string_pattern_mismatch" and context.get("pattern") in patterns:
        return patterns[context["pattern"]]
    return _EXPLAINED.get(kind_of, _REST).format_map(
        {name: _Limit(value) if type(value) is int else value for name, value in context.items()}
    )


def _unreadable(problem: Mapping[str, Any]) -> str:
    """What Python's reader of JSON says, and where; FastAPI gives the place behind that of the body."""
    said = str(problem.get("ctx", {}).get("error", "it cannot be read")).removesuffix(" at")
    place = problem["loc"][-1] if problem.get("loc") else None
    return f"{said} at character {place + 1}" if isinstance(place, int) else said


def show(value: object) -> str:
    """A value as it was written, short, on one line and without a password or a query of an address."""
    if isinstance(value, bool):
        return str(value).lower()
    text = re.sub(r"(//)[^/@\s]*@", r"\1…@", str(value))
    text = re.sub(r"\?[^#\s]*", "?…", text) if "://" in text else text
    text = text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
    return repr(text) if isinstance(value, str) else " ".join(text.split())


def kind(field: FieldInfo) -> str:
    """What a field takes, with its article, as `a number from 1 to 3600`."""
    annotation: Any = field.annotation
    if isinstance(annotation, types.UnionType):
        (annotation,) = (part for part in typing.get_args(annotation) if part is not type(None))
    if typing.get_origin(annotation) is Literal:
        return f"one of {', '.join(typing.get_args(annotation))}"
    if typing.get_origin(annotation) is tuple:
        return "a list of text"
    limits = {
        name: value
        for metadata in field.metadata
        for name in ("ge", "gt", "le", "min_length", "max_length")
        if (value := getattr(metadata, name, None)) is not None
    }
    if annotation in {int, float}:
        words = "a whole number" if annotation is int else "a number"
        if "gt" in limits:
            return f"{words} above {limits['gt']:g}"
        return f"{words} from {limits['ge']:g} to {limits['le']:g}" if "le" in limits else words
    if "max_length" in limits:
        return f"text of {limits.get('min_length', 0)} to {limits['max_length']} characters"
    return _KINDS.get(annotation, "a table")


def example_of(field: FieldInfo, *, quoted: bool) -> str:
    """A value that would do: the field's example, else its default. `quoted`: as in TOML. Empty: there is none."""
    value = next(iter(field.examples or ()), field.get_default(call_default_factory=True))
    # The choices of a Literal are all named already.
    if isinstance(value, SecretStr) or value in (None, "", (), {}) or typing.get_origin(field.annotation) is Literal:
        return ""
    if field.annotation is bool:
        return "true"
    if isinstance(value, int | float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key} = {json.dumps(one)}' for key, one in value.items())}}}"
    if isinstance(value, tuple):
        return json.dumps(value) if quoted else ",".join(value)
    return json.dumps(str(value)) if quoted else str(value)


def _hint(name: str, known: Sequence[str]) -> str:
    """The name that was meant, where one is near; else where all are."""
    near = difflib.get_close_matches(name.lower().removeprefix("lobs_"), known, n=1)
    return f": did you mean {near[0]}?" if near else ": docs/configuration.md lists all settings"


def _dotted(location: Sequence[int | str]) -> str:
    return ".".join(str(part) for part in location)


def _known(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    for part in location[:-1]:
        annotation = model.model_fields[str(part)].annotation
        assert isinstance(annotation, type)  # noqa: S101 - only tables within tables forbid what they do not know
        model = annotation
    return list(model.model_fields)


def _field(model: type[BaseModel], location: Sequence[int | str]) -> FieldInfo:
    """The innermost field that an error is about."""
    field = model.model_fields.get(str(location[0]), FieldInfo())
    if len(location) > 1 and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
        return _field(field.annotation, location[1:])
    return field


def _value(given: Any, location: Sequence[int | str]) -> object:
    for part in location:
        try:
            given = given[part]
        except (KeyError, IndexError, TypeError):
            return given
    return given
