"""What is kept of a message that can't become an event."""

import json
from random import Random
from typing import Any

import pytest

from panko_ingest import dead_letter
from panko_ingest.delivery import Delivery
from panko_ingest.errors import ConvertError, DecodeError

SESAME = "open-sesame-0123456789"


def delivery(body: bytes, **others: Any) -> Delivery:
    return Delivery(
        body,
        content_type="application/json",
        content_encoding="utf-8",
        exchange="nova",
        routing_key="notifications.info",
        queue="notifications.info",
        **others,
    )


def test_a_dead_letter_holds_the_delivered_bytes_and_the_reason() -> None:
    delivered = delivery(b'{"a":   1}', headers={"h": 1})
    letter = dead_letter.from_delivery(
        delivered, ConvertError("timestamp is missing"), stage="convert", message_id="m"
    )
    assert letter.body == b'{"a":   1}'
    assert letter.digest == delivered.digest()
    assert (letter.stage, letter.error_class, letter.error) == (
        "convert",
        "ConvertError",
        "timestamp is missing",
    )
    assert (letter.message_id, letter.event_type, letter.redacted) == ("m", None, False)
    assert (letter.exchange, letter.routing_key, letter.queue) == (
        "nova",
        "notifications.info",
        "notifications.info",
    )
    assert letter.headers == {"h": 1}


def test_credentials_are_in_no_part_of_a_dead_letter() -> None:
    body = json.dumps({"_context_auth_token": SESAME}).encode()
    delivered = delivery(body, headers={"X-Auth-Token": SESAME})
    letter = dead_letter.from_delivery(delivered, DecodeError(f'at "password": "{SESAME}"'), stage="decode")
    assert letter.redacted
    assert letter.digest == delivered.digest()
    assert SESAME not in repr(letter)
    assert delivered.body == body


def test_a_body_too_large_for_a_database_is_cut_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    body = b'{"a": "' + b"x" * 2000 + b'", "password": "' + SESAME.encode() + b'"'
    monkeypatch.setattr(dead_letter, "MAX_BODY", len(body) - 12)
    for max_size in (10, 100_000):
        letter = dead_letter.from_delivery(
            delivery(body), DecodeError("no JSON"), stage="decode", max_size=max_size
        )
        assert letter.error == (f"no JSON (the body is cut: {len(body) - 12} of {len(body)} bytes are kept)")
        assert len(letter.body) == len(body) - 12
        assert SESAME.encode()[:8] not in letter.body
        assert letter.digest == delivery(body).digest()


def test_the_error_is_bounded_and_storable() -> None:
    letter = dead_letter.from_delivery(delivery(b""), DecodeError("\ud800" + "x" * 10_000), stage="decode")
    assert len(letter.error) <= 2000
    letter.error.encode("utf-8")


def kept(counted: dead_letter.KeptBytes, delivered: Delivery) -> int:
    return counted.of(dead_letter.from_delivery(delivered, DecodeError("no JSON"), stage="decode"))


def test_what_is_kept_of_a_dead_letter_is_counted_its_headers_too_and_not_what_is_withheld() -> None:
    counted = dead_letter.KeptBytes()
    size = 100_000
    least = kept(counted, delivery(b"{"))
    assert 100 < least < 2000, "also a row without anything in it takes its place"
    assert size < kept(counted, delivery(b"{" * size)) <= least + 2 * size
    assert size < kept(counted, delivery(b"{1", headers={"x": "y" * size})) <= least + 2 * size
    withheld = delivery(Random(1).randbytes(size))
    assert kept(counted, withheld) < 2 * least


def test_a_dead_letter_that_comes_again_takes_no_more_place() -> None:
    counted = dead_letter.KeptBytes()
    assert kept(counted, delivery(b"{"))
    assert not kept(counted, delivery(b"{"))
    for number in range(5000):
        assert kept(counted, delivery(b"{%d" % number))
    assert len(counted._counted) <= 1000
