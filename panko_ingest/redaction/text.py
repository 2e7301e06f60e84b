"""Credentials in text: JSON at any level of quoting and what resembles it, headers, URLs, private keys.

All is found by regular expressions that never go back over what they read, in steps that are counted for
the whole text: text with more names in it than anybody writes is refused, not read for minutes.
"""

import re
from collections.abc import Iterator

from panko_ingest.redaction import names
from panko_ingest.redaction.names import HIDDEN, is_secret, is_secret_in_a_query, role_of

_MOST_STEPS = 1_000_000
_STEPS_OF_A_TEXT = 20
_STEPS_OF_A_VALUE = 4
_REACH = 1024  # bytes around a label in which its value is looked for, and that a URL's account can have

# Blanks, also as text of JSON writes them.
_BLANKS = rb"(?:\s|\\{1,15}+[nrt]){0,64}+"
# A name, and behind it what separates it from a value, or, in binary formats, what is no text.
_NAME = re.compile(
    rb"""(?<![A-Za-z0-9_])(-{0,2}+)([A-Za-z_][A-Za-z0-9_.\-]{0,80}+)"""
    rb"""(?=\\{0,15}+["']?\s{0,8}+(?:[:=>]|,%b[uU]?\\{0,15}+["'])|[^\x20-\x7e])""" % _BLANKS
)
# The letter comes first, as then the search skips what is none, such as times.
_BEFORE_COLON = re.compile(r"([A-Za-z_](?<!\w.)[\w.\-]{0,80}+)\s{0,8}+:")
_FLAG = re.compile(rb"(?<![^\s\"'])--([A-Za-z_][A-Za-z0-9_\-]{0,80}+)\s{1,8}+(?=[^\s\-])")
_ENCODED = re.compile(
    rb"""(?:(?<![A-Z0-9_.\-])|(?<=%[0-9A-F]{2})|(?<=%25[0-9A-F]{2})|(?<=%2525[0-9A-F]{2}))"""
    rb"""-{0,2}+([A-Z_][A-Z0-9_.\-]{0,80}+)%(?:25){0,2}+3[AD]""",
    re.IGNORECASE,
)
_ENCODED_VALUE = re.compile(rb"""(?:[^\s"'\\&;<>%]|%(?!(?:25){0,2}+(?:26|22|27)))++""")
_ENCODED_ACCOUNT = re.compile(
    rb"""%(?:25){0,2}+3A(?:%(?:25){0,2}+2F){2}[A-Z0-9_.\-]{0,80}+%(?:25){0,2}+3A"""
    rb"""((?:[^\s"'\\&;<>%]|%(?!(?:25){0,2}+(?:26|22|27|2F|40)))++)(?=%(?:25){0,2}+40)""",
    re.IGNORECASE,
)
_ELEMENT = re.compile(rb"<(?:[\w.\-]{1,80}+:)?+([A-Za-z_][\w.\-]{0,80}+)(?:\s[^<>]{0,1024}+)?+(?<!/)>")
# The text of an element, or of the first within it.
_CONTENT = re.compile(
    rb"(?:%b<(?:!--[^<>]{0,256}+|[A-Za-z_][^<>]{0,256}+)>){0,3}+%b"
    rb"(?:<!\[CDATA\[([\x00-\xff]+?)(?=\]\]>|\Z)|([^<]+))" % (_BLANKS, _BLANKS)
)
_LABELLED_ELEMENT = re.compile(
    rb"<([A-Za-z_]{1,40}+)>%b([A-Za-z_][\w.\-]{0,80}+)%b</\1>%b"
    rb"<[A-Za-z_][^<>]{0,256}+(?<!/)>(?:<!\[CDATA\[)?+([^<]+)" % (_BLANKS, _BLANKS, _BLANKS)
)
_SEPARATOR = re.compile(rb"""(\\{0,15}+["'])?\s{0,8}+(:=?|=>|={1,3}+|>|,)(%b)""" % _BLANKS)
_LIST_OPENED = re.compile(rb"""[\[(]%b[bBrRuU]?\\{0,15}["']?\Z""" % _BLANKS)
_QUOTE = re.compile(rb"""(?:[bBrRuU]{0,2}|\$)(\\{0,15}+["'])""")
_QUOTED_AFTER_FLAG = re.compile(rb"""\$?(\\{0,15}+["'])(?![\s,;:)}\]]|\Z)""")
_BARE = re.compile(rb"""[^\s,}\]"'\\<>&]+""")
_WORD = re.compile(rb"[A-Za-z0-9_$!@%^]")
_TO_DELIMITER = re.compile(rb"""[^\s"'\\&;<>]+""")
# Of a line of a header, plain text or quoted words; a quote behind fewer backslashes ends the text around.
_PART_OF_LINE = re.compile(
    rb"""[^\r\n"'\\<>]++|(?<=[\s=(,:])(?![\\"']++(?:[\s,;:)}\]]|\Z))(?:
        (["'])[^\r\n]*?(?:\1|(?=[\r\n]|\Z))|(\\{1,15}+(["']))[^\r\n]*?(?:\2|(?=(?<!\\)\3|[\r\n]|\Z))
    )""",
    re.VERBOSE,
)
_EMPTY_LINE = rb"(?:[\ \t\r]|\\{1,15}+r)*+"
_BLOCK = re.compile(
    rb"""(?:[&!]\S{0,80}+[\ \t]++){0,2}+[|>][+\-\d]{0,2}+(?:[\ \t]{1,80}+\#[^\r\n"\\]{0,256}+)?+
    %b(\n|(\\{1,15}+)n)(?:%b\1)*+(?=[\ \t])"""
    % (_EMPTY_LINE, _EMPTY_LINE),
    re.VERBOSE,
)
_NOTHING = {b"null", b"true", b"false", b"None", b"True", b"False", b"~"}
_BINARY = re.compile(rb"[^\x20-\x7e][\x00-\xff]{0,16}?([\x21-\x7e]{4,})", re.DOTALL)
_ACCOUNT = re.compile(rb"""://(?!\[[0-9A-Fa-f:.]{2,64}+\])[^/\s:@?#"'\\<>]{0,256}+:(?=[^\s"'\\<>])""")
# What is no password: a port, of which only services of the web have an @ behind the path.
_PORT = re.compile(rb"""\d{1,5}(?:[?#,\s"'\\<>]|\Z|/(?![^\s@?#,"'\\<>]{1,256}+@))""")
_PORT_OF_WEB = re.compile(rb"""\d{1,5}(?:[/?#,\s"'\\<>]|\Z)""")
_WEB = (b"http", b"https", b"ws", b"wss", b"docker", b"oci", b"git", b"svn", b"ssh", b"ftp")
_IMAGES = (b"docker", b"oci")
_URL_END = re.compile(rb"""[\s"'\\<>]""")
_NEXT_ACCOUNT = re.compile(rb"@[A-Za-z0-9.\-_\[\]:%]{1,256}+,(?=([^\s:@/,]{0,256}+:)[^\s,@]{1,256}+@)")
_PRIVATE_KEY = re.compile(
    rb"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----([^\"'<]*?)(?=-----END|[\"'<]|\Z)"
)


