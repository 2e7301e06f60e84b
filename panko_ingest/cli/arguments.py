"""Arguments that several commands take: times, numbers, which events, how they are written."""

import argparse
import datetime
import itertools
import json
import math
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO

from panko_ingest import config, timestamps
from panko_ingest.errors import ConfigError
from panko_ingest.storage.models import Trait

MOMENT = "an age such as 90s, 15m, 2h, 3d or 1w, or now, today, yesterday, or an ISO date or time; all in UTC"
"""What :func:`moment` takes, in words."""

# Whole words only: a month or a millisecond is no minute.
_WORDS = r"s(?:ec(?:ond)?s?)?|m(?:in(?:ute)?s?)?|h(?:(?:ou)?rs?)?|d(?:ays?)?|w(?:(?:ee)?ks?)?"
_PART = re.compile(rf"(\d+(?:\.\d+)?)\s*({_WORDS})(?![a-z])\s*")
_AGE = re.compile(rf"(?:{_PART.pattern})+(?:ago)?")

_OPERATORS = {"=": "eq", "==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}
_TRAIT = re.compile(
    rf"(?:({'|'.join(Trait.get_type_names()[1:])}):)?([^=!<>]+?)\s*(==|!=|<=|>=|=|<|>)\s*(.*)", re.DOTALL
)
# What is cut at its beginning, or compressed: an object or a list begins otherwise in every encoding of JSON.
_NO_DOCUMENT = re.compile(rb"\s*[^\s{\[\0\xef\xfe\xff]")
_DEFAULT_TRAITS = ["project_id", "resource_id"]


def moment(text: str) -> datetime.datetime:
    """Return the naive UTC time that the text names; a day stands for its beginning.

    :raises argparse.ArgumentTypeError: it names none; so do all functions here that take text.
    """
    now, wanted = timestamps.utc_now(), text.strip().lower()
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    named = {"now": now, "today": today, "yesterday": today - datetime.timedelta(days=1)}
    try:
        if wanted in named:
            return named[wanted]
        if _AGE.fullmatch(wanted):
            return now - age(wanted)
        return timestamps.parse(text.strip())
    except (ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: write {MOMENT}") from error


def age(text: str) -> datetime.timedelta:
    """Return the length of time that text such as ``2h``, ``1d12h`` or ``3 days ago`` names."""
    wanted = text.strip().lower()
    if not _AGE.fullmatch(wanted):
        raise argparse.ArgumentTypeError(f"{text!r} is no age: write for example 15m, 2h, 3d or 1w")
    lengths = (float(number) * config.SECONDS[unit[0]] for number, unit in _PART.findall(wanted))
    try:
        length = datetime.timedelta(seconds=sum(lengths))
        timestamps.utc_now() - length
    except OverflowError:
        raise argparse.ArgumentTypeError(f"{text!r} is no age: it begins before any calendar") from None
    return length


def seconds(text: str) -> float:
    """Return the seconds that text such as ``90``, ``90s`` or ``2m`` names."""
    if re.fullmatch(r"\d+(?:\.\d+)?", text.strip()):
        return float(text)
    try:
        return age(text).total_seconds()
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no length of time: write for example 90, 90s or 2m"
        ) from None


def interval(text: str) -> float:
    """Return seconds as :func:`seconds` does, but never none, and no more than a day."""
    length = seconds(text)
    if not 0 < length <= config.SECONDS["d"]:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no pause of a day at most: write for example 1 or 0.2s"
        )
    return length


def count(text: str) -> int:
    """Return a number from 0 upwards."""
    if not text.isdecimal() or len(text) > len(str(sys.maxsize)) or int(text) > sys.maxsize:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no number from 0 upwards, of 64 bits")
    return int(text)


def rate(text: str) -> float:
    """Return how many times a second something is to be done: more than none, and once a day at least."""
    try:
        times = float(text)
    except ValueError:
        times = math.nan
    if not 1 / config.SECONDS["d"] <= times < math.inf:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of times a second: write for example 100 or 0.5"
        )
    return times


def filled(text: str) -> str:
    """Return text that is not blank: a shell variable that is not set would ask for everything."""
    if not text.strip():
        raise argparse.ArgumentTypeError("is blank")
    return text


def exchange(text: str) -> str:
    """Return the name of an exchange, which AMQP bounds."""
    if not 0 < len(text.encode("utf-8", "surrogateescape")) <= config.MAX_NAME:
        raise argparse.ArgumentTypeError(f"an exchange's name has 1 to {config.MAX_NAME} bytes")
    return text


