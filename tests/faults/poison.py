"""A hundred different messages that can never become an event."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

_GOOD: dict[str, Any] = {
    "message_id": "c0ffee00-0000-4000-8000-000000000000",
    "publisher_id": "compute.host1",
    "event_type": "compute.instance.update",
    "priority": "INFO",
    "payload": {"instance_id": "i-1"},
    "timestamp": "2026-11-23 13:16:34.317715",
}
_JUNK: list[Any] = [None, "", [], {}, 0, True, 1.5, ["a"], {"a": 1}]


def bodies() -> list[bytes]:
    """Return the bodies, no two alike."""
    return list(dict.fromkeys([*_broken_bytes(), *_broken_envelopes(), *_broken_notifications()]))


def _message(**fields: Any) -> str:
    return json.dumps({**_GOOD, "message_id": str(uuid.uuid4()), **fields})


def _envelope(message: Any, version: Any = "2.0") -> bytes:
    return json.dumps({"oslo.version": version, "oslo.message": message}).encode()


def _broken_bytes() -> Iterator[bytes]:
    yield from (b"", b"{", b"}", b"nul", b"null", b"true", b"42", b"4.2", b'"text"', b"[]", b"[{}]", b"{}")
    yield from (b"\0", b"\xff\xfe\x00", b"\x80\x04\x95", b"\x1f\x8b\x08\x00", b"BZh91AY", b"\xed\xa0\x80")
    yield from (b"<xml/>", b"--- !!python/object/apply:os.system ['true']", b"a=b&c=d", b"[" * 5000)
    yield from (b"{" * 5000, b'{"a":' * 3000, b'{"oslo.message"', b"'single'", b"{,}", b'{"a":1,}', b"NaN")
    whole = _envelope(_message())
    yield from (whole[: len(whole) * part // 20] for part in range(1, 20))


def _broken_envelopes() -> Iterator[bytes]:
    versions: list[Any] = ["3.0", "9.9", "x", "", None, [], {}, -1]
    yield from (_envelope(_message(), version) for version in versions)
    yield from (_envelope(junk) for junk in _JUNK)
    yield from (_envelope(json.dumps(junk)) for junk in _JUNK)
    inner = _message()
    yield from (_envelope(inner[: len(inner) * part // 10]) for part in range(1, 10))
    yield json.dumps({"oslo.version": "2.0"}).encode()


def _broken_notifications() -> Iterator[bytes]:
    for name in ("message_id", "event_type", "timestamp"):
        yield _envelope(json.dumps({key: value for key, value in _GOOD.items() if key != name}))
        yield from (
            _envelope(_message(**{name: junk})) for junk in _JUNK if not junk or isinstance(junk, dict)
        )
    yield _envelope(_message(message_id="x" * 300))
    yield from (
        _envelope(_message(timestamp=text))
        for text in ("yesterday", "0000-00-00 00:00:00", "2026-13-01 00:00:00", "2026-02-30 00:00:00")
    )
