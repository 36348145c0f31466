"""Bytes of one transcript line or row to an `Entry`."""

from __future__ import annotations

import hashlib
import json
from decimal import Decimal
from typing import Any

import msgspec

from openclaw.stores.contract import Details, Entry, Message, Origin, Part, RejectReason

MAX_ENTRY = 16 * 1024 * 1024  # bytes; hundreds of KB are normal, more than this is skipped and counted
_MAX_DIGITS = 30  # of an integer: beyond any count, and int() of more would cost time

# Numbers with a fraction become Decimals: money is never a float.
_decode = msgspec.json.Decoder(Entry, float_hook=Decimal).decode


def decode(line: bytes | bytearray | memoryview) -> Entry | RejectReason:
    """The entry of one line, or why it is none. Texts are skipped, not checked for UTF-8."""
    try:
        entry = _decode(line)
    except (ValueError, RecursionError):  # malformed, unexpected types, NaN, lone surrogates, broken UTF-8 in a name
        found = _decode_leniently(bytes(line))
        if isinstance(found, str):
            return found
        entry = found
    entry.size = len(line)
    if entry.id is None or entry.id == "":
        entry.digest = hashlib.blake2b(bytes(line).strip(), digest_size=16).hexdigest()
    return entry


def _integer(text: str) -> int | Decimal:
    return int(text) if len(text) <= _MAX_DIGITS else Decimal(text)


def _decode_leniently(line: bytes) -> Entry | RejectReason:
    """What JavaScript and broken disks produce besides strict JSON: kept as far as it can be understood."""
    try:
        document = json.loads(line.decode("utf-8", "replace"), parse_float=Decimal, parse_int=_integer)
    except (ValueError, ArithmeticError, RecursionError):
        return "bad_json"
    return _entry(document) if isinstance(document, dict) else "not_object"


def _fields(kind: type[msgspec.Struct], document: dict[str, Any]) -> dict[str, Any]:
    return {name: document[name] for name in kind.__struct_fields__ if name in document}


def _details(value: Any) -> Details | None:
    return Details(**_fields(Details, value)) if isinstance(value, dict) else None


def _entry(document: dict[str, Any]) -> Entry:
    own = {name: value for name, value in _fields(Entry, document).items() if name not in _SET_BY_READER}
    message = document.get("message")
    own["message"] = _message(message) if isinstance(message, dict) else None
    own["details"] = _details(document.get("details"))
    own["data"] = _details(document.get("data"))
    return Entry(**own)


class _Result(msgspec.Struct, gc=False):
    details: Details | None = None


_decode_result = msgspec.json.Decoder(_Result, float_hook=Decimal).decode


def nested_details(details: Details) -> Details | None:
    """`result.details` of a nested tool call: what the tool itself told. None for anything else."""
    result: Any = details.result
    if isinstance(result, dict):  # as the lenient way leaves it
        return _details(result.get("details"))
    if not result:
        return None
    try:
        return _decode_result(result).details
    except (ValueError, RecursionError):
        return None


def unpacked(value: Any) -> Any:
    """What was skipped while decoding; None where nothing was there, or nothing that can be read."""
    if not isinstance(value, msgspec.Raw):
        return value  # as the lenient way leaves it
    try:
        return msgspec.json.decode(value) if value else None
    except (ValueError, RecursionError):
        return None


_SET_BY_READER = frozenset({"size", "written_ms", "digest"})


def _message(document: dict[str, Any]) -> Message:
    values = _fields(Message, document)
    values["details"] = _details(document.get("details"))
    content = document.get("content")
    if isinstance(content, list):
        values["content"] = [Part(**_fields(Part, part)) for part in content if isinstance(part, dict)]
    else:
        values["content"] = None
    origin = document.get("__openclaw")
    values["openclaw"] = Origin(**_fields(Origin, origin)) if isinstance(origin, dict) else None
    return Message(**values)