def trait_filter(text: str) -> dict[str, Any]:
    """Return a filter such as ``disk_gb>20`` as a ``traits_filter`` takes it."""
    match = _TRAIT.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no filter: write for example project_id=5fa1 or 'disk_gb>20'"
        )
    kind, key, operator, value = match.groups()
    return {"key": key, kind or "any": value, "op": _OPERATORS[operator]}


def add_times(action: argparse.ArgumentParser) -> None:
    """Add ``--since`` and ``--until``."""
    action.add_argument("--since", type=moment, metavar="TIME", help=f"generated then or later: {MOMENT}")
    action.add_argument("--until", type=moment, metavar="TIME", help="generated then or earlier")


def check_times(command: Any) -> None:
    """Refuse a time that ends before it begins.

    :raises ConfigError: it does.
    """
    if command.since and command.until and command.since > command.until:
        raise ConfigError(
            f"--since ({command.since:%F %T} UTC) is later than --until ({command.until:%F %T} UTC)"
        )


def add_types(action: argparse.ArgumentParser) -> None:
    """Add ``--type``."""
    help_text = "of types like this: 'compute.*'; repeatable"
    action.add_argument("--type", action="append", default=[], type=filled, metavar="GLOB", help=help_text)


def add_filters(action: argparse.ArgumentParser) -> None:
    """Add what an event must have to be shown."""
    add_types(action)
    action.add_argument(
        "-t",
        "--trait",
        action="append",
        default=[],
        type=trait_filter,
        metavar="FILTER",
        help="with such a trait: project_id=5fa1…, 'disk_gb>20', 'launched_at>=2026-01-01'; operators are "
        "= != < <= > >=; string:, integer:, float: or datetime: before the name tells the type; repeatable",
    )
    action.add_argument(
        "--salvaged", action="store_true", help="only events of which a trait had to be changed"
    )


def add_limit(action: argparse.ArgumentParser, default: int) -> None:
    """Add ``--limit``."""
    help_text = f"at most N; 0: all (default: {default})"
    action.add_argument("--limit", type=count, default=default, metavar="N", help=help_text)


def add_format(action: argparse.ArgumentParser, *forms: str) -> None:
    """Add ``--format``: table, json, or one of the other forms."""
    action.add_argument("--format", choices=("table", "json", *forms), default="table")


def add_columns(action: argparse.ArgumentParser) -> None:
    """Add ``--columns``: which traits a row shows."""
    action.add_argument(
        "--columns",
        type=lambda text: [name.strip() for name in text.split(",") if name.strip()],
        default=_DEFAULT_TRAITS,
        metavar="TRAIT,...",
        help=f"traits to show in a table or CSV (default: {','.join(_DEFAULT_TRAITS)})",
    )


def add_files(action: argparse.ArgumentParser, what: str) -> None:
    """Add the files of notifications that :func:`notifications` reads."""
    help_text = f"{what}: one notification, a list of them, or one a line; - is standard input"
    action.add_argument("files", nargs="+", metavar="FILE", help=help_text)


def notifications(files: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Yield where each notification in some files stands, and its bytes; of one a line none is kept.

    :raises ConfigError: a file can't be read.
    """
    for name in files:
        try:
            with nullcontext(sys.stdin.buffer) if name == "-" else Path(name).open("rb") as stream:
                yield from _in_stream(name, stream)
        except OSError as error:
            raise ConfigError(f"{name}: {error.strerror}") from error


def _in_stream(name: str, stream: BinaryIO) -> Iterator[tuple[str, bytes]]:
    begin = []
    for line in stream:
        begin.append(line)
        if line.strip():
            break
    head = b"".join(begin)
    if _NO_DOCUMENT.match(head) or isinstance(_document(head), dict):
        found = _in_lines(name, itertools.chain([head], stream))
        first = list(itertools.islice(found, 2))
        yield from first if len(first) > 1 else [(name, body) for _, body in first]
        yield from found
        return
    content = head + stream.read()
    document = _document(content)
    if isinstance(document, list):
        for number, item in enumerate(document, 1):
            yield f"{name}#{number}", json.dumps(item).encode()
    elif document is None:
        yield from _in_lines(name, [content])
    else:
        yield name, content


def _in_lines(name: str, parts: Iterable[bytes]) -> Iterator[tuple[str, bytes]]:
    lines = enumerate((line for part in parts for line in part.splitlines()), 1)
    return ((f"{name}:{number}", line) for number, line in lines if line.strip())


def _document(text: bytes) -> Any:
    """Return what a text of JSON holds, None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
