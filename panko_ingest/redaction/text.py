"""Credentials in text: JSON at any level of quoting and what resembles it, headers, URLs, private keys.

All is found by regular expressions that never go back over what they read, in steps that are counted for
the whole text: text with more names in it than anybody writes is refused, not read for minutes.
"""

import re
import sys
from collections.abc import Iterator

from panko_ingest.redaction import names, shapes
from panko_ingest.redaction.elements import elements
from panko_ingest.redaction.entities import behind_entities, written_plainly
from panko_ingest.redaction.names import HIDDEN, is_secret, is_secret_in_a_query, meaning_of
from panko_ingest.redaction.patterns import compiled
from panko_ingest.redaction.steps import BLANKS, NOTHING, Steps, TooMuchText, apart
from panko_ingest.redaction.urls import accounts_alone, encoded, in_urls

_STEPS_OF_A_VALUE = 4
_BYTES_OF_A_STEP = 256  # of a line whose end is looked for
_MEAN_VALUES = frozenset({names.SECRET, names.OF_CREDENTIAL, names.VALUE})
_REACH = 1024  # bytes around a label in which its value is looked for

_FEW_BLANKS = rb"(?:\s|\\{1,15}+t){0,8}+"
# A name, and behind it what separates it from a value, or, in binary formats, what is no text.
_NAME = compiled(
    rb"""(?<![A-Za-z0-9_])(-{0,2}+)([A-Za-z_][A-Za-z0-9_.\-]{0,80}+)"""
    rb"""(?=(?:\\{0,15}+["'])?\]?%b(?:[:=>|]|,%b(?:[bBrRuU]?\\{0,15}+["']|[\[{(0-9]))|[^\x20-\x7e])"""
    % (_FEW_BLANKS, BLANKS)
)
# The letter comes first, as then the search skips what is none, such as times.
_BEFORE_COLON = re.compile(r"([A-Za-z_](?<!\w.)[\w.\-]{0,80}+)\s{0,8}+:")
_FLAG = compiled(rb"(?<![^\s\"'])--([A-Za-z_][A-Za-z0-9_\-]{0,80}+)\s{1,8}+(?=-?+[^\s\-])")
# What is told in words, and what tools of storage take: password 'a', and -n session.password -v a.
# The blank comes first, as few are followed by a quote or a dash.
_SPOKEN = compiled(
    rb"""(?<=[A-Za-z0-9_])\s{1,8}+(?:-{1,2}+[A-Za-z][A-Za-z\-]{0,40}+\s{1,8}+(?=[^\s\-])|(?=\\{0,15}+["'][^\s,;:)}\]]))"""
)
_FLAG_BEHIND_WORD = re.compile(r" -[A-Za-z][A-Za-z\-]*+ ")
_LAST_NAME = compiled(rb"(?<![A-Za-z0-9_.\-])[A-Za-z_][A-Za-z0-9_.\-]{0,80}+\Z")
_FLAG_BETWEEN = compiled(
    rb""",%b[bBrRuU]?(\\{0,15}["'])--?[A-Za-z][A-Za-z\-]{0,40}+\1(?=\s{0,8},)""" % BLANKS
)
# Behind the bracket of a subscript, too: conf['password'] = 'a'.
_SEPARATOR = compiled(
    rb"""(\\{0,15}+["'])?(?:\](?=\s{0,8}+[:=]))?%b(:=?|=>|={1,3}+|>|,|\|)(%b)""" % (_FEW_BLANKS, BLANKS)
)
_PLAIN = compiled(rb"[^\s\"'\[{|>\\]")
_PLAIN_LINE = compiled(_PLAIN.pattern + rb"[^\r\n]*+")
_IN_LINE = compiled(rb"(?<=\w)'(?=\w)|[<>]|\\(?![\\nr\"'])")
_END_OF_KEY = compiled(rb"""\\{0,15}+["']\s{0,8}+:""")
_LIST_OPENED = compiled(rb"""[\[(]%b[bBrRuU]?\\{0,15}["']?\Z""" % BLANKS)
_QUOTE = compiled(rb"""(?:[bBrRuU]{0,2}|\$)(\\{0,15}+["'])""")
_QUOTED_AFTER_FLAG = compiled(rb"""\$?(\\{0,15}+["'])(?![\s,;:)}\]]|\Z)""")
_BARE = compiled(rb"""[^\s,}\]"'\\<>&]+""")
_GOES_ON = compiled(rb"""[)}\]]*+[^\s"'\\&;<>,:)}\]][^\s"'\\&;<>]*+""")
_GOES_ON_IN_ARGUMENT = compiled(rb"""[,)}\]]*+[^\s"'\\&;<>,)}\]][^\s"'\\&;<>]*+""")
_WORD = compiled(rb"[A-Za-z0-9_$!@%^]")
_TO_DELIMITER = compiled(
    rb"""(?:(?:bearer|basic|digest|negotiate|token|apikey)[ \t]{1,8}+)?[^\s"'\\&;<>]++""", re.IGNORECASE
)
# Of a line of a header, plain text or quoted words; a quote behind fewer backslashes ends the text around.
_PART_OF_LINE = compiled(
    rb"""[^\r\n"'\\<>]++|(?<=[\s=(,:])(?![\\"']++(?:[\s,;:)}\]]|\Z))(?:
        (["'])[^\r\n]*?(?:\1|(?=[\r\n]|\Z))|(\\{1,15}+(["']))[^\r\n]*?(?:\2|(?=(?<!\\)\3|[\r\n]|\Z))
    )""",
    re.VERBOSE,
)
_INDENT = compiled(rb"""(?:\A|\n|\\n|(?:\A|[:,=\s\[({])\\{0,15}+["'])((?:\ |-\ )*+)\Z""")
_NEXT_LINE = compiled(rb"(?:[ \t\r]|\\{1,15}+r)*+(?:\n|\\{1,15}+n)(\ *+)(?=[^\s\\]|\\++[\"'])")
_NEXT_ITEM = compiled(rb"(?:\n|\\n)\ *+-\ ")
_BARE_LABEL = compiled(rb"[A-Za-z_/][A-Za-z0-9_./~\-]{0,255}+(?=[\s,}\\]|\Z)")
_EMPTY_LINE = rb"(?:[\ \t\r]|\\{1,15}+r)*+"
_BLOCK = compiled(
    rb"""(?:[&!]\S{0,80}+[\ \t]++){0,2}+[|>][+\-\d]{0,2}+(?:[\ \t]{1,80}+\#[^\r\n"\\]{0,256}+)?+
    %b(\n|(\\{1,15}+)n)(?:%b\1)*+(?=[\ \t])"""
    % (_EMPTY_LINE, _EMPTY_LINE),
    re.VERBOSE,
)
_BINARY = compiled(rb"[^\x20-\x7e][\x00-\xff]{0,16}?([\x21-\x7e]{4,})", re.DOTALL)


