"""JSON in which every integer keeps its value, at orjson's speed where orjson does that.

orjson makes floats of integers beyond 64 bits when it reads, and does not write them. It also does not read
what Python programs write now and then: NaN, infinity, and halves of surrogate pairs.
"""

import json
from typing import Any, Literal

import orjson

# Any digit becomes 0, any opening bracket [, a minus stays, all else is a blank: one pass shows both what
# may be an integer beyond 64 bits and how deep the nesting can be at most.
_OUTLINE = bytes(
    ord("0") if byte in b"0123456789" else ord("[") if byte in b"[{" else byte if byte in b"-" else ord(" ")
    for byte in range(256)
)
_LONG_NUMBERS = b"0" * 20, b"-" + b"0" * 19
_IN_ALL = b"0" * 19

_KINDS = {dict: "an object", list: "a list", str: "text", bool: "a boolean", type(None): "null"}


def outline(text: bytes | str) -> bytes:
    """Return the text with nothing but its digits (each as 0), minuses and opening brackets (as ``[``)."""
    return (text if isinstance(text, bytes) else text.encode("utf-8", "replace")).translate(_OUTLINE)


def has_long_number(outlined: bytes) -> bool:
    """Tell by the outline of a text whether there may be an integer in it that orjson would not keep."""
    return _IN_ALL in outlined and any(number in outlined for number in _LONG_NUMBERS)


def loads(text: bytes | str) -> Any:
    """Return the value of JSON text.

    :raises ValueError: it is none.
    """
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text)
    return json.loads(text) if has_long_number(outline(text)) else value


def kind(value: Any) -> str:
    """Return what a value of a JSON document is, in words."""
    return _KINDS.get(type(value), "a number")


def dumps(value: Any, indent: Literal[2] | None = None) -> str:
    """Return a value as JSON text, on one line unless indented; what JSON does not know as its text."""
    try:
        return orjson.dumps(value, default=str, option=orjson.OPT_INDENT_2 if indent else None).decode()
    except TypeError:
        return json.dumps(value, default=str, indent=indent)
