"""Credentials in notifications: which values are hidden, and how in bodies that don't decode."""

import bz2
import gzip
import json
import lzma
import pickle
import string
import zlib
from typing import Any

import pytest
from hypothesis import given, strategies as st
from oslo_utils import strutils

from panko_ingest import dead_letter
from panko_ingest.delivery import Delivery
from panko_ingest.errors import DecodeError
from panko_ingest.redaction import is_secret, overwrite, redact, redact_body
from tests.bodies import decode
from tests.unit import planted_secrets
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
    "user_id", "request_id", "token_id_hash", "password_expires_at", "token_count", "secret_ref", "key_name",
    "public_key", "trust_id", "compass_heading", "catalog_id", "tokenizer",
]  # fmt: skip


FERNET = "gAAAAA" + "x" * 60


@pytest.mark.parametrize("key", SECRET_KEYS)
def test_the_value_of_a_secrets_key_is_hidden(key: str) -> None:
    assert is_secret(key)
    for value in (SESAME, [SESAME], {"a": SESAME}, 1234):
        document = {"payload": [{key: value, "kept": 1}]}
        assert redact(document) == {"payload": [{key: "***", "kept": 1}]}
        assert document["payload"][0][key] == value


@pytest.mark.parametrize("key", PLAIN_KEYS)
def test_keys_that_are_not_secret_keep_their_values(key: str) -> None:
    assert not is_secret(key)


@pytest.mark.parametrize("value", [None, True, False, "", [], {}, "***"])
def test_values_that_give_nothing_away_are_not_redacted(value: Any) -> None:
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


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("a:\n  password: |\n    x\n\n    it's\n  b: 1\n", "a:\n  password: |\n    ***\n  b: 1\n"),
        ("password: |\nb: 1", "password: ***\nb: 1"),
        ('password: "x\\"", b: \'c\'', "password: \"***\", b: 'c'"),
        ("password: 'it''s', b: 'c'", "password: '***', b: 'c'"),
        ('PASSWORD="""a"b"""; c="""d"""', 'PASSWORD="""***"""; c="""d"""'),
        ('Cookie: a="b"; c=d\nE: f', "Cookie: ***\nE: f"),
        (
            '<a><password type="s">x</password> <b c="d">e</b>',
            '<a><password type="s">***</password> <b c="d">e</b>',
        ),
        ("a:\n  tokens:\n  - x\n  - y\n  b: c\n", "a:\n  tokens:\n  ***\n  b: c\n"),
        (
            "- name: PASSWORD\n  value: x\n- name: a\n  value: b",
            "- name: PASSWORD\n  value: ***\n- name: a\n  value: b",
        ),
        ("[a]\npassword = a b;c\r\nd = e", "[a]\npassword = ***\r\nd = e"),
        ("| id | 1 |\n| token | x | y |", "| id | 1 |\n| token | *** | y |"),
        ("['token'], 'a' = 1, conf['token'] = 'x', b", "['token'], 'a' = 1, conf['token'] = '***', b"),
        ("a authorization=Bearer x b", "a authorization=*** b"),
        ("a%3Db%26token%3Dx%26c%3Dd", "a%3Db%26token%3D***%26c%3Dd"),
        ("mysql://user:12345/x@host/db", "mysql://user:***@host/db"),
        ("http://u:x@[2001:db8::5]:80/a", "http://u:***@[2001:db8::5]:80/a"),
        (
            "<password /><user>bob</user><password>x</password>",
            "<password /><user>bob</user><password>***</password>",
        ),
        ("https://ghp_0123456789@h/a", "https://***@h/a"),
        ("https://ghp_0123456789:@h/a", "https://***:@h/a"),
        ("https://ghp_0123456789:x-oauth-basic@h/a", "https://***:***@h/a"),
        (
            "<p>{&quot;token&quot;: &quot;x y&quot;, &quot;b&quot;: 1} &amp;</p>",
            "<p>{&quot;token&quot;: &quot;***&quot;, &quot;b&quot;: 1} &amp;</p>",
        ),
        ('{"token": "a&quot;b", "c": 1} d', '{"token": "***", "c": 1} d'),
        (
            "&lt;user&gt;bob&lt;/user&gt;&#60;adminPass&#62;x y&#60;/adminPass&#62;",
            "&lt;user&gt;bob&lt;/user&gt;&#60;adminPass&#62;***&#60;/adminPass&#62;",
        ),
        (f"a%20{FERNET}%20b", "a%20***%20b"),
        (f"it was\\n{FERNET} here", "it was\\n*** here"),
        ("next=https%3A%2F%2Fh%2F%3Ftoken%3Dx%26a%3Db", "next=https%3A%2F%2Fh%2F%3Ftoken%3D***%26a%3Db"),
    ],
)
def test_around_a_credential_in_text_all_stays(text: str, clean: str) -> None:
    assert redact([text]) == [clean]
    assert redact([clean]) == [clean]