def may_hold_secrets(value: str, steps: Steps) -> bool:
    """Tell whether it can be that ``hide`` changes a text; cheap, as most texts are names and numbers."""
    if (
        "=" in value
        or '"' in value
        or "'" in value
        or "--" in value
        or ">" in value
        or "%" in value
        or "|" in value
        or "&" in value
    ):
        return True
    if len(value) >= shapes.SHORTEST_TOKEN and ("gAAAAA" in value or "eyJ" in value):
        return True
    if " -" in value and _FLAG_BEHIND_WORD.search(value):
        return True
    if ":" not in value:
        return False
    if "@" in value:
        return True
    found = _BEFORE_COLON.findall(value)
    return bool(found) and (
        not steps.begin_text(len(found)) or not _MEAN_VALUES.isdisjoint(map(meaning_of, found))
    )


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
    plain = written_plainly(data, steps)  # first, as it may be too much
    found = [span for find in _FINDERS for span in find(data, steps)]
    if plain is not None:
        # Beside the text as it is, in which an entity may be a part of a value.
        found += behind_entities(data, [span for find in _FINDERS for span in find(plain, steps)])
    return apart(found)


def _named(data: bytes, steps: Steps) -> Iterator[tuple[int, int]]:
    hidden_to = object_end = 0
    unlabelled: list[int] = []  # the values whose label may stand behind them
    for word in steps.of(_NAME.finditer(data)):
        if word.start() < hidden_to:
            continue
        name = word[2].decode("ascii")
        if data.startswith(b"\\", word.start() - 1):
            name = name[1:]  # a letter of an escaped line end
        meaning = meaning_of(name)
        beside: list[int] = []
        if meaning in {names.LABEL, names.PATH}:
            if _is_label_of_secret(data, word.end(), meaning):
                object_start, object_end = _object_around(data, word.end())
                if next_item := _NEXT_ITEM.search(data, word.end(), object_end):
                    object_end = next_item.start()
                beside = [end for end in unlabelled if end > object_start]
                unlabelled.clear()
        elif meaning == names.VALUE:
            (beside if word.start() < object_end else unlabelled).append(word.end())
        elif span := _value_after(data, word.start(2), word.end(), name, steps):
            yield span
            hidden_to = span[1]
        # Each once, and none within what is hidden, or every label would have the rest read again.
        for end in beside:
            if end > hidden_to and (span := _value(data, end, steps, strict=True)):
                yield span
                hidden_to = span[1]