class TooMuchText(Exception):
    """There are more names in a text than are looked at."""


class Steps:
    """The work that is left for a document or a body, shared by all who look into it."""

    def __init__(self) -> None:
        self._left = _MOST_STEPS

    def begin_text(self) -> bool:
        """Count one more text, however short; tell whether there are steps left for it."""
        self._left -= _STEPS_OF_A_TEXT
        return self._left >= 0

    def take(self, count: int = 1) -> None:
        """:raises TooMuchText: none are left."""
        self._left -= count
        if self._left < 0:
            raise TooMuchText

    def of(self, found: Iterator[re.Match[bytes]]) -> Iterator[re.Match[bytes]]:
        """Yield the matches, a step for each."""
        for match in found:
            self.take()
            yield match


def may_hold_secrets(value: str) -> bool:
    """Tell whether it can be that ``hide`` changes a text; cheap, as most texts are names and numbers."""
    if "=" in value or '"' in value or "'" in value or "--" in value or ">" in value or "%" in value:
        return True
    return ":" in value and ("@" in value or any(map(is_secret, _BEFORE_COLON.findall(value))))


def hide(value: str, steps: Steps) -> str:
    """Return the text with ``***`` in place of each credential, or of all where steps are too few."""
    data = value.encode("utf-8", "surrogatepass")
    try:
        spans = _spans(data, steps)
    except TooMuchText:
        return HIDDEN
    if not spans:
        return value
    parts = []
    position = 0
    for start, end in spans:
        parts.append(data[position:start])
        position = end
    hidden = HIDDEN.encode().join([*parts, data[position:]]).decode("utf-8", "surrogatepass")
    return value if hidden == value else hidden


def overwrite(data: bytes) -> bytes:
    """Return the bytes with ``*`` over each credential; the length stays.

    Beside JSON and the like it knows strings that follow each other in a binary format; a value that
    is cut off counts to the end.

    :raises TooMuchText: there are more names than are looked at.
    """
    spans = _spans(data, Steps())
    if not spans:
        return data
    result = bytearray(data)
    for start, end in spans:
        result[start:end] = b"*" * (end - start)
    return bytes(result)


