"""Credentials in notifications: which values are hidden, and how in bodies that don't decode."""

import bz2
import json
import lzma
import pickle
import string
import zlib
from typing import Any

import pytest
from hypothesis import given, strategies as st

from panko_ingest.notification import Notification
from panko_ingest.redaction import is_secret, overwrite, redact, redact_body
from tests.unit.corpus import needs_corpus, samples

SESAME = "open-sesame-0123456789"

SECRET_KEYS = [
    "auth_token", "_context_auth_token", "X-Auth-Token", "X-Subject-Token", "service_token", "token",
    "_context_service_catalog", "serviceCatalog", "auth_token_info", "admin_token", "Authorization",
    "password", "admin_password", "adminPass", "new_pass", "auth_password", "ipmi_password", "root_password",
    "user_data", "injected_files", "secret", "client_secret", "secret_key", "aws_secret_access_key",
    "psk", "private_key", "management_private_key", "hmac_key", "snmp_auth_key", "agent_secret_token",
]  # fmt: skip
PLAIN_KEYS = [
    "user_id", "request_id", "token_id_hash", "password_expires_at", "secret_uuid", "secret_ref", "key_name",
    "public_key", "trust_id", "compass_heading", "catalog_id", "tokenizer",
]  # fmt: skip


@pytest.mark.parametrize("key", SECRET_KEYS)
def test_the_value_of_a_secrets_key_is_hidden(key: str) -> None:
    assert is_secret(key)
    for value in (SESAME, [SESAME], {"a": SESAME}, 1234):
        document = {"payload": [{key: value, "kept": 1}]}
        assert redact(document) == {"payload": [{key: "***", "kept": 1}]}
        assert document["payload"][0][key] == value


@pytest.mark.parametrize("key", PLAIN_KEYS)
def test_other_keys_keep_their_values(key: str) -> None:
    assert not is_secret(key)


@pytest.mark.parametrize("value", [None, True, False, "", [], {}, "***"])
def test_what_gives_nothing_away_stays(value: Any) -> None:
    document = {"password": value, "a": [1]}
    assert redact(document) is document


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("rabbit://user:sesame@h1:5672,user:sesame@h2/", "rabbit://user:***@h1:5672,user:***@h2/"),
        ("swift+https://account%3Auser:sesame@auth/v1", "swift+https://account%3Auser:***@auth/v1"),
        ("http://host:8080/a@b", "http://host:8080/a@b"),
        ("at 10:00 mail a@b", "at 10:00 mail a@b"),
        ("http://user@host/", "http://user@host/"),
    ],
)
def test_the_password_in_a_url_is_hidden(text: str, clean: str) -> None:
    assert redact({"a": [text]}) == {"a": [clean]}
    assert redact({"a": [clean]}) == {"a": [clean]}
    body = json.dumps({"a": text}).encode()
    assert (b"//user:sesame@" in overwrite(body)) == ("//user:sesame@" in clean)


def test_the_deepest_allowed_document_can_be_redacted() -> None:
    document: Any = {"password": SESAME}
    for _ in range(398):
        document = [document]
    assert SESAME not in json.dumps(redact(document))


def test_a_document_without_credentials_is_returned_as_it_is() -> None:
    document = {"ctxt": {"user_id": "u"}, "payload": [{"a": [{"b": 1}]}]}
    assert redact(document) is document


INNER = {
    "message_id": "m",
    "event_type": "x",
    "payload": {"admin_password": SESAME, "name": "größe", "n": 2**70},
    "_context_auth_token": SESAME,
    "_context_service_catalog": [{"endpoints": [SESAME]}],
    "_context_user": "u",
}


def enveloped(inner: Any) -> bytes:
    return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(inner)}).encode()


@pytest.mark.parametrize("body", [json.dumps(INNER).encode(), enveloped(INNER)], ids=["bare", "enveloped"])
@pytest.mark.parametrize(
    ("name", "compress"),
    [(None, bytes), ("application/x-gzip", zlib.compress), ("bzip2", bz2.compress), ("xz", lzma.compress)],
)
def test_a_body_that_decodes_is_written_again_as_it_was(body: bytes, name: str | None, compress: Any) -> None:
    headers = {"compression": name} if name else {}
    clean, redacted = redact_body(compress(body), headers=headers, content_type="application/json")
    assert redacted
    before = Notification.decode(body).message
    after = Notification.decode(clean, headers=headers).message
    assert after == redact(before) != before
    assert after["payload"] == {"admin_password": "***", "name": "größe", "n": 2**70}
    if not name:
        assert SESAME.encode() not in clean
        assert (b"oslo.version" in clean) == (b"oslo.version" in body)