def _is_label_of_secret(data: bytes, end_of_name: int, meaning: int) -> bool:
    separator = _SEPARATOR.match(data, end_of_name)
    if separator is None:
        return False
    if (quote := _QUOTE.match(data, separator.end())) is None:
        bare = _BARE_LABEL.match(data, separator.end()) if separator[2] in {b":", b"="} else None
        return bare is not None and names.names_a_secret(bare[0].decode("ascii"), meaning)
    label = data[quote.end() : quote.end() + 256].partition(quote[1])[0].strip()
    return names.names_a_secret(label.decode("utf-8", "replace"), meaning)


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
        is_label = data.endswith(b": ", 0, start_of_name)  # of YAML, whose value has a key of its own
        if not is_label and (is_secret(name) or is_secret(name[:-1])):
            binary = _BINARY.match(data, end_of_name)
            return binary.span(1) if binary else None
        return None
    quote, sign, _ = separator.groups()
    is_named = is_secret(name) or (sign == b"=" and is_secret_in_a_query(name))
    if not is_named or (sign == b"|" and not data.endswith(b"| ", 0, start_of_name)):
        return None
    is_flag = name[:2] in {"X-", "x-"} or data.startswith(b"--", max(0, start_of_name - 2))
    if sign == b"," and quote and (flag := _FLAG_BETWEEN.match(data, end_of_name + len(quote))):
        return _value(data, flag.end(), steps, strict=True)
    if sign == b"," and not (
        quote and (is_flag or _LIST_OPENED.search(data, max(0, start_of_name - 80), start_of_name))
    ):
        return None
    lines = _lines(data, start_of_name, separator, steps) if quote is None else None
    span = lines or _value(data, end_of_name, steps, strict=quote is not None)
    # The header is itself the value of a label then, and what follows it the next key.
    return None if sign == b"," and span and _END_OF_KEY.match(data, span[1]) else span


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
        end = _closing_bracket(data, start, separator[1] or b'"', steps)
        # What goes on behind a bracket was no list: {SSHA}, or a password that begins so.
        goes_on = _GOES_ON_IN_ARGUMENT if not strict and separator[2] == b"=" else _GOES_ON
        if more := goes_on.match(data, end):
            end = more.end() if strict or separator[2] != b":" else _end_of_line(data, more.end(), steps)
        return start, end
    if separator[2] == b":" and (block := _BLOCK.match(data, start)):
        return _block(data, block)
    if not strict and separator[2] == b":" and separator[3]:
        end = _end_of_line(data, start, steps)
    else:
        bare = (_BARE if strict else _TO_DELIMITER).match(data, start)
        end = bare.end() if bare else start
    return None if end == start or data[start:end].strip() in NOTHING else (start, end)


