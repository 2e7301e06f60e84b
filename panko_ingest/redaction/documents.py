"""Credentials in decoded documents: which values of objects and lists, and what texts hold."""

import json
from collections.abc import Callable
from typing import Any

from panko_ingest.notification import is_deeper_than
from panko_ingest.redaction import names
from panko_ingest.redaction.names import GIVES_NOTHING_AWAY, HIDDEN, is_secret, meaning_of
from panko_ingest.redaction.steps import Steps
from panko_ingest.redaction.text import hide, may_hold_secrets, overwrite

# What auditors need of a credential (CADF) and that opens nothing.
_SAFE_OF_CREDENTIAL = frozenset(
    {"type", "identity_status", "identity_provider", "protocol", "user", "groups"}
)
_FLAGS_AND_HEADERS = ("-", "X-", "x-")
_SECRET = (names.SECRET, names.OF_CREDENTIAL)
# JSON in text of JSON is parsed within these bounds, so that no stack ends; beyond them it is read as text.
_MOST_TEXT_LEVELS = 4
_MOST_TEXT_DEPTH = 50
_MOST_TEXT = 1024 * 1024


def redact(value: Any) -> Any:
    """Return ``value`` with its credentials hidden; it is left as it is, and returned if it has none.

    The work is linear in its size; it may be nested as deep as ``max_depth`` can be.
    """
    return _redact(value, 0, Steps())


def _redact(value: Any, level: int, steps: Steps) -> Any:
    clean = _CLEANERS.get(value.__class__)
    return value if clean is None else clean(value, level, steps)


def _redact_object(value: dict[str, Any], level: int, steps: Steps) -> dict[str, Any]:
    changed = {}
    meanings = 0
    for key, child in value.items():
        meaning = meaning_of(key)
        if meaning in _SECRET:
            if child.__class__ is int and key.endswith("tokens"):
                continue  # how many there are, or may be
            cleaned = _hide(child, meaning, level, steps)
        else:
            meanings |= meaning
            clean = _CLEANERS.get(child.__class__)
            if clean is None:
                continue
            cleaned = clean(child, level, steps)
        if cleaned is not child:
            changed[key] = cleaned
    if meanings & names.VALUE and meanings > names.VALUE and _is_labelled_secret(value, steps):
        for key, child in value.items():
            if meaning_of(key) == names.VALUE and child not in GIVES_NOTHING_AWAY:
                changed[key] = HIDDEN
    return {**value, **changed} if changed else value


def _hide(value: Any, meaning: int, level: int, steps: Steps) -> Any:
    if value in GIVES_NOTHING_AWAY:
        return value
    if meaning == names.SECRET or value.__class__ is not dict:
        return HIDDEN
    hidden = {
        key: _redact(child, level, steps)
        if _is_safe(key, child)
        else _hide(child, names.SECRET, level, steps)
        for key, child in value.items()
    }
    return value if hidden == value else hidden


def _is_safe(key: str, value: Any) -> bool:
    parts = value if value.__class__ is list else [value]
    return key in _SAFE_OF_CREDENTIAL and all(part.__class__ is str for part in parts)


def _is_labelled_secret(value: dict[Any, Any], steps: Steps) -> bool:
    """Tell whether an object is a pair, such as ``{"name": "password", "value": ...}``, of a credential."""
    return any(
        label.__class__ is str
        and (meaning := meaning_of(key)) in {names.LABEL, names.PATH}
        and (not steps.begin_text(label.count("/")) or names.names_a_secret(label, meaning))
        for key, label in value.items()
    )


def _redact_list(value: list[Any], level: int, steps: Steps) -> list[Any]:
    changed = False
    result = []
    hide_next = False
    before: Any = None
    for child in value:
        cleaned = child
        if hide_next and child not in GIVES_NOTHING_AWAY:
            cleaned = HIDDEN
        elif (clean := _CLEANERS.get(child.__class__)) is not None:
            cleaned = clean(child, level, steps)
            if cleaned.__class__ is list and _is_pair_of_secret(cleaned):
                cleaned = [cleaned[0], HIDDEN]
        # A flag or a header; a tag such as db-password stands beside others.
        # Also "node.session.auth.password", "-v", "...", as tools of storage have it.
        hide_next = (
            child.__class__ is str
            and child.startswith(_FLAGS_AND_HEADERS)
            and (is_secret(child) or (child[0] == "-" and before.__class__ is str and is_secret(before)))
        )
        before = child
        changed = changed or cleaned is not child
        result.append(cleaned)
    return result if changed else value


def _is_pair_of_secret(pair: list[Any]) -> bool:
    match pair:
        case [str(name), value]:
            return is_secret(name) and value not in GIVES_NOTHING_AWAY
    return False


def _redact_text(value: str, level: int, steps: Steps) -> str:
    """Hide what JSON, a URL, a header or the like in a text gives away."""
    if not may_hold_secrets(value, steps):
        return value
    if not steps.begin_text():
        return HIDDEN
    if value.lstrip()[:1] in ("{", "[", '"') and level < _MOST_TEXT_LEVELS and len(value) <= _MOST_TEXT:
        try:
            document = json.loads(value)
            repeats = repeats_keys(value)
        except (ValueError, RecursionError):
            return hide(value, steps)
        if document.__class__ in _CLEANERS and not is_deeper_than(_MOST_TEXT_DEPTH, [document]):
            clean = _redact(document, level + 1, steps)
            return json.dumps(clean) if clean is not document or repeats else value
    return hide(value, steps)


def repeats_keys(json_text: str | bytes) -> bool:
    """Tell whether an object in a text has a key twice, of which parsers keep the last.

    :raises ValueError: the text is no JSON.
    :raises RecursionError: it is nested deeper than the parser goes.
    """
    repeated = []

    def look(pairs: list[tuple[str, Any]]) -> int:
        if len({key for key, _ in pairs}) < len(pairs):
            repeated.append(True)
        return len(pairs)

    json.loads(json_text, object_pairs_hook=look)
    return bool(repeated)


def _redact_bytes(value: bytes, level: int, steps: Steps) -> bytes:  # noqa: ARG001 - one signature for all
    return overwrite(value)


_CLEANERS: dict[type, Callable[[Any, int, Steps], Any]] = {
    dict: _redact_object,
    list: _redact_list,
    str: _redact_text,
    bytes: _redact_bytes,
}
