"""From the bytes of a message to a notification in Ceilometer's shape."""

import bz2
import gzip
import json
import lzma
import pickle
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given, strategies as st

from panko_ingest.errors import DecodeError
from tests.bodies import decode

INNER: dict[str, Any] = {
    "message_id": "c0ffee00-0000-4000-8000-000000000001",
    "publisher_id": "compute.cmp001",
    "event_type": "compute.instance.create.end",
    "priority": "INFO",
    "payload": {"memory_mb": 512, "name": "größe"},
    "timestamp": "2026-11-23 13:16:34.317715",
    "_unique_id": "0123456789abcdef",
    "_context_request_id": "req-1",
    "_context_user_id": None,
}
MESSAGE = {
    "ctxt": {"request_id": "req-1", "user_id": None},
    "publisher_id": "compute.cmp001",
    "event_type": "compute.instance.create.end",
    "payload": {"memory_mb": 512, "name": "größe"},
    "metadata": {"message_id": INNER["message_id"], "timestamp": INNER["timestamp"]},
}


def enveloped(inner: Any, version: Any = "2.0") -> bytes:
    return json.dumps({"oslo.version": version, "oslo.message": json.dumps(inner)}).encode()


@pytest.mark.parametrize("body", [enveloped(INNER), json.dumps(INNER).encode()], ids=["2.0", "bare 1.0"])
def test_a_notification_comes_in_ceilometers_shape(body: bytes) -> None:
    notification = decode(body, content_type="application/json", content_encoding="utf-8")
    assert notification.message == MESSAGE
    assert notification.priority == "info"


def test_absent_values_of_a_notification_are_none_and_an_absent_priority_is_empty() -> None:
    notification = decode(b"{}")
    assert notification.message == {
        "ctxt": {},
        "publisher_id": None,
        "event_type": None,
        "payload": None,
        "metadata": {"message_id": None, "timestamp": None},
    }
    assert notification.priority == ""


def test_with_one_key_of_an_envelope_missing_it_is_a_bare_notification() -> None:
    body = json.dumps({**INNER, "oslo.version": "3.0"}).encode()
    assert decode(body).message == MESSAGE


@pytest.mark.parametrize(
    ("name", "compress"),
    [
        ("application/x-gzip", zlib.compress),
        ("gzip", gzip.compress),
        ("application/x-bz2", bz2.compress),
        ("application/x-lzma", lzma.compress),
    ],
)
def test_compressed_bodies_are_inflated(name: str, compress: Any) -> None:
    body = compress(enveloped(INNER))
    assert decode(body, headers={"compression": name}).message == MESSAGE
    with pytest.raises(DecodeError, match="cut off"):
        decode(body[:-12], headers={"compression": name})
    with pytest.raises(DecodeError, match=r"damaged|cut off|no JSON"):
        decode(b"\x00damaged" + body, headers={"compression": name})


@pytest.mark.parametrize("compress", [zlib.compress, bz2.compress, lzma.compress])
def test_a_bomb_is_never_inflated_beyond_the_bound(compress: Any) -> None:
    names = {zlib.compress: "gzip", bz2.compress: "bzip2", lzma.compress: "xz"}
    body = compress(b"[" + b" " * 5_000_000 + b"]")
    with pytest.raises(DecodeError, match=r"inflates to more than max_message_size \(100000 bytes\)"):
        decode(body, headers={"compression": names[compress]}, max_size=100_000)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "the body is empty"),
        (b"  ", "the body is empty"),
        (b'{"a": 1', "no JSON"),
        (b"\xff\xfe\xfd", "no JSON"),
        (b"[1]", "the body is a list, not an object"),
        (b"null", "the body is null, not an object"),
        (b'"text"', "the body is text, not an object"),
        (b"12", "the body is a number, not an object"),
        (enveloped(INNER, "3.0"), "envelope version '3.0' is unknown"),
        (enveloped([INNER]), "oslo.message is a list, not an object"),
        (b'{"oslo.version": "2.0", "oslo.message": {"a": 1}}', "oslo.message is an object, not JSON text"),
        (b'{"oslo.version": "2.0", "oslo.message": "{\\"a\\": "}', "no JSON"),
        (b'{"a": ' + b"1" * 5000 + b"}", "no JSON"),
    ],
)
def test_a_body_that_is_no_notification_is_refused_with_the_reason(body: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason.replace("(", r"\(")):
        decode(body)


class Exploding:
    def __reduce__(self) -> Any:
        return pytest.fail, ("unpickled",)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/x-python-serialize", pickle.dumps(Exploding())),
        ("application/x-yaml", b"!!python/object/apply:os.system [false]"),
        ("application/x-msgpack", b"\x80"),
        ("application/x-yaml; charset=utf-8", b"{}"),
    ],
)
def test_formats_other_than_json_are_never_loaded(content_type: str, body: bytes) -> None:
    with pytest.raises(DecodeError, match="only JSON is read"):
        decode(body, content_type=content_type)
    with pytest.raises(DecodeError):
        decode(body + b"!")