def test_a_body_in_another_encoding_stays_in_it() -> None:
    body = json.dumps(INNER, ensure_ascii=False).encode("utf-16")
    clean, redacted = redact_body(body, content_encoding="utf-16")
    assert redacted
    assert SESAME not in clean.decode("utf-16")
    broken, redacted = redact_body(body[:-2], content_encoding="utf-16")
    assert redacted
    assert SESAME not in broken.decode("utf-16")


# Without letters nothing names a credential, and without @ no URL holds one, also in a broken body.
harmless = st.characters(exclude_categories=["Cs"], exclude_characters=f"{string.ascii_letters}@")
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(harmless),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(harmless, max_size=5), children, max_size=3)
    ),
    max_leaves=8,
)


@given(json_values, st.integers(0, 200), st.integers(0, 4), st.booleans())
def test_a_body_without_credentials_stays_byte_for_byte(
    value: Any, position: int, removed: int, in_envelope: bool
) -> None:
    body = enveloped({"payload": value}) if in_envelope else json.dumps({"payload": value}, indent=1).encode()
    assert redact_body(body) == (body, False)
    broken = body[:position] + body[position + removed :]
    assert redact_body(broken) == (broken, False)


BROKEN = [
    b'{"_context_auth_token": "%s", "a": ',
    b'{"_context_auth_token":"%s',
    b'{"a": {"password": "x\\"%s"}, "b": tru',
    b"{'password': u'%s', 'a': 1}",
    b'{"oslo.version": "2.0", "oslo.message": "{\\"_context_auth_token\\": \\"%s\\", \\"a\\": ',
    b'{"oslo.message": "{\\"args\\": \\"{\\\\\\"adminPass\\\\\\": \\\\\\"%s\\\\\\"}\\"',
    b'{"_context_service_catalog": [{"a": ["%s"]}, {"b": "%s"}], "x": ',
    b'{"user_data": {"a": "%s"',
    b"auth_token: %s\nuser: u\n",
    b"password=%s&a=b",
    b'X-Auth-Token: "%s"\r\n',
    b'{"secret": %s, }',
    b'\xff\xfe{"password": "%s"}',
]


@pytest.mark.parametrize("template", BROKEN)
def test_in_a_body_that_does_not_decode_the_values_are_overwritten_in_place(template: bytes) -> None:
    body = template.replace(b"%s", SESAME.encode())
    clean, redacted = redact_body(body)
    assert redacted
    assert SESAME.encode() not in clean
    assert len(clean) == len(body)
    kept = bytes(new for new, old in zip(clean, body, strict=True) if new == old)
    assert kept.startswith(template.partition(b"%s")[0].partition(b"[")[0][:12])


def test_only_the_values_are_overwritten() -> None:
    body = b'{"a": "1", "password": "abc", "b": "2", "token": null, "secret_uuid": "3", "psk": "", "x": '
    assert overwrite(body) == body.replace(b"abc", b"***")


@pytest.mark.parametrize("protocol", range(5))
def test_a_pickle_is_never_loaded_and_its_credentials_are_overwritten(protocol: int) -> None:
    body = pickle.dumps({"_context_auth_token": SESAME, "user": "somebody"}, protocol)
    clean, redacted = redact_body(body, content_type="application/x-python-serialize")
    assert redacted
    assert SESAME.encode() not in clean
    assert b"somebody" in clean


def test_what_a_cut_off_compressed_body_still_holds_is_overwritten() -> None:
    body = zlib.compress(json.dumps({**INNER, "padding": list(range(5000))}).encode())[:-500]
    headers = {"compression": "gzip"}
    clean, redacted = redact_body(body, headers=headers)
    assert redacted
    assert SESAME.encode() not in zlib.decompress(clean)
    assert redact_body(b"no gzip", headers=headers) == (b"no gzip", False)


def test_a_body_beyond_the_bounds_is_overwritten_too() -> None:
    deep = {**INNER, "deep": json.loads("[" * 50 + "]" * 50)}
    clean, redacted = redact_body(json.dumps(deep).encode(), max_depth=20)
    assert redacted
    assert SESAME.encode() not in clean
    clean, redacted = redact_body(json.dumps(INNER).encode(), max_size=20)
    assert redacted
    assert SESAME.encode() not in clean


@needs_corpus
def test_no_known_credential_of_the_corpus_is_left() -> None:
    hidden = 0
    for sample in samples():
        notification = json.loads(sample.body)
        tokens = {
            value
            for key, value in notification.items()
            if key == "_context_auth_token" and value not in (None, "", "***")
        }
        clean, redacted = redact_body(sample.body)
        broken, _ = redact_body(sample.body.rstrip()[:-1])
        hidden += redacted
        for token in tokens:
            assert redacted
            assert json.dumps(token).encode() not in clean
            assert json.dumps(token).encode() not in broken
    assert hidden > 50