def _spans(data: bytes, steps: Steps) -> list[tuple[int, int]]:
    """Return where credentials start and end, in order and apart from each other."""
    found = [span for find in _FINDERS for span in find(data, steps)]
    found.sort()
    apart: list[tuple[int, int]] = []
    for start, end in found:
        if apart and start <= apart[-1][1]:
            apart[-1] = (apart[-1][0], max(end, apart[-1][1]))
        else:
            apart.append((start, end))
    return apart


def _named(data: bytes, steps: Steps) -> Iterator[tuple[int, int]]:
    hidden_to = object_end = 0
    unlabelled: list[int] = []  # the values whose label may stand behind them
    for word in steps.of(_NAME.finditer(data)):
        if word.start() < hidden_to:
            continue
        name = word[2].decode("ascii")
        if data.startswith(b"\\", word.start() - 1):
            name = name[1:]  # a letter of an escaped line end
        role = role_of(name)
        beside: list[int] = []
        if role in {names.LABEL, names.PATH}:
            if _is_label_of_secret(data, word.end(), role):
                object_start, object_end = _object_around(data, word.end())
                beside = [end for end in unlabelled if end > object_start]
                unlabelled.clear()
        elif role == names.VALUE:
            (beside if word.start() < object_end else unlabelled).append(word.end())
        elif span := _value_after(data, word.start(2), word.end(), name, steps):
            yield span
            hidden_to = span[1]
        # Each once, and none within what is hidden, or every label would have the rest read again.
        for end in beside:
            if end > hidden_to and (span := _value(data, end, steps, strict=True)):
                yield span
                hidden_to = span[1]


def _is_label_of_secret(data: bytes, end_of_name: int, role: int) -> bool:
    separator = _SEPARATOR.match(data, end_of_name)
    if separator is None or (quote := _QUOTE.match(data, separator.end())) is None:
        return False
    label = data[quote.end() : quote.end() + 256].partition(quote[1])[0]
    return names.names_a_secret(label.decode("utf-8", "replace"), role)


def _object_around(data: bytes, end_of_name: int) -> tuple[int, int]:
    """Return between where, near a label, the values stand that it may mean."""
    start = max(data.rfind(b"{", max(0, end_of_name - _REACH), end_of_name), end_of_name - _REACH)
    end = data.find(b"}", end_of_name, end_of_name + _REACH)
    return start, end_of_name + _REACH if end < 0 else end


def _value_after(
    data: bytes, start_of_name: int, end_of_name: int, name: str, steps: Steps
) -> tuple[int, int] | None:
    """Return where the value stands of the credential of this name."""
    separator = _SEPARATOR.match(data, end_of_name)
    if separator is None:
        # in a pickle the letter of an opcode follows the string at once
        if is_secret(name) or is_secret(name[:-1]):
            binary = _BINARY.match(data, end_of_name)
            return binary.span(1) if binary else None
        return None
    quote, sign, _ = separator.groups()
    if not (is_secret(name) or (sign == b"=" and is_secret_in_a_query(name))):
        return None
    is_flag = data.startswith(b"--", max(0, start_of_name - 2))
    if sign == b"," and not (
        quote and (is_flag or _LIST_OPENED.search(data, max(0, start_of_name - 80), start_of_name))
    ):
        return None
    return _value(data, end_of_name, steps, strict=quote is not None)


def _value(data: bytes, end_of_name: int, steps: Steps, *, strict: bool) -> tuple[int, int] | None:
    """Return where the value behind a name and its separator stands.

    :param strict: the name is quoted, so what is no text in quotes ends where it does in JSON.
    """
    separator = _SEPARATOR.match(data, end_of_name)
    if separator is None:
        return None
    steps.take(_STEPS_OF_A_VALUE)
    start = separator.end()
    if quote := _QUOTE.match(data, start):
        return _quoted(data, quote)
    if data[start : start + 1] in (b"[", b"{"):
        return start, _closing_bracket(data, start, separator[1] or b'"', steps)
    if separator[2] == b":" and (block := _BLOCK.match(data, start)):
        return _block(data, block)
    if not strict and separator[2] == b":" and separator[3]:
        end = start
        while part := _PART_OF_LINE.match(data, end):
            steps.take()
            end = part.end()
    else:
        bare = (_BARE if strict else _TO_DELIMITER).match(data, start)
        end = bare.end() if bare else start
    return None if end == start or data[start:end].strip() in _NOTHING else (start, end)


def _quoted(data: bytes, opening: re.Match[bytes]) -> tuple[int, int] | None:
    """Return where a text in quotes stands: up to one behind just as many backslashes as the opening one.

    A quote within may be doubled; or so may those around be, as in CSV, or be three.
    """
    quote, start = opening[1], opening.end()
    if data.startswith(quote, start):
        start += len(quote)
        if data.startswith(quote, start):
            start += len(quote)
            quote *= 3
        elif _WORD.match(data, start):
            quote *= 2
        else:
            return None  # the text is empty, which puts both quotes side by side
    escaped = re.escape(quote)
    once = escaped
    if quote == opening[1]:
        once = rb"(?:(?<!%b)|(?<=\\%b))%b(?:%b%b)*+(?!%b)" % ((escaped,) * 6)
    found = re.compile(rb"(?<!\\)" + once).search(data, start)
    return start, len(data) if found is None else found.end() - len(quote)


