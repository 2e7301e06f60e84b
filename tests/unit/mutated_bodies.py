"""Bodies of messages as no publisher should send them, made from those that real ones sent."""

import bz2
import json
import lzma
import pickle
import random
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

from panko_ingest.delivery import Delivery
from tests.unit.corpus import CORPUS, samples
from tests.unit.definitions import notification

TOKENS = [
    b"\0", b"\xff", b"\xed\xa0\x80", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"NaN", b"-Infinity",
    b"null", b"1e999", b"9" * 40, b"-" + b"1" * 5000, b'"\\u0000"', b'"\\ud800"', b'"oslo.version"',
    b'"oslo.message"',
    b"[" * 300, b'{"a":' * 300, b"\x80\x04\x95", b"!!python/object/apply:os.system [x]", b"'",
    b'"password": "', b"\xef\xbb\xbf", b"auth_token: ", b" " * 2000,
]  # fmt: skip
ENCODINGS = ["utf-8", None, "binary", "latin-1", "utf-16", "no-such", "idna", "zlib", "utf-7", "undefined"]
TYPES = ["application/json", None, "text/plain", "application/x-python-serialize", "application/x-yaml", ""]
COMPRESSIONS: list[tuple[str | None, Callable[[bytes], bytes]]] = [
    ("application/x-gzip", zlib.compress),
    ("application/x-bz2", bz2.compress),
    ("application/x-lzma", lzma.compress),
    ("application/zstd", bytes),
    ("gzip", bytes),
]
ODD_VALUES: list[Any] = [
    None, "", 0, -1, 2**70, 1e308, float("nan"), [], {}, [[]], "\ud800", "\0", "x" * 400, True, "2026-13-01",
]  # fmt: skip


class Exploding:
    """Something that must never be unpickled."""

    def __reduce__(self) -> Any:
        return _explode, ()


def _explode() -> None:
    raise BaseException("a pickle was loaded")  # noqa: TRY002


@cache
def _originals() -> list[bytes]:
    bodies = [sample.body for sample in samples()] if CORPUS.is_dir() else []
    return [*bodies, json.dumps(notification(payload={"a": [1, {"b": None}], "password": "x"})).encode()]


@cache
def _no_json() -> list[bytes]:
    return [pickle.dumps(Exploding()), b"!!python/object/apply:os.system [x]", b"", b"[]"]


def mutated(seed: int) -> Delivery:
    """Return the delivery of a mutated body, the same for the same seed."""
    chance = random.Random(seed)
    body = chance.choice(_originals() if chance.random() < 0.98 else _no_json())
    if chance.random() < 0.7:
        body = _mutate_values(body, chance)
    if chance.random() < 0.5:
        text = body.decode("utf-8", "replace")
        body = json.dumps({"oslo.version": "2.0", "oslo.message": text}).encode()
    headers = {}
    if chance.random() < 0.1:
        name, compress = chance.choice(COMPRESSIONS)
        body, headers = compress(body), {"compression": name}
    for _ in range(chance.choice([0, 0, 0, 0, 1, 1, 2, 5])):
        body = _mutate_bytes(body, chance)
    usual = chance.random() < 0.9
    return Delivery(
        body,
        content_type="application/json" if usual else chance.choice(TYPES),
        content_encoding="utf-8" if usual else chance.choice(ENCODINGS),
        headers=headers,
        queue="notifications.info",
    )


def _mutate_bytes(body: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(body) + 1)
    end = min(len(body), start + chance.choice([0, 1, 3, 20, 1000]))
    replacement = chance.choice([b"", chance.choice(TOKENS), chance.randbytes(3), body[end : end + 200]])
    kind = chance.random()
    if kind < 0.1:
        return body[:start]
    if kind < 0.2:
        return body[:end] + body[start:]
    return body[:start] + replacement + body[end:]


def _mutate_values(body: bytes, chance: random.Random) -> bytes:
    try:
        document = json.loads(body)
    except ValueError:
        return body
    if not isinstance(document, dict):
        return body
    for key in chance.sample(sorted(document), min(3, len(document))):
        value = document[key]
        if isinstance(value, dict) and value and chance.random() < 0.7:
            value[chance.choice(sorted(value))] = chance.choice(ODD_VALUES)
        else:
            document[key] = chance.choice(ODD_VALUES)
    return json.dumps(document).encode()