@pytest.mark.parametrize(
    "text",
    [
        "password='' a=''", 'PASSWORD="" a=""', "password=''+a", '<a password=""/> b ""', "50% of a%3Db",
        "use '--password ' 'a'", "<token></token> <b>c</b>", "<name>vm</name><value>a</value>",
        "http://[2001:db8::5]:8080/a/me@example.org", "next=https%3A%2F%2Fh%3A5000%2Fa",
        '<password type="s"/><b>c</b>',
        "no token -- ask", "the password ' a",
        "name: |\n  a\n", "docker://h:5000/a@sha256:b", "https://h:5000/a@sha256:b", "redis://h:6379/0",
        "{&quot;token&quot;: &quot;&quot;, &quot;a&quot;: &quot;b&quot;}", "https://an-account@h/a",
        "https://www.example.com,mail=someone@example.com",
        "mysql://h:3306/d?a=b@c", "kafka://h:9092,i:9092/a@b",
    ],
)  # fmt: skip
def test_text_without_a_credential_stays(text: str) -> None:
    assert redact([text, {"a": text}]) == [text, {"a": text}]
    assert overwrite(text.encode()) == text.encode()


def test_how_many_tokens_there_are_is_no_credential() -> None:
    document = {"max_tokens": 100, "tokens": 5}
    assert redact(document) is document
    assert redact({"tokens": ["5"]}) == {"tokens": "***"}


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
    before = decode(body).message
    after = decode(clean, headers=headers).message
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


def test_in_a_cut_off_body_only_the_values_of_secret_keys_are_overwritten() -> None:
    body = b'{"a": "1", "password": "abc", "b": "2", "token": null, "secret_ref": "3", "psk": "", "x": '
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


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("name", ["_context_auth_token", "password"])
def test_a_cut_off_body_in_an_encoding_that_nobody_told_is_looked_through(codec: str, name: str) -> None:
    body = f'{{"{name}":"{SESAME}", "a'.encode(codec)
    clean, changed = redact_body(body, content_type="application/json")
    assert changed
    assert SESAME not in clean.decode(codec, "replace")
    assert name in clean.decode(codec, "replace")


@pytest.mark.parametrize(
    ("method", "compress"), [("gzip", zlib.compress), ("bzip2", bz2.compress), ("xz", lzma.compress)]
)
def test_of_a_compressed_body_nothing_is_kept_that_was_not_looked_at(method: str, compress: Any) -> None:
    headers = {"compression": method}
    secret = json.dumps({"password": SESAME}).encode()
    notification = json.dumps({"event_type": "x"}).encode()
    bound = 2000
    for body, kept in (
        (compress(notification) + secret, notification),
        (compress(notification) + bytes(3000) + compress(secret), notification),
        (compress(b"[1") + secret, b"[1"),
        (compress(b"1" * bound + secret), b"1" * bound),
        (compress(b"[]")[:-1], b"[]"),
    ):
        clean, redacted = redact_body(body, headers=headers, max_size=bound)
        assert redacted
        assert COMPRESSION[method][1](clean) == kept
        assert redact_body(clean, headers=headers, max_size=bound) == (clean, False)
    clean, redacted = redact_body(secret, headers=headers)
    assert redacted
    assert SESAME.encode() not in clean
    assert redact_body(compress(notification), headers=headers) == (compress(notification), False)


