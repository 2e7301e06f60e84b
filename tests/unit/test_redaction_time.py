"""Whatever a publisher writes, looking for credentials in it takes time in proportion to its size."""

import contextlib
import gc
import json
import time
from typing import Any

import pytest
from hypothesis import example, given, strategies as st

from panko_ingest.redaction import TooMuchText, overwrite, redact

MEBIBYTE = 1024 * 1024


@pytest.mark.parametrize(
    "piece",
    [
        b'"a":1,', b'"password":"x",', b"hello world ", b"a", b'"', b"\\", b'"secret":[[[', b'"secret":[]', b"://a:b@",
        b"://a:x", b"://a:b@c,", b'"name":"token",', b'{"name":"token","value":"a"},', b'"path":"/token",',
        b"-----BEGIN PRIVATE KEY-----", b"-----BEGIN ", b"abc\xff", b"token\x00ab", b"--token ",
        b'["token","a",', b"token    ", b"token:'", b"'token':\"", b"<token>", b'"path":"' + b"/" * 250,
        b'name:"password" value:[ ', b'name:"password",', b"a.",
        b"token:\n  ", b"name: token\n", b"token: a\n  ", b" \\n",
        b"token%22", b"token%22%3A%22", b"token]=a", b"a%5D",
        b":\\/\\/a:b", b'"x-token",[', b'"--token",{"',
        b"token = a'\n", b"| token | a", b"token']=", b"name=token value=a ", b"token=token=bearer  ",
        b"token\\t", b"token 'a", b"token -v ", b"password={a}x", b"'token','-v',", b'"password":"x",,',
        b"'token: a", b'["Set-Cookie: a', b"&quot;", b"&quot;token&quot;:&quot;", b"token&#61;", b"&#0003",
        b"http://", b"http://aaaaaaaaaaaa", b"http://aaaaaaaaaaaa@",
    ],
)  # fmt: skip
def test_any_text_takes_time_in_proportion_to_its_size(piece: bytes) -> None:
    def time_for(size: int) -> float:
        started = time.process_time()
        with contextlib.suppress(TooMuchText):
            overwrite(piece * (size // len(piece)))
        return time.process_time() - started

    # Quadratic it would be 16 times.
    quarter = time_for(MEBIBYTE // 4)
    assert quarter < 0.75
    assert quarter < 8 * time_for(MEBIBYTE // 16) + 0.1


@pytest.mark.parametrize(
    "piece", ['"a=b=c=d=', '"a"', "[1]", '{"a":"b"}', "a=", "--a b", ">", "%", "a:@", "&quot;a&quot;"]
)
def test_any_number_of_texts_takes_time_in_proportion_to_their_size(piece: str) -> None:
    def time_for(size: int) -> float:
        document = {"payload": [piece] * (size // (len(piece) + 4))}
        started = time.process_time()
        redact(document)
        return time.process_time() - started

    whole = time_for(3 * MEBIBYTE)
    assert whole < 1.0
    assert whole < 8 * time_for(3 * MEBIBYTE // 4) + 0.1


def test_text_with_more_entities_than_anybody_writes_is_refused_at_once() -> None:
    text = b"&quot;" * (16 * MEBIBYTE // 6)
    started = time.process_time()
    with pytest.raises(TooMuchText):
        overwrite(text)
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize(
    "texts",
    [
        [f"a{number}x:a{number}y:a{number}z:" for number in range(500_000)],
        ["".join(f"a{number}x:" for number in range(1_500_000))],
        [
            {"path": "".join(f"/a{number}b{part}" for part in range(50)), "value": 1}
            for number in range(40_000)
        ],
    ],
    ids=["names in many texts", "names in one text", "names in paths"],
)
def test_ever_new_names_take_no_longer(texts: list[Any]) -> None:
    started = time.process_time()
    redact({"payload": texts})
    assert time.process_time() - started < 3.0


# Where values begin in many places, and end late or never.
_FRAGMENTS = [
    'name:"password" ', '"path":"/token",', "value:[ ", 'value:"', "value:{", "password:", "password=",
    "token: ", "--token ", "<token>", '<token a="', "://a:b", "://a:b@", "@a,", "token%3D", "token\x00abcd",
    "-----BEGIN PRIVATE KEY-----", "-----END", "password: |\n ", "password: |\\n ", 'Cookie: a="b" ',
    "token:\n  - a", "token:\\n  - a", "token: a\n  ", "name: token\n", "value: a\n", "- ", "\n  a: ",
    "'token: a", '["Set-Cookie: a',
    "token '", "token -v ", "password={a}x", "'token', '-v', '", "password: [a]x",
    "a.", '"', '"""', "'", "\\", '\\"', "{", "}", "[", "]", "<", ">", ",", "/", "%", "\n", "\\n", " ", "\xff",
]  # fmt: skip


@given(
    st.lists(st.sampled_from(_FRAGMENTS), max_size=2).map("".join),
    st.lists(st.sampled_from(_FRAGMENTS), min_size=1, max_size=4).map("".join),
)
@example("", 'name:"password" value:[ ')
@example("", '{"args": "name:\\"token\\" value:{')
def test_the_time_for_a_text_grows_as_its_size_does(first: str, repeated: str) -> None:
    def time_for(size: int) -> float:
        text = first + repeated * (size // len(repeated))
        gc.disable()  # a collection of all that the tests before have left takes as long as a fault would
        try:
            started = time.process_time()
            redact([text, json.dumps(text)])
            return time.process_time() - started
        finally:
            gc.enable()

    # Quadratic it would be 16 times, and seconds for each of these sizes.
    assert time_for(16_000) < 8 * time_for(4_000) + 0.2
