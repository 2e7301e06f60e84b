"""Possessive groups, which Python before 3.11.5 gets wrong, and with which credentials are looked for."""

import re
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from panko_ingest import redaction
from panko_ingest.redaction.patterns import compiled, going_back

TEXTS = st.text("ab%", max_size=12).map(str.encode)
ROUNDS = [b"ab?%", b"a+b", b"a|b*%", b"(?:a{1,3}+%)?+b", b"a(?!b*%)", rb"%|[)a]b|\)"]


@given(TEXTS, st.sampled_from(ROUNDS), st.sampled_from([b"?", b"*", b"+", b"{1,3}"]), TEXTS)
def test_a_possessive_group_reads_what_a_greedy_one_reads_first(
    text: bytes, body: bytes, times: bytes, behind: bytes
) -> None:
    possessive = compiled(b"(?:%b)%b+%b" % (body, times, re.escape(behind))).match(text)
    nested = body.replace(b"(?:a{1,3}+%)?+", b"(?=((?:a{1,3}%)?))\\2")
    atomic = re.match(b"(?=((?:%b)%b))\\1%b" % (nested, times, re.escape(behind)), text)
    assert (possessive and possessive.span()) == (atomic and atomic.span())


@pytest.mark.parametrize(
    ("pattern", "text", "end"),
    [
        (rb"(?:%2*3)?+%4", b"%4", 2),
        (rb"(?:[^%]|%(?!26))++", b"ab%26", 2),
        (rb"(?:[)]%2*3|\)4)*+[)]%", b")4)%", 4),
        (rb"((?:%2*3)?+%5)?+%4", b"%4", 2),
    ],
)
def test_a_round_that_failed_is_led_back_to_its_beginning(pattern: bytes, text: bytes, end: int) -> None:
    for one in (compiled(pattern), re.compile(going_back(pattern))):
        found = one.match(text)
        assert found
        assert found.end() == end


def test_credentials_are_looked_for_by_no_other_patterns() -> None:
    for module in Path(redaction.__file__).parent.glob("*.py"):
        if module.name != "patterns.py":
            assert "re.compile(rb" not in module.read_text(), module