@pytest.mark.parametrize("content_type", [None, "", "text/plain", "application/octet-stream"])
def test_a_missing_or_vague_content_type_is_taken_for_json(content_type: str | None) -> None:
    assert decode(enveloped(INNER), content_type=content_type).message == MESSAGE


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "UTF8"])
def test_other_text_encodings_are_decoded(encoding: str) -> None:
    body = json.dumps(INNER, ensure_ascii=False).encode(encoding)
    assert decode(body, content_encoding=encoding).message == MESSAGE


@pytest.mark.parametrize("encoding", ["no-such", "hex", "zlib", "idna", "utf-7", "undefined", "a\0b"])
def test_an_encoding_that_is_no_text_encoding_is_refused(encoding: str) -> None:
    with pytest.raises(DecodeError, match="is not supported"):
        decode(b"{}", content_encoding=encoding)


def test_numbers_and_text_that_json_does_not_allow_are_accepted() -> None:
    body = b'{"payload": {"nan": NaN, "inf": -Infinity, "half": "\\ud800", "big": 18446744073709551616}}'
    payload = decode(body).message["payload"]
    assert payload["nan"] != payload["nan"]
    assert payload["inf"] == float("-inf")
    assert payload["half"] == "\ud800"
    assert payload["big"] == 2**64
    assert payload["big"].__class__ is int


@given(st.integers(), st.booleans())
def test_integers_of_any_size_stay_exact(number: int, in_envelope: bool) -> None:
    inner = {"payload": [number, {"n": number}]}
    body = enveloped(inner) if in_envelope else json.dumps(inner).encode()
    payload = decode(body).message["payload"]
    assert payload == [number, {"n": number}]
    assert payload[0].__class__ is int


def nested(levels: int, opening: str = "[", closing: str = "]") -> str:
    return opening * levels + closing * levels


@pytest.mark.parametrize("in_envelope", [False, True])
def test_the_depth_of_a_notification_is_bounded_exactly(in_envelope: bool) -> None:
    for levels, fits in ((19, True), (20, False), (5000, False), (200_000, False)):
        text = f'{{"payload": {nested(levels)}}}'  # the notification itself is the first level
        envelope = json.dumps({"oslo.version": "2.0", "oslo.message": text})
        body = (envelope if in_envelope else text).encode()
        if fits:
            decode(body, max_depth=20)
        else:
            with pytest.raises(DecodeError, match="nested deeper"):
                decode(body, max_depth=20)


def test_many_brackets_side_by_side_are_not_deep() -> None:
    body = json.dumps({"payload": [[] for _ in range(500)]}).encode()
    assert len(decode(body, max_depth=10).message["payload"]) == 500


def test_the_size_of_a_notification_is_bounded() -> None:
    body = enveloped(INNER)
    assert decode(body, max_size=len(body)).message == MESSAGE
    with pytest.raises(DecodeError, match=rf"has {len(body)} bytes, more than max_message_size"):
        decode(body, max_size=len(body) - 1)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=12,
)


@given(json_values, st.dictionaries(st.text(min_size=1), json_values, max_size=5))
def test_any_payload_and_context_come_through_unchanged(payload: Any, context: dict[str, Any]) -> None:
    inner = {"payload": payload, **{f"_context_{key}": value for key, value in context.items()}}
    message = decode(enveloped(inner)).message
    assert message["payload"] == payload
    assert message["ctxt"] == context


def bodies_of_many_values() -> list[bytes]:
    many = "[]," * (5 * 1024 * 1024)
    inner = json.dumps({"message_id": "m", "payload": "x"})[:-1] + f', "p": [{many[:-1]}]}}'
    return [
        inner.encode(),
        b'{"oslo.version": "2.0", "oslo.message": "%s"}' % inner.replace('"', '\\"').encode(),
        b'{"oslo.version": "2.0", "a": [%s], "oslo.message": "{}"}' % many[:-1].encode(),
        b'{"oslo.version": "2.0", "oslo.message": "[%s]"}' % (b"\\u005b]\\u002c" * 1_100_000),
        b'{"a": [%s' % many.encode(),
    ]


@pytest.mark.parametrize("number", range(5))
def test_a_body_that_would_become_many_times_its_size_is_refused_before_it_does(number: int) -> None:
    body = zlib.compress(bodies_of_many_values()[number])
    tracemalloc.start()
    try:
        with pytest.raises(
            DecodeError, match=r"more than 1048576 values, one for each 16 bytes of max_message_size"
        ):
            decode(body, headers={"compression": "gzip"})
        # (orjson sets aside twelve times the size of a text, of which it touches little.)
        assert tracemalloc.get_traced_memory()[1] < 14 * 16 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_a_large_notification_of_ordinary_density_is_read() -> None:
    body = json.dumps(
        {"message_id": "m", "payload": [{"name": f"port-{n}", "id": n} for n in range(300_000)]}
    ).encode()
    assert len(body) > 8 * 1024 * 1024
    assert decode(body).bytes_held > len(body)