def _lines(
    data: bytes, start_of_name: int, separator: re.Match[bytes], steps: Steps
) -> tuple[int, int] | None:
    """Return where lines stand that belong to a key as a whole: of YAML, or of a file of options."""
    if data.startswith(b"\\", start_of_name - 1):
        start_of_name += 1  # behind the letter of an escaped line end
    indent = _INDENT.search(data, max(0, start_of_name - 80), start_of_name)
    if indent is None or separator[2] not in {b":", b"="}:
        return None
    if separator[2] == b":" and (nested := _nested(data, len(indent[1]), separator, steps)):
        return nested
    start = separator.end()
    if not separator[3] or separator[3].strip(b" \t") or _BLOCK.match(data, start):
        return None
    # A line around may be all of the text, and each key in it would have the rest of it read.
    is_in_line = indent[0] not in {indent[1], b"\n" + indent[1]}
    if (line := (_PLAIN if is_in_line else _PLAIN_LINE).match(data, start)) is None:
        return None
    end = _end_of_line(data, start, steps) if is_in_line else line.end()
    while is_in_line and _IN_LINE.match(data, end):
        end = _end_of_line(data, end + 1, steps)
    steps.take(1 + (end - start) // _BYTES_OF_A_STEP)
    return None if data[start:end].strip() in NOTHING else (start, end)


def _nested(data: bytes, depth: int, separator: re.Match[bytes], steps: Steps) -> tuple[int, int] | None:
    """Return where lines stand that belong to a key of YAML, or to a header, as they are deeper indented."""
    start = separator.end()
    if _BLOCK.match(data, start):
        return None
    steps.take(_STEPS_OF_A_VALUE)
    is_below = b"n" in separator[3] or b"\n" in separator[3]
    if is_below and not _is_deeper(separator[3], depth, data[start : start + 2]):
        return None
    # A key of YAML has its lines near; or each key in a long line would have all of it read.
    end = first_end = _end_of_line(data, start, steps, start + _REACH)
    while end > start and (line := _NEXT_LINE.match(data, end)):
        steps.take()
        if not _is_deeper(line[1], depth, data[line.end() : line.end() + 2] if is_below else b""):
            break
        line_end = _end_of_line(data, line.end(), steps)
        if line_end == line.end():
            break
        end = line_end
    return (start, end) if end > first_end else None


def _is_deeper(indent: bytes, depth: int, first: bytes) -> bool:
    width = len(indent) - len(indent.rstrip(b" "))
    return width > depth or (width == depth and first == b"- ")


def _end_of_line(data: bytes, start: int, steps: Steps, most: int = sys.maxsize) -> int:
    while part := _PART_OF_LINE.match(data, start, most):
        steps.take(1 + (part.end() - start) // _BYTES_OF_A_STEP)
        start = part.end()
    return start


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
    found = compiled(rb"(?<!\\)" + once).search(data, start)
    return start, len(data) if found is None else found.end() - len(quote)


def _block(data: bytes, opening: re.Match[bytes]) -> tuple[int, int] | None:
    """Return where a block of YAML stands: up to a line less indented than its first."""
    line_end, backslashes = map(re.escape, opening.groups(b""))
    line = rb"[^\n]++"
    if backslashes:
        line = rb"""(?:[^"\\]++|(?!%b)\\++(?:[^"]|(?<=%b)"|\Z))++""" % (line_end, backslashes)
    lines = rb"([ \t]++)(%b(?:%b(?:%b%b)*+\1%b)*+)" % (line, line_end, _EMPTY_LINE, line_end, line)
    found = compiled(lines).match(data, opening.end())
    return found.span(2) if found else None


def _closing_bracket(data: bytes, start: int, quote: bytes, steps: Steps) -> int:
    escaped = re.escape(quote)
    depth = 0
    token = compiled(rb"%b.*?(?:(?<!\\)%b|\Z)|[\[\]{}]" % (escaped, escaped), re.DOTALL)
    for bracket in steps.of(token.finditer(data, start)):
        if bracket[0] in (b"[", b"{"):
            depth += 1
        elif bracket[0] in (b"]", b"}"):
            depth -= 1
            if depth == 0:
                return bracket.end()
    return len(data)


def _of_flags(data: bytes, steps: Steps) -> Iterator[tuple[int, int]]:
    """Yield the values behind flags of a command line, such as ``--password``, and behind words."""
    end = 0
    for flag in steps.of(_FLAG.finditer(data)):
        if (
            flag.start() >= end
            and is_secret(flag[1].decode("ascii"))
            and (span := _argument(data, flag.end()))
        ):
            yield span
            end = span[1]
    end = 0
    for blank in steps.of(_SPOKEN.finditer(data)):
        if (
            blank.start() >= end
            and (name := _LAST_NAME.search(data, max(0, blank.start() - 82), blank.start()))
            and is_secret(name[0].decode("ascii"))
            and (span := _argument(data, blank.end()))
        ):
            yield span
            end = span[1]


def _argument(data: bytes, start: int) -> tuple[int, int] | None:
    if quote := _QUOTED_AFTER_FLAG.match(data, start):
        return _quoted(data, quote)
    value = _TO_DELIMITER.match(data, start)
    return value.span() if value else None


_FINDERS = (_named, _of_flags, encoded, elements, in_urls, accounts_alone, shapes.private_keys, shapes.tokens)