def _block(data: bytes, opening: re.Match[bytes]) -> tuple[int, int] | None:
    """Return where a block of YAML stands: up to a line less indented than its first."""
    line_end, backslashes = map(re.escape, opening.groups(b""))
    line = rb"[^\n]++"
    if backslashes:
        line = rb"""(?:[^"\\]++|(?!%b)\\++(?:[^"]|(?<=%b)"|\Z))++""" % (line_end, backslashes)
    lines = rb"([ \t]++)(%b(?:%b(?:%b%b)*+\1%b)*+)" % (line, line_end, _EMPTY_LINE, line_end, line)
    found = re.compile(lines).match(data, opening.end())
    return found.span(2) if found else None


def _closing_bracket(data: bytes, start: int, quote: bytes, steps: Steps) -> int:
    escaped = re.escape(quote)
    depth = 0
    token = re.compile(rb"%b.*?(?:(?<!\\)%b|\Z)|[\[\]{}]" % (escaped, escaped), re.DOTALL)
    for bracket in steps.of(token.finditer(data, start)):
        if bracket[0] in (b"[", b"{"):
            depth += 1
        elif bracket[0] in (b"]", b"}"):
            depth -= 1
            if depth == 0:
                return bracket.end()
    return len(data)


def _of_flags(data: bytes, steps: Steps) -> Iterator[tuple[int, int]]:
    """Yield the values behind flags of a command line, such as ``--password``."""
    end = 0
    for flag in steps.of(_FLAG.finditer(data)):
        if flag.start() >= end and is_secret(flag[1].decode("ascii")):
            if quote := _QUOTED_AFTER_FLAG.match(data, flag.end()):
                span = _quoted(data, quote)
            else:
                value = _TO_DELIMITER.match(data, flag.end())
                span = value.span() if value else None
            if span:
                yield span
                end = span[1]


def _encoded(data: bytes, steps: Steps) -> Iterator[tuple[int, int]]:
    """Yield the values behind names in a query that is itself a value of one, and passwords in such URLs."""
    if b"%" not in data:
        return
    end = 0
    for word in steps.of(_ENCODED.finditer(data)):
        if (
            word.start() >= end
            and is_secret_in_a_query(word[1].decode("ascii"))
            and (value := _ENCODED_VALUE.match(data, word.end()))
        ):
            yield value.span()
            end = value.end()
    for account in steps.of(_ENCODED_ACCOUNT.finditer(data)):
        yield account.span(1)


def _elements(data: bytes, steps: Steps) -> Iterator[tuple[int, int]]:
    """Yield the texts of elements of XML."""
    end = 0
    for element in steps.of(_ELEMENT.finditer(data)):
        if element.start() < end or not is_secret(element[1].decode("ascii")):
            continue
        if content := _CONTENT.match(data, element.end()):
            end = content.end()
            group = content.lastindex or 0
            if content[group].strip() not in _NOTHING:
                yield content.span(group)
    for pair in steps.of(_LABELLED_ELEMENT.finditer(data)):
        role = role_of(pair[1].decode("ascii"))
        if role == names.LABEL and names.names_a_secret(pair[2].decode("ascii"), role):
            yield pair.span(3)


def _in_urls(data: bytes, steps: Steps) -> Iterator[tuple[int, int]]:
    """Yield the passwords in URLs, raw ``/``, ``,`` and ``@`` in them included."""
    end = 0
    for account in steps.of(_ACCOUNT.finditer(data)):
        start = account.end()
        is_web = data.endswith(_WEB, 0, account.start())
        if start < end or (_PORT_OF_WEB if is_web else _PORT).match(data, start):
            continue  # within a URL that was looked at, or a port
        window = start + _REACH
        url_end = _URL_END.search(data, start, window)
        end = url_end.start() if url_end else min(window, len(data))
        while (following := _NEXT_ACCOUNT.search(data, start, end)) is not None:
            yield start, following.start()
            start = following.end(1)
        at = data.rfind(b"@", start, end)
        if at > start:
            yield start, at
        elif start < end == len(data) and not data.endswith(_IMAGES, 0, account.start()):
            yield start, end  # cut off before its host


def _private_keys(data: bytes, steps: Steps) -> Iterator[tuple[int, int]]:
    for key in steps.of(_PRIVATE_KEY.finditer(data)):
        if key.end(1) > key.start(1):
            yield key.span(1)


_FINDERS = (_named, _of_flags, _encoded, _elements, _in_urls, _private_keys)