def deflated(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


def in_pieces(data: bytes) -> bytes:
    """Compress as Snappy or LZ4 do data that hardly repeats."""
    return b"".join(b"\xf0" + data[start : start + 15] + b"\x04\0" for start in range(0, len(data), 15))


@pytest.mark.parametrize("document", [INNER, {"password": SESAME, "host": "größe"}], ids=["long", "short"])
@pytest.mark.parametrize(
    ("compress", "properties"),
    [
        (gzip.compress, {}),
        (gzip.compress, {"content_encoding": "gzip"}),
        (gzip.compress, {"content_encoding": "utf-16"}),
        (zlib.compress, {}),
        (deflated, {}),
        (deflated, {"content_encoding": "deflate"}),
        (deflated, {"headers": {"compression": "application/zstd"}}),
        (deflated, {"headers": {"compression": "gzip"}}),
        (bz2.compress, {}),
        (lzma.compress, {"headers": {"compression": "gzip"}}),
        (lambda data: zlib.compress(gzip.compress(data)), {"headers": {"compression": "gzip"}}),
        (lambda data: b"\x28\xb5\x2f\xfd" + data, {}),
        (in_pieces, {"headers": {"compression": "snappy"}}),
    ],
)
def test_of_a_body_that_is_compressed_in_a_way_that_is_not_read_nothing_is_kept(
    document: Any, compress: Any, properties: dict[str, Any]
) -> None:
    body = compress(json.dumps(document, ensure_ascii=False).encode())
    delivery = Delivery(body, content_type="application/json", **properties)
    letter = dead_letter.from_delivery(delivery, DecodeError("the body is no JSON"), stage="decode")
    assert letter.body == b""
    assert letter.redacted
    assert f"the body of {len(body)} bytes is withheld: it is no text, or compressed" in letter.error


@pytest.mark.parametrize(
    "properties", [{}, {"content_encoding": "no-such"}, {"headers": {"compression": "none"}}]
)
@pytest.mark.parametrize(
    "body",
    [
        b'{"display_name": "gr\xf6\xdfe und mehr, und noch etwas mehr", "size": 1',
        b'{"display_name": "\xe5\x90\x8d\xe5\x89\x8d and more of it, some \xe5\x90',
        '{"name": "名前名前名前名前"'.encode("utf-16"),
        b"\x1b[1mno JSON\x1b[0m\r\n",
        b"",
    ],
)
def test_text_that_does_not_decode_is_kept_byte_for_byte_whatever_is_wrong_with_it(
    body: bytes, properties: dict[str, Any]
) -> None:
    assert redact_body(body, **properties) == (body, False)


def test_a_pickle_without_credentials_is_kept_byte_for_byte() -> None:
    body = pickle.dumps({"event_type": "volume.create.end", "payload": {"size": 1, "name": "x"}})
    assert redact_body(body) == (body, False)


def test_a_notification_with_more_behind_its_compressed_body_is_decoded_all_the_same() -> None:
    body = zlib.compress(json.dumps(INNER).encode()) + b"more"
    decoded = decode(body, headers={"compression": "gzip"})
    assert decoded.message == decode(json.dumps(INNER).encode()).message


def test_a_body_beyond_the_bounds_is_overwritten_too() -> None:
    deep = {**INNER, "deep": json.loads("[" * 50 + "]" * 50)}
    clean, redacted = redact_body(json.dumps(deep).encode(), max_depth=20)
    assert redacted
    assert SESAME.encode() not in clean
    clean, redacted = redact_body(json.dumps(INNER).encode(), max_size=20)
    assert redacted
    assert SESAME.encode() not in clean


@pytest.mark.parametrize("name", planted_secrets.OSLO_NAMES + planted_secrets.OUR_NAMES)
def test_every_name_that_oslo_masks_is_known_and_more(name: str) -> None:
    assert is_secret(name)
    assert set(planted_secrets.OSLO_NAMES) >= set(strutils._SANITIZE_KEYS)


_OSLO_SHAPES = [
    "{}={}", "{} = {}", "{}='{}'", '{} = "{}"', "{} '{}'", "--{} {}", "<{}>{}</",
    "'{}': '{}'", '"a {}": "{}"',
    "'{}': u'{}'", "'{}', '-v', '{}'", "'{}', '--value', u'{}'", "{} -v {}", "{} --value {}",
]  # fmt: skip


@given(
    st.sampled_from(planted_secrets.OSLO_NAMES),
    st.sampled_from(["", "my_", "os-", "node.auth.", "x"]),
    st.sampled_from(["", "1", "22"]),
    st.sampled_from(_OSLO_SHAPES),
    st.text("{}[](),=!/+.@%", max_size=4),
    st.text("{}[](),=!/+.@%", max_size=4),
)
def test_nothing_is_shown_that_oslo_masks(
    name: str, prefix: str, digits: str, shape: str, before: str, after: str
) -> None:
    if shape == "{} '{}'":
        before = before.lstrip(",)}]")  # or the quote may be one that ends what stands before it
    secret = before + "Zq3SeCrEt7" + after
    text = f"a {shape.format(prefix + name + digits, secret)} b"
    if "Zq3SeCrEt7" in strutils.mask_password(text):
        return
    assert "Zq3SeCrEt7" not in redact([text])[0]
    assert b"Zq3SeCrEt7" not in overwrite(text.encode())


@given(planted_secrets.values)
def test_a_planted_secret_is_left_in_no_document(drawn: tuple[str, Any]) -> None:
    secret, value = drawn
    document = planted_secrets.notification(value)
    assert secret not in json.dumps(redact(document))
    # Hidden once, nothing more is found.
    assert redact(redact(document)) == redact(document)


COMPRESSION: dict[str | None, Any] = {
    None: (bytes, bytes),
    "gzip": (zlib.compress, zlib.decompress),
    "bzip2": (bz2.compress, bz2.decompress),
    "xz": (lzma.compress, lzma.decompress),
}


@given(
    planted_secrets.values,
    st.sampled_from([None, 1]),
    st.sampled_from(["intact", "cut", "doubled", "enveloped", "envelope cut"]),
    st.sampled_from([*COMPRESSION]),
)
def test_a_planted_secret_is_left_in_no_part_of_a_dead_letter(
    drawn: tuple[str, Any], indent: int | None, kind: str, method: str | None
) -> None:
    secret, value = drawn
    text = json.dumps(planted_secrets.notification(value), indent=indent)
    if kind == "doubled":
        text = "[" + text
    if kind.startswith("envelope"):
        text = json.dumps({"oslo.version": "2.0", "oslo.message": text})
    body = text.encode()[: -2 if kind.endswith("cut") else None]
    compress, inflate = COMPRESSION[method]
    headers = {"x-note": value} | ({"compression": method} if method else {})
    letter = dead_letter.from_delivery(
        Delivery(compress(body), headers=headers), DecodeError(f"at {json.dumps(value)}"), stage="decode"
    )
    stored = redact_body(letter.body, headers=headers)[0]
    assert stored == letter.body
    assert secret.encode() not in inflate(letter.body)
    assert secret not in json.dumps(letter.headers)
    assert secret not in letter.error
    assert letter.redacted


@pytest.mark.parametrize(
    "text",
    [
        '{"password": "%s", "password": ""}',
        '{"a": {"p\\u0061ssword": "%s", "password": null}}',
        '{"a": "{\\"p\\\\u0061ssword\\": \\"%s\\", \\"password\\": 0}"}',
    ],
)
@pytest.mark.parametrize("in_envelope", [False, True])
def test_a_key_that_is_there_twice_hides_no_credential(text: str, in_envelope: bool) -> None:
    text = text.replace("%s", SESAME)
    assert SESAME not in json.dumps(redact({"note": text}))
    body = text.encode()
    if in_envelope:
        body = json.dumps({"oslo.version": "2.0", "oslo.message": text}).encode()
    clean, redacted = redact_body(body)
    assert redacted
    assert SESAME.encode() not in clean


def test_a_body_whose_credentials_cannot_be_told_apart_is_withheld_and_the_dead_letter_says_so() -> None:
    body = zlib.compress(b'{"password":"x",' * 1024 * 1024)
    delivery = Delivery(body, headers={"compression": "gzip"})
    letter = dead_letter.from_delivery(delivery, DecodeError("the body is no JSON"), stage="decode")
    assert letter.body == b""
    assert letter.redacted
    assert letter.error.startswith("the body is no JSON (the body of ")
    assert "is withheld" in letter.error
    assert letter.digest == delivery.digest()


def test_no_nesting_ends_the_way_to_a_dead_letter() -> None:
    deep = "[" * 1000 + "]" * 1000
    headers: Any = SESAME
    for _ in range(2000):
        headers = {"a": headers}
    in_text: Any = {"password": SESAME}
    for _ in range(8):
        for _ in range(40):
            in_text = [in_text]
        in_text = json.dumps(in_text)
    for body in (
        b'{"oslo.version": "2.0", "x": %s, "oslo.message": "{}"}' % deep.encode(),
        b'{"oslo.version": %s, "oslo.message": "{}"}' % deep.encode(),
        json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps({"a": in_text})}).encode(),
    ):
        letter = dead_letter.from_delivery(Delivery(body, headers=headers), DecodeError("x"), stage="decode")
        assert SESAME.encode() not in letter.body
        assert "withheld" in letter.headers


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


@pytest.mark.parametrize("name", planted_secrets.OSLO_NAMES + planted_secrets.OUR_NAMES)
def test_each_name_is_known_in_each_shape_whole_and_in_text(name: str) -> None:
    for value in planted_secrets.every_value(name, SESAME):
        assert SESAME not in json.dumps(redact(value)), value
        assert SESAME.encode() not in overwrite(json.dumps(value).encode()), value
